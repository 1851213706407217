//! What people and configuration ask of the pool: unload, release, reload,
//! shutdown; and how a worker is told to end.

use std::time::{Duration, Instant};

use super::slot::{Phase, Slot, Turn};
use super::{Effect, GRACE, Machine, ReplyId, SHORT_GRACE, rivals};
use crate::pool::gate::Vacant;
use crate::pool::{Ending, Refused, Resident, Settings, UnloadError, UnloadMode, UnloadReason};
use crate::worker::Leave;

impl Machine {
    /// Somebody wants a model out of memory.
    pub(super) fn unload(
        &mut self,
        reply: ReplyId,
        model: &str,
        mode: UnloadMode,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let result = if self.shutdown.is_some() {
            Err(UnloadError::ShuttingDown)
        } else {
            self.begin_unload(model, mode, now, out)
        };
        match result {
            Err(error) => out.push(Effect::Unloaded {
                reply,
                result: Err(error),
            }),
            Ok(()) => {
                let slot = self.slots.get_mut(model);
                if let Some(worker) = slot.and_then(|slot| slot.running.as_mut()) {
                    worker.replies.push(reply);
                }
            }
        }
    }

    /// Sets the unload on its way; the reaping answers it.
    fn begin_unload(
        &mut self,
        model: &str,
        mode: UnloadMode,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> Result<(), UnloadError> {
        let reason = UnloadReason::Requested;
        let busy = |leases| UnloadError::Busy {
            model: model.to_owned(),
            leases,
        };
        let not_loaded = || UnloadError::NotLoaded {
            model: model.to_owned(),
        };
        let running = self.slots.get(model).filter(|slot| slot.running.is_some());
        match (mode, running.and_then(|slot| slot.held_until)) {
            (UnloadMode::Idle, Some(until)) => {
                return Err(UnloadError::Held {
                    model: model.to_owned(),
                    left: until.saturating_duration_since(now),
                });
            }
            // It stays in force for the next worker.
            (UnloadMode::Drain, _) | (UnloadMode::Idle, None) => {}
            (UnloadMode::Now, _) => self.end_holds(model, now),
        }
        let Some(slot) = self.slots.get_mut(model) else {
            return Err(not_loaded());
        };
        let waiting = slot.waiters.len() as u64;
        match slot.running.as_mut().map(|worker| &mut worker.phase) {
            None => return Err(not_loaded()),
            Some(Phase::Stopping { .. }) => {}
            Some(Phase::Loading { then_drain, .. }) => match mode {
                UnloadMode::Idle if waiting > 0 => return Err(busy(waiting)),
                UnloadMode::Drain if waiting > 0 => *then_drain = Some(reason),
                _ => {
                    slot.wanted = None;
                    self.preloading.remove(model);
                    self.end(model, None, SHORT_GRACE, out);
                    self.refuse_all(model, out, |model| Refused::Unloaded { model });
                }
            },
            Some(Phase::Up { gate, draining, .. }) => {
                let vacant = match mode {
                    UnloadMode::Idle => gate.close_if_idle(),
                    UnloadMode::Drain | UnloadMode::Now => gate.close(),
                };
                match (vacant, mode) {
                    (Some(vacant), _) => self.retire(model, vacant, reason, out),
                    (None, UnloadMode::Idle) => return Err(busy(gate.leases())),
                    (None, UnloadMode::Drain) => *draining = Some(reason),
                    (None, UnloadMode::Now) => self.revoke(model, reason, GRACE, out),
                }
            }
        }
        Ok(())
    }

    /// Everything idle and neither kept nor held goes.
    pub(super) fn release(&mut self, reply: ReplyId, now: Instant, out: &mut Vec<Effect>) {
        let mut released = Vec::new();
        let is_up = |slot: &Slot| slot.running.as_ref().is_some_and(|w| w.gate().is_some());
        for model in self.running_where(now, is_up) {
            let slot = &self.slots[&model];
            let gate = slot.running.as_ref().and_then(|worker| worker.gate());
            if !slot.keep
                && slot.held_until.is_none()
                && let Some(vacant) = gate.and_then(|gate| gate.close_if_idle())
            {
                self.retire(&model, vacant, UnloadReason::Requested, out);
                released.push(model);
            }
        }
        out.push(Effect::Released {
            reply,
            models: released,
        });
    }

    /// A reload. What nobody edited is not touched; what is no longer listed
    /// takes nobody new and goes after its last lease; what waits was let in
    /// under the old snapshot and is still served.
    pub(super) fn apply(
        &mut self,
        settings: Settings,
        models: Vec<Resident>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        if self.shutdown.is_some() {
            return;
        }
        self.settings = settings;
        let before = self.slots.names();
        for model in &before {
            if let Some(slot) = self.slots.get_mut(model) {
                slot.listed = false;
            }
        }
        let models = merge(models);
        for resident in &models {
            self.list(resident, now);
        }
        for model in before {
            if !self.slots[&model].listed {
                self.unlist(&model, now, out);
            }
        }
        self.tell_rivals_apart(rivals::pairs(&models), now, out);
        self.look_ahead(now);
    }

    /// Takes in one served model, old or new.
    fn list(&mut self, resident: &Resident, now: Instant) {
        let model = resident.plan.model.clone();
        self.unlisted.remove(&model);
        let turn = Turn {
            since: now,
            number: self.turn(),
        };
        let is_new = self.slots.get(&model).is_none();
        let new = || Slot::new(resident.plan.clone());
        let slot = self.slots.get_or_insert(&model, new);
        let was_asked = !is_new && (slot.keep || slot.preload);
        slot.configure(resident);
        let asked = slot.keep || slot.preload;
        if asked && !was_asked && !slot.is_served() {
            slot.wanted = Some(turn);
        }
        if !asked {
            slot.wanted = None;
        }
        // It was on its way out only because it had been taken off the list.
        match slot.running.as_mut().map(|worker| &mut worker.phase) {
            Some(Phase::Up { gate, draining, .. }) if *draining == Some(UnloadReason::Config) => {
                *draining = None;
                gate.open();
            }
            Some(Phase::Loading { then_drain, .. })
                if *then_drain == Some(UnloadReason::Config) =>
            {
                *then_drain = None;
            }
            _ => {}
        }
    }

    /// Takes a model off the list.
    fn unlist(&mut self, model: &str, now: Instant, out: &mut Vec<Effect>) {
        self.unlisted.insert(model.to_owned());
        self.end_holds(model, now);
        self.preloading.remove(model);
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        slot.keep = false;
        slot.preload = false;
        slot.wanted = None;
        self.send_off(model, UnloadReason::Config, out);
    }

    /// Lets a model go that the configuration does not want any more: who waits for a
    /// load that has begun is still served, and who uses it too.
    pub(super) fn send_off(&mut self, model: &str, reason: UnloadReason, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        let nobody_waits = slot.waiters.is_empty();
        match slot.running.as_mut().map(|worker| &mut worker.phase) {
            Some(Phase::Loading { .. }) if nobody_waits => self.end(model, None, SHORT_GRACE, out),
            Some(Phase::Loading { then_drain, .. }) => *then_drain = Some(reason),
            Some(Phase::Up { gate, draining, .. }) => match gate.close() {
                Some(vacant) => self.retire(model, vacant, reason, out),
                None => *draining = Some(reason),
            },
            Some(Phase::Stopping { .. }) | None => {}
        }
    }

    /// The server goes down: nobody new, nobody waits, loads end, leases may run on.
    pub(super) fn begin_shutdown(&mut self, drain: Duration, now: Instant, out: &mut Vec<Effect>) {
        let deadline = now + drain;
        let earlier = self.shutdown.map_or(deadline, |set| set.min(deadline));
        if self.shutdown.replace(earlier).is_some() {
            return;
        }
        self.preloading.clear();
        self.dismiss(out);
        for model in self.slots.names() {
            self.refuse_all(&model, out, |_| Refused::ShuttingDown);
            let Some(slot) = self.slots.get_mut(&model) else {
                continue;
            };
            slot.wanted = None;
            let reason = UnloadReason::Shutdown;
            match slot.running.as_mut().map(|worker| &mut worker.phase) {
                Some(Phase::Loading { .. }) => self.end(&model, None, SHORT_GRACE, out),
                Some(Phase::Up { gate, draining, .. }) => match gate.close() {
                    Some(vacant) => self.retire(&model, vacant, reason, out),
                    None => *draining = Some(reason),
                },
                Some(Phase::Stopping { reason }) => {
                    // It was given more time than there is now.
                    let reason = *reason;
                    self.end(&model, reason, SHORT_GRACE, out);
                }
                None => {}
            }
        }
    }

    /// Ends a worker on which nobody can hold a lease. It may write down what it keeps, as
    /// long as the server has time for that.
    pub(super) fn retire(
        &mut self,
        model: &str,
        _nobody_uses_it: Vacant,
        reason: UnloadReason,
        out: &mut Vec<Effect>,
    ) {
        let grace = match self.shutdown {
            Some(deadline) => deadline.saturating_duration_since(self.now),
            None => GRACE,
        };
        let leave = Leave {
            grace: grace.clamp(SHORT_GRACE, GRACE),
            may_write: reason != UnloadReason::Memory,
        };
        self.end_by(model, Some(reason), leave, out);
    }

    /// Ends a worker whatever leases are out; they are told first.
    pub(super) fn revoke(
        &mut self,
        model: &str,
        reason: UnloadReason,
        grace: Duration,
        out: &mut Vec<Effect>,
    ) {
        let slot = self.slots.get(model);
        if let Some(worker) = slot.and_then(|slot| slot.running.as_ref()) {
            out.push(Effect::End {
                generation: worker.generation,
                ending: Ending::Revoked(reason),
            });
        }
        self.end(model, Some(reason), grace, out);
    }

    /// Tells a worker to end; what it reserved stays reserved until it is reaped.
    pub(super) fn end(
        &mut self,
        model: &str,
        reason: Option<UnloadReason>,
        grace: Duration,
        out: &mut Vec<Effect>,
    ) {
        self.end_by(model, reason, Leave::within(grace), out);
    }

    fn end_by(
        &mut self,
        model: &str,
        reason: Option<UnloadReason>,
        leave: Leave,
        out: &mut Vec<Effect>,
    ) {
        self.idle.pop(model);
        let now = self.now;
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        if let Some(worker) = &mut slot.running {
            worker.holding.has_served |= matches!(worker.phase, Phase::Up { served: true, .. });
            slot.ending_since = Some(now);
            worker.phase = Phase::Stopping { reason };
            out.push(Effect::Stop {
                generation: worker.generation,
                leave,
                reason,
            });
        }
    }

    /// Refuses everybody who waits for a model, except those whom another may
    /// answer: they are placed anew.
    pub(super) fn refuse_all(
        &mut self,
        model: &str,
        out: &mut Vec<Effect>,
        refused: impl Fn(String) -> Refused,
    ) {
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        for waiter in slot.waiters.take_all() {
            self.waiting.remove(waiter.id);
            match waiter.elsewhere {
                Some(wanted) => self.unplaced.push((waiter.id, wanted.without(model))),
                None => out.push(Effect::Refuse {
                    waiter: waiter.id,
                    refused: refused(model.to_owned()),
                }),
            }
        }
    }
}

/// Entries that share a load are one resident: kept if any is, idle as long as
/// the most patient allows.
fn merge(models: Vec<Resident>) -> Vec<Resident> {
    let mut merged: indexmap::IndexMap<String, Resident> = indexmap::IndexMap::new();
    for resident in models {
        match merged.entry(resident.plan.model.clone()) {
            indexmap::map::Entry::Vacant(place) => drop(place.insert(resident)),
            indexmap::map::Entry::Occupied(mut place) => {
                let known = place.get_mut();
                known.never_with.extend(resident.never_with);
                known.keep |= resident.keep;
                known.preload |= resident.preload;
                known.idle_unload = known
                    .idle_unload
                    .zip(resident.idle_unload)
                    .map(|(a, b)| a.max(b));
            }
        }
    }
    merged.into_values().collect()
}
