//! Questions that change nothing: what would happen if a model were asked for now,
//! and who waits for what. They use the parts by which the machine decides, so that
//! the answer is what it would do.

use std::collections::HashSet;
use std::time::Instant;

use super::Machine;
use super::slot::{Phase, Slot};
use crate::config::Contention;
use crate::pool::evict::{Room, victims};
use crate::pool::forecast::{Candidate, Course, Forecast, Waiting};
use crate::pool::{Refused, Terms};
use crate::units::ByteSize;
use crate::worker::LoadPlan;

impl Machine {
    /// What would happen to a request for this model that came now.
    pub fn forecast(&self, plan: &LoadPlan, terms: &Terms, now: Instant) -> Forecast {
        let view = self.view(now);
        let model = plan.model.as_str();
        let fresh = Slot::new(plan.clone().into());
        let slot = self.slots.get(model).unwrap_or(&fresh);
        let (course, refusal, victims) = match self.refusal(model, slot, terms, now) {
            Some(refused) => (Course::Refuse, Some(refused.to_string()), Vec::new()),
            None => {
                let (course, victims) = self.course(model, slot, terms, now);
                (course, None, victims)
            }
        };
        let known = view.model(model);
        Forecast {
            model: model.to_owned(),
            state: slot.state(now),
            progress: known.and_then(|known| known.progress),
            course,
            refusal,
            need: ByteSize(slot.need().bytes),
            observed: slot.observed,
            budget: self.settings.budget,
            reserved: self.reserved(),
            victims,
            before: match course {
                Course::Answer | Course::Refuse => 0,
                _ => self.before(terms.priority, now),
            },
            load_time: known.and_then(|known| view.load_time(known)),
            eta: match course {
                Course::Refuse => None,
                _ => view.eta(model, now),
            },
        }
    }

    /// Everybody who waits, in the order in which they stand.
    pub fn queue(&self, now: Instant) -> Vec<Waiting> {
        let view = self.view(now);
        let waiters = self.slots.iter().flat_map(|(model, slot)| {
            let of = move |waiter| (model, waiter);
            slot.waiters.iter().map(of)
        });
        let mut line: Vec<_> = waiters.collect();
        line.sort_by_key(|(_, waiter)| {
            let is_due = self.is_due(waiter.turn, now);
            let class = (!is_due).then_some(waiter.priority);
            (!is_due, class, waiter.turn.number)
        });
        let numbered = line.into_iter().enumerate();
        numbered
            .map(|(position, (model, waiter))| Waiting {
                waiter: waiter.id,
                model: model.clone(),
                waited: now.saturating_duration_since(waiter.turn.since),
                priority: waiter.priority,
                position,
                eta: view.eta(model, now),
            })
            .collect()
    }

    /// Why a request would be refused at once.
    fn refusal(&self, model: &str, slot: &Slot, terms: &Terms, now: Instant) -> Option<Refused> {
        let model = || model.to_owned();
        if self.shutdown.is_some() {
            return Some(Refused::ShuttingDown);
        }
        if !slot.listed || self.unlisted.contains(&model()) {
            return Some(Refused::Unlisted { model: model() });
        }
        if is_open(slot) {
            return None;
        }
        if !slot.is_served() {
            if let Some(failure) = slot.quarantine(now) {
                return Some(Refused::LoadFailed {
                    model: model(),
                    reason: failure.reason.clone(),
                    retry_after: failure.retry_at - now,
                });
            }
            if let Err(refused) = self.can_ever_fit(&model()) {
                return Some(refused);
            }
            let autoload = terms.autoload && self.settings.autoload;
            if !autoload && slot.claim().is_none() {
                return Some(Refused::NotLoaded { model: model() });
            }
            let is_known = self.slots.contains_key(&model());
            if self.settings.contention == Contention::Fail
                && is_known
                && !self.fits_beside_busy(&model())
            {
                return Some(Refused::Contended {
                    model: model(),
                    retry_after: self.patience(&model(), now),
                });
            }
        }
        (slot.waiters.len() >= self.settings.queue).then(|| Refused::QueueFull {
            model: model(),
            waiting: slot.waiters.len(),
            retry_after: self.patience(&model(), now),
        })
    }

    /// What would be done for a request that is taken, and who would go for it.
    fn course(
        &self,
        model: &str,
        slot: &Slot,
        terms: &Terms,
        now: Instant,
    ) -> (Course, Vec<Candidate>) {
        if is_open(slot) {
            return (Course::Answer, Vec::new());
        }
        match slot.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Loading { .. }) => return (Course::Join, Vec::new()),
            Some(Phase::Up { draining: None, .. }) => return (Course::Wait, Vec::new()),
            _ => {}
        }
        let (promised, mut earmarked) = self.promises(model, terms, now);
        match self.missing(slot.need(), promised, &earmarked) {
            Some(missing) => {
                let candidates = self.candidates(&earmarked);
                let idle = candidates.iter().take_while(|it| !it.busy).count();
                let rooms: Vec<_> = candidates.iter().map(|it| it.room).collect();
                let (course, chosen) = match victims(missing, &rooms[..idle]) {
                    Some(chosen) => (Course::Evict, chosen),
                    None => (Course::Drain, victims(missing, &rooms).unwrap_or_default()),
                };
                let going = chosen.into_iter().map(|index| Candidate {
                    model: candidates[index].model.clone(),
                    bytes: ByteSize(candidates[index].room.bytes),
                    busy: candidates[index].busy,
                });
                (course, going.collect())
            }
            // What others are promised is still in use.
            None if !earmarked.is_empty() => {
                earmarked.clear();
                match self.missing(slot.need(), promised, &earmarked) {
                    Some(_) => (Course::Drain, Vec::new()),
                    None => (Course::Load, Vec::new()),
                }
            }
            None => (Course::Load, Vec::new()),
        }
    }

    /// What those who stand before a newcomer will need, and the busy models whose
    /// room they will get.
    fn promises(&self, model: &str, terms: &Terms, now: Instant) -> (Room, HashSet<String>) {
        let (mut promised, mut earmarked) = (Room::default(), HashSet::new());
        for (turn, other) in self.line(now) {
            let slot = &self.slots[&other];
            if other == model {
                break;
            }
            if !self.is_due(turn, now) && slot.priority() > terms.priority {
                continue;
            }
            if let Some(missing) = self.missing(slot.need(), promised, &earmarked) {
                let candidates = self.candidates(&earmarked);
                let rooms: Vec<_> = candidates.iter().map(|it| it.room).collect();
                let chosen = victims(missing, &rooms).unwrap_or_default();
                earmarked.extend(chosen.into_iter().map(|it| candidates[it].model.clone()));
            }
            promised = promised.plus(slot.need());
        }
        (promised, earmarked)
    }

    /// What is missing for a load beside what stays and what is promised.
    fn missing(&self, need: Room, promised: Room, earmarked: &HashSet<String>) -> Option<Room> {
        let after = self.staying(earmarked).plus(promised).plus(need);
        Some(after.less(self.limit())).filter(|missing| *missing != Room::default())
    }
}

/// Whether a lease can be had without waiting.
fn is_open(slot: &Slot) -> bool {
    let gate = slot.running.as_ref().and_then(|worker| worker.gate());
    gate.is_some_and(|gate| gate.is_open())
}
