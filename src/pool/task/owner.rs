//! The owner itself: messages in, events to the machine, effects carried out.
//! Who waits for an answer is in `answers`, what it does after a panic in `recover`.

mod answers;
mod recover;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use self::answers::Answers;
use super::{Message, Shared};
use crate::pool::gate::Gate;
use crate::pool::lease::Instance;
use crate::pool::ledger::file::Notebook;
use crate::pool::state::{Effect, Event, Generation, HoldId, Machine, WaiterId};
use crate::pool::swaps::Witness;
use crate::pool::{Ending, HoldError, Lease, Resident, Settings, UnloadReason, View};
use crate::shutdown::{Place, Tasks};
use crate::units::ByteSize;
use crate::worker::client::Client;
use crate::worker::process::{Launch, Report};
use crate::worker::{EngineKind, Leave, LoadPlan, PlannedEngine, Ready};

/// How late the owner is woken when it was the router that stood still.
const LATE: Duration = Duration::from_millis(500);

/// Messages taken in before the view is made anew.
const BURST: usize = 256;

/// The one owner of the machine.
pub(super) struct Owner<L> {
    machine: Machine,
    launcher: L,
    tasks: Tasks,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Message>,
    show: watch::Sender<Arc<View>>,
    /// Where what is learnt of models is written down.
    notebook: Notebook,
    answers: Answers,
    workers: HashMap<Generation, Process>,
    stopped: Vec<oneshot::Sender<()>>,
    /// Keeps for people what the machine did.
    witness: Witness,
    /// What the machine was told last, to make another one if it panics.
    told: (Settings, Vec<Resident>),
    /// The moment of the event that the machine was told last.
    told_at: Instant,
    /// When time alone would have changed something, as of then.
    wake: Option<Instant>,
    /// Messages that wait for a new machine.
    deferred: VecDeque<Message>,
}

/// What the owner holds of a worker process.
struct Process {
    plan: Arc<LoadPlan>,
    pid: u32,
    /// When its load began.
    started: Instant,
    /// Saying so has it load.
    load: watch::Sender<bool>,
    /// Saying how ends the process.
    stop: watch::Sender<Option<Leave>>,
    client: Option<Client>,
    instance: Option<Arc<Instance>>,
}

impl<L: Launch> Owner<L> {
    /// An owner that has done nothing yet.
    pub fn new(
        machine: Machine,
        told: (Settings, Vec<Resident>),
        launcher: L,
        tasks: &Tasks,
        (shared, notebook): (Arc<Shared>, Notebook),
        inbox: mpsc::UnboundedReceiver<Message>,
        show: watch::Sender<Arc<View>>,
    ) -> Self {
        Self {
            machine,
            launcher,
            tasks: tasks.clone(),
            witness: Witness::new(shared.book.clone()),
            shared,
            inbox,
            show,
            notebook,
            answers: Answers::default(),
            workers: HashMap::default(),
            stopped: Vec::new(),
            told,
            told_at: now(),
            wake: None,
            deferred: VecDeque::new(),
        }
    }

    /// Runs until the server goes down and every process has been reaped. A panic
    /// costs what was loaded and whoever waited, and is told to them.
    pub async fn supervise(mut self) {
        while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            self.start_over().await;
        }
        for done in self.stopped {
            let _ = done.send(());
        }
    }

    /// Runs the machine until it is over.
    async fn run(&mut self) {
        let stop = self.tasks.stop_signal();
        let mut is_told = false;
        self.step(match self.stopped.is_empty() {
            true => Event::Tick,
            // Told to the machine before this one.
            false => Event::Shutdown {
                drain: Duration::ZERO,
            },
        });
        while let Some(message) = self.deferred.pop_front() {
            self.take(message);
        }
        self.show.send_replace(Arc::new(self.machine.view(now())));
        // Both outlive a message: to wait anew for the same costs more than to go on.
        let mut stopped = pin!(stop.cancelled());
        let mut alarm = pin!(tokio::time::sleep_until(now().into()));
        while !self.machine.is_over() {
            self.write_down();
            self.show();
            // What was still to come when the machine was told something last may be
            // over by now, and is to be told all the same.
            let wake = self.machine.next_wake(self.told_at);
            self.wake = wake;
            if let Some(wake) = wake
                && alarm.deadline() != wake.into()
            {
                alarm.as_mut().reset(wake.into());
            }
            tokio::select! {
                Some(message) = self.inbox.recv() => {
                    self.take(message);
                    for _ in 0..BURST {
                        let Ok(message) = self.inbox.try_recv() else { break };
                        self.take(message);
                    }
                }
                () = &mut alarm, if wake.is_some() => self.step(Event::Tick),
                () = &mut stopped, if !is_told => {
                    is_told = true;
                    self.step(Event::Shutdown { drain: Duration::ZERO });
                }
            }
        }
        self.write_down();
        self.show();
        self.shared.open.store(Arc::default());
    }

    /// Has news of the ledger written down.
    fn write_down(&mut self) {
        if let Some(ledger) = self.machine.learnt() {
            self.notebook.write(ledger);
        }
    }

    /// Shows what has changed, and only then tells who asked for it. A view that nobody
    /// looks at any more is changed where it is; who holds one keeps it as it was.
    fn show(&mut self) {
        let (machine, now) = (&mut self.machine, self.told_at);
        self.show
            .send_modify(|view| machine.refresh(Arc::make_mut(view), now));
        self.answers.tell();
    }

    /// Turns a message into an event.
    fn take(&mut self, message: Message) {
        match message {
            Message::Acquire {
                waiter,
                candidates,
                terms,
                asker,
                answer,
            } => {
                self.answers.owe_lease(waiter, answer);
                self.witness.asked(waiter, asker);
                self.tasks.pass(Place::Pool);
                self.step(Event::Acquire {
                    waiter,
                    plan: candidates.own,
                    others: candidates.others,
                    terms,
                });
            }
            Message::Load {
                waiter,
                model,
                asker,
                answer,
            } => {
                self.answers.owe_lease(waiter, answer);
                self.witness.asked(waiter, asker);
                self.step(Event::Load { waiter, model });
            }
            Message::Cancel { waiter } => {
                self.answers.forget(waiter);
                self.witness.left(waiter);
                self.step(Event::Cancel { waiter });
            }
            Message::Look(question) => question(&self.machine, &self.witness, now()),
            Message::Idle {
                generation,
                idle_unload,
            } => self.step(Event::Idle {
                generation,
                idle_unload,
            }),
            Message::Worker { generation, report } => self.hear(generation, report),
            Message::Exited { generation, how } => self.step(Event::Exited { generation, how }),
            Message::Unload {
                model,
                mode,
                answer,
            } => {
                let reply = self.number();
                self.answers.owe_unload(reply, answer);
                self.step(Event::Unload { reply, model, mode });
            }
            Message::Hold {
                generation,
                holder,
                time,
                answer,
            } => {
                let hold = self.number();
                self.answers.owe_hold(hold, answer);
                self.step(Event::Hold {
                    hold,
                    generation,
                    holder,
                    time,
                });
            }
            Message::LetGo {
                hold,
                holder,
                answer,
            } => {
                let reply = self.number();
                self.answers.owe_letting_go(reply, answer);
                self.step(Event::LetGo {
                    reply,
                    hold,
                    holder,
                });
            }
            Message::Release { answer } => {
                let reply = self.number();
                self.answers.owe_release(reply, answer);
                self.step(Event::Release { reply });
            }
            Message::Apply { settings, models } => {
                self.told = (settings.clone(), models.clone());
                self.step(Event::Apply { settings, models });
            }
            Message::Stop { drain, done } => {
                self.stopped.push(done);
                self.step(Event::Shutdown { drain });
            }
        }
    }

    /// What a worker says.
    fn hear(&mut self, generation: Generation, report: Report) {
        let Some(process) = self.workers.get_mut(&generation) else {
            return;
        };
        match report {
            Report::Spawned { pid } => {
                process.pid = pid;
                self.step(Event::Spawned { generation, pid });
            }
            Report::Loading { progress } => self.step(Event::Progress {
                generation,
                progress,
            }),
            Report::Footprint(seen) => {
                // The network maps its weights; what other files it maps can be had again.
                let weights = match (&process.plan.engine, &process.instance) {
                    (PlannedEngine::Own(EngineKind::Mlx), Some(instance)) => {
                        ByteSize(instance.ready.bytes_held)
                    }
                    (PlannedEngine::Own(_), _) => ByteSize::ZERO,
                    (PlannedEngine::Spawned(_), _) => process.plan.weights,
                };
                let mapped = seen.mapped.min(weights);
                self.step(Event::Footprint {
                    generation,
                    held: seen.private.saturating_add(mapped),
                    peak: seen.peak.saturating_add(mapped),
                });
            }
            Report::OutOfMemory => {
                let model = process.plan.model.as_str();
                tracing::warn!(model, pid = process.pid, "{model} ran out of memory");
                self.step(Event::OutOfMemory { generation });
            }
            Report::Ready { ready, client } => {
                process.client = Some(client);
                self.step(Event::Ready { generation, ready });
            }
            Report::Failed { reason } => {
                let model = process.plan.model.as_str();
                tracing::warn!(model, pid = process.pid, ?reason, "loading {model} failed");
                self.step(Event::LoadFailed { generation, reason });
            }
        }
    }

    /// One event in, its effects carried out.
    fn step(&mut self, event: Event) {
        let now = now();
        // Whoever oversleeps missed what came meanwhile: the machine hears of that first.
        let overslept = self
            .wake
            .take()
            .map(|wake| now.saturating_duration_since(wake));
        if let Some(time) = overslept.filter(|time| *time >= LATE) {
            self.tell(Event::StoodStill { time }, now);
        }
        self.tell(event, now);
    }

    /// Tells the machine of an event at this moment.
    fn tell(&mut self, event: Event, now: Instant) {
        self.told_at = now;
        let effects = self.machine.on(event, now);
        self.witness.see(&effects, now);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Does one thing.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::StandBy { generation, plan } => {
                let model = plan.model.as_str();
                tracing::info!(model, "starting a process for {model}, which comes up next");
                self.spawn(generation, plan, false);
            }
            Effect::Start { generation, plan } => self.start(generation, plan),
            Effect::Stop {
                generation,
                leave,
                reason,
            } => {
                if let Some(process) = self.workers.get(&generation) {
                    let model = process.plan.model.as_str();
                    let reason = reason.map(UnloadReason::as_str);
                    tracing::info!(model, pid = process.pid, reason, "ending {model}");
                    process.stop.send_replace(Some(leave));
                }
            }
            Effect::Open {
                generation,
                gate,
                ready,
            } => self.open(generation, gate, ready),
            Effect::Grant {
                waiter,
                generation,
                waited,
                position,
            } => self.grant(waiter, generation, waited, position),
            // Told to the witness alone.
            Effect::Queued { .. } | Effect::Displace { .. } | Effect::Spare { .. } => {}
            Effect::Refuse { waiter, refused } => self.answers.lease(waiter, Err(refused)),
            Effect::End { generation, ending } => self.tell_end(generation, ending),
            Effect::Unloaded { reply, result } => self.answers.unload(reply, result),
            Effect::BringBack { model, failed } => {
                tracing::warn!(
                    model,
                    failed,
                    "{model} comes back: {failed}, for which it went, could not be loaded"
                );
            }
            Effect::Held { hold, result } => self.tell_held(hold, result),
            Effect::LetGo { reply, result } => self.answers.letting_go(reply, result),
            Effect::Released { reply, models } => self.answers.release(reply, models),
            Effect::Forget {
                generation,
                model,
                reason,
                how,
            } => self.forget(generation, &model, reason, &how),
        }
    }

    /// Has a worker load: the one whose process stands by, or a new one.
    fn start(&mut self, generation: Generation, plan: Arc<LoadPlan>) {
        let model = plan.model.as_str();
        let stands_by = self.workers.get_mut(&generation);
        let pid = stands_by.as_ref().map(|process| process.pid);
        tracing::info!(model, pid, memory = %plan.memory, "loading {model}");
        match stands_by {
            Some(process) => {
                process.started = now();
                process.load.send_replace(true);
            }
            None => self.spawn(generation, plan, true),
        }
    }

    /// Starts a worker process and the task that sees it through to its end. It loads at
    /// once or when it is told to.
    fn spawn(&mut self, generation: Generation, plan: Arc<LoadPlan>, loads: bool) {
        let (stop, stopped) = watch::channel(None);
        let (load, may_load) = watch::channel(loads);
        let owner = self.shared.owner.clone();
        let report = move |report| {
            let _ = owner.send(Message::Worker { generation, report });
        };
        let run = self.launcher.run(plan.clone(), report, may_load, stopped);
        let mut farewell = Farewell {
            owner: self.shared.owner.clone(),
            generation,
            how: "was lost".to_owned(),
        };
        self.tasks.spawn(async move {
            farewell.how = run.await;
            drop(farewell);
        });
        let process = Process {
            plan,
            pid: 0,
            started: now(),
            load,
            stop,
            client: None,
            instance: None,
        };
        self.workers.insert(generation, process);
    }

    /// A worker may be used: its gate goes where everybody finds it.
    fn open(&mut self, generation: Generation, gate: Arc<Gate>, ready: Arc<Ready>) {
        let Some(process) = self.workers.get_mut(&generation) else {
            return;
        };
        let Some(client) = process.client.take() else {
            return;
        };
        let model = process.plan.model.clone();
        let load_ms = (now() - process.started).as_millis() as u64;
        tracing::info!(model, pid = process.pid, load_ms, "{model} is ready");
        let instance = Arc::new(Instance {
            generation,
            pid: process.pid,
            plan: process.plan.clone(),
            ready,
            gate,
            client,
            ending: watch::channel(None).0,
            owner: self.shared.owner.clone(),
        });
        process.instance = Some(instance.clone());
        self.shared.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.insert(model.clone(), instance.clone());
            open
        });
    }

    /// Hands a counted lease over.
    fn grant(
        &mut self,
        waiter: WaiterId,
        generation: Generation,
        waited: Duration,
        position: usize,
    ) {
        let process = self.workers.get(&generation);
        let Some(instance) = process.and_then(|process| process.instance.clone()) else {
            return;
        };
        let lease = Lease::counted(instance, waited, position);
        self.answers.lease(waiter, Ok(lease));
    }

    /// Tells whether a model is held.
    fn tell_held(&mut self, hold: HoldId, result: Result<(), HoldError>) {
        let owner = self.shared.owner.clone();
        self.answers.hold(hold, result, move || {
            let (answer, _) = oneshot::channel();
            let _ = owner.send(Message::LetGo {
                hold,
                holder: None,
                answer,
            });
        });
    }

    /// Tells the holders of leases that it is over.
    fn tell_end(&mut self, generation: Generation, ending: Ending) {
        let process = self.workers.get(&generation);
        if let Some(instance) = process.and_then(|process| process.instance.as_ref()) {
            if let Ending::Outgrew {
                held,
                promised,
                budget,
            } = ending
            {
                let model = instance.plan.model.as_str();
                let (held, promised, budget) = (held.0, promised.0, budget.0);
                let pid = instance.pid;
                tracing::error!(
                    model,
                    pid,
                    held,
                    promised,
                    budget,
                    "{model} holds more than it may"
                );
            }
            instance.ending.send_replace(Some(ending));
        }
    }

    /// Drops what is kept of a worker that has been reaped.
    fn forget(
        &mut self,
        generation: Generation,
        model: &str,
        reason: Option<UnloadReason>,
        how: &str,
    ) {
        let pid = self.workers.remove(&generation).map(|process| process.pid);
        self.shared.open.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.retain(|_, instance| instance.generation != generation);
            open
        });
        match reason {
            Some(UnloadReason::Crashed) => {
                tracing::error!(model, pid, how, "the worker of {model} {how}");
            }
            _ => {
                let reason = reason.map(UnloadReason::as_str);
                tracing::info!(model, pid, reason, how, "{model} is gone");
            }
        }
    }

    /// A number for somebody who waits.
    fn number(&self) -> u64 {
        self.shared.last_number.fetch_add(1, Ordering::Relaxed)
    }
}

/// Tells the owner that a worker is gone, also if the task that saw to it panicked.
struct Farewell {
    owner: mpsc::UnboundedSender<Message>,
    generation: Generation,
    how: String,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.owner.send(Message::Exited {
            generation: self.generation,
            how: std::mem::take(&mut self.how),
        });
    }
}

/// The runtime's clock, which tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
