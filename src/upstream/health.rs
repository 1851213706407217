//! Whether an upstream is asked: by how it did lately, with no question but those of
//! callers. One that fails again and again rests, longer each time, and then a single
//! request finds out whether it is back. Pure; the time is passed in.

use std::time::{Duration, Instant};

/// So many failures in a row, and it rests.
const FAILURES: u32 = 5;

/// How long it rests first; twice as long after each probe that fails.
const FIRST_REST: Duration = Duration::from_secs(2);

/// How long it rests at most.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How long a probe may take before another is let through.
const PROBE: Duration = Duration::from_secs(30);

/// How an upstream did lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// Failures since it answered last.
    failures: u32,
    /// When it may be asked again; nothing while it is well.
    rests_until: Option<Instant>,
}

impl Health {
    /// Whether it is asked now. After a rest one request is let through, and the others
    /// go on waiting for what becomes of it.
    ///
    /// # Errors
    /// If it rests: for how long still.
    pub fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        match self.rests_until {
            None => Ok(()),
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                self.rests_until = Some(now + PROBE);
                Ok(())
            }
        }
    }

    /// Whether it is left alone now.
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// It begins to answer: it may be asked again. Whether it does well is told by the end.
    pub fn begins(&mut self) {
        self.rests_until = None;
    }

    /// It answered to the end; that it refuses a request is an answer.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// It could not be reached, broke off, fell silent, or said that it failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(probes) = self.failures.checked_sub(FAILURES) {
            let rest = FIRST_REST.saturating_mul(1 << probes.min(16));
            self.rests_until = Some(now + rest.min(LONGEST_REST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_after_failures_in_a_row_and_one_request_finds_out_whether_it_is_back() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        for _ in 0..FAILURES - 1 {
            assert_eq!(health.ask(at(0)), Ok(()));
            health.failed(at(0));
        }
        health.answered();
        for _ in 0..FAILURES {
            assert_eq!(health.ask(at(0)), Ok(()), "an answer makes good");
            health.failed(at(0));
        }
        assert_eq!(health.ask(at(1)), Err(Duration::from_secs(1)));
        assert_eq!(health.ask(at(2)), Ok(()), "the probe");
        assert_eq!(health.ask(at(2)), Err(PROBE), "one at a time");
        health.failed(at(3));
        assert_eq!(
            health.ask(at(6)),
            Err(Duration::from_secs(1)),
            "twice as long"
        );
        assert_eq!(health.ask(at(7)), Ok(()));
        // Nobody heard what became of that one.
        assert_eq!(health.ask(at(7 + PROBE.as_secs())), Ok(()));
        health.answered();
        assert_eq!(health.ask(at(60)), Ok(()));
    }

    #[test]
    fn answers_that_break_off_count_and_one_that_begins_lets_others_through() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..FAILURES {
            assert_eq!(health.ask(now), Ok(()));
            health.begins();
            health.failed(now);
        }
        assert!(health.rests(now));
        let later = now + FIRST_REST;
        assert!(!health.rests(later));
        assert_eq!(health.ask(later), Ok(()), "the probe");
        assert!(health.rests(later));
        health.begins();
        assert_eq!(health.ask(later), Ok(()), "it answers, so others may ask");
        health.failed(later);
        assert_eq!(health.ask(later), Err(FIRST_REST * 2));
    }

    #[test]
    fn it_rests_a_minute_at_most() {
        let mut health = Health::default();
        let now = Instant::now();
        for _ in 0..1000 {
            health.failed(now);
        }
        assert_eq!(health.ask(now), Err(LONGEST_REST));
    }
}
