//! How far a load is: bytes of weights that are there, of all. An engine tells it
//! while it loads; nobody decides by it but who watches that a load gets on.

use serde::{Deserialize, Serialize};

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of weights that are there.
    pub done: u64,
    /// Bytes of all weights.
    pub all: u64,
}

impl Progress {
    /// Thousandths of the whole, at most 1000. A load counts as moving when this
    /// rises, so that no engine can stretch its load for ever by single bytes.
    pub fn thousandths(self) -> u16 {
        let share = u128::from(self.done) * 1000 / u128::from(self.all.max(1));
        share.min(1000) as u16
    }

    /// Hundredths of the whole, for people.
    pub fn percent(self) -> u16 {
        self.thousandths() / 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_whole() {
        let check = |done, all, expected| {
            assert_eq!(Progress { done, all }.thousandths(), expected);
        };
        check(0, 0, 0);
        check(0, 10, 0);
        check(1, 3, 333);
        check(10, 10, 1000);
        check(11, 10, 1000);
        check(u64::MAX, u64::MAX, 1000);
        let near = Progress {
            done: 999,
            all: 1000,
        };
        assert_eq!(near.percent(), 99, "not all of it is there");
    }
}
