//! When it may help to ask again, from what loads and answers took lately.

use std::time::{Duration, Instant};

use super::Machine;
use super::slot::{Phase, Slot};

/// The shortest and the longest `retry_after` that is ever told.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);

/// How fast a queue moves while there is one.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When somebody was last let in, while others still queued.
    last: Option<Instant>,
    /// From one to the next, the later ones counting more.
    each: Option<Duration>,
}

impl Pace {
    /// So many were let in.
    pub fn let_in(&mut self, count: u32, now: Instant) {
        if let Some(last) = self.last.filter(|_| count > 0) {
            let each = (now - last) / count;
            self.each = Some(self.each.map_or(each, |known| (3 * known + each) / 4));
        }
        if count > 0 {
            self.last = Some(now);
        }
    }

    /// Nobody queues any more.
    pub fn rest(&mut self) {
        self.last = None;
    }
}

impl Slot {
    /// How long the next load takes, as the last one did.
    fn load_time(&self) -> Duration {
        self.load_times.back().copied().unwrap_or_default()
    }
}

impl Machine {
    /// When trying again may help somebody for whom there is no room: when half of
    /// those who queue have been let in, after what is left of a load, or after the
    /// time until the model is next and its load.
    pub(super) fn patience(&self, model: &str, now: Instant) -> Duration {
        let Some(slot) = self.slots.get(model) else {
            return SHORTEST;
        };
        let queued = u32::try_from(slot.waiters.len()).unwrap_or(u32::MAX);
        let moves = slot.pace.each.unwrap_or_default();
        let estimate = match slot.running.as_ref().map(|w| (&w.phase, w.started)) {
            Some((Phase::Up { draining: None, .. }, _)) => moves.saturating_mul(queued / 2),
            Some((Phase::Loading { .. }, started)) => {
                slot.load_time().saturating_sub(now - started)
            }
            _ if let Some(until) = self.held_up_until(model) => {
                until.saturating_duration_since(now)
            }
            _ => {
                let claim = slot.claim().map_or(now, |turn| turn.since);
                let is_next = claim + self.settings.switch_after;
                is_next.saturating_duration_since(now) + slot.load_time()
            }
        };
        estimate.clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_a_queue_and_not_of_its_absence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        pace.let_in(1, at(0));
        assert_eq!(pace.each, None);
        pace.let_in(2, at(8));
        assert_eq!(pace.each, Some(Duration::from_secs(4)));
        pace.let_in(0, at(9));
        pace.let_in(1, at(16));
        assert_eq!(pace.each, Some(Duration::from_secs(5)));
        pace.rest();
        pace.let_in(1, at(1_000));
        assert_eq!(pace.each, Some(Duration::from_secs(5)));
    }
}
