//! What workers really hold, and what follows from it. Each worker has promised
//! an amount; what it holds beyond that is counted at once, and idle models go if
//! the budget is passed by that (`schedule`). If that does not do:
//!
//! - Above the soft mark, the budget, the worker that is furthest beyond its
//!   promise takes nobody new and leaves after its last lease; it stays after all
//!   if the budget holds again before that.
//! - Above the hard mark, a tenth more, it is ended at once, whoever uses it.
//!
//! Nobody is ended for what others hold: a worker within its promise is safe.

use std::time::{Duration, Instant};

use super::slot::{Phase, Slot, Turn, Worker};
use super::{Effect, Generation, Machine, SHORT_GRACE};
use crate::pool::ledger::Ledger;
use crate::pool::{Ending, UnloadReason};
use crate::units::ByteSize;
use crate::worker::Ready;

/// The hard mark lies above the budget by this part of it.
const HARD_PART: u64 = 10;

/// What a worker promised and what it was seen to hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    /// What was reserved for it, or what it said itself when it was ready.
    pub promised: ByteSize,
    /// What it held when it was looked at last.
    pub held: ByteSize,
    /// It told, or the system did, that memory ran out.
    pub ran_out: bool,
    /// It had served somebody when it was told to end.
    pub has_served: bool,
}

impl Holding {
    /// A worker that was given so much.
    pub fn promised(promised: ByteSize) -> Self {
        Self {
            promised,
            ..Self::default()
        }
    }

    /// How far it is beyond its promise.
    fn beyond(&self) -> ByteSize {
        self.held.saturating_sub(self.promised)
    }
}

/// What a slot knows of the memory of its next load.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// What the next load reserves, if that is not what its plan says.
    pub reserve: Option<ByteSize>,
    /// The load is tried again because memory ran out in the one before.
    pub is_retried: bool,
}

impl Machine {
    /// Takes over what was learnt before this machine began.
    pub fn teach(&mut self, ledger: Ledger, now: Instant) {
        self.ledger = ledger;
        // Read from where it is written down, so that nobody has to be told.
        self.lessons += 1;
        self.told_lessons += 1;
        for model in self.slots.names() {
            if let Some(slot) = self.slots.get_mut(&model) {
                let line = self.ledger.line(&slot.plan);
                let times = line.into_iter().flat_map(|line| line.load_times());
                times.for_each(|took| slot.remember_load(took));
            }
        }
        self.look_ahead(now);
    }

    /// What was learnt, if there is news since this was asked last.
    pub fn learnt(&mut self) -> Option<Ledger> {
        let told = std::mem::replace(&mut self.told_lessons, self.lessons);
        (told != self.lessons).then(|| self.ledger.clone())
    }

    /// A worker was looked at.
    pub(super) fn footprint(
        &mut self,
        generation: Generation,
        held: ByteSize,
        peak: ByteSize,
        now: Instant,
    ) {
        let Some((model, slot)) = self.worker(generation) else {
            return self.standby_seen(generation, held);
        };
        let Some(worker) = &mut slot.running else {
            return;
        };
        worker.holding.held = held;
        worker.reserved = worker.holding.promised.max(held);
        let is_beyond = held > worker.holding.promised;
        let plan = worker.plan.clone();
        let (is_known, is_idle) = match &worker.phase {
            // Nothing is remembered of a load before it has come to its end.
            Phase::Loading { .. } | Phase::Stopping { reason: None } => (false, false),
            Phase::Up { gate, .. } => (true, gate.leases() == 0),
            Phase::Stopping { .. } => (true, false),
        };
        self.is_beyond |= is_beyond;
        if !is_known {
            return;
        }
        if is_idle {
            self.ledger.settled(&plan, held);
        }
        self.lessons += 1;
        if self.ledger.peaked(&plan, peak.max(held)) {
            self.look_ahead_for(&model, now);
        }
    }

    /// Memory ran out for a worker; what becomes of it is told by another event.
    pub(super) fn ran_out(&mut self, generation: Generation) {
        if let Some((_, slot)) = self.worker(generation)
            && let Some(worker) = &mut slot.running
        {
            worker.holding.ran_out = true;
        } else {
            self.standby_ran_out(generation);
        }
    }

    /// A load is done: what it holds is what it promises from here on.
    pub(super) fn promise(&mut self, model: &str, ready: &Ready, took: Duration, now: Instant) {
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        slot.outlook.is_retried = false;
        let Some(worker) = &mut slot.running else {
            return;
        };
        let said = ByteSize(ready.bytes_held).saturating_add(worker.plan.kv);
        worker.holding.promised = worker.holding.promised.max(said);
        worker.reserved = worker.reserved.max(said);
        let plan = worker.plan.clone();
        self.ledger.loaded(&plan, ready, took);
        self.lessons += 1;
        self.look_ahead_for(model, now);
    }

    /// A worker is gone. Answers why it went, where memory was the reason.
    pub(super) fn learn_from_end(
        &mut self,
        model: &str,
        worker: &Worker,
        now: Instant,
    ) -> Option<UnloadReason> {
        match &worker.phase {
            Phase::Up { .. } if worker.holding.ran_out => return Some(UnloadReason::Memory),
            Phase::Stopping {
                reason: Some(reason),
            } => {
                if worker.holding.has_served {
                    self.ledger.lived(&worker.plan);
                    self.lessons += 1;
                    self.look_ahead_for(model, now);
                }
                if *reason == UnloadReason::Memory {
                    self.want_again(model, now);
                }
            }
            _ => {}
        }
        None
    }

    /// What is kept comes back after it had to go.
    fn want_again(&mut self, model: &str, now: Instant) {
        let number = self.turn();
        let is_going_down = self.shutdown.is_some();
        if let Some(slot) = self.slots.get_mut(model)
            && slot.keep
            && slot.listed
            && !is_going_down
        {
            slot.wanted = Some(Turn { since: now, number });
        }
    }

    /// Memory ran out while a model loaded. The first time everything idle goes
    /// and the load is tried once more; answers whether it is.
    pub(super) fn tries_again(&mut self, model: &str, now: Instant, out: &mut Vec<Effect>) -> bool {
        let Some(slot) = self.slots.get_mut(model) else {
            return false;
        };
        if std::mem::take(&mut slot.outlook.is_retried) || slot.claim().is_none() {
            return false;
        }
        slot.outlook.is_retried = true;
        for other in self.running_where(now, |slot| !slot.keep && slot.held_until.is_none()) {
            if let Some(Phase::Up { gate, .. }) = self.phase(&other)
                && let Some(vacant) = gate.close_if_idle()
            {
                self.retire(&other, vacant, UnloadReason::Memory, out);
            }
        }
        true
    }

    /// Whether a load may begin now: one that is tried again waits until nobody
    /// is about to free memory any more.
    pub(super) fn has_calm(&self, slot: &Slot) -> bool {
        let leaves = |slot: &Slot| {
            let phase = slot.running.as_ref().map(|worker| &worker.phase);
            matches!(phase, Some(Phase::Stopping { .. }))
        };
        !slot.outlook.is_retried || !self.slots.running().any(|(_, slot)| leaves(slot))
    }

    /// The reason of a failed load.
    pub(super) fn failure_of(ran_out: bool, reason: String) -> String {
        match ran_out {
            true => format!("oom: {reason}"),
            false => reason,
        }
    }

    /// Holds workers to the marks above. Answers whether a drain was taken back, of
    /// which nobody is told.
    pub(super) fn keep_to_marks(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        if !self.is_beyond {
            return false;
        }
        while self.held_by_those(now, |phase| !matches!(phase, Phase::Stopping { .. }))
            > self.hard_mark()
        {
            let Some(model) = self.furthest_beyond(|_| true) else {
                break;
            };
            self.outgrew(&model, out);
        }
        while self.staying(now) > self.settings.budget {
            let Some(model) = self.furthest_beyond(|draining| draining.is_none()) else {
                break;
            };
            if let Some(Phase::Up { gate, draining, .. }) = self.phase(&model) {
                match gate.close() {
                    Some(vacant) => self.retire(&model, vacant, UnloadReason::Memory, out),
                    None => *draining = Some(UnloadReason::Memory),
                }
            }
        }
        let stays = self.let_stay(now);
        // One that still loads is dealt with when it is ready.
        let concerns = |slot: &Slot| {
            let worker = slot.running.as_ref();
            let is_beyond = |worker: &Worker| worker.holding.beyond() > ByteSize::ZERO;
            worker.is_some_and(is_beyond) || slot.drains_for(UnloadReason::Memory)
        };
        self.slots.settle(now);
        self.is_beyond = self.slots.running().any(|(_, slot)| concerns(slot));
        stays
    }

    /// What workers of some phases hold.
    fn held_by_those(&mut self, now: Instant, counts: impl Fn(&Phase) -> bool) -> ByteSize {
        self.slots.settle(now);
        let workers = self
            .slots
            .running()
            .filter_map(|(_, slot)| slot.running.as_ref());
        let counted = workers.filter(|worker| counts(&worker.phase));
        counted.fold(ByteSize::ZERO, |sum, worker| {
            sum.saturating_add(worker.reserved)
        })
    }

    /// What is held by those who are not on their way out.
    fn staying(&mut self, now: Instant) -> ByteSize {
        self.held_by_those(now, |phase| !phase.is_leaving())
    }

    /// The budget and a tenth.
    fn hard_mark(&self) -> ByteSize {
        let budget = self.settings.budget;
        budget.saturating_add(ByteSize(budget.0 / HARD_PART))
    }

    /// The worker that is up and furthest beyond its promise.
    fn furthest_beyond(&self, may_go: impl Fn(&Option<UnloadReason>) -> bool) -> Option<String> {
        let beyond = self.slots.running().filter_map(|(model, slot)| {
            let worker = slot.running.as_ref()?;
            match &worker.phase {
                Phase::Up { draining, .. } if may_go(draining) => {
                    Some((worker.holding.beyond(), model))
                }
                _ => None,
            }
        });
        let furthest = beyond.filter(|(by, _)| *by > ByteSize::ZERO).max();
        furthest.map(|(_, model)| model.clone())
    }

    /// Ends a worker and tells those who use it why.
    fn outgrew(&mut self, model: &str, out: &mut Vec<Effect>) {
        let slot = self.slots.get(model);
        let Some(worker) = slot.and_then(|slot| slot.running.as_ref()) else {
            return;
        };
        out.push(Effect::End {
            generation: worker.generation,
            ending: Ending::Outgrew {
                held: worker.holding.held,
                promised: worker.holding.promised,
                budget: self.settings.budget,
            },
        });
        self.end(model, Some(UnloadReason::Memory), SHORT_GRACE, out);
    }

    /// Takes back drains that are not needed any more: those first that are least
    /// beyond their promise. What goes for somebody who waits frees nothing here.
    /// Answers whether there was any.
    fn let_stay(&mut self, now: Instant) -> bool {
        let drains = |slot: &Slot| slot.drains_for(UnloadReason::Memory);
        let mut drained: Vec<_> = self
            .running_where(now, drains)
            .into_iter()
            .filter_map(|model| {
                let worker = self.slots[&model].running.as_ref()?;
                Some((worker.holding.beyond(), worker.reserved, model))
            })
            .collect();
        drained.sort();
        let mut stays = false;
        for (_, held, model) in drained {
            let is_taken = |phase: &Phase| !phase.is_leaving() || phase.makes_room();
            if self.held_by_those(now, is_taken).saturating_add(held) <= self.settings.budget
                && let Some(Phase::Up { gate, draining, .. }) = self.phase(&model)
            {
                *draining = None;
                gate.open();
                stays = true;
            }
        }
        stays
    }

    /// Settles for all models what their next loads reserve.
    pub(super) fn look_ahead(&mut self, now: Instant) {
        self.slots.settle(now);
        let changed = |(model, slot): (&String, &Slot)| {
            let reserve = self.outlook(slot);
            (slot.outlook.reserve != reserve).then(|| (model.clone(), reserve))
        };
        let changed: Vec<_> = self.slots.iter().filter_map(changed).collect();
        for (model, reserve) in changed {
            if let Some(slot) = self.slots.get_mut(&model) {
                slot.outlook.reserve = reserve;
            }
        }
        self.slots.settle(now);
    }

    /// The same for one model.
    fn look_ahead_for(&mut self, model: &str, now: Instant) {
        self.slots.settle(now);
        let reserve = self.slots.get(model).map(|slot| self.outlook(slot));
        if let (Some(reserve), Some(slot)) = (reserve, self.slots.get_mut(model)) {
            slot.outlook.reserve = reserve;
        }
    }

    /// What the next load reserves, if anything is known of it.
    fn outlook(&self, slot: &Slot) -> Option<ByteSize> {
        let held = self.slots.held_against(slot);
        let most = self.settings.budget.saturating_sub(ByteSize(held.bytes));
        let known = self.ledger.line(&slot.plan);
        known.map(|_| self.ledger.reserve(&slot.plan, most))
    }
}
