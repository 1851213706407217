//! A small world around the machine for its tests: workers that do what they are
//! told when the test says so, requests that hold leases, a clock. After every
//! event it checks what must always hold; see [`World::check`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reference::{self, Verdict};
use super::{Effect, Event, Generation, HoldId, Machine, ReplyId, WaiterId};
use crate::config::kv::KvFormat;
use crate::config::{Compute, Contention, MinResidency};
use crate::engine::speculation::Draft;
use crate::pool::gate::Gate;
use crate::pool::{
    CallerId, Ending, HoldError, ModelState, ModelView, Refused, Resident, Settings, Terms,
    UnloadError, UnloadMode, UnloadReason,
};
use crate::units::ByteSize;
use crate::worker::{EngineKind, LoadPhases, LoadPlan, Ready};

/// The world.
pub struct World {
    pub machine: Machine,
    pub now: Instant,
    pub settings: Settings,
    pub residents: BTreeMap<String, Resident>,
    pub workers: BTreeMap<Generation, Worker>,
    /// Leases that are out.
    pub held: BTreeMap<WaiterId, Generation>,
    pub refused: BTreeMap<WaiterId, Refused>,
    /// How many stood before those who got a lease.
    pub positions: BTreeMap<WaiterId, usize>,
    pub unloads: BTreeMap<ReplyId, Result<(), UnloadError>>,
    pub released: Vec<String>,
    /// Whether residency leases were given.
    pub hold_results: BTreeMap<HoldId, Result<(), HoldError>>,
    /// Those that run: the model, and until when.
    pub holds: BTreeMap<HoldId, (String, Instant)>,
    /// What came back for whom.
    pub brought_back: Vec<String>,
    /// What the holders of leases were told.
    pub endings: Vec<Ending>,
    /// How workers went: `a evicted`.
    pub gone: Vec<String>,
    /// Which models were loaded, in order.
    pub loaded: Vec<String>,
    /// Workers may hold more than their plan says.
    pub is_honest: bool,
    /// The models of which each waiter wants one, and who it is.
    asked: BTreeMap<WaiterId, (Vec<String>, CallerId)>,
    cancelled: BTreeSet<WaiterId>,
    last: u64,
}

/// A worker process as the machine's tests see it.
pub struct Worker {
    pub model: String,
    pub memory: u64,
    /// What it was seen to hold.
    pub seen: u64,
    pub gate: Option<Arc<Gate>>,
    /// It waits to be told to load.
    pub stands_by: bool,
    pub is_told_to_end: bool,
    pub is_revoked: bool,
}

/// A plan that reserves `memory` bytes.
pub fn plan(model: &str, memory: u64) -> Arc<LoadPlan> {
    Arc::new(LoadPlan {
        model: model.to_owned(),
        dir: PathBuf::from("/models").join(model),
        commit: None,
        engine: EngineKind::Scripted.into(),
        context: 1024,
        parallel: 64,
        kv: ByteSize::ZERO,
        kv_format: KvFormat::Auto,
        adapters: ByteSize::ZERO,
        compute: Compute::Auto,
        draft: Draft::Nothing,
        warmup: false,
        warm_prompts: Default::default(),
        weights: ByteSize(memory),
        memory: ByteSize(memory),
        estimated: false,
        standby: None,
    })
}

/// A served model without anything special.
pub fn resident(model: &str, memory: u64) -> Resident {
    Resident {
        plan: plan(model, memory),
        keep: false,
        preload: false,
        idle_unload: None,
        never_with: BTreeSet::new(),
    }
}

/// What a worker that holds `bytes` says of itself.
pub fn ready(bytes: u64) -> Ready {
    Ready {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bytes_held: bytes,
        device: "cpu".to_owned(),
        compute: "float32".to_owned(),
        context: 1024,
        load_ms: 1,
        phases: LoadPhases::default(),
        port: None,
    }
}

/// Settings with a budget and nothing else that bites soon.
pub fn settings(budget: u64) -> Settings {
    Settings {
        budget: ByteSize(budget),
        max_models: None,
        switch_after: Duration::from_secs(30),
        min_residency: MinResidency::Auto,
        queue: 64,
        queue_per_caller: 64,
        queue_timeout: Duration::from_secs(600),
        contention: Contention::Wait,
        autoload: true,
        load_time: Duration::from_secs(300),
    }
}

impl World {
    /// A world with a budget and models of these sizes.
    pub fn new(budget: u64, models: &[(&str, u64)]) -> Self {
        let models = models.iter().map(|(name, size)| resident(name, *size));
        Self::with(settings(budget), models.collect())
    }

    /// A world with everything said.
    pub fn with(settings: Settings, models: Vec<Resident>) -> Self {
        let now = Instant::now();
        let residents = models.iter().cloned();
        let mut world = Self {
            machine: Machine::new(settings.clone(), models.clone(), now),
            now,
            settings,
            residents: residents.map(|r| (r.plan.model.clone(), r)).collect(),
            workers: BTreeMap::new(),
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            positions: BTreeMap::new(),
            unloads: BTreeMap::new(),
            released: Vec::new(),
            hold_results: BTreeMap::new(),
            holds: BTreeMap::new(),
            brought_back: Vec::new(),
            endings: Vec::new(),
            gone: Vec::new(),
            loaded: Vec::new(),
            is_honest: true,
            asked: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            last: 0,
        };
        world.on(Event::Tick);
        world
    }

    /// One event, its effects, and the check. That nothing was left for the next event
    /// to find is part of it.
    pub fn on(&mut self, event: Event) {
        for effect in self.machine.on(event, self.now) {
            self.carry_out(effect);
        }
        self.check();
        let before = self.states();
        let late = self.machine.on(Event::Tick, self.now);
        assert!(late.is_empty(), "found only now: {late:?}; {before:?}");
        assert_eq!(self.states(), before, "found only now");
    }

    /// Where each model stands, and how many use it and wait for it.
    fn states(&self) -> Vec<(String, ModelState, u64, usize)> {
        let view = self.machine.view(self.now);
        let states = view.models.iter().map(|model| {
            let name = model.model.clone();
            (name, model.state, model.leases(), model.waiting)
        });
        states.collect()
    }

    /// A request for a model. First through the open gate, as requests do.
    pub fn ask(&mut self, model: &str) -> WaiterId {
        self.ask_on(model, Terms::default())
    }

    /// The same, on other terms.
    pub fn ask_on(&mut self, model: &str, terms: Terms) -> WaiterId {
        self.ask_any(&[model], terms)
    }

    /// A request for the first of these models, in whose place the others may answer.
    pub fn ask_any(&mut self, models: &[&str], terms: Terms) -> WaiterId {
        self.last += 1;
        let waiter = self.last;
        let model = models[0];
        let expected = (models.len() == 1).then(|| reference::verdict(self, model, terms));
        let names = models.iter().map(|&model| model.to_owned());
        self.asked.insert(waiter, (names.collect(), terms.caller));
        let open = self.up(model).filter(|generation| {
            let gate = self.workers[generation].gate.as_ref();
            gate.is_some_and(|gate| gate.take())
        });
        match open {
            Some(generation) => drop(self.held.insert(waiter, generation)),
            None => {
                let known = |model: &&str| {
                    let known = self.residents.get(*model);
                    known.map_or_else(|| plan(model, 1), |r| r.plan.clone())
                };
                let has_place = |model: &str| {
                    let waiting = self.waiting_for(model);
                    let own = waiting.iter().filter(|caller| **caller == terms.caller);
                    let is_full = waiting.len() >= self.settings.queue;
                    !is_full && own.count() < self.settings.queue_per_caller
                };
                let mut up = models.iter().filter(|model| self.is_open(model));
                let one_is_up = up.any(|model| has_place(model));
                let mut plans = models.iter().map(known);
                self.on(Event::Acquire {
                    waiter,
                    plan: plans.next().expect("one at least"),
                    others: plans.collect(),
                    terms,
                });
                let place = self.machine.waiting.model_of(waiter);
                let waits_for_up = place.is_none_or(|model| self.is_open(model));
                assert!(waits_for_up || !one_is_up, "it waits beside one that is up");
            }
        }
        self.compare(waiter, model, expected);
        waiter
    }

    /// A management call wants a model up.
    pub fn load(&mut self, model: &str) -> WaiterId {
        self.last += 1;
        let (waiter, model) = (self.last, model.to_owned());
        let caller = CallerId::default();
        self.asked.insert(waiter, (vec![model.clone()], caller));
        self.on(Event::Load { waiter, model });
        waiter
    }

    /// A lease is given back.
    pub fn give_back(&mut self, waiter: WaiterId) {
        self.give_back_wishing(waiter, None);
    }

    /// The same, with a wish how long the model is to stay.
    pub fn give_back_wishing(&mut self, waiter: WaiterId, idle_unload: Option<Duration>) {
        let generation = self.held.remove(&waiter).expect("it holds a lease");
        // A worker that is gone has no gate that anybody looks at.
        let Some(worker) = self.workers.get(&generation) else {
            return;
        };
        let gate = worker.gate.as_ref().expect("it was ready");
        if gate.give_back() {
            self.on(Event::Idle {
                generation,
                idle_unload,
            });
        }
    }

    /// Whoever has a lease wants to hold the model.
    pub fn hold(&mut self, waiter: WaiterId, time: Duration) -> HoldId {
        self.last += 1;
        let (hold, generation) = (self.last, self.held[&waiter]);
        let model = self.workers.get(&generation).map(|w| w.model.clone());
        let holder = "run".to_owned();
        self.on(Event::Hold {
            hold,
            generation,
            holder,
            time,
        });
        if self.hold_results[&hold].is_ok() {
            let model = model.expect("it lives");
            self.holds.insert(hold, (model, self.now + time));
        }
        hold
    }

    /// A residency lease is given back.
    pub fn let_go(&mut self, hold: HoldId) {
        self.holds.remove(&hold);
        self.last += 1;
        let (reply, holder) = (self.last, None);
        self.on(Event::LetGo {
            reply,
            hold,
            holder,
        });
    }

    /// A request leaves, wherever it stands.
    pub fn leave(&mut self, waiter: WaiterId) {
        if self.held.contains_key(&waiter) {
            self.give_back(waiter);
        } else if !self.refused.contains_key(&waiter) {
            self.cancelled.insert(waiter);
            self.on(Event::Cancel { waiter });
        }
    }

    /// The worker of a model finishes loading.
    pub fn finish_load(&mut self, model: &str) {
        let generation = self.worker(model);
        let bytes = self.workers[&generation].memory;
        self.finish_load_holding(model, bytes);
    }

    /// The same, and says that it holds so much.
    pub fn finish_load_holding(&mut self, model: &str, bytes: u64) {
        let generation = self.worker(model);
        let ready = Arc::new(ready(bytes));
        self.on(Event::Ready { generation, ready });
    }

    /// The worker of a model is seen to hold so much.
    pub fn footprint(&mut self, model: &str, bytes: u64) {
        let generation = self.worker(model);
        self.footprint_of(generation, bytes);
    }

    /// A worker is seen to hold so much.
    pub fn footprint_of(&mut self, generation: Generation, bytes: u64) {
        let worker = self.workers.get_mut(&generation).expect("it lives");
        self.is_honest &= bytes <= worker.memory;
        worker.seen = bytes;
        let (held, peak) = (ByteSize(bytes), ByteSize(bytes));
        self.on(Event::Footprint {
            generation,
            held,
            peak,
        });
    }

    /// Memory runs out for the worker of a model.
    pub fn run_out(&mut self, model: &str) {
        let generation = self.worker(model);
        self.on(Event::OutOfMemory { generation });
    }

    /// The worker of a model says that it cannot load.
    pub fn fail_load(&mut self, model: &str) {
        let generation = self.worker(model);
        let reason = "no tensor".to_owned();
        self.on(Event::LoadFailed { generation, reason });
    }

    /// The process of a model's worker is reaped.
    pub fn exit(&mut self, model: &str) {
        let generation = self.worker(model);
        self.exit_of(generation);
    }

    /// A process is reaped.
    pub fn exit_of(&mut self, generation: Generation) {
        self.workers.remove(&generation).expect("it lives");
        let how = "ended".to_owned();
        self.on(Event::Exited { generation, how });
    }

    /// Time passes, in one go.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.on(Event::Tick);
    }

    /// The first worker that is told to end does so, until none is.
    pub fn reap(&mut self) {
        while let Some(generation) = self.ending().first().copied() {
            self.exit_of(generation);
        }
    }

    /// The workers that were told to end.
    pub fn ending(&self) -> Vec<Generation> {
        let ending = self.workers.iter().filter(|(_, w)| w.is_told_to_end);
        ending.map(|(generation, _)| *generation).collect()
    }

    /// An unload is asked for.
    pub fn unload(&mut self, model: &str, mode: UnloadMode) -> ReplyId {
        self.last += 1;
        let (reply, model) = (self.last, model.to_owned());
        if mode == UnloadMode::Now {
            self.holds.retain(|_, (held, _)| *held != model);
        }
        self.on(Event::Unload { reply, model, mode });
        reply
    }

    /// The residents as they now stand are told to the machine.
    pub fn apply(&mut self) {
        let residents = &self.residents;
        self.holds
            .retain(|_, (held, _)| residents.contains_key(held));
        self.on(Event::Apply {
            settings: self.settings.clone(),
            models: self.residents.values().cloned().collect(),
        });
    }

    /// What is shown of a model.
    pub fn view(&self, model: &str) -> ModelView {
        let view = self.machine.view(self.now);
        view.model(model).expect("it is known").clone()
    }

    /// Where a model stands.
    pub fn state(&self, model: &str) -> ModelState {
        self.view(model).state
    }

    /// The live worker of a model.
    pub fn worker(&self, model: &str) -> Generation {
        let mut found = self.workers.iter().filter(|(_, w)| w.model == model);
        *found.next().expect("it has a worker").0
    }

    /// The worker of a model that has been ready and was not told to end.
    pub fn up(&self, model: &str) -> Option<Generation> {
        let mut up = self.workers.iter().filter(|(_, w)| w.model == model);
        up.find(|(_, w)| w.gate.is_some() && !w.is_told_to_end)
            .map(|(generation, _)| *generation)
    }

    /// Whether one of two models is never to be beside the other.
    fn are_rivals(&self, one: &str, other: &str) -> bool {
        let says = |one: &str, other: &str| {
            let known = self
                .residents
                .get(one)
                .filter(|_| self.residents.contains_key(other));
            known.is_some_and(|it| it.never_with.contains(other))
        };
        says(one, other) || says(other, one)
    }

    /// Whether a lease on a model can be had at once.
    fn is_open(&self, model: &str) -> bool {
        let gate = self
            .up(model)
            .and_then(|up| self.workers[&up].gate.as_ref());
        gate.is_some_and(|gate| gate.is_open())
    }

    /// Waiters that have neither a lease nor a refusal and did not leave.
    pub fn unanswered(&self) -> usize {
        self.machine.view(self.now).waiting()
    }

    /// Who waits or holds, to be told to leave by a test that chooses at random.
    pub fn present(&self) -> Vec<WaiterId> {
        let waits = |waiter: &&WaiterId| {
            !self.refused.contains_key(waiter) && !self.cancelled.contains(waiter)
        };
        let here = self.asked.keys().filter(waits).copied();
        let returned = &self.returned();
        here.filter(|waiter| !returned.contains(waiter)).collect()
    }

    /// The callers of those who wait for a model.
    pub fn waiting_for(&self, model: &str) -> Vec<CallerId> {
        let here = self.asked.iter().filter(|(waiter, _)| {
            let place = self.machine.waiting.model_of(**waiter);
            place.is_some_and(|place| place == model)
        });
        here.map(|(_, (_, caller))| *caller).collect()
    }

    /// Whether a request was told what the reference says.
    fn compare(&mut self, waiter: WaiterId, model: &str, expected: Option<Verdict>) {
        let Some(expected) = expected else {
            return;
        };
        let told = match self.refused.get(&waiter) {
            _ if self.held.contains_key(&waiter) => Verdict::Lease,
            None => Verdict::Waits,
            Some(refused) => Verdict::of(refused).expect("a refusal at once"),
        };
        assert_eq!(told, expected, "{model}; {:?}", self.states());
    }

    /// Who had a lease and gave it back.
    fn returned(&self) -> BTreeSet<WaiterId> {
        let waiting = self.machine.waiting.keys();
        let here: BTreeSet<_> = waiting.chain(self.held.keys()).collect();
        let gone = self.asked.keys().filter(|waiter| !here.contains(waiter));
        gone.copied().collect()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::StandBy { generation, plan } => {
                let model = plan.model.clone();
                assert_eq!(self.state(&model), ModelState::Waiting, "{model}");
                let mut others = self.workers.values();
                assert!(others.all(|other| !other.stands_by), "two stand by");
                self.started(generation, model, true);
            }
            Effect::Start { generation, plan } => {
                let model = plan.model.clone();
                let stood_by = self.workers.remove(&generation);
                let seen = stood_by.map_or(0, |worker| {
                    let is_its_own = worker.stands_by && worker.model == model;
                    assert!(is_its_own && !worker.is_told_to_end, "{model} goes on");
                    worker.seen
                });
                let mut loaded = self.workers.values().filter(|worker| !worker.stands_by);
                let rival = loaded.find(|w| self.are_rivals(&w.model, &model));
                assert!(rival.is_none(), "{model} was started beside a rival");
                self.loaded.push(model.clone());
                self.started(generation, model, false);
                let worker = self.workers.get_mut(&generation).expect("started");
                worker.seen = seen;
            }
            Effect::Stop {
                generation, reason, ..
            } => self.stop(generation, reason),
            Effect::Open {
                generation, gate, ..
            } => {
                let worker = self.workers.get_mut(&generation).expect("it lives");
                assert!(worker.gate.replace(gate).is_none(), "opened twice");
            }
            Effect::Grant {
                waiter,
                generation,
                position,
                ..
            } => {
                self.positions.insert(waiter, position);
                let worker = &self.workers[&generation];
                let (wanted, _) = &self.asked[&waiter];
                assert!(wanted.contains(&worker.model), "another model");
                assert!(!worker.is_told_to_end, "a lease on what is ending");
                self.answered_once(waiter);
                self.held.insert(waiter, generation);
            }
            Effect::Queued { waiter, .. } => self.answered_once(waiter),
            Effect::Displace {
                model,
                victim,
                generation,
                ..
            } => {
                assert_ne!(model, victim);
                assert_eq!(self.workers[&generation].model, victim);
            }
            Effect::Spare { generation } => {
                assert!(!self.workers[&generation].is_told_to_end, "it goes");
            }
            Effect::Refuse { waiter, refused } => {
                self.answered_once(waiter);
                self.refused.insert(waiter, refused);
            }
            Effect::End { generation, ending } => {
                if let (Some(worker), Ending::Revoked(_) | Ending::Outgrew { .. }) =
                    (self.workers.get_mut(&generation), &ending)
                {
                    worker.is_revoked = true;
                }
                self.endings.push(ending);
            }
            Effect::Unloaded { reply, result } => {
                let before = self.unloads.insert(reply, result);
                assert!(before.is_none(), "told twice");
            }
            Effect::Released { models, .. } => self.released = models,
            Effect::Held { hold, result } => {
                let before = self.hold_results.insert(hold, result);
                assert!(before.is_none(), "told twice");
            }
            Effect::LetGo { .. } => {}
            Effect::BringBack { model, failed } => {
                self.brought_back.push(format!("{model} for {failed}"));
            }
            Effect::Forget {
                generation,
                model,
                reason,
                ..
            } => {
                assert!(!self.workers.contains_key(&generation), "still there");
                let word = reason.map_or("never".to_owned(), |r| format!("{r:?}"));
                self.gone.push(format!("{model} {}", word.to_lowercase()));
            }
        }
    }

    /// I4 and I5: a process is started where its model has none and the budget has room.
    fn started(&mut self, generation: Generation, model: String, stands_by: bool) {
        let twin = self.workers.values().find(|w| w.model == model);
        assert!(twin.is_none(), "two workers for {model}");
        let held: u64 = self.workers.values().map(|worker| worker.memory).sum();
        // What was learnt may be more than the plan says.
        let memory = self.view(&model).reserved.0;
        let fits = held + memory <= self.settings.budget.0;
        assert!(fits, "{model} was started beside {held}");
        let worker = Worker {
            model,
            memory,
            seen: 0,
            gate: None,
            stands_by,
            is_told_to_end: false,
            is_revoked: false,
        };
        self.workers.insert(generation, worker);
    }

    /// I6: what is in use is not stopped, and what is kept is no victim.
    fn stop(&mut self, generation: Generation, reason: Option<UnloadReason>) {
        let worker = self.workers.get_mut(&generation).expect("it lives");
        worker.is_told_to_end = true;
        let leases = worker.gate.as_ref().map_or(0, |gate| gate.leases());
        assert!(leases == 0 || worker.is_revoked, "{} in use", worker.model);
        let is_victim = matches!(
            reason,
            Some(UnloadReason::Evicted | UnloadReason::Idle | UnloadReason::Memory)
        );
        if is_victim {
            let resident = self.residents.get(&worker.model);
            let outgrew = worker.seen > worker.memory;
            assert!(
                outgrew || !resident.is_some_and(|r| r.keep),
                "{} kept",
                worker.model
            );
            assert!(worker.gate.is_some(), "{} was loading", worker.model);
            let now = self.now;
            let mut holds = self.holds.values();
            let held = holds.any(|(model, until)| *model == worker.model && *until > now);
            assert!(outgrew || !held, "{} is held", worker.model);
        }
    }

    fn answered_once(&self, waiter: WaiterId) {
        assert!(!self.held.contains_key(&waiter), "answered twice");
        assert!(!self.refused.contains_key(&waiter), "answered twice");
        assert!(!self.cancelled.contains(&waiter), "answered after leaving");
    }

    /// What workers were seen to hold is in the books; whoever is beyond its promise
    /// takes nobody new above the budget and does not live on above the hard mark.
    fn check_marks(&self) {
        let seen: u64 = self.workers.values().map(|worker| worker.seen).sum();
        assert!(self.machine.reserved().0 >= seen, "{seen} seen");
        let staying = self.workers.values().filter(|w| !w.is_told_to_end);
        let of = |worker: &Worker| worker.seen.max(worker.memory);
        let held: u64 = staying.clone().map(of).sum();
        let budget = self.settings.budget.0;
        for worker in staying.filter(|worker| worker.seen > worker.memory) {
            let Some(gate) = &worker.gate else { continue };
            let what = format!("{} holds {} of {held}", worker.model, worker.seen);
            assert!(held <= budget + budget / 10, "{what}");
            let leaves = self.state(&worker.model) == ModelState::Draining;
            assert!(leaves != gate.is_open(), "{what}");
        }
    }

    /// I5: what loads, is loaded or is not yet reaped stays within the budget, by
    /// the processes as well as by the books; and nobody who waits is lost.
    fn check(&self) {
        let held: u64 = self.workers.values().map(|worker| worker.memory).sum();
        if self.is_honest {
            assert!(held <= self.settings.budget.0, "{held} held");
            assert_eq!(self.machine.reserved().0, held, "the books differ");
        }
        self.check_marks();
        if let Some(most) = self.settings.max_models {
            let loaded = self.workers.values().filter(|worker| !worker.stands_by);
            assert!(loaded.count() <= most, "more than {most} workers");
        }
        let undone = reference::left_undone(&self.machine, self.now);
        assert_eq!(undone, None);
        let beside = reference::standby_left_undone(&self.machine, self.now);
        assert_eq!(beside, None);
        assert_eq!(self.machine.books(), reference::books(&self.machine));
        self.machine.waiting.check();
        self.machine.slots.check(self.now);
        for waiter in self.machine.waiting.keys() {
            assert!(!self.held.contains_key(waiter) && !self.refused.contains_key(waiter));
        }
        let wake = self.machine.next_wake(self.now);
        assert!(wake.is_none_or(|wake| wake > self.now));
    }
}
