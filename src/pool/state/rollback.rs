//! A swap that fails: the load for which others had to go does not come up. What
//! went is brought back, if nobody wants the room and it fits as it is; nothing
//! goes for it.

use std::time::Instant;

use super::slot::{Phase, Slot, Turn, Worker};
use super::{Effect, Machine};
use crate::pool::evict::Room;

impl Machine {
    /// Remembers who went for a load that is still to come.
    pub(super) fn remember_displaced(&mut self, model: &str, victim: &str) {
        let victims = self.displaced.entry(model.to_owned()).or_default();
        victims.retain(|known| known != victim);
        victims.push(victim.to_owned());
    }

    /// A load has failed: what went for it may come back.
    pub(super) fn roll_back(&mut self, model: &str) {
        // Those that should go first were taken first.
        let victims = self.displaced.remove(model).unwrap_or_default();
        let failed = victims.into_iter().rev();
        self.restoring
            .extend(failed.map(|victim| (victim, model.to_owned())));
    }

    /// Asks for what is to come back, as soon as its room is free.
    pub(super) fn bring_back(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let comes = |slot: &Slot| {
            let phase = slot.running.as_ref().map(|worker| &worker.phase);
            slot.claim().is_some() || matches!(phase, Some(Phase::Loading { .. }))
        };
        let slots = &self.slots;
        self.displaced
            .retain(|model, _| slots.get(model).is_some_and(comes));
        if self.restoring.is_empty() {
            return;
        }
        self.slots.settle(now);
        if self.slots.line_by_age().next().is_some() {
            // They have the room, and whatever comes of that is no rollback.
            self.restoring.clear();
            return;
        }
        let mut taken = self.books();
        // Nobody waits, so what stands by goes too.
        let is_leaving = self.standby.is_some()
            || self.slots.running().any(|(_, slot)| {
                let worker = slot.running.as_ref();
                worker.is_some_and(Worker::is_leaving)
            });
        for (victim, failed) in std::mem::take(&mut self.restoring) {
            let turn = Turn {
                since: now,
                number: self.turn(),
            };
            let limit = self.limit();
            let rivals = self.slots.get(&victim);
            let has_rivals =
                rivals.is_some_and(|it| self.is_a_rival_there(it) || self.is_a_rival_awaited(it));
            let Some(slot) = self.slots.get_mut(&victim) else {
                continue;
            };
            let after: Room = taken.plus(slot.need());
            match &slot.running {
                Some(worker) if !worker.is_leaving() => {}
                _ if !slot.listed || slot.quarantine(now).is_some() => {}
                None if after.fits(limit) && !has_rivals => {
                    taken = after;
                    slot.wanted = Some(turn);
                    self.counters.rollbacks += 1;
                    out.push(Effect::BringBack {
                        model: victim,
                        failed,
                    });
                }
                // The worker that failed, or its own last one, is not reaped yet.
                _ if is_leaving => self.restoring.push((victim, failed)),
                _ => {}
            }
        }
    }
}
