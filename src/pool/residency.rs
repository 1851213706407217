//! How long an idle model is kept although others wait for its room. Pure; whoever
//! asks has measured the facts. It never holds anything beyond `switch_after`, and
//! knows nothing of lines and queues.
//!
//! A model that somebody comes back to in a moment is worth a moment's wait: letting
//! it go costs its unload and its next load. How long to wait is the question of
//! renting skis or buying them (Karlin, Manasse, Rudolph and Sleator, "Competitive
//! Snoopy Caching", 1988): whoever rents for as long as buying costs pays at most
//! twice the best. So nobody waits for more than twice what a swap costs.

use std::time::{Duration, Instant};

use crate::config::MinResidency;

/// The most that somebody waits for the sake of an idle model, in its swaps.
const SWAPS: u32 = 2;

/// What is known of an idle model and of those who wait.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Since when it is ready.
    pub ready_since: Instant,
    /// Since when nobody uses it.
    pub idle_since: Instant,
    /// How long it lay idle before somebody came back for it who, as it had gone,
    /// had to wait for a load. Nothing if that was never soon.
    pub pause: Option<Duration>,
    /// What its going would cost: an unload and a load, as they were last.
    pub swap: Option<Duration>,
    /// Since when the oldest waits who waits for a load.
    pub oldest: Instant,
    /// From then on nobody has to wait for others.
    pub switch_after: Duration,
}

/// Until when the model is kept; nothing if it may go at once.
///
/// `auto` keeps it only if it was used while the other waited and is known to be
/// used again soon. A client that asks one model after the other, and nothing before
/// it has its answer, uses none while it waits: it never waits for its own models.
pub fn spared_until(policy: MinResidency, facts: &Facts) -> Option<Instant> {
    let due = facts.oldest + facts.switch_after;
    match policy {
        MinResidency::For(Duration::ZERO) => None,
        MinResidency::For(time) => Some(due.min(facts.ready_since + time)),
        MinResidency::Auto if facts.idle_since <= facts.oldest => None,
        MinResidency::Auto => {
            let (pause, swap) = facts.pause.zip(facts.swap)?;
            let again = facts.idle_since + (2 * pause).min(swap);
            Some(again.min(facts.oldest + SWAPS * swap).min(due))
        }
    }
}

/// What is to be remembered of pauses when somebody comes back after one: the mean
/// of it and what was known; nothing if it was too long to wait for.
pub fn remember(
    known: Option<Duration>,
    pause: Duration,
    swap: Option<Duration>,
) -> Option<Duration> {
    let is_short = swap.is_some_and(|swap| 2 * pause <= swap);
    is_short.then(|| known.map_or(pause, |known| (known + pause) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_kept_where_a_moment_saves_a_swap() {
        const SECOND: Duration = Duration::from_secs(1);
        let start = Instant::now();
        // Ready at 10, then in seconds: idle since, pause, swap, oldest; until when.
        let check = |policy, facts: (u32, Option<u32>, Option<u32>, u32), until: Option<u32>| {
            let (idle, pause, swap, oldest) = facts;
            let facts = Facts {
                ready_since: start + 10 * SECOND,
                idle_since: start + idle * SECOND,
                pause: pause.map(|pause| pause * SECOND),
                swap: swap.map(|swap| swap * SECOND),
                oldest: start + oldest * SECOND,
                switch_after: 30 * SECOND,
            };
            let until = until.map(|until| start + until * SECOND);
            assert_eq!(spared_until(policy, &facts), until, "{facts:?}");
        };
        let auto = MinResidency::Auto;
        check(auto, (20, Some(1), Some(8), 15), Some(22));
        check(auto, (20, Some(6), Some(8), 15), Some(28));
        check(auto, (20, Some(1), Some(8), 5), Some(21));
        check(auto, (20, Some(9), Some(20), 0), Some(30));
        check(auto, (20, None, Some(8), 15), None);
        check(auto, (20, Some(1), None, 15), None);
        check(auto, (15, Some(1), Some(8), 15), None);
        check(auto, (12, Some(1), Some(8), 15), None);
        let fixed = MinResidency::For(15 * SECOND);
        check(fixed, (12, None, None, 12), Some(25));
        check(fixed, (12, None, None, 0), Some(25));
        check(
            MinResidency::For(60 * SECOND),
            (12, None, None, 12),
            Some(42),
        );
        check(
            MinResidency::For(Duration::ZERO),
            (12, None, None, 12),
            None,
        );
    }

    #[test]
    fn only_short_pauses_are_remembered() {
        let check = |known: Option<u64>, pause: u64, swap: Option<u64>, expected: Option<u64>| {
            let of = |seconds: Option<u64>| seconds.map(Duration::from_secs);
            let pause = Duration::from_secs(pause);
            assert_eq!(remember(of(known), pause, of(swap)), of(expected));
        };
        check(None, 2, Some(8), Some(2));
        check(Some(4), 2, Some(8), Some(3));
        check(Some(4), 5, Some(8), None);
        check(None, 1, None, None);
    }
}
