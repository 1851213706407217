//! The prompt cache on the engine's thread: what sequences leave behind, and what later
//! ones go on from. It has the room that sequences leave and gives way to them.
//! Which tokens are there is [`Prefixes`]' business, what belongs to them the network's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::prefix::{Owner, Prefixes};
use crate::engine::{EngineError, Network};

/// The prompt cache of one network.
pub(super) struct Keeper<N: Network> {
    prefixes: Prefixes<N::Piece>,
    /// Bytes of a token.
    each: u64,
    /// Bytes for all caches.
    room: u64,
}

/// What is counted, for whoever wants to look.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes: AtomicU64,
    tokens: AtomicU64,
    asked: AtomicU64,
    hits: AtomicU64,
    saved: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> super::Kept {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        super::Kept {
            bytes: read(&self.bytes),
            tokens: read(&self.tokens),
            asked: read(&self.asked),
            hits: read(&self.hits),
            saved: read(&self.saved),
        }
    }
}

impl<N: Network> Keeper<N> {
    pub(super) fn new(network: &N, room: u64) -> Self {
        Self {
            prefixes: Prefixes::default(),
            each: network.kv_bytes_per_token().max(1),
            room,
        }
    }

    /// The cache of a sequence of `tokens` that begins, with the longest prefix that
    /// `owner` has but for its last token; and how many tokens that is. The sequences
    /// hold `live` tokens of the room, this one's among them.
    pub(super) fn begin(
        &mut self,
        network: &mut N,
        owner: Option<Owner>,
        tokens: &[u32],
        live: u64,
        counts: &Counts,
    ) -> (N::Cache, u64) {
        let (Some(owner), Some((_, but_last))) = (owner, tokens.split_last()) else {
            self.give_way(live, counts);
            return (network.new_cache(), 0);
        };
        counts.asked.fetch_add(1, Ordering::Relaxed);
        let found = self.prefixes.find(owner, but_last);
        // What has no room beside the sequence goes first: its share takes the place.
        self.give_way(live, counts);
        if found.tokens == 0 {
            return (network.new_cache(), 0);
        }
        match network.evaluate_cache(found.pieces) {
            Ok(cache) => {
                let saved = found.tokens as u64;
                counts.hits.fetch_add(1, Ordering::Relaxed);
                counts.saved.fetch_add(saved, Ordering::Relaxed);
                (cache, saved)
            }
            Err(error) => {
                tracing::warn!(
                    ?error,
                    "a prompt could not be gone on from; it is read anew"
                );
                (network.new_cache(), 0)
            }
        }
    }

    /// Keeps what a sequence leaves: `tokens` are those that its cache holds. The other
    /// sequences hold `live` tokens of the room.
    pub(super) fn keep(
        &mut self,
        network: &mut N,
        owner: Owner,
        tokens: &[u32],
        cache: N::Cache,
        live: u64,
        counts: &Counts,
    ) {
        let most = self.room_beside(live);
        let missing = self.prefixes.make_room(owner, tokens, self.each, most);
        if !missing.lengths.is_empty() {
            match network.evaluate_pieces(cache, missing.from, &missing.lengths) {
                Ok(pieces) => self.add(owner, tokens, missing.from, pieces, &missing.lengths),
                Err(error) => warn(&error),
            }
        }
        self.count(counts);
    }

    fn add(
        &mut self,
        owner: Owner,
        tokens: &[u32],
        from: usize,
        pieces: Vec<N::Piece>,
        lengths: &[usize],
    ) {
        let each = self.each;
        let pieces = pieces.into_iter().zip(lengths);
        let pieces = pieces.map(|(piece, length)| (piece, *length, *length as u64 * each));
        self.prefixes.add(owner, tokens, from, pieces.collect());
    }

    /// Gives up what has no room beside sequences that hold `live` tokens of it.
    pub(super) fn give_way(&mut self, live: u64, counts: &Counts) {
        self.prefixes.shrink(self.room_beside(live));
        self.count(counts);
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self, counts: &Counts) {
        self.prefixes.clear();
        self.count(counts);
    }

    /// Bytes that sequences with `live` tokens leave.
    fn room_beside(&self, live: u64) -> u64 {
        self.room.saturating_sub(live.saturating_mul(self.each))
    }

    fn count(&self, counts: &Counts) {
        let set = |number: &AtomicU64, value| number.store(value, Ordering::Relaxed);
        set(&counts.bytes, self.prefixes.bytes());
        set(&counts.tokens, self.prefixes.tokens());
    }
}

fn warn(error: &EngineError) {
    tracing::warn!(?error, "a prompt could not be kept");
}
