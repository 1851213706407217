//! Which models go to make room for another. Pure; asked often, acts never.
//! It does not know which models may go: the caller offers only those.

/// Memory and places, of which either may be short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes of the budget.
    pub bytes: u64,
    /// Places among `max_models`.
    pub places: usize,
}

impl Room {
    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            places: self.places + other.places,
        }
    }

    /// What is left of `self` once `other` is taken away; never below nothing.
    pub fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            places: self.places.saturating_sub(other.places),
        }
    }

    /// Whether all of it fits into `limit`.
    pub fn fits(self, limit: Self) -> bool {
        self.bytes <= limit.bytes && self.places <= limit.places
    }
}

/// The candidates, by index, whose going frees at least `missing`; nothing if
/// even all of them would not do. `candidates` stand in the order in which they
/// should go (the least recently used first); whoever turns out not to be needed
/// is spared, the one that should go last first.
pub fn victims(missing: Room, candidates: &[Room]) -> Option<Vec<usize>> {
    let mut freed = Room::default();
    let mut chosen = Vec::new();
    for (index, room) in candidates.iter().enumerate() {
        if missing.fits(freed) {
            break;
        }
        freed = freed.plus(*room);
        chosen.push(index);
    }
    if !missing.fits(freed) {
        return None;
    }
    for position in (0..chosen.len()).rev() {
        let without = freed.less(candidates[chosen[position]]);
        if missing.fits(without) {
            freed = without;
            chosen.remove(position);
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_and_no_more_than_needed() {
        let check = |bytes: u64, places: usize, candidates: &[u64], expected: Option<&[usize]>| {
            let rooms: Vec<_> = candidates
                .iter()
                .map(|&bytes| Room { bytes, places: 1 })
                .collect();
            let got = victims(Room { bytes, places }, &rooms);
            assert_eq!(got.as_deref(), expected, "{bytes} of {candidates:?}");
        };
        check(0, 0, &[4, 4], Some(&[]));
        check(1, 0, &[4, 4], Some(&[0]));
        check(5, 0, &[4, 4], Some(&[0, 1]));
        check(8, 0, &[2, 8], Some(&[1]));
        check(8, 0, &[3, 2, 8], Some(&[2]));
        check(9, 0, &[3, 2, 8], Some(&[0, 2]));
        check(14, 0, &[3, 2, 8], None);
        check(0, 1, &[4, 4], Some(&[0]));
        check(0, 3, &[4, 4], None);
        check(1, 0, &[], None);
    }
}
