//! Requests that one of several models may answer: a background alias. What is
//! up answers, its own model first, then whichever was used last; what is
//! loading answers as soon as it is there, and so does what is next in the line if
//! its own model would need room that is taken; only if there is none of these is
//! its own model asked for, like by any other request. So such a request never
//! makes another model go while one of its candidates is there or on its way.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::slot::{Phase, Slot};
use super::{Effect, Generation, Machine, WaiterId};
use crate::pool::Terms;
use crate::pool::evict::Room;
use crate::worker::LoadPlan;

/// What a request wants that others than its own model may answer.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its own model.
    own: Arc<LoadPlan>,
    /// The others.
    others: Vec<Arc<LoadPlan>>,
    terms: Terms,
}

impl Machine {
    /// A request for a lease on a model, or on one of the others.
    pub(super) fn acquire_any(
        &mut self,
        waiter: WaiterId,
        own: Arc<LoadPlan>,
        others: Vec<Arc<LoadPlan>>,
        terms: Terms,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        // Where there is nothing to choose, its own model it is, wherever that stands.
        if others.is_empty() {
            return self.acquire(waiter, own, terms, now, out);
        }
        self.slots.settle(now);
        let wanted = Wanted { own, others, terms };
        if let Some(generation) = self.take_resident(&wanted) {
            out.push(Effect::Grant {
                waiter,
                generation,
                waited: Duration::ZERO,
                position: 0,
            });
            return;
        }
        match self.coming(&wanted, now) {
            Some(model) if model != wanted.own.model => {
                let terms = wanted.terms;
                self.join(waiter, &model, terms, Some(Box::new(wanted)), now, out);
            }
            _ => self.acquire(waiter, wanted.own, terms, now, out),
        }
    }

    /// Takes a lease on the first candidate that is up.
    fn take_resident(&self, wanted: &Wanted) -> Option<Generation> {
        let up = |plan: &Arc<LoadPlan>| {
            let worker = self.taken(&plan.model)?.running.as_ref()?;
            let Phase::Up {
                gate,
                since,
                idle_since,
                draining: None,
                ..
            } = &worker.phase
            else {
                return None;
            };
            let is_other = plan.model != wanted.own.model;
            // A lease taken through the gate does not tell the machine.
            let is_idle = gate.leases() == 0;
            let used = Reverse((idle_since.unwrap_or(*since), worker.generation));
            Some(((is_other, is_idle, used), gate, worker.generation))
        };
        let mut found: Vec<_> = wanted.all().filter_map(up).collect();
        found.sort_by_key(|(order, ..)| *order);
        let mut found = found.into_iter();
        found.find_map(|(_, gate, generation)| gate.take().then_some(generation))
    }

    /// The candidate in whose queue the request waits least without anything being
    /// loaded for it: what is up and has no lease to give just now, then what loads,
    /// the longest first, then what is next in the line.
    fn coming(&self, wanted: &Wanted, now: Instant) -> Option<String> {
        let has_room = self.has_free_room(&wanted.own);
        let coming = |plan: &Arc<LoadPlan>| {
            let slot = self.taken(&plan.model)?;
            let is_other = plan.model != wanted.own.model;
            let order = match slot.running.as_ref().map(|worker| &worker.phase) {
                Some(Phase::Up { draining: None, .. }) => (0, is_other, slot.waiters.len() as u64),
                Some(Phase::Loading {
                    then_drain: None, ..
                }) => (1, is_other, slot.running.as_ref()?.generation),
                Some(Phase::Loading { .. }) => return None,
                _ if slot.quarantine(now).is_some() || self.is_held_up(&plan.model) => return None,
                _ if is_other && has_room => return None,
                _ => (2, is_other, slot.claim()?.number),
            };
            let is_full = slot.waiters.len() >= self.settings.queue
                || slot.waiters.of(wanted.terms.caller) >= self.settings.queue_per_caller;
            (!is_full).then(|| (order, plan.model.clone()))
        };
        let found = wanted.all().filter_map(coming);
        found
            .min_by_key(|(order, _)| *order)
            .map(|(_, model)| model)
    }

    /// Whether a model fits beside what is there now, and beside what is waited for
    /// once that is there: then nothing has to go for it.
    fn has_free_room(&self, plan: &LoadPlan) -> bool {
        let own = Room {
            bytes: plan.memory.0,
            places: 1,
        };
        let slot = self.slots.get(&plan.model);
        if slot.is_some_and(|it| self.is_a_rival_there(it) || self.is_a_rival_awaited(it)) {
            return false;
        }
        let need = slot.map_or(own, Slot::need);
        let claim = slot.and_then(Slot::claim).map_or(Room::default(), |_| need);
        let promised = self.slots.claimed().less(claim);
        let (now, then) = (self.slots.books().plus(need), promised.plus(need));
        now.fits(self.limit()) && then.fits(self.limit())
    }

    /// A model that takes new requests.
    fn taken(&self, model: &str) -> Option<&Slot> {
        self.slots.get(model).filter(|slot| slot.listed)
    }

    /// Whoever waited for a model that does not come, and may be answered by
    /// others, is placed anew among those. Answers whether there was anybody.
    pub(super) fn place_anew(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        let unplaced = std::mem::take(&mut self.unplaced);
        let is_any = !unplaced.is_empty();
        for (waiter, wanted) in unplaced {
            let Wanted { own, others, terms } = *wanted;
            self.acquire_any(waiter, own, others, terms, now, out);
        }
        is_any
    }
}

impl Wanted {
    /// Every candidate, its own model first.
    fn all(&self) -> impl Iterator<Item = &Arc<LoadPlan>> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// What is left when a model does not come.
    pub(super) fn without(mut self: Box<Self>, model: &str) -> Box<Self> {
        self.others.retain(|plan| plan.model != model);
        self
    }
}
