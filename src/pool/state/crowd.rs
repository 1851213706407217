//! How many requests there lately were at once, running or waiting, over all
//! models: whether somebody is away who may come back. It is told the time.

use std::time::{Duration, Instant};

/// How long a crowd is remembered, at least; at most twice as long.
const WINDOW: Duration = Duration::from_secs(120);

/// The most requests at once, of this window and of the one before.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    since: Option<Instant>,
    most: usize,
    before: usize,
}

impl Crowd {
    /// So many are there now.
    pub fn see(&mut self, present: usize, now: Instant) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age >= WINDOW {
            self.before = if age < 2 * WINDOW { self.most } else { 0 };
            self.most = 0;
            self.since = Some(now);
        }
        self.most = self.most.max(present);
    }

    /// The most that there were at once.
    pub fn lately(&self) -> usize {
        self.most.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_remembered_for_a_while() {
        let start = Instant::now();
        let mut crowd = Crowd::default();
        let mut check = |seconds: u64, present: usize, lately: usize| {
            crowd.see(present, start + Duration::from_secs(seconds));
            assert_eq!(crowd.lately(), lately, "after {seconds} s");
        };
        check(0, 3, 3);
        check(100, 1, 3);
        check(130, 2, 3);
        check(249, 1, 3);
        check(250, 1, 2);
        check(600, 1, 1);
    }
}
