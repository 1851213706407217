//! What requests and workers change by themselves: who asks, who leaves, who is
//! up, who is gone. What follows for others (who loads next, who must go) is
//! left to `schedule`, which runs after every event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::candidates::Wanted;
use super::queue::Waiter;
use super::schedule::grant;
use super::slot::{Phase, Slot, Turn, most_leases};
use super::waiting::Place;
use super::{EARLY, Effect, Generation, Machine, SHORT_GRACE, WaiterId, back_off};
use crate::config::Contention;
use crate::pool::gate::Gate;
use crate::pool::view::LastFailure;
use crate::pool::{Ending, Refused, Terms, UnloadReason};
use crate::worker::{LoadPlan, Ready};

impl Machine {
    /// A request wants a lease. A model that nobody has told of yet belongs to a
    /// snapshot whose reload is still on its way here.
    pub(super) fn acquire(
        &mut self,
        waiter: WaiterId,
        plan: Arc<LoadPlan>,
        terms: Terms,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let model = &plan.model;
        if self.slots.get(model).is_none() && !self.unlisted.contains(model) {
            self.slots.get_or_insert(model, || Slot::new(plan.clone()));
        }
        self.slots.settle(now);
        let autoload = terms.autoload && self.settings.autoload;
        self.load(waiter, model, Terms { autoload, ..terms }, now, out);
    }

    /// Somebody wants a model up, not to use it: a worker that is up will do, however
    /// many use it.
    pub(super) fn load_by_hand(
        &mut self,
        waiter: WaiterId,
        model: &str,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let slot = self.slots.get(model).filter(|slot| slot.listed);
        let worker = slot.and_then(|slot| slot.running.as_ref());
        let up = worker.filter(|worker| worker.gate().is_some_and(|gate| gate.enter()));
        match up {
            Some(worker) if self.shutdown.is_none() => out.push(Effect::Grant {
                waiter,
                generation: worker.generation,
                waited: Duration::ZERO,
                position: 0,
            }),
            _ => self.load(waiter, model, Terms::default(), now, out),
        }
    }

    /// Grants, queues or refuses.
    pub(super) fn load(
        &mut self,
        waiter: WaiterId,
        model: &str,
        terms: Terms,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        match self.admit(model, terms, now) {
            Err(refused) => out.push(Effect::Refuse { waiter, refused }),
            Ok(Some(generation)) => out.push(Effect::Grant {
                waiter,
                generation,
                waited: Duration::ZERO,
                position: 0,
            }),
            Ok(None) => self.join(waiter, model, terms, None, now, out),
        }
    }

    /// Somebody joins the queue of a model, maybe one of several that may answer.
    pub(super) fn join(
        &mut self,
        waiter: WaiterId,
        model: &str,
        terms: Terms,
        elsewhere: Option<Box<Wanted>>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let turn = Turn {
            since: now,
            number: self.turn(),
        };
        let Terms {
            priority, caller, ..
        } = terms;
        self.waiting.age(self.settings.switch_after, now);
        let position = self.waiting.before(priority);
        if let Some(slot) = self.slots.get_mut(model) {
            slot.waiters.push(Waiter {
                id: waiter,
                turn,
                priority,
                caller,
                position,
                elsewhere,
            });
            let place = Place {
                plan: slot.plan.clone(),
                turn,
                priority,
            };
            self.waiting.insert(waiter, place);
            out.push(Effect::Queued { waiter, position });
        }
    }

    /// A lease at once, a place in the line, or a refusal.
    fn admit(
        &mut self,
        model: &str,
        terms: Terms,
        now: Instant,
    ) -> Result<Option<Generation>, Refused> {
        if self.shutdown.is_some() {
            return Err(Refused::ShuttingDown);
        }
        let Some(slot) = self.slots.get(model).filter(|slot| slot.listed) else {
            return Err(Refused::Unlisted {
                model: model.to_owned(),
            });
        };
        if let Some(worker) = &slot.running
            && worker.gate().is_some_and(|gate| gate.take())
        {
            return Ok(Some(worker.generation));
        }
        if !slot.is_served() {
            if let Some(failure) = slot.quarantine(now) {
                return Err(Refused::LoadFailed {
                    model: model.to_owned(),
                    reason: failure.reason.clone(),
                    retry_after: failure.retry_at - now,
                });
            }
            self.can_ever_fit(model)?;
            if !terms.autoload && slot.claim().is_none() {
                return Err(Refused::NotLoaded {
                    model: model.to_owned(),
                });
            }
            if self.settings.contention == Contention::Fail && !self.fits_beside_busy(model) {
                return Err(Refused::Contended {
                    model: model.to_owned(),
                    retry_after: self.patience(model, now),
                });
            }
        }
        let waiting = slot.waiters.len();
        let own = slot.waiters.of(terms.caller);
        if waiting >= self.settings.queue || own >= self.settings.queue_per_caller {
            return Err(Refused::QueueFull {
                model: model.to_owned(),
                waiting,
                own: (waiting < self.settings.queue).then_some(own),
                retry_after: self.patience(model, now),
            });
        }
        Ok(None)
    }

    /// A waiter has left. A load that runs for it goes on: whoever left comes
    /// back more often than not, and an idle model is the first to go.
    pub(super) fn cancel(&mut self, waiter: WaiterId) {
        if let Some(place) = self.waiting.remove(waiter)
            && let Some(slot) = self.slots.get_mut(place.model())
        {
            slot.waiters.remove(place.turn.number);
        }
    }

    /// The process runs.
    pub(super) fn spawned(&mut self, generation: Generation, pid: u32) {
        if let Some((_, slot)) = self.worker(generation)
            && let Some(worker) = &mut slot.running
        {
            worker.pid = Some(pid);
        } else if let Some(standby) = self.standby(generation) {
            standby.pid = Some(pid);
            let plan = standby.plan.clone();
            // It is shown.
            self.slots.get_mut(&plan.model);
        }
    }

    /// The load is done: the waiters get their leases in the same step, before
    /// anybody can think of this model as a victim; those for whom there is none
    /// queue, unless it leaves afterwards and everybody left is to be served.
    pub(super) fn ready(
        &mut self,
        generation: Generation,
        ready: Arc<Ready>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let due = self.due(now);
        let Some((model, slot)) = self.worker(generation) else {
            let reason = "its worker loaded before it was told to".to_owned();
            return self.standby_failed(generation, reason, now, out);
        };
        let Some(worker) = &mut slot.running else {
            return;
        };
        let Phase::Loading { then_drain, .. } = worker.phase else {
            // It was told to end before it could say so.
            return;
        };
        let took = now - worker.started;
        let most = most_leases(&worker.plan);
        let waiters = match then_drain {
            Some(_) => slot.waiters.take_all(),
            None => (0..most).map_while(|_| slot.waiters.pop(due)).collect(),
        };
        let gate = Gate::new(then_drain.is_none(), waiters.len() as u64, most);
        let nobody = waiters.is_empty();
        worker.phase = Phase::Up {
            gate: gate.clone(),
            ready: ready.clone(),
            since: now,
            idle_since: nobody.then_some(now),
            idle_unload: None,
            served: false,
            draining: then_drain,
        };
        slot.remember_load(took);
        slot.failure = None;
        slot.wanted = None;
        self.promise(&model, &ready, took, now);
        out.push(Effect::Open {
            generation,
            gate: gate.clone(),
            ready,
        });
        for waiter in waiters {
            self.waiting.remove(waiter.id);
            out.push(grant(&waiter, generation, now));
        }
        self.preloading.remove(&model);
        match (then_drain, gate.vacant()) {
            (Some(reason), Some(vacant)) => self.retire(&model, vacant, reason, out),
            _ if nobody => drop(self.idle.put(model, ())),
            _ => {}
        }
    }

    /// The worker said that it cannot load.
    pub(super) fn load_failed(
        &mut self,
        generation: Generation,
        reason: String,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let Some((model, slot)) = self.worker(generation) else {
            return self.standby_failed(generation, reason, now, out);
        };
        let Some(worker) = slot.running.as_ref() else {
            return;
        };
        let ran_out = worker.holding.ran_out;
        if matches!(worker.phase, Phase::Loading { .. }) {
            self.end(&model, None, SHORT_GRACE, out);
            if !(ran_out && self.tries_again(&model, now, out)) {
                let reason = Self::failure_of(ran_out, reason);
                self.fail(&model, reason, None, now, out);
            }
        }
    }

    /// Writes down a failed load and tells all who waited for it, once.
    pub(super) fn fail(
        &mut self,
        model: &str,
        reason: String,
        over_limit: Option<Duration>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.counters.load_failures += 1;
        self.preloading.remove(model);
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        slot.outlook.is_retried = false;
        let in_a_row = slot.failure.as_ref().map_or(0, |last| last.in_a_row) + 1;
        let pause = back_off(in_a_row);
        slot.failure = Some(LastFailure {
            reason: reason.clone(),
            at: now,
            retry_at: now + pause,
            in_a_row,
        });
        if !slot.keep {
            slot.wanted = None;
        }
        self.roll_back(model);
        self.refuse_all(model, out, |model| match over_limit {
            Some(limit) => Refused::LoadTimeout { model, limit },
            None => Refused::LoadFailed {
                model,
                reason: reason.clone(),
                retry_after: pause,
            },
        });
    }

    /// The process is gone, and with it what it held.
    pub(super) fn exited(
        &mut self,
        generation: Generation,
        how: String,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let Some((model, slot)) = self.worker(generation) else {
            return self.standby_exited(generation, how, now, out);
        };
        let Some(worker) = slot.running.take() else {
            return;
        };
        if let Some(since) = slot.ending_since.take() {
            slot.unload_time = Some(now - since);
        }
        self.workers.remove(&generation);
        self.idle.pop(&model);
        let for_memory = self.learn_from_end(&model, &worker, now);
        let ran_out = worker.holding.ran_out;
        let reason = match worker.phase {
            Phase::Loading { .. } if ran_out && self.tries_again(&model, now, out) => None,
            Phase::Loading { .. } => {
                let reason = format!("its worker {how} before it was ready");
                let reason = Self::failure_of(ran_out, reason);
                self.fail(&model, reason, None, now, out);
                None
            }
            Phase::Up {
                gate,
                since,
                served,
                ..
            } => {
                gate.close();
                let ending = match for_memory {
                    Some(_) => Ending::OutOfMemory,
                    None => Ending::Crashed(how.clone()),
                };
                out.push(Effect::End { generation, ending });
                let early = !served && now - since < EARLY;
                self.crashed(&model, early, &how, now, out);
                for_memory.or(Some(UnloadReason::Crashed))
            }
            Phase::Stopping { reason } => reason,
        };
        if let Some(reason) = reason {
            *self.counters.unloads.entry(reason).or_default() += 1;
        }
        out.extend(worker.replies.into_iter().map(|reply| Effect::Unloaded {
            reply,
            result: Ok(()),
        }));
        out.push(Effect::Forget {
            generation,
            model,
            reason,
            how,
        });
    }

    /// A crash of a ready worker. The next request loads again at once, unless it
    /// keeps crashing before it has served anybody.
    fn crashed(
        &mut self,
        model: &str,
        early: bool,
        how: &str,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let wanted = Turn {
            since: now,
            number: self.turn(),
        };
        let going_down = self.shutdown.is_some();
        let Some(slot) = self.slots.get_mut(model) else {
            return;
        };
        slot.early_crashes = if early { slot.early_crashes + 1 } else { 0 };
        if slot.keep && slot.listed && !going_down {
            slot.wanted = Some(wanted);
        }
        let repeated = slot.early_crashes.saturating_sub(1);
        let pause = if repeated > 0 {
            back_off(repeated)
        } else {
            Duration::ZERO
        };
        let reason = format!("its worker {how} right after it was ready");
        slot.failure = early.then(|| LastFailure {
            reason: reason.clone(),
            at: now,
            retry_at: now + pause,
            in_a_row: slot.early_crashes,
        });
        if repeated > 0 {
            self.refuse_all(model, out, |model| Refused::LoadFailed {
                model,
                reason: reason.clone(),
                retry_after: pause,
            });
        }
    }

    /// A lease came back: if it was the last, the idle clock starts or a drain is
    /// over. Whoever queues for it is served afterwards.
    pub(super) fn idle(
        &mut self,
        generation: Generation,
        wish: Option<Duration>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let Some((model, slot)) = self.worker(generation) else {
            return;
        };
        let Some(Phase::Up {
            gate,
            idle_since,
            idle_unload,
            served,
            draining,
            ..
        }) = slot.running.as_mut().map(|worker| &mut worker.phase)
        else {
            return;
        };
        *served = true;
        match draining {
            Some(reason) => {
                let reason = *reason;
                if let Some(vacant) = gate.vacant() {
                    *idle_since = Some(now);
                    self.retire(&model, vacant, reason, out);
                }
            }
            None if gate.leases() == 0 && slot.waiters.is_empty() => {
                *idle_since = Some(now);
                *idle_unload = wish;
                self.idle.put(model, ());
            }
            None => {}
        }
    }
}
