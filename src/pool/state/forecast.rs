//! Questions that change nothing: what would happen if a model were asked for now,
//! and who waits for what. They use the parts by which the machine decides, so that
//! the answer is what it would do.

use std::time::Instant;

use super::slot::{Phase, Slot};
use super::slots::Place;
use super::{Machine, waiting};
use crate::config::Contention;
use crate::pool::forecast::{Candidate, Course, Forecast, Waiting};
use crate::pool::{Priority, Refused, Terms};
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
            observed: known
                .and_then(|known| known.seen.as_ref())
                .map_or(ByteSize::ZERO, |seen| ByteSize(seen.peak_bytes)),
            budget: self.settings.budget,
            reserved: self.reserved(),
            victims,
            before: match course {
                Course::Answer | Course::Refuse => 0,
                _ => {
                    let before = |place: &waiting::Place| {
                        let (is_young, class, _) = self.rank(place, now);
                        !is_young || class <= Some(terms.priority)
                    };
                    self.waiting.iter().filter(|(_, it)| before(it)).count()
                }
            },
            load_time: known.and_then(|known| view.load_time(known)),
            eta: match course {
                Course::Refuse => None,
                _ => view.eta(model, now),
            },
        }
    }

    /// Everybody who waits, in the order in which they stand. Callers of one
    /// model take turns, which may give a later one the next lease.
    pub fn queue(&self, now: Instant) -> Vec<Waiting> {
        let view = self.view(now);
        let mut line: Vec<_> = self.waiting.iter().collect();
        line.sort_by_key(|(_, place)| self.rank(place, now));
        let numbered = line.into_iter().enumerate();
        numbered
            .map(|(position, (waiter, place))| Waiting {
                waiter,
                model: place.model().to_owned(),
                waited: now.saturating_duration_since(place.turn.since),
                priority: place.priority,
                position,
                eta: view.eta(place.model(), now),
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
            let is_known = self.slots.get(&model()).is_some();
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
        let waiting = slot.waiters.len();
        let own = slot.waiters.of(terms.caller);
        let is_full = waiting >= self.settings.queue || own >= self.settings.queue_per_caller;
        is_full.then(|| Refused::QueueFull {
            model: model(),
            waiting,
            own: (waiting < self.settings.queue).then_some(own),
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
        let ahead = self.ahead(model, terms, now);
        let outlook = self.room_for(&ahead, slot, now);
        let course = match outlook.going.iter().any(|(_, _, busy)| *busy) {
            _ if outlook.is_free => Course::Load,
            false if !outlook.going.is_empty() => Course::Evict,
            // Or what others ahead are promised is still in use.
            _ => Course::Drain,
        };
        let going = outlook.going.into_iter();
        let candidates = going.map(|(model, room, busy)| Candidate {
            model,
            bytes: ByteSize(room.bytes),
            busy,
        });
        (course, candidates.collect())
    }

    /// What those wait for who stand in the line before a newcomer.
    fn ahead(&self, model: &str, terms: &Terms, now: Instant) -> Vec<&Slot> {
        let due = self.due(now);
        let (mut ahead, mut place) = (Vec::new(), None);
        while let Some((here, other)) = self.slots.next_in_line(place, due) {
            let is_behind = matches!(here, Place::Young { class, .. } if class > terms.priority);
            if other == model || is_behind {
                break;
            }
            ahead.push(&self.slots[other]);
            place = Some(here);
        }
        ahead
    }

    /// The order in which they stand, whoever they wait for: first those who are due,
    /// then by class, each by age.
    fn rank(&self, place: &waiting::Place, now: Instant) -> (bool, Option<Priority>, u64) {
        let is_due = self.due(now).is_some_and(|due| place.turn.since <= due);
        let class = (!is_due).then_some(place.priority);
        (!is_due, class, place.turn.number)
    }
}

/// Whether a lease can be had without waiting.
fn is_open(slot: &Slot) -> bool {
    let gate = slot.running.as_ref().and_then(|worker| worker.gate());
    gate.is_some_and(|gate| gate.has_room())
}
