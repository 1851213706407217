//! What time alone brings about: waits that were too long, loads that take too
//! long, idle models, the end of a drain; and when the next of these is due.

use std::time::Instant;

use super::slot::{Phase, Slot};
use super::{Effect, Machine, SHORT_GRACE};
use crate::pool::{Refused, UnloadReason};

impl Machine {
    /// When time alone will change something, at the earliest.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let of_slots = self.slots.values().flat_map(|slot| self.wakes(slot));
        let others = [self.shutdown, self.next_hold_end()];
        let wakes = of_slots.chain(others).flatten();
        wakes.filter(|wake| *wake > now).min()
    }

    /// The moments at which something of one model may be due.
    fn wakes(&self, slot: &Slot) -> [Option<Instant>; 4] {
        let oldest = slot.waiters.front().map(|waiter| waiter.turn.since);
        let switch = slot.claim().filter(|_| !slot.is_served());
        let phase = match slot.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Loading { deadline, .. }) => Some(*deadline),
            Some(Phase::Up { .. }) => self.unload_at(slot),
            Some(Phase::Stopping { .. }) | None => None,
        };
        [
            oldest.map(|since| since + self.settings.queue_timeout),
            switch.map(|turn| turn.since + self.settings.switch_after),
            phase,
            slot.failure.as_ref().map(|failure| failure.retry_at),
        ]
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

    /// Refuses whoever has waited as long as is allowed.
    pub(super) fn expire_waiters(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let limit = self.settings.queue_timeout;
        for (model, slot) in &mut self.slots {
            while let Some(waiter) = slot.waiters.front()
                && waiter.turn.since + limit <= now
            {
                self.waiting.remove(&waiter.id);
                out.push(Effect::Refuse {
                    waiter: waiter.id,
                    refused: Refused::QueueTimeout {
                        model: model.clone(),
                        waited: now - waiter.turn.since,
                    },
                });
                slot.waiters.pop_front();
            }
        }
    }

    /// Ends loads that take too long.
    pub(super) fn expire_loads(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let late = |slot: &Slot| {
            matches!(
                slot.running.as_ref().map(|worker| &worker.phase),
                Some(Phase::Loading { deadline, .. }) if *deadline <= now
            )
        };
        for model in self.models_where(late) {
            let limit = self.settings.load_time;
            self.end(&model, None, SHORT_GRACE, out);
            let reason = format!("it was not ready within {limit:?}");
            self.fail(&model, reason, Some(limit), now, out);
        }
    }

    /// The drain deadline has passed.
    pub(super) fn revoke_everything(&mut self, out: &mut Vec<Effect>) {
        let up = |slot: &Slot| slot.running.as_ref().is_some_and(|w| w.gate().is_some());
        for model in self.models_where(up) {
            self.revoke(&model, UnloadReason::Shutdown, SHORT_GRACE, out);
        }
    }

    /// Unloads what nobody has used for as long as its entry says.
    pub(super) fn unload_idle(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let due = |slot: &Slot| self.unload_at(slot).is_some_and(|at| at <= now);
        for model in self.models_where(due) {
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
