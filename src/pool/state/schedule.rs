//! What follows from an event: who has waited too long, who is next, who must
//! go. Runs after every event and finds the same answer however often it runs.
//!
//! Four questions are asked of each load, in order: can it ever fit; does it fit
//! now; would it fit if idle models went; would it fit if busy ones were drained,
//! which is done only once its oldest waiter has waited `switch_after`. Those
//! behind it in the line may overtake it only into room that it will not need; the
//! asking ends where what is promised leaves no room. `room` has the arithmetic.

use std::time::Instant;

use super::memory::Holding;
use super::prospect::Prospect;
use super::queue::Waiter;
use super::slot::{Phase, Slot, Worker};
use super::{Effect, Generation, Machine};
use crate::pool::{Refused, UnloadReason};
use crate::units::ByteSize;

/// How often the consequences of consequences are drawn at most; what is left then
/// is found at the next event.
const ROUNDS: usize = 8;

/// What there is to do about workers.
#[derive(Clone, Copy, Default)]
struct Glance {
    /// A load has stood still for too long.
    late: bool,
    /// An idle model is to be unloaded.
    over_idle: bool,
    /// A model drains for others.
    making_room: bool,
    /// Somebody queues for a model that is up.
    queued: bool,
}

impl Machine {
    /// Draws the consequences.
    pub(super) fn pass(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.expire_holds(now);
        self.slots.settle(now);
        self.slots.end_rests(now);
        self.expire_waiters(now, out);
        let glance = self.glance(now);
        if glance.late {
            self.expire_loads(now, out);
        }
        if let Some(deadline) = self.shutdown {
            if deadline <= now {
                self.revoke_everything(now, out);
            }
            return;
        }
        if glance.over_idle {
            self.unload_idle(now, out);
        }
        for _ in 0..ROUNDS {
            let glance = self.glance(now);
            if glance.making_room {
                self.reopen_what_nobody_needs(now, out);
            }
            let before = out.len();
            self.shed(now, out);
            let stays = self.keep_to_marks(now, out);
            if glance.queued {
                self.serve_open_gates(now, out);
            }
            self.bring_back(now, out);
            let gave_up = self.load_in_turn(now, out);
            if !stays && !gave_up && out.len() == before {
                break;
            }
        }
        self.stand_by(now, out);
        self.slots.forget();
    }

    /// Looks at each worker once, for what most events change nothing about.
    fn glance(&mut self, now: Instant) -> Glance {
        self.slots.settle(now);
        let mut glance = Glance::default();
        for (_, slot) in self.slots.running() {
            match slot.running.as_ref().map(|worker| &worker.phase) {
                Some(Phase::Loading { deadline, .. }) => glance.late |= *deadline <= now,
                Some(Phase::Up { gate, draining, .. }) => {
                    glance.making_room |= *draining == Some(UnloadReason::Evicted);
                    glance.queued |= gate.is_queued() || !slot.waiters.is_empty();
                    glance.over_idle |= self.unload_at(slot).is_some_and(|at| at <= now);
                }
                Some(Phase::Stopping { .. }) | None => {}
            }
        }
        glance
    }

    /// Whoever came at this moment or before has waited `switch_after`: first those
    /// stand in the line, then the others by class, each in the order of coming.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        now.checked_sub(self.settings.switch_after)
    }

    /// Takes back drains that were begun for somebody who has left.
    fn reopen_what_nobody_needs(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let drains = |slot: &Slot| slot.drains_for(UnloadReason::Evicted);
        let draining = self.running_where(now, drains);
        if draining.is_empty() {
            return;
        }
        let others = |model: &String| !drains(&self.slots[model]) && !self.is_held_up(model);
        if self.slots.line_by_age().any(others) {
            return;
        }
        for model in draining {
            let Some(slot) = self.slots.get_mut(&model) else {
                continue;
            };
            slot.overtaken = None;
            if let Some(Phase::Up { gate, draining, .. }) = slot.phase() {
                *draining = None;
                gate.open();
                self.spare(&model, out);
            }
        }
    }

    /// Gives leases that came back to those who queue for them.
    fn serve_open_gates(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let due = self.due(now);
        let is_queued = |slot: &Slot| {
            let gate = slot.running.as_ref().and_then(Worker::gate);
            gate.is_some_and(|gate| gate.is_queued() || !slot.waiters.is_empty())
        };
        for model in self.running_where(now, is_queued) {
            let Some(slot) = self.slots.get_mut(&model) else {
                continue;
            };
            let Some(worker) = &slot.running else {
                continue;
            };
            let Some(gate) = worker.gate().filter(|gate| gate.is_open()) else {
                continue;
            };
            let mut let_in = 0;
            loop {
                while !slot.waiters.is_empty() && gate.admit() {
                    if let Some(waiter) = slot.waiters.pop(due) {
                        self.waiting.remove(waiter.id);
                        out.push(grant(&waiter, worker.generation, now));
                        let_in += 1;
                    }
                }
                let is_queued = !slot.waiters.is_empty();
                // A lease that came back before the gate said so was told to nobody.
                if gate.queue(is_queued) || !is_queued {
                    break;
                }
            }
            slot.pace.let_in(let_in, now);
            if slot.waiters.is_empty() {
                slot.pace.rest();
            }
        }
    }

    /// Starts what can start and makes room for the rest, in the order of the line.
    /// Answers whether anybody was given up, of which not every one is told.
    fn load_in_turn(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        self.slots.settle(now);
        let mut gave_up = self.give_up_the_hopeless(now, out);
        let due = self.due(now);
        let mut prospect = Prospect::default();
        let mut place = None;
        while let Some((here, model)) = self.slots.next_in_line(place, due) {
            let model = model.clone();
            place = Some(here);
            if self.is_over_for_all(here.is_due(), &mut prospect, now) {
                break;
            }
            if let Err(refused) = self.can_ever_fit(&model) {
                self.give_up(&model, refused, out);
                gave_up = true;
            } else if self.is_held_up(&model) {
                // Room that it cannot have yet is not kept free for it.
            } else if self.make_room(&model, here.is_due(), &mut prospect, now, out) {
                self.start(&model, now, out);
                prospect.look_again();
            } else {
                prospect.promise(&self.slots[&model]);
            }
            self.slots.settle(now);
        }
        gave_up |= self.give_up_the_hopeless(now, out);
        gave_up
    }

    /// Of those who came into the line, or of all if the limit or what is kept has
    /// changed: whoever waits for what can never be loaded hears so. Answers whether
    /// there was any.
    fn give_up_the_hopeless(&mut self, now: Instant, out: &mut Vec<Effect>) -> bool {
        let (kept, kept_running) = self.slots.kept();
        let ground = (self.limit(), kept, kept_running);
        let mut doubtful = self.slots.take_fresh();
        if std::mem::replace(&mut self.ground, ground) != ground {
            doubtful = self.slots.line_by_age().cloned().collect();
        }
        let mut gave_up = false;
        for model in doubtful {
            let waits = |slot: &Slot| !slot.is_served() && slot.claim().is_some();
            if self.slots.get(&model).is_some_and(waits)
                && let Err(refused) = self.can_ever_fit(&model)
            {
                self.give_up(&model, refused, out);
                gave_up = true;
                self.slots.settle(now);
            }
        }
        gave_up
    }

    /// A load that can never be: whoever waits for it hears so.
    fn give_up(&mut self, model: &str, refused: Refused, out: &mut Vec<Effect>) {
        self.preloading.remove(model);
        if let Some(slot) = self.slots.get_mut(model) {
            slot.wanted = None;
        }
        self.refuse_all(model, out, |_| refused.clone());
    }

    /// Reserves the memory and asks for the process, or for the one that stands by to go on.
    fn start(&mut self, model: &str, now: Instant, out: &mut Vec<Effect>) {
        let standby = self.take_standby(model);
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        slot.overtaken = None;
        let (generation, pid, held) = match standby {
            Some(standby) => (standby.generation, standby.pid, standby.held),
            None => {
                self.last_generation += 1;
                (self.last_generation, None, ByteSize::ZERO)
            }
        };
        let need = ByteSize(slot.need().bytes);
        self.counters.loads += 1;
        self.counters.swaps += u64::from(std::mem::take(&mut slot.displaces));
        slot.running = Some(Worker {
            generation,
            plan: slot.plan.clone(),
            reserved: need.max(held),
            holding: Holding {
                held,
                ..Holding::promised(need)
            },
            pid,
            started: now,
            progress: None,
            phase: Phase::Loading {
                deadline: now + self.settings.load_time,
                then_drain: (!slot.listed).then_some(UnloadReason::Config),
            },
            replies: Vec::new(),
        });
        self.workers.insert(generation, model.to_owned());
        out.push(Effect::Start {
            generation,
            plan: slot.plan.clone(),
        });
    }

    /// The models with a worker for which something holds, to be changed one after
    /// the other.
    pub(super) fn running_where(
        &mut self,
        now: Instant,
        holds: impl Fn(&Slot) -> bool,
    ) -> Vec<String> {
        self.slots.settle(now);
        let found = self.slots.running().filter(|(_, slot)| holds(slot));
        found.map(|(model, _)| model.clone()).collect()
    }

    /// Where the worker of a model stands.
    pub(super) fn phase(&mut self, model: &str) -> Option<&mut Phase> {
        self.slots.get_mut(model)?.phase()
    }
}

/// A lease, already counted, for somebody who waited.
pub(super) fn grant(waiter: &Waiter, generation: Generation, now: Instant) -> Effect {
    Effect::Grant {
        waiter: waiter.id,
        generation,
        waited: now - waiter.turn.since,
        position: waiter.position,
    }
}
