//! Caches of sequences that are over, whole as they were left: whoever goes on where one of
//! them ended takes it as it is, and nothing is copied. It holds them and looks among them;
//! when one is taken apart, and for whom there is room, is the keeper's business.

use std::collections::VecDeque;

use crate::engine::prefix::{Owner, common};

/// Most caches that stay whole. Each is in memory in whole blocks, and all are taken apart
/// when the worker ends, so they are few: as many as conversations that go on at a time.
const MOST: usize = 8;

/// A cache that was left whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parked<C> {
    /// Whose it is.
    pub(super) owner: Owner,
    /// The tokens that it holds.
    pub(super) tokens: Vec<u32>,
    pub(super) cache: C,
    /// What it takes of the room.
    pub(super) bytes: u64,
}

/// All of them, the one that was left last at the end.
#[derive(Debug)]
pub(super) struct Park<C> {
    parked: VecDeque<Parked<C>>,
}

/// The one that goes on longest with some tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    place: usize,
    /// How many tokens they have in common from the beginning; at least one.
    pub(super) tokens: usize,
    /// How many more it holds.
    pub(super) beyond: usize,
}

impl<C> Default for Park<C> {
    fn default() -> Self {
        Self {
            parked: VecDeque::new(),
        }
    }
}

impl<C> Park<C> {
    /// Bytes of all.
    pub(super) fn bytes(&self) -> u64 {
        self.parked.iter().map(|parked| parked.bytes).sum()
    }

    /// Tokens of all.
    pub(super) fn tokens(&self) -> u64 {
        let tokens = self.parked.iter().map(|parked| parked.tokens.len());
        tokens.sum::<usize>() as u64
    }

    /// Whether one more is one too many.
    pub(super) fn is_full(&self) -> bool {
        self.parked.len() >= MOST
    }

    /// Leaves one here.
    pub(super) fn leave(&mut self, parked: Parked<C>) {
        self.parked.push_back(parked);
    }

    /// The one of `owner` that has the most in common with `tokens`; the last of several.
    pub(super) fn find(&self, owner: Owner, tokens: &[u32]) -> Option<Match> {
        let parked = self.parked.iter().enumerate();
        let parked = parked.filter(|(_, parked)| parked.owner == owner);
        let matches = parked.map(|(place, parked)| {
            let common = common(&parked.tokens, tokens);
            Match {
                place,
                tokens: common,
                beyond: parked.tokens.len() - common,
            }
        });
        let best = matches.max_by_key(|found| found.tokens)?;
        (best.tokens > 0).then_some(best)
    }

    /// Looks at what was found, with nothing changed in between.
    pub(super) fn get(&self, found: Match) -> Option<&Parked<C>> {
        self.parked.get(found.place)
    }

    /// Takes out what was found, with nothing changed in between.
    pub(super) fn take(&mut self, found: Match) -> Option<Parked<C>> {
        self.parked.remove(found.place)
    }

    /// Takes out the one that was left first.
    pub(super) fn take_oldest(&mut self) -> Option<Parked<C>> {
        self.parked.pop_front()
    }

    /// Takes out the one that was left last.
    pub(super) fn take_newest(&mut self) -> Option<Parked<C>> {
        self.parked.pop_back()
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        self.parked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(owner: u128, tokens: std::ops::Range<u32>, cache: char) -> Parked<char> {
        Parked {
            owner: Owner(owner),
            bytes: 10 * tokens.len() as u64,
            tokens: tokens.collect(),
            cache,
        }
    }

    #[test]
    fn the_longest_of_the_owner_is_found() {
        let mut park = Park::default();
        park.leave(parked(1, 0..10, 'a'));
        park.leave(parked(2, 0..30, 'b'));
        park.leave(parked(1, 0..20, 'c'));
        park.leave(parked(1, 5..50, 'd'));
        assert_eq!((park.bytes(), park.tokens()), (1050, 105));
        let asked: Vec<u32> = (0..15).collect();
        let found = park.find(Owner(1), &asked).expect("two of them");
        assert_eq!((found.tokens, found.beyond), (15, 5));
        assert_eq!(park.get(found).map(|parked| parked.cache), Some('c'));
        assert_eq!(park.take(found).map(|parked| parked.cache), Some('c'));
        let found = park.find(Owner(1), &asked).expect("the shorter one");
        assert_eq!((found.tokens, found.beyond), (10, 0));
        assert_eq!(park.find(Owner(3), &asked), None);
        assert_eq!(park.find(Owner(1), &[77]), None);
    }

    #[test]
    fn they_leave_in_order_from_either_end() {
        let mut park = Park::default();
        for cache in ['a', 'b', 'c'] {
            park.leave(parked(1, 0..10, cache));
        }
        assert_eq!(park.take_oldest().map(|parked| parked.cache), Some('a'));
        assert_eq!(park.take_newest().map(|parked| parked.cache), Some('c'));
        park.clear();
        assert_eq!((park.take_newest(), park.bytes()), (None, 0));
    }
}
