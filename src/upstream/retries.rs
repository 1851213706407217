//! How often a request may be repeated at another upstream: within a share of what was
//! asked lately, so that upstreams which fail are not asked twice as much for that. Pure;
//! the time is passed in.
//!
//! After Finagle's retry budget (a fifth of the requests of ten seconds, and ten a second for
//! whoever asks little), counted by seconds.

use std::time::Instant;

/// What counts as lately, seconds.
const WINDOW: u64 = 10;

/// One repetition for so many requests.
const REQUESTS_FOR_ONE: u64 = 5;

/// Repetitions within the window whatever was asked.
const FEW: u64 = 100;

/// What was asked and repeated lately.
#[derive(Clone, Debug)]
pub struct Retries {
    start: Instant,
    seconds: [Second; WINDOW as usize],
}

/// What fell into one second since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    asked: u64,
    repeated: u64,
}

impl Retries {
    /// Nothing was asked yet.
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            seconds: Default::default(),
        }
    }

    /// Somebody asks, for the first time.
    pub fn asked(&mut self, now: Instant) {
        self.second(now).asked += 1;
    }

    /// Whether a request may be repeated; if so, it is counted.
    pub fn repeat(&mut self, now: Instant) -> bool {
        let number = self.number(now);
        let lately = self.seconds.iter().filter(|it| it.number + WINDOW > number);
        let (asked, repeated) = lately.fold((0, 0), |(asked, repeated), it| {
            (asked + it.asked, repeated + it.repeated)
        });
        let may = repeated < FEW.max(asked / REQUESTS_FOR_ONE);
        self.second(now).repeated += u64::from(may);
        may
    }

    fn number(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        since.as_secs()
    }

    fn second(&mut self, now: Instant) -> &mut Second {
        let number = self.number(now);
        let second = &mut self.seconds[(number % WINDOW) as usize];
        if second.number != number {
            *second = Second {
                number,
                ..Second::default()
            };
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn row40_repetitions_stay_within_a_share_of_what_was_asked_lately() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut retries = Retries::new(start);
        let granted =
            |retries: &mut Retries, now| (0..1000).filter(|_| retries.repeat(now)).count() as u64;
        assert_eq!(granted(&mut retries, at(0)), FEW, "a few without a request");
        for _ in 0..1000 {
            retries.asked(at(1));
        }
        assert_eq!(granted(&mut retries, at(2)), 200 - FEW);
        assert_eq!(granted(&mut retries, at(9)), 0);
        // What is long ago does not count, on either side.
        assert_eq!(granted(&mut retries, at(11)), 0);
        assert_eq!(granted(&mut retries, at(12)), FEW);
        assert_eq!(granted(&mut retries, at(1000)), FEW);
    }
}
