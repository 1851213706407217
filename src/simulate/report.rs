//! What came of a run, in the figures that are compared.

use std::time::Duration;

use serde_json::{Value, json};

use super::Rule;
use super::world::Tally;

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Who decided.
    pub rule: Rule,
    /// Loads for which another model had to go.
    pub swaps: u64,
    /// What the world counted; the waits in order of length.
    pub tally: Tally,
}

/// Puts the waits in order.
pub(super) fn sum_up(rule: Rule, swaps: u64, mut tally: Tally) -> Outcome {
    tally.waits.sort_unstable();
    Outcome { rule, swaps, tally }
}

impl Outcome {
    /// The wait that so many percent of the served requests did not exceed: the
    /// nearest rank, so it is a wait that somebody had.
    pub fn wait(&self, percent: usize) -> Duration {
        let waits = &self.tally.waits;
        let rank = (waits.len() * percent).div_ceil(100).max(1);
        waits.get(rank - 1).copied().unwrap_or_default()
    }

    /// Memory held, summed over time: gigabyte-seconds.
    pub fn gigabyte_seconds(&self) -> f64 {
        self.tally.byte_ms as f64 / 1e12
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let tally = &self.tally;
        json!({
            "policy": self.rule.as_str(),
            "served": tally.waits.len(),
            "refused": tally.refused,
            "cut": tally.cut,
            "unanswered": tally.unanswered,
            "loads": tally.loads,
            "swaps": self.swaps,
            "wait_p50_ms": ms(self.wait(50)),
            "wait_p95_ms": ms(self.wait(95)),
            "wait_max_ms": ms(self.wait(100)),
            "byte_seconds": tally.byte_ms as f64 / 1e3,
            "peak_bytes": tally.peak,
            "makespan_ms": ms(tally.makespan),
        })
    }

    /// The heads of [`Outcome::row`].
    pub const HEADS: [&str; 9] = [
        "policy", "served", "loads", "swaps", "wait p50", "p95", "max", "GB·s", "makespan",
    ];

    /// For people.
    pub fn row(&self) -> Vec<String> {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let lost = self.tally.refused + self.tally.cut + self.tally.unanswered;
        let served = match (self.tally.waits.len(), lost) {
            (served, 0) => served.to_string(),
            (served, lost) => format!("{served}, not {lost}"),
        };
        vec![
            self.rule.as_str().to_owned(),
            served,
            self.tally.loads.to_string(),
            self.swaps.to_string(),
            seconds(self.wait(50)),
            seconds(self.wait(95)),
            seconds(self.wait(100)),
            format!("{:.0}", self.gigabyte_seconds()),
            seconds(self.tally.makespan),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let check = |waits: &[u64], percent: usize, expected: u64| {
            let waits = waits
                .iter()
                .rev()
                .map(|ms| Duration::from_millis(*ms))
                .collect();
            let tally = Tally {
                waits,
                ..Tally::default()
            };
            let got = sum_up(Rule::FifoLru, 0, tally).wait(percent);
            assert_eq!(got, Duration::from_millis(expected), "{percent}");
        };
        check(&[], 95, 0);
        check(&[7], 50, 7);
        check(&[1, 2, 3, 4], 50, 2);
        check(&[1, 2, 3, 4], 95, 4);
        let hundred: Vec<_> = (1..=100).collect();
        check(&hundred, 95, 95);
        check(&hundred, 100, 100);
    }
}
