//! The process of the model that comes up next, started while another is still on its
//! way out: it reads what takes little memory, and waits to be told to load. There is one
//! at most. Who loads next and who goes for it is decided as if it were not there; where
//! it is in somebody's way it ends. What it takes stands in the books from the decision to
//! start it until it has been reaped, or is part of what its load reserves.

use std::sync::Arc;
use std::time::Instant;

use super::slot::{Slot, Worker};
use super::{Effect, Generation, Machine, SHORT_GRACE};
use crate::pool::evict::Room;
use crate::units::ByteSize;
use crate::worker::{Leave, LoadPlan};

/// A process that waits to be told to load.
#[derive(Debug)]
pub(super) struct Standby {
    pub generation: Generation,
    pub plan: Arc<LoadPlan>,
    pub pid: Option<u32>,
    /// What was set aside for it.
    pub promised: ByteSize,
    /// What it held when it was looked at last.
    pub held: ByteSize,
    ran_out: bool,
    /// It was told to end.
    pub is_leaving: bool,
}

impl Standby {
    /// What it takes of the budget. No place: no model is in its memory.
    pub fn room(&self) -> Room {
        Room {
            bytes: self.promised.max(self.held).0,
            places: 0,
        }
    }
}

impl Machine {
    /// The process with this number, if it stands by.
    pub(super) fn standby(&mut self, generation: Generation) -> Option<&mut Standby> {
        let standby = self.standby.as_mut();
        standby.filter(|standby| standby.generation == generation)
    }

    /// Of a model, the process that stands by.
    pub(super) fn standby_of(&self, model: &str) -> Option<&Standby> {
        let standby = self.standby.as_ref();
        standby.filter(|standby| standby.plan.model == model)
    }

    /// Sees to it that the model that comes up next has a process standing by, and no
    /// other one has.
    pub(super) fn stand_by(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.slots.settle(now);
        let next = self.next_up(now);
        match (&self.standby, next) {
            (Some(standby), next) => {
                let is_next = next.is_some_and(|slot| slot.plan == standby.plan);
                if !is_next || self.books().bytes > self.limit().bytes {
                    self.dismiss(out);
                }
            }
            (None, Some(slot)) => {
                let plan = slot.plan.clone();
                let Some(bytes) = plan.standby else {
                    return;
                };
                let need = ByteSize(slot.need().bytes);
                let promised = bytes.max(slot.standby_held).min(need);
                if self.books().bytes.saturating_add(promised.0) > self.limit().bytes {
                    return;
                }
                self.last_generation += 1;
                let generation = self.last_generation;
                // It is shown.
                self.slots.get_mut(&plan.model);
                self.standby = Some(Standby {
                    generation,
                    plan: plan.clone(),
                    pid: None,
                    promised,
                    held: ByteSize::ZERO,
                    ran_out: false,
                    is_leaving: false,
                });
                out.push(Effect::StandBy { generation, plan });
            }
            (None, None) => {}
        }
        self.slots.settle(now);
    }

    /// The first in the line who has a chance, if he waits for nothing but the end of
    /// those who go.
    fn next_up(&self, now: Instant) -> Option<&Slot> {
        let leaves = |slot: &Slot| slot.running.as_ref().is_some_and(Worker::is_leaving);
        if !self.slots.running().any(|(_, slot)| leaves(slot)) {
            return None;
        }
        let (due, mut place) = (self.due(now), None);
        let slot = loop {
            let (here, model) = self.slots.next_in_line(place, due)?;
            if !self.is_held_up(model) {
                break &self.slots[model];
            }
            place = Some(here);
        };
        (slot.running.is_none() && self.is_way_open(slot, now)).then_some(slot)
    }

    /// Whether a model for which there is room can be started beside the process that stands
    /// by, which may be its own. One that is in the way is told to end.
    pub(super) fn can_start_beside_standby(&mut self, model: &str, out: &mut Vec<Effect>) -> bool {
        let (Some(standby), slot) = (&self.standby, &self.slots[model]) else {
            return true;
        };
        let can_start = match standby.plan.model == model {
            true => !standby.is_leaving && standby.plan == slot.plan,
            false => self.books().plus(slot.need()).fits(self.limit()),
        };
        if !can_start {
            self.dismiss(out);
        }
        can_start
    }

    /// Takes over the process of a model whose load begins, if it stands by.
    pub(super) fn take_standby(&mut self, model: &str) -> Option<Standby> {
        self.standby
            .take_if(|standby| standby.plan.model == model && !standby.is_leaving)
    }

    /// Ends the process that stands by, if it is not told already.
    pub(super) fn dismiss(&mut self, out: &mut Vec<Effect>) {
        if let Some(standby) = &mut self.standby
            && !std::mem::replace(&mut standby.is_leaving, true)
        {
            out.push(Effect::Stop {
                generation: standby.generation,
                leave: Leave::within(SHORT_GRACE),
                reason: None,
            });
        }
    }

    /// It was looked at. The next one of its model is given as much.
    pub(super) fn standby_seen(&mut self, generation: Generation, held: ByteSize) {
        let Some(standby) = self.standby(generation) else {
            return;
        };
        standby.held = held;
        let plan = standby.plan.clone();
        if let Some(slot) = self.slots.get_mut(&plan.model)
            && slot.plan == plan
        {
            slot.standby_held = slot.standby_held.max(held);
        }
    }

    /// Memory ran out for it.
    pub(super) fn standby_ran_out(&mut self, generation: Generation) {
        if let Some(standby) = self.standby(generation) {
            standby.ran_out = true;
        }
    }

    /// It said that it cannot load: the load has failed before it began.
    pub(super) fn standby_failed(
        &mut self,
        generation: Generation,
        reason: String,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        if let Some(standby) = self.standby(generation)
            && !standby.is_leaving
        {
            let (plan, ran_out) = (standby.plan.clone(), standby.ran_out);
            self.dismiss(out);
            self.fail_standby(&plan, ran_out, reason, now, out);
        }
    }

    /// It has been reaped. Unless it was told to end, its load has failed.
    pub(super) fn standby_exited(
        &mut self,
        generation: Generation,
        how: String,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let gone = self.standby.take_if(|it| it.generation == generation);
        let Some(standby) = gone else {
            return;
        };
        // It is not shown any more.
        self.slots.get_mut(&standby.plan.model);
        if !standby.is_leaving {
            let reason = format!("its worker {how} before it was ready");
            self.fail_standby(&standby.plan, standby.ran_out, reason, now, out);
        }
        out.push(Effect::Forget {
            generation,
            model: standby.plan.model.clone(),
            reason: None,
            how,
        });
    }

    /// What a load that fails is, for those who wait for it.
    fn fail_standby(
        &mut self,
        plan: &LoadPlan,
        ran_out: bool,
        reason: String,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.counters.loads += 1;
        if !(ran_out && self.tries_again(&plan.model, now, out)) {
            let reason = Self::failure_of(ran_out, reason);
            self.fail(&plan.model, reason, None, now, out);
        }
    }
}
