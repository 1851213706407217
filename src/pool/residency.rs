//! How long an idle model is kept although others wait for its room. Pure; whoever
//! asks has measured the facts. It never holds anything beyond `switch_after`, and
//! knows nothing of lines and queues.
//!
//! A model that somebody comes back to in a moment is worth a moment's wait: its
//! going costs an unload and a load, its return the same of the other. The shares
//! below were found with `roundhouse simulate` on agents that keep no step: less
//! swaps more often, more makes the last five in a hundred wait longer.

use std::time::{Duration, Instant};

use crate::config::MinResidency;

/// How long an idle model is kept after its last use: this part of both swaps.
const IDLE_PART: u32 = 5;

/// The most that somebody waits for the sake of idle models: so many halves of both
/// swaps.
const WAIT_HALVES: u32 = 3;

/// What is known of an idle model and of those who wait.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Since when it is ready.
    pub ready_since: Instant,
    /// Since when nobody uses it.
    pub idle_since: Instant,
    /// Whether fewer requests run or wait, over all models, than lately did at once:
    /// then somebody is away who may come back.
    pub is_somebody_away: bool,
    /// What its going and its return would cost: an unload and a load of it and of
    /// the one that waits longest, as they were last.
    pub swaps: Option<Duration>,
    /// Since when the oldest waits who waits for a load.
    pub oldest: Instant,
    /// From then on nobody has to wait for others.
    pub switch_after: Duration,
}

/// Until when the model is kept; nothing if it may go at once.
///
/// `auto` keeps it only while somebody is away. A client that asks one model after
/// the other, and nothing before it has its answer, is all there is when it waits: it
/// never waits for its own models.
pub fn spared_until(policy: MinResidency, facts: &Facts) -> Option<Instant> {
    let due = facts.oldest + facts.switch_after;
    match policy {
        MinResidency::For(Duration::ZERO) => None,
        MinResidency::For(time) => Some(due.min(facts.ready_since + time)),
        MinResidency::Auto if !facts.is_somebody_away => None,
        MinResidency::Auto => {
            let swaps = facts.swaps?;
            let again = facts.idle_since + swaps / IDLE_PART;
            Some(again.min(facts.oldest + swaps * WAIT_HALVES / 2).min(due))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_kept_where_a_moment_saves_a_swap() {
        const SECOND: Duration = Duration::from_secs(1);
        let start = Instant::now();
        // Ready at 10, then in seconds: idle since, both swaps, oldest; until when.
        let check = |policy, facts: (u32, bool, Option<u32>, u32), until: Option<u32>| {
            let (idle, is_somebody_away, swaps, oldest) = facts;
            let facts = Facts {
                ready_since: start + 10 * SECOND,
                idle_since: start + idle * SECOND,
                is_somebody_away,
                swaps: swaps.map(|swaps| swaps * SECOND),
                oldest: start + oldest * SECOND,
                switch_after: 30 * SECOND,
            };
            let until = until.map(|until| start + until * SECOND);
            assert_eq!(spared_until(policy, &facts), until, "{facts:?}");
        };
        let auto = MinResidency::Auto;
        check(auto, (20, true, Some(10), 15), Some(22));
        check(auto, (20, true, Some(10), 6), Some(21));
        check(auto, (20, true, Some(10), 2), Some(17));
        check(auto, (28, true, Some(20), 0), Some(30));
        check(auto, (12, true, Some(10), 15), Some(14));
        check(auto, (20, false, Some(10), 15), None);
        check(auto, (20, true, None, 15), None);
        let fixed = MinResidency::For(15 * SECOND);
        check(fixed, (12, false, None, 12), Some(25));
        check(fixed, (12, false, None, 0), Some(25));
        check(
            MinResidency::For(60 * SECOND),
            (12, false, None, 12),
            Some(42),
        );
        check(
            MinResidency::For(Duration::ZERO),
            (12, false, None, 12),
            None,
        );
    }
}
