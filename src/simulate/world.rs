//! The world in which policies are compared: agents that ask, workers that take
//! their time, an agenda in place of a clock. It decides nothing; it does what
//! the policy says and writes down what came of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::policy::{Action, Happening, Policy};
use super::trace::{Trace, Work};
use super::{ModelIndex, RequestIndex};
use crate::pool::CallerId;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Worker processes started.
    pub loads: u64,
    /// Of each request that was served: from its coming to the beginning of work.
    pub waits: Vec<Duration>,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that were cut off.
    pub cut: u64,
    /// Requests that never were answered.
    pub unanswered: u64,
    /// Memory held, summed over time: byte-milliseconds.
    pub byte_ms: u128,
    /// The most memory held at once, bytes.
    pub peak: u64,
    /// From the beginning to the last end.
    pub makespan: Duration,
}

/// What stands on the agenda. The order among equal times is that of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// An agent asks.
    Asks(usize),
    /// A worker, known by its number, is ready.
    Loaded(ModelIndex, u64),
    /// A worker's memory is free.
    Gone(ModelIndex),
    /// A request's last token.
    Ends(RequestIndex),
}

/// A worker process.
struct Worker {
    number: u64,
    is_up: bool,
    is_leaving: bool,
    running: Vec<RequestIndex>,
    queue: VecDeque<RequestIndex>,
}

/// One request.
struct Request {
    agent: usize,
    work: Work,
    /// Whoever was handed it.
    by: ModelIndex,
    asked: Instant,
    is_over: bool,
}

/// How far an agent is.
struct Place {
    step: usize,
    round: u64,
}

struct World<'a> {
    trace: &'a Trace,
    policy: &'a mut dyn Policy,
    now: Instant,
    start: Instant,
    agenda: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    written: u64,
    workers: Vec<Option<Worker>>,
    requests: Vec<Request>,
    places: Vec<Place>,
    /// Agents that are not through.
    busy: usize,
    tally: Tally,
}

/// Plays a trace to a policy.
pub fn play(trace: &Trace, policy: &mut dyn Policy, start: Instant) -> Tally {
    let places = trace.agents.iter().map(|_| Place { step: 0, round: 0 });
    let mut world = World {
        trace,
        policy,
        now: start,
        start,
        agenda: BinaryHeap::new(),
        written: 0,
        workers: trace.models.iter().map(|_| None).collect(),
        requests: Vec::new(),
        places: places.collect(),
        busy: 0,
        tally: Tally::default(),
    };
    for (index, agent) in trace.agents.iter().enumerate() {
        if agent.rounds > 0 && !agent.steps.is_empty() {
            world.busy += 1;
            world.write(agent.start, Due::Asks(index));
        }
    }
    world.tell(&Happening::Tick);
    while world.busy > 0 && world.step() {}
    world.tally.unanswered = world.requests.iter().filter(|r| !r.is_over).count() as u64;
    world.tally
}

impl World<'_> {
    /// Lets the next thing happen; answers whether there was one.
    fn step(&mut self) -> bool {
        let due = self.agenda.peek().map(|Reverse((time, ..))| *time);
        let wake = self.policy.next_wake(self.now);
        match (due, wake) {
            (None, None) => return false,
            (Some(due), wake) if wake.is_none_or(|wake| due <= wake) => {
                self.pass_to(due);
                if let Some(Reverse((.., what))) = self.agenda.pop() {
                    self.happen(what);
                }
            }
            (_, Some(wake)) => {
                self.pass_to(wake);
                self.tell(&Happening::Tick);
            }
            (Some(_), None) => {}
        }
        true
    }

    /// Time passes; what is held meanwhile is summed up.
    fn pass_to(&mut self, time: Instant) {
        let passed = time.saturating_duration_since(self.now).as_millis();
        self.tally.byte_ms += u128::from(self.held()) * passed;
        self.now = self.now.max(time);
    }

    /// Bytes of everything that loads, is up or has not gone yet.
    fn held(&self) -> u64 {
        let models = self.workers.iter().zip(&self.trace.models);
        let held = models.filter(|(worker, _)| worker.is_some());
        held.map(|(_, model)| model.memory.0).sum()
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Asks(agent) => self.ask(agent),
            Due::Loaded(model, number) => {
                let worker = self.workers[model].as_mut();
                let loading = worker.filter(|w| w.number == number && !w.is_leaving);
                if let Some(worker) = loading {
                    worker.is_up = true;
                    self.tell(&Happening::Ready { model });
                }
            }
            Due::Gone(model) => {
                self.workers[model] = None;
                self.tell(&Happening::Gone { model });
            }
            Due::Ends(request) => self.end(request),
        }
    }

    /// The next request of an agent.
    fn ask(&mut self, agent: usize) {
        let trace = self.trace;
        let who = &trace.agents[agent];
        let request = self.requests.len();
        let step = &who.steps[self.places[agent].step];
        self.requests.push(Request {
            agent,
            work: step.work,
            by: step.model,
            asked: self.now,
            is_over: false,
        });
        self.tell(&Happening::Asked {
            request,
            model: step.model,
            others: &step.others,
            caller: CallerId::of(&[&who.caller]),
            priority: who.priority,
        });
    }

    /// A request's last token: the next sequence begins, the lease goes back.
    fn end(&mut self, request: RequestIndex) {
        if self.requests[request].is_over {
            return;
        }
        let model = self.requests[request].by;
        if let Some(worker) = &mut self.workers[model] {
            worker.running.retain(|running| *running != request);
            if let Some(next) = worker.queue.pop_front() {
                self.begin(next);
            }
        }
        self.over(request);
        self.tell(&Happening::Done { request });
    }

    /// A request has had its answer, of whatever kind: its agent goes on.
    fn over(&mut self, request: RequestIndex) {
        self.requests[request].is_over = true;
        self.tally.makespan = self.now - self.start;
        let agent = self.requests[request].agent;
        let who = &self.trace.agents[agent];
        let place = &mut self.places[agent];
        place.step += 1;
        if place.step == who.steps.len() {
            *place = Place {
                step: 0,
                round: place.round + 1,
            };
        }
        match place.round < who.rounds {
            true => {
                let think = who.steps[place.step].think;
                self.write(self.now - self.start + think, Due::Asks(agent));
            }
            false => self.busy -= 1,
        }
    }

    /// Tells the policy and does what it says.
    fn tell(&mut self, what: &Happening<'_>) {
        for action in self.policy.on(what, self.now) {
            match action {
                Action::Load { model } => self.load(model),
                Action::Unload { model } => self.unload(model),
                Action::Serve { request, model } => self.serve(request, model),
                Action::Refuse { request } => {
                    self.tally.refused += 1;
                    self.over(request);
                }
            }
        }
    }

    fn load(&mut self, model: ModelIndex) {
        debug_assert!(self.workers[model].is_none(), "two workers of one model");
        self.tally.loads += 1;
        let number = self.tally.loads;
        self.workers[model] = Some(Worker {
            number,
            is_up: false,
            is_leaving: false,
            running: Vec::new(),
            queue: VecDeque::new(),
        });
        self.tally.peak = self.tally.peak.max(self.held());
        let ready = self.now - self.start + self.trace.models[model].load;
        self.write(ready, Due::Loaded(model, number));
    }

    /// A worker ends, and with it whatever it still works on.
    fn unload(&mut self, model: ModelIndex) {
        let Some(worker) = self.workers[model].as_mut().filter(|w| !w.is_leaving) else {
            return;
        };
        worker.is_leaving = true;
        let running = std::mem::take(&mut worker.running);
        let cut: Vec<_> = running.into_iter().chain(worker.queue.drain(..)).collect();
        self.tally.cut += cut.len() as u64;
        for request in cut {
            self.over(request);
        }
        let gone = self.now - self.start + self.trace.models[model].unload;
        self.write(gone, Due::Gone(model));
    }

    /// A request has its lease: it begins, or waits inside the worker.
    fn serve(&mut self, request: RequestIndex, model: ModelIndex) {
        self.requests[request].by = model;
        let Some(worker) = self.workers[model].as_mut().filter(|w| w.is_up) else {
            debug_assert!(false, "served by a model that is not up");
            return;
        };
        match worker.running.len() < self.trace.models[model].parallel {
            true => self.begin(request),
            false => worker.queue.push_back(request),
        }
    }

    fn begin(&mut self, request: RequestIndex) {
        let Request {
            work, by, asked, ..
        } = self.requests[request];
        if let Some(worker) = &mut self.workers[by] {
            worker.running.push(request);
        }
        self.tally.waits.push(self.now - asked);
        let takes = self.trace.models[by].takes(work);
        self.write(self.now - self.start + takes, Due::Ends(request));
    }

    /// Writes something on the agenda, so long after the beginning.
    fn write(&mut self, after: Duration, what: Due) {
        self.written += 1;
        self.agenda
            .push(Reverse((self.start + after, self.written, what)));
    }
}
