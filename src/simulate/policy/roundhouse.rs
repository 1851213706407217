//! The pool's own machine as a policy: the same events and effects as in the
//! server, with the gate taken before the machine is asked, as requests do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Action, Happening, Policy};
use crate::pool::gate::Gate;
use crate::pool::state::{Effect, Event, Generation, Machine};
use crate::pool::{Resident, Settings, Terms};
use crate::simulate::{ModelIndex, RequestIndex};
use crate::worker::{LoadPhases, LoadPlan, Ready};

/// The machine and what its owner would keep.
pub struct Roundhouse {
    machine: Machine,
    plans: Vec<Arc<LoadPlan>>,
    indices: HashMap<String, ModelIndex>,
    /// The live worker of each model.
    workers: Vec<Option<Worker>>,
    models: HashMap<Generation, ModelIndex>,
    leases: HashMap<RequestIndex, Generation>,
    /// When the machine was told something last.
    told: Instant,
}

struct Worker {
    generation: Generation,
    gate: Option<Arc<Gate>>,
}

impl Roundhouse {
    /// A pool with these models, in the order of the trace. No process stands by: what a load
    /// takes is the trace's to say.
    pub fn new(settings: Settings, residents: &[Resident], now: Instant) -> Self {
        let mut residents = residents.to_vec();
        for resident in &mut residents {
            Arc::make_mut(&mut resident.plan).standby = None;
        }
        let plans: Vec<_> = residents.iter().map(|r| r.plan.clone()).collect();
        let names = plans.iter().map(|plan| plan.model.clone());
        Self {
            indices: names
                .enumerate()
                .map(|(index, name)| (name, index))
                .collect(),
            machine: Machine::new(settings, residents, now),
            workers: plans.iter().map(|_| None).collect(),
            plans,
            models: HashMap::new(),
            leases: HashMap::new(),
            told: now,
        }
    }

    /// A request: through the gate if it is open, else to the machine.
    fn asked(
        &mut self,
        request: RequestIndex,
        model: ModelIndex,
        others: &[ModelIndex],
        terms: Terms,
        now: Instant,
    ) -> Vec<Action> {
        let open = self.workers[model].as_ref().filter(|worker| {
            let gate = worker.gate.as_ref();
            gate.is_some_and(|gate| gate.take())
        });
        if let Some(worker) = open {
            self.leases.insert(request, worker.generation);
            return vec![Action::Serve { request, model }];
        }
        let event = Event::Acquire {
            waiter: request as u64,
            plan: self.plans[model].clone(),
            others: others
                .iter()
                .map(|&other| self.plans[other].clone())
                .collect(),
            terms,
        };
        self.step(event, now)
    }

    /// A lease is given back; the last one says so.
    fn done(&mut self, request: RequestIndex, now: Instant) -> Vec<Action> {
        let Some(generation) = self.leases.remove(&request) else {
            return Vec::new();
        };
        let worker = self.models.get(&generation);
        let worker = worker.and_then(|&model| self.workers[model].as_ref());
        match worker.and_then(|worker| worker.gate.as_ref()) {
            Some(gate) if gate.give_back() => {
                let idle_unload = None;
                let event = Event::Idle {
                    generation,
                    idle_unload,
                };
                self.step(event, now)
            }
            _ => Vec::new(),
        }
    }

    /// What a worker says when it is ready: it holds what was reserved for it.
    fn ready(&mut self, model: ModelIndex, now: Instant) -> Vec<Action> {
        let Some(worker) = &self.workers[model] else {
            return Vec::new();
        };
        let plan = &self.plans[model];
        let ready = Arc::new(Ready {
            version: String::new(),
            bytes_held: plan.memory.saturating_sub(plan.kv).0,
            device: String::new(),
            compute: String::new(),
            context: plan.context,
            load_ms: 0,
            phases: LoadPhases::default(),
            port: None,
        });
        let generation = worker.generation;
        self.step(Event::Ready { generation, ready }, now)
    }

    fn gone(&mut self, model: ModelIndex, now: Instant) -> Vec<Action> {
        let Some(Worker { generation, .. }) = self.workers[model].take() else {
            return Vec::new();
        };
        let how = "ended".to_owned();
        self.step(Event::Exited { generation, how }, now)
    }

    /// One event into the machine, its effects as actions.
    fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.told = now;
        let effects = self.machine.on(event, now);
        effects
            .into_iter()
            .filter_map(|effect| self.action(effect))
            .collect()
    }

    fn action(&mut self, effect: Effect) -> Option<Action> {
        match effect {
            Effect::Start { generation, plan } => {
                let model = *self.indices.get(&plan.model)?;
                let gate = None;
                self.workers[model] = Some(Worker { generation, gate });
                self.models.insert(generation, model);
                Some(Action::Load { model })
            }
            Effect::Stop { generation, .. } => {
                let model = *self.models.get(&generation)?;
                Some(Action::Unload { model })
            }
            Effect::Open {
                generation, gate, ..
            } => {
                let model = *self.models.get(&generation)?;
                self.workers[model].as_mut()?.gate = Some(gate);
                None
            }
            Effect::Grant {
                waiter, generation, ..
            } => {
                let request = waiter as RequestIndex;
                let model = *self.models.get(&generation)?;
                self.leases.insert(request, generation);
                Some(Action::Serve { request, model })
            }
            Effect::Refuse { waiter, .. } => Some(Action::Refuse {
                request: waiter as RequestIndex,
            }),
            Effect::Forget { generation, .. } => {
                self.models.remove(&generation);
                None
            }
            // Nobody manages this pool, and whoever loses a lease hears it from the worker.
            // What comes back after a failed load is started by an effect of its own.
            Effect::End { .. }
            | Effect::Unloaded { .. }
            | Effect::Released { .. }
            | Effect::Held { .. }
            | Effect::LetGo { .. }
            | Effect::BringBack { .. } => None,
            // No plan asks for it.
            Effect::StandBy { .. } => None,
            // Said for people.
            Effect::Queued { .. } | Effect::Displace { .. } | Effect::Spare { .. } => None,
        }
    }
}

impl Policy for Roundhouse {
    fn on(&mut self, what: &Happening<'_>, now: Instant) -> Vec<Action> {
        match *what {
            Happening::Asked {
                request,
                model,
                others,
                caller,
                priority,
            } => {
                let terms = Terms {
                    priority,
                    caller,
                    ..Terms::default()
                };
                self.asked(request, model, others, terms, now)
            }
            Happening::Ready { model } => self.ready(model, now),
            Happening::Gone { model } => self.gone(model, now),
            Happening::Done { request } => self.done(request, now),
            Happening::Tick => self.step(Event::Tick, now),
        }
    }

    fn next_wake(&self, now: Instant) -> Option<Instant> {
        self.machine.next_wake(now)
    }

    fn swaps(&self) -> u64 {
        self.machine.view(self.told).counters.swaps
    }
}
