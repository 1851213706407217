//! What time alone brings about: waits that were too long, loads that take too
//! long, idle models, the end of a drain; and when the next of these is due.

use std::time::{Duration, Instant};

use super::slot::{Phase, Slot};
use super::{Effect, Machine, SHORT_GRACE};
use crate::pool::{Refused, UnloadReason};

impl Machine {
    /// When time alone will change something, at the earliest.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let oldest = self.waiting.oldest();
        let switch = self.slots.next_due(self.due(now));
        let others = [
            oldest.map(|(since, _)| self.waits_until(since)),
            switch.map(|since| since + self.settings.switch_after),
            self.slots.next_end_of_rest(),
            self.shutdown,
            self.next_hold_end(),
        ];
        let of_workers = self
            .slots
            .running()
            .flat_map(|(_, slot)| [self.wake_of(slot), self.spared_until(slot)]);
        let wakes = of_workers.chain(others).flatten();
        wakes.filter(|wake| *wake > now).min()
    }

    /// When time alone will change something about one worker.
    fn wake_of(&self, slot: &Slot) -> Option<Instant> {
        match slot.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Loading { deadline, .. }) => Some(*deadline),
            Some(Phase::Up { .. }) => self.unload_at(slot),
            Some(Phase::Stopping { .. }) | None => None,
        }
    }

    /// When an idle model is unloaded if nobody comes.
    pub(super) fn unload_at(&self, slot: &Slot) -> Option<Instant> {
        match slot.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Up {
                idle_since: Some(since),
                idle_unload,
                draining: None,
                ..
            }) if !slot.keep => {
                // What the entry says is the ceiling of what a request may wish.
                let times = [*idle_unload, slot.idle_unload].into_iter().flatten();
                let at = times.min().map(|after| *since + after);
                at.map(|at| at.max(slot.held_until.unwrap_or(at)))
            }
            _ => None,
        }
    }

    /// How long somebody may wait who came at this moment.
    fn waits_until(&self, since: Instant) -> Instant {
        (since + self.settings.queue_timeout).max(self.patient_until)
    }

    /// The router stood still: nobody pays for that. Loads and idle models have their
    /// time anew, who waits gets it back.
    pub(super) fn stood_still(&mut self, time: Duration, now: Instant) {
        self.patient_until = now + time.min(self.settings.queue_timeout);
        let limit = self.settings.load_time;
        for model in self.running_where(now, |_| true) {
            match self.phase(&model) {
                Some(Phase::Loading { deadline, .. }) => {
                    *deadline = (*deadline).max(now + limit);
                }
                Some(Phase::Up {
                    idle_since: Some(idle_since),
                    ..
                }) => *idle_since = now,
                _ => {}
            }
        }
    }

    /// Refuses whoever has waited as long as is allowed.
    pub(super) fn expire_waiters(&mut self, now: Instant, out: &mut Vec<Effect>) {
        while let Some((since, waiter)) = self.waiting.oldest()
            && self.waits_until(since) <= now
        {
            let Some(place) = self.waiting.remove(waiter) else {
                return;
            };
            if let Some(slot) = self.slots.get_mut(place.model()) {
                slot.waiters.remove(place.turn.number);
            }
            out.push(Effect::Refuse {
                waiter,
                refused: Refused::QueueTimeout {
                    model: place.model().to_owned(),
                    waited: now - since,
                },
            });
        }
    }

    /// Ends loads that have stood still for too long.
    pub(super) fn expire_loads(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let late = |slot: &Slot| {
            matches!(
                slot.running.as_ref().map(|worker| &worker.phase),
                Some(Phase::Loading { deadline, .. }) if *deadline <= now
            )
        };
        for model in self.running_where(now, late) {
            let limit = self.settings.load_time;
            self.end(&model, None, SHORT_GRACE, out);
            let reason = format!("its load came no further within {limit:?}");
            self.fail(&model, reason, Some(limit), now, out);
        }
    }

    /// The drain deadline has passed.
    pub(super) fn revoke_everything(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let up = |slot: &Slot| slot.running.as_ref().is_some_and(|w| w.gate().is_some());
        for model in self.running_where(now, up) {
            self.revoke(&model, UnloadReason::Shutdown, SHORT_GRACE, out);
        }
    }

    /// Unloads what nobody has used for as long as its entry says.
    pub(super) fn unload_idle(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.slots.settle(now);
        let running = self.slots.running();
        let due = running.filter(|(_, slot)| self.unload_at(slot).is_some_and(|at| at <= now));
        for model in due.map(|(model, _)| model.clone()).collect::<Vec<_>>() {
            let Some(Phase::Up {
                gate, idle_since, ..
            }) = self.phase(&model)
            else {
                continue;
            };
            match gate.close_if_idle() {
                Some(vacant) => self.retire(&model, vacant, UnloadReason::Idle, out),
                // Somebody was quicker; the clock starts anew when he is done.
                None => *idle_since = None,
            }
        }
    }
}
