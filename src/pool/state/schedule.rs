//! What follows from an event: who has waited too long, who is next, who must
//! go. Runs after every event and finds the same answer however often it runs.
//!
//! Four questions are asked of each load, in order: can it ever fit; does it fit
//! now; would it fit if idle models went; would it fit if busy ones were drained,
//! which is done only once its oldest waiter has waited `switch_after`. Those
//! behind it in the line may overtake it only into room that it will not need.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::memory::Holding;
use super::slot::{Phase, Slot, Turn, Worker};
use super::{Effect, GRACE, Machine};
use crate::config::Contention;
use crate::pool::evict::{Room, victims};
use crate::pool::{Priority, Refused, UnloadReason};
use crate::units::ByteSize;

/// The longest `retry_after` that is ever told.
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// A ready model that may go.
struct Candidate {
    model: String,
    room: Room,
    busy: bool,
}

impl Machine {
    /// Draws the consequences.
    pub(super) fn pass(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.expire_waiters(now, out);
        self.expire_loads(now, out);
        if let Some(deadline) = self.shutdown {
            if deadline <= now {
                self.revoke_everything(out);
            }
            return;
        }
        self.unload_idle(now, out);
        self.shed(out);
        self.keep_to_marks(out);
        self.reopen_what_nobody_needs(now);
        self.serve_open_gates(now, out);
        self.load_in_turn(now, out);
        self.slots.retain(|_, slot| !slot.is_forgettable());
    }

    /// Whether a model could be loaded with everything gone that may go.
    pub(super) fn can_ever_fit(&self, model: &str) -> Result<(), Refused> {
        let Some(slot) = self.slots.get(model) else {
            return Ok(());
        };
        // Among kept models it is first come, first served: otherwise two that
        // do not fit together would keep each other out.
        let holds = |other: &Slot| other.keep && (!slot.keep || other.running.is_some());
        let kept = self.slots.iter().filter(|(name, _)| *name != model);
        let kept: Vec<_> = kept.filter(|(_, other)| holds(other)).collect();
        let held = kept.iter().fold(Room::default(), |sum, (_, other)| {
            sum.plus(other.running.as_ref().map_or(other.need(), Worker::room))
        });
        if held.plus(slot.need()).fits(self.limit()) {
            return Ok(());
        }
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let bytes_fit = held.plus(slot.need()).bytes <= self.limit().bytes;
        Err(Refused::NeverFits {
            model: model.to_owned(),
            need: ByteSize(slot.need().bytes),
            budget: self.settings.budget,
            held: match held.places {
                0 => String::new(),
                places if bytes_fit => format!(", but all {places} places are kept for {names}"),
                _ => format!(", of which {} is kept for {names}", ByteSize(held.bytes)),
            },
        })
    }

    /// When trying again may help somebody for whom the queue has no room.
    pub(super) fn patience(&self, model: &str, now: Instant) -> Duration {
        let slot = self.slots.get(model);
        let worker = slot.and_then(|slot| slot.running.as_ref());
        let estimate = match worker {
            Some(worker) if matches!(worker.phase, Phase::Loading { .. }) => slot
                .and_then(|slot| slot.load_times.back())
                .map_or(Duration::ZERO, |took| {
                    took.saturating_sub(now - worker.started)
                }),
            _ => self.settings.switch_after,
        };
        estimate.clamp(Duration::from_secs(1), LONGEST_RETRY)
    }

    /// Lets idle models go while more is held than there is: the budget was
    /// lowered, or a worker holds more than was reserved for it.
    fn shed(&mut self, out: &mut Vec<Effect>) {
        let missing = self.staying(&HashSet::new()).less(self.limit());
        if missing == Room::default() {
            return;
        }
        let mut idle = self.candidates(&HashSet::new());
        idle.retain(|candidate| !candidate.busy);
        let rooms: Vec<_> = idle.iter().map(|candidate| candidate.room).collect();
        let chosen = victims(missing, &rooms).unwrap_or_else(|| (0..idle.len()).collect());
        for index in chosen {
            let model = &idle[index].model;
            if let Some(Phase::Up { gate, .. }) = self.phase(model)
                && let Some(vacant) = gate.close_if_idle()
            {
                self.retire(model, vacant, UnloadReason::Memory, out);
            }
        }
    }

    /// Everything that waits for a load, in order: first those who have waited
    /// `switch_after`, then by class, each in the order of coming.
    fn line(&self, now: Instant) -> Vec<(Turn, String)> {
        let mut line: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.is_served() && slot.quarantine(now).is_none())
            .filter_map(|(model, slot)| Some((slot.claim()?, model.clone())))
            .collect();
        line.sort_by_key(|(turn, model)| {
            let is_due = self.is_due(*turn, now);
            let class = self.slots[model].priority();
            (!is_due, (!is_due).then_some(class), turn.number)
        });
        line
    }

    /// Whether a claim has waited so long that nothing stands before it any more.
    fn is_due(&self, turn: Turn, now: Instant) -> bool {
        turn.since + self.settings.switch_after <= now
    }

    /// How many requests stand before one of this class that comes now.
    pub(super) fn before(&self, priority: Priority, now: Instant) -> usize {
        let waiting = self.slots.values().flat_map(|slot| &slot.waiters);
        waiting
            .filter(|waiter| waiter.priority <= priority || self.is_due(waiter.turn, now))
            .count()
    }

    /// Whether a load would fit without anything that is in use having to go,
    /// behind all that wait already.
    pub(super) fn fits_beside_busy(&self, model: &str) -> bool {
        let nothing = HashSet::new();
        let waiting = self
            .slots
            .iter()
            .filter(|(name, slot)| *name != model && !slot.is_served() && slot.claim().is_some());
        let promised = waiting.fold(Room::default(), |sum, (_, slot)| sum.plus(slot.need()));
        let need = self.slots[model].need().plus(promised);
        let missing = self.staying(&nothing).plus(need).less(self.limit());
        let idle = self.candidates(&nothing).into_iter().filter(|c| !c.busy);
        let rooms: Vec<_> = idle.map(|candidate| candidate.room).collect();
        missing == Room::default() || victims(missing, &rooms).is_some()
    }

    /// Takes back drains that were begun for somebody who has left.
    fn reopen_what_nobody_needs(&mut self, now: Instant) {
        let drains = |slot: &Slot| slot.drains_for(UnloadReason::Evicted);
        if self
            .line(now)
            .iter()
            .any(|(_, model)| !drains(&self.slots[model]))
        {
            return;
        }
        for model in self.models_where(drains) {
            if let Some(Phase::Up { gate, draining, .. }) = self.phase(&model) {
                *draining = None;
                gate.open();
            }
        }
    }

    /// Gives leases to those who queued behind a gate that is open again.
    fn serve_open_gates(&mut self, now: Instant, out: &mut Vec<Effect>) {
        for slot in self.slots.values_mut() {
            let Some(worker) = &slot.running else {
                continue;
            };
            let Some(gate) = worker.gate() else {
                continue;
            };
            while !slot.waiters.is_empty() && gate.take() {
                if let Some(waiter) = slot.waiters.pop_front() {
                    self.waiting.remove(&waiter.id);
                    out.push(Effect::Grant {
                        waiter: waiter.id,
                        generation: worker.generation,
                        waited: now - waiter.turn.since,
                        position: waiter.position,
                    });
                }
            }
        }
    }

    /// Starts what can start and makes room for the rest, in the order of the line.
    fn load_in_turn(&mut self, now: Instant, out: &mut Vec<Effect>) {
        // What those further ahead will need, and whose room they will get.
        let mut promised = Room::default();
        let mut earmarked = HashSet::new();
        for (turn, model) in self.line(now) {
            if let Err(refused) = self.can_ever_fit(&model) {
                self.give_up(&model, refused, out);
                continue;
            }
            let may_drain = self.is_due(turn, now);
            let need = self.slots[&model].need();
            if !self.make_room(&model, promised, &mut earmarked, may_drain, out) {
                promised = promised.plus(need);
                continue;
            }
            let slot = &self.slots[&model];
            let is_gone = slot.running.is_none() && self.has_calm(slot);
            let after = self.staying(&earmarked).plus(promised).plus(need);
            if is_gone && after.fits(self.limit()) && self.books().plus(need).fits(self.limit()) {
                self.start(&model, now, out);
            } else {
                promised = promised.plus(need);
            }
        }
    }

    /// Sees to it that a model will fit beside what stays and what is promised.
    /// Answers whether nothing more has to be decided for that.
    fn make_room(
        &mut self,
        model: &str,
        promised: Room,
        earmarked: &mut HashSet<String>,
        may_drain: bool,
        out: &mut Vec<Effect>,
    ) -> bool {
        loop {
            let need = self.slots[model].need();
            let after = self.staying(earmarked).plus(promised).plus(need);
            let missing = after.less(self.limit());
            if missing == Room::default() {
                return true;
            }
            let candidates = self.candidates(earmarked);
            let rooms: Vec<_> = candidates.iter().map(|candidate| candidate.room).collect();
            let idle = candidates.iter().take_while(|c| !c.busy).count();
            let chosen = match victims(missing, &rooms[..idle]) {
                Some(chosen) => chosen,
                None => match victims(missing, &rooms) {
                    None => return false,
                    Some(chosen) if may_drain => chosen,
                    Some(chosen) => {
                        earmarked.extend(chosen.iter().map(|&i| candidates[i].model.clone()));
                        return false;
                    }
                },
            };
            for index in chosen {
                let Candidate { model, busy, .. } = &candidates[index];
                // An idle one that was taken in this very moment is looked at anew.
                self.displace(model, *busy, out);
            }
            if let Some(slot) = self.slots.get_mut(model) {
                slot.displaces = true;
            }
        }
    }

    /// Closes the gate of a model that has to go: at once if nobody uses it, else
    /// it drains or is taken away, if that is allowed.
    fn displace(&mut self, model: &str, may_drain: bool, out: &mut Vec<Effect>) {
        let preempts = self.settings.contention == Contention::Preempt;
        let Some(Phase::Up { gate, draining, .. }) = self.phase(model) else {
            return;
        };
        let vacant = if may_drain {
            gate.close()
        } else {
            gate.close_if_idle()
        };
        match vacant {
            Some(vacant) => self.retire(model, vacant, UnloadReason::Evicted, out),
            None if !may_drain => {}
            None if preempts => {
                self.revoke(model, UnloadReason::Evicted, GRACE, out);
            }
            None => *draining = Some(UnloadReason::Evicted),
        }
    }

    /// A load that can never be: whoever waits for it hears so.
    fn give_up(&mut self, model: &str, refused: Refused, out: &mut Vec<Effect>) {
        self.preloading.remove(model);
        if let Some(slot) = self.slots.get_mut(model) {
            slot.wanted = None;
        }
        self.refuse_all(model, out, |_| refused.clone());
    }

    /// Reserves the memory and asks for the process.
    fn start(&mut self, model: &str, now: Instant, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        self.last_generation += 1;
        let generation = self.last_generation;
        self.counters.loads += 1;
        self.counters.swaps += u64::from(std::mem::take(&mut slot.displaces));
        slot.running = Some(Worker {
            generation,
            plan: slot.plan.clone(),
            reserved: ByteSize(slot.need().bytes),
            holding: Holding::promised(ByteSize(slot.need().bytes)),
            pid: None,
            started: now,
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

    /// What is held by those who neither go nor are earmarked to go.
    pub(super) fn staying(&self, earmarked: &HashSet<String>) -> Room {
        let staying = self
            .slots
            .iter()
            .filter(|(model, _)| !earmarked.contains(*model))
            .filter_map(|(_, slot)| slot.running.as_ref())
            .filter(|worker| !worker.is_leaving());
        staying.fold(Room::default(), |sum, worker| sum.plus(worker.room()))
    }

    /// The ready models that may go: idle ones, the least recently used first,
    /// then busy ones, the longest resident first.
    fn candidates(&self, earmarked: &HashSet<String>) -> Vec<Candidate> {
        let age: Vec<&String> = self.idle.iter().rev().map(|(model, ())| model).collect();
        let mut found: Vec<_> = self
            .slots
            .iter()
            .filter(|(model, slot)| !slot.keep && !earmarked.contains(*model))
            .filter_map(|(model, slot)| {
                let worker = slot.running.as_ref()?;
                let Phase::Up {
                    gate,
                    since,
                    draining: None,
                    ..
                } = &worker.phase
                else {
                    return None;
                };
                let busy = gate.leases() > 0;
                let rank = age.iter().position(|idle| *idle == model);
                let rank = rank.filter(|_| !busy).unwrap_or(usize::MAX);
                let candidate = Candidate {
                    model: model.clone(),
                    room: worker.room(),
                    busy,
                };
                Some(((busy, rank, *since), candidate))
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// The models for which something holds, to be changed one after the other.
    pub(super) fn models_where(&self, holds: impl Fn(&Slot) -> bool) -> Vec<String> {
        let found = self.slots.iter().filter(|(_, slot)| holds(slot));
        found.map(|(model, _)| model.clone()).collect()
    }

    /// Where the worker of a model stands.
    pub(super) fn phase(&mut self, model: &str) -> Option<&mut Phase> {
        let slot = self.slots.get_mut(model)?;
        slot.running.as_mut().map(|worker| &mut worker.phase)
    }
}
