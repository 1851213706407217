//! When a model will be there, as far as measured load times tell. Pure: a view and
//! a moment in, an estimate out. It decides nothing, and where nothing was ever
//! measured it says nothing.

use std::time::{Duration, Instant};

use super::ModelState;
use super::view::{ModelView, View};

/// From this share on the pace of a load itself is the best guess of its end,
/// thousandths: before, the start of the process weighs too much in it.
const TELLING: u16 = 50;

impl View {
    /// How long until a request for the model that came now would be answered by it;
    /// nothing if nobody can know. Answers that run elsewhere may take longer than
    /// `pool.switch_after` grants them, so it is no promise.
    pub fn eta(&self, model: &str, now: Instant) -> Option<Duration> {
        let wanted = self.model(model)?;
        match wanted.state {
            // How long the answers take that run before it nobody knows.
            ModelState::Ready => (wanted.waiting == 0).then_some(Duration::ZERO),
            ModelState::Loading => wanted.load_left(now),
            ModelState::Failed => {
                let failure = wanted.last_failure.as_ref()?;
                let rest = failure.retry_at.saturating_duration_since(now);
                Some(rest + self.load_time(wanted)?)
            }
            _ if self.stopping || wanted.need > self.budget => None,
            ModelState::Draining | ModelState::Stopping => self.load_time(wanted),
            ModelState::Waiting | ModelState::Unloaded => {
                let loads = self.loads_before(wanted, now)?;
                Some(self.time_to_room(wanted, now) + loads + self.load_time(wanted)?)
            }
        }
    }

    /// How long a load of it takes: as its own loads did, else as long as models of
    /// its size did.
    pub fn load_time(&self, wanted: &ModelView) -> Option<Duration> {
        typical(&wanted.load_times).or_else(|| {
            let measured = self.models.iter().filter_map(|other| {
                let bytes = (other.need.0 > 0).then_some(other.need.0 as f64)?;
                Some(typical(&other.load_times)?.as_secs_f64() / bytes)
            });
            let mut paces: Vec<f64> = measured.collect();
            paces.sort_by(f64::total_cmp);
            let pace = paces.get(paces.len() / 2)?;
            Some(Duration::from_secs_f64(pace * wanted.need.0 as f64))
        })
    }

    /// The loads that come first, one after the other: those that run, and those of
    /// models that wait longer.
    fn loads_before(&self, wanted: &ModelView, now: Instant) -> Option<Duration> {
        let stands_before = |other: &&ModelView| {
            let since = wanted.waiting_since.unwrap_or(now);
            other.model != wanted.model && other.waiting_since.is_some_and(|it| it < since)
        };
        let before = self.models.iter().filter(stands_before);
        before
            .map(|other| match other.state {
                ModelState::Waiting => self.load_time(other),
                ModelState::Loading => other.load_left(now),
                _ => Some(Duration::ZERO),
            })
            .sum()
    }

    /// Until room may be made for it: at once if idle models would do, else when it
    /// has waited long enough for busy ones to be drained.
    fn time_to_room(&self, wanted: &ModelView, now: Instant) -> Duration {
        let idle = |other: &&ModelView| {
            !other.keep && other.state == ModelState::Ready && other.leases() == 0
        };
        let idle: u64 = self
            .models
            .iter()
            .filter(idle)
            .map(|it| it.reserved.0)
            .sum();
        let held = self.reserved.0.saturating_sub(idle);
        if held.saturating_add(wanted.need.0) <= self.budget.0 {
            return Duration::ZERO;
        }
        let waited = wanted
            .waiting_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.switch_after.saturating_sub(waited)
    }
}

impl ModelView {
    /// How long its load will go on: by its own pace once that tells something, else
    /// by what earlier ones took.
    pub fn load_left(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.loading_since?);
        let share = self.progress.map_or(0, |progress| progress.thousandths());
        if share >= TELLING {
            let all = elapsed.as_secs_f64() * 1000.0 / f64::from(share);
            return Some(Duration::from_secs_f64(all).saturating_sub(elapsed));
        }
        Some(typical(&self.load_times)?.saturating_sub(elapsed))
    }
}

/// The middle one of some times.
fn typical(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests;
