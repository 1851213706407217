//! The pool's one owner: a task that feeds the machine with what happens and
//! carries out what it answers. It decides nothing. Whoever wants something of
//! the pool sends it a message, except for a lease on an open gate, which is
//! taken without asking.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::lease::Instance;
use super::state::{Effect, Event, Generation, Machine, ReplyId, WaiterId};
use super::{
    Ending, Lease, Refused, Resident, Settings, UnloadError, UnloadMode, UnloadReason, View,
};
use crate::shutdown::Tasks;
use crate::worker::LoadPlan;
use crate::worker::client::Client;
use crate::worker::process::{Launch, Report};

/// Messages taken in before the view is made anew.
const BURST: usize = 256;

/// A handle to the pool. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// What the handles and the owner have in common.
struct Shared {
    owner: mpsc::UnboundedSender<Message>,
    /// Where gates may be open, by model. Being behind is harmless: a closed gate
    /// gives nothing.
    open: ArcSwap<HashMap<String, Arc<Instance>>>,
    view: watch::Receiver<Arc<View>>,
    last_number: AtomicU64,
}

/// What the owner is told.
pub(super) enum Message {
    /// A request wants a lease.
    Acquire {
        waiter: WaiterId,
        plan: Arc<LoadPlan>,
        answer: oneshot::Sender<Result<Lease, Refused>>,
    },
    /// A model is to be brought up.
    Load {
        waiter: WaiterId,
        model: String,
        answer: oneshot::Sender<Result<Lease, Refused>>,
    },
    /// A waiter has left.
    Cancel { waiter: WaiterId },
    /// The last lease was given back.
    Idle { generation: Generation },
    /// A worker says something.
    Worker {
        generation: Generation,
        report: Report,
    },
    /// A worker's process has been reaped.
    Exited { generation: Generation, how: String },
    /// A model is to go.
    Unload {
        model: String,
        mode: UnloadMode,
        answer: oneshot::Sender<Result<(), UnloadError>>,
    },
    /// Everything idle is to go.
    Release {
        answer: oneshot::Sender<Vec<String>>,
    },
    /// A reload.
    Apply {
        settings: Settings,
        models: Vec<Resident>,
    },
    /// The server goes down.
    Stop {
        drain: Duration,
        done: oneshot::Sender<()>,
    },
}

impl Pool {
    /// Starts the owner, and with it the loads of what is kept or preloaded.
    pub fn start(
        settings: Settings,
        models: Vec<Resident>,
        launcher: impl Launch,
        tasks: &Tasks,
    ) -> Self {
        let now = now();
        let machine = Machine::new(settings, models, now);
        let (owner, inbox) = mpsc::unbounded_channel();
        let (show, view) = watch::channel(Arc::new(machine.view(now)));
        let shared = Arc::new(Shared {
            owner,
            open: ArcSwap::default(),
            view,
            last_number: AtomicU64::new(0),
        });
        let owner = Owner {
            machine,
            launcher,
            tasks: tasks.clone(),
            shared: shared.clone(),
            inbox,
            show,
            waiters: HashMap::new(),
            unloads: HashMap::new(),
            releases: HashMap::new(),
            workers: HashMap::new(),
            stopped: Vec::new(),
        };
        tasks.spawn(owner.run());
        Self { shared }
    }

    /// Waits for a lease. Dropping the future gives up the place in the line.
    pub async fn acquire(&self, plan: &Arc<LoadPlan>) -> Result<Lease, Refused> {
        if let Some(lease) = self.take_open(&plan.model) {
            return Ok(lease);
        }
        self.wait(|waiter, answer| Message::Acquire {
            waiter,
            plan: plan.clone(),
            answer,
        })
        .await
    }

    /// A lease through an open gate: no message, no lock.
    fn take_open(&self, model: &str) -> Option<Lease> {
        self.shared.open.load().get(model).and_then(Lease::take)
    }

    /// Takes over a reload. Call it just before the snapshot is published: then
    /// every request that sees the new snapshot finds its models known here.
    pub fn apply(&self, settings: Settings, models: Vec<Resident>) {
        // A pool that is down needs no settings.
        let _ = self.shared.owner.send(Message::Apply { settings, models });
    }

    /// Brings a model up without using it; answers when it is ready.
    pub async fn load(&self, model: &str) -> Result<(), Refused> {
        self.wait(|waiter, answer| Message::Load {
            waiter,
            model: model.to_owned(),
            answer,
        })
        .await
        .map(drop)
    }

    /// Unloads a model; answers when its process has been reaped.
    pub async fn unload(&self, model: &str, mode: UnloadMode) -> Result<(), UnloadError> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Unload {
            model: model.to_owned(),
            mode,
            answer,
        });
        result.await.unwrap_or(Err(UnloadError::ShuttingDown))
    }

    /// Unloads every idle model that is not kept; answers which, as soon as
    /// nobody can take a lease on them any more.
    pub async fn release(&self) -> Vec<String> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Release { answer });
        result.await.unwrap_or_default()
    }

    /// The pool as it is shown.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Follows the view.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.clone()
    }

    /// Whether everything kept or preloaded has been brought up, or has failed once.
    pub fn ready(&self) -> bool {
        let view = self.shared.view.borrow();
        view.preloading == 0 && !view.stopping
    }

    /// Refuses everything new, lets leases run on for `drain`, revokes the rest;
    /// answers when every process has been reaped.
    pub async fn stop(&self, drain: Duration) {
        let (done, over) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Stop { drain, done });
        // An owner that is gone already has nothing left to stop.
        let _ = over.await;
    }

    /// Sends a message that is answered with a lease, and waits for it.
    async fn wait(
        &self,
        message: impl FnOnce(WaiterId, oneshot::Sender<Result<Lease, Refused>>) -> Message,
    ) -> Result<Lease, Refused> {
        let waiter = self.shared.last_number.fetch_add(1, Ordering::Relaxed);
        let (answer, result) = oneshot::channel();
        let mut place = Place {
            shared: &self.shared,
            waiter,
            is_answered: false,
        };
        let _ = self.shared.owner.send(message(waiter, answer));
        let result = result.await.unwrap_or(Err(Refused::ShuttingDown));
        place.is_answered = true;
        result
    }
}

/// A place in the line, given up by drop.
struct Place<'a> {
    shared: &'a Shared,
    waiter: WaiterId,
    is_answered: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let _ = self.shared.owner.send(Message::Cancel {
                waiter: self.waiter,
            });
        }
    }
}

/// The one owner of the machine.
struct Owner<L> {
    machine: Machine,
    launcher: L,
    tasks: Tasks,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Message>,
    show: watch::Sender<Arc<View>>,
    waiters: HashMap<WaiterId, oneshot::Sender<Result<Lease, Refused>>>,
    unloads: HashMap<ReplyId, oneshot::Sender<Result<(), UnloadError>>>,
    releases: HashMap<ReplyId, oneshot::Sender<Vec<String>>>,
    workers: HashMap<Generation, Process>,
    stopped: Vec<oneshot::Sender<()>>,
}

/// What the owner holds of a worker process.
struct Process {
    plan: Arc<LoadPlan>,
    pid: u32,
    started: Instant,
    /// Setting a grace time ends the process.
    stop: watch::Sender<Option<Duration>>,
    client: Option<Client>,
    instance: Option<Arc<Instance>>,
}

impl<L: Launch> Owner<L> {
    /// Runs until the server goes down and every process has been reaped.
    async fn run(mut self) {
        let stop = self.tasks.stop_signal();
        let mut is_told = false;
        self.step(Event::Tick);
        while !self.machine.is_over() {
            self.show.send_replace(Arc::new(self.machine.view(now())));
            let wake = self.machine.next_wake(now());
            tokio::select! {
                Some(message) = self.inbox.recv() => {
                    self.take(message);
                    for _ in 0..BURST {
                        let Ok(message) = self.inbox.try_recv() else { break };
                        self.take(message);
                    }
                }
                () = until(wake) => self.step(Event::Tick),
                () = stop.cancelled(), if !is_told => {
                    is_told = true;
                    self.step(Event::Shutdown { drain: Duration::ZERO });
                }
            }
        }
        self.show.send_replace(Arc::new(self.machine.view(now())));
        self.shared.open.store(Arc::default());
        for done in self.stopped {
            let _ = done.send(());
        }
    }

    /// Turns a message into an event.
    fn take(&mut self, message: Message) {
        match message {
            Message::Acquire {
                waiter,
                plan,
                answer,
            } => {
                self.waiters.insert(waiter, answer);
                self.step(Event::Acquire { waiter, plan });
            }
            Message::Load {
                waiter,
                model,
                answer,
            } => {
                self.waiters.insert(waiter, answer);
                self.step(Event::Load { waiter, model });
            }
            Message::Cancel { waiter } => {
                self.waiters.remove(&waiter);
                self.step(Event::Cancel { waiter });
            }
            Message::Idle { generation } => self.step(Event::Idle { generation }),
            Message::Worker { generation, report } => self.hear(generation, report),
            Message::Exited { generation, how } => self.step(Event::Exited { generation, how }),
            Message::Unload {
                model,
                mode,
                answer,
            } => {
                let reply = self.number();
                self.unloads.insert(reply, answer);
                self.step(Event::Unload { reply, model, mode });
            }
            Message::Release { answer } => {
                let reply = self.number();
                self.releases.insert(reply, answer);
                self.step(Event::Release { reply });
            }
            Message::Apply { settings, models } => self.step(Event::Apply { settings, models }),
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
            Report::Ready { ready, client } => {
                process.client = Some(client);
                let ready = Arc::new(ready);
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
        for effect in self.machine.on(event, now()) {
            self.carry_out(effect);
        }
    }

    /// Does one thing.
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { generation, plan } => self.start(generation, plan),
            Effect::Stop {
                generation,
                grace,
                reason,
            } => {
                if let Some(process) = self.workers.get(&generation) {
                    let model = process.plan.model.as_str();
                    tracing::info!(model, pid = process.pid, ?reason, "ending {model}");
                    process.stop.send_replace(Some(grace));
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
            Effect::Refuse { waiter, refused } => {
                if let Some(answer) = self.waiters.remove(&waiter) {
                    let _ = answer.send(Err(refused));
                }
            }
            Effect::End { generation, ending } => self.tell_end(generation, ending),
            Effect::Unloaded { reply, result } => {
                if let Some(answer) = self.unloads.remove(&reply) {
                    let _ = answer.send(result);
                }
            }
            Effect::Released { reply, models } => {
                if let Some(answer) = self.releases.remove(&reply) {
                    let _ = answer.send(models);
                }
            }
            Effect::Forget {
                generation,
                model,
                reason,
                how,
            } => self.forget(generation, &model, reason, &how),
        }
    }

    /// Starts a worker process and the task that sees it through to its end.
    fn start(&mut self, generation: Generation, plan: Arc<LoadPlan>) {
        let model = plan.model.as_str();
        tracing::info!(model, memory = %plan.memory, "loading {model}");
        let (stop, stopped) = watch::channel(None);
        let owner = self.shared.owner.clone();
        let report = move |report| {
            let _ = owner.send(Message::Worker { generation, report });
        };
        let run = self.launcher.run(plan.clone(), report, stopped);
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
            stop,
            client: None,
            instance: None,
        };
        self.workers.insert(generation, process);
    }

    /// A worker may be used: its gate goes where everybody finds it.
    fn open(
        &mut self,
        generation: Generation,
        gate: Arc<super::gate::Gate>,
        ready: Arc<crate::worker::Ready>,
    ) {
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

    /// Hands a counted lease over. If nobody takes it, it gives itself back.
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
        if let Some(answer) = self.waiters.remove(&waiter) {
            let _ = answer.send(Ok(lease));
        }
    }

    /// Tells the holders of leases that it is over.
    fn tell_end(&mut self, generation: Generation, ending: Ending) {
        let process = self.workers.get(&generation);
        if let Some(instance) = process.and_then(|process| process.instance.as_ref()) {
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
            _ => tracing::info!(model, pid, ?reason, how, "{model} is gone"),
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
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until then, or for ever.
async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
