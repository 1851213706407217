//! The handle to the pool, and the pool's one owner: a task that feeds the machine
//! with what happens and carries out what it answers, deciding nothing. Whoever wants something of
//! the pool sends it a message, except for a lease on an open gate, which is
//! taken without asking.

mod owner;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use tokio::sync::{mpsc, oneshot, watch};

use self::owner::{Owner, now};
use super::forecast::{Forecast, Waiting};
use super::lease::Instance;
use super::ledger::file::Notebook;
use super::state::{Generation, HoldId, Machine, WaiterId};
use super::swaps::{Book, Witness};
use super::{
    Asker, Candidates, HoldError, Lease, Refused, Resident, Settings, Terms, UnloadError,
    UnloadMode, View,
};
use crate::shutdown::Tasks;
use crate::worker::client::Client;
use crate::worker::process::{Launch, Report};
use crate::worker::{LoadPlan, PlannedEngine};

/// A handle to the pool. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Who asks through this handle.
    asker: Option<Arc<Asker>>,
}

/// A question to the machine, which it answers without changing anything.
type Question = Box<dyn FnOnce(&Machine, &Witness, Instant) + Send>;

/// What the handles and the owner have in common.
struct Shared {
    owner: mpsc::UnboundedSender<Message>,
    /// Where gates may be open, by model. Being behind is harmless: a closed gate
    /// gives nothing.
    open: ArcSwap<HashMap<String, Arc<Instance>>>,
    view: watch::Receiver<Arc<View>>,
    book: Book,
    last_number: AtomicU64,
}

/// What the owner is told.
pub(super) enum Message {
    /// A request wants a lease.
    Acquire {
        waiter: WaiterId,
        candidates: Candidates,
        terms: Terms,
        asker: Option<Arc<Asker>>,
        answer: oneshot::Sender<Result<Lease, Refused>>,
    },
    /// A model is to be brought up.
    Load {
        waiter: WaiterId,
        model: String,
        asker: Option<Arc<Asker>>,
        answer: oneshot::Sender<Result<Lease, Refused>>,
    },
    /// Somebody wants to know something.
    Look(Question),
    /// A waiter has left.
    Cancel { waiter: WaiterId },
    /// The last lease was given back.
    Idle {
        generation: Generation,
        idle_unload: Option<Duration>,
    },
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
    /// A model that somebody uses is to be held.
    Hold {
        generation: Generation,
        holder: String,
        time: Duration,
        answer: oneshot::Sender<Result<HoldId, HoldError>>,
    },
    /// A residency lease is given back.
    LetGo {
        hold: HoldId,
        holder: Option<String>,
        answer: oneshot::Sender<Result<String, HoldError>>,
    },
    /// Everything idle is to go.
    Release {
        answer: oneshot::Sender<Result<Vec<String>, UnloadError>>,
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
    /// `notebook` has what was learnt of the models before.
    pub fn open(
        settings: Settings,
        models: Vec<Resident>,
        mut notebook: Notebook,
        launcher: impl Launch,
        tasks: &Tasks,
    ) -> Self {
        let now = now();
        let told = (settings.clone(), models.clone());
        let mut machine = Machine::new(settings, models, now);
        machine.teach(std::mem::take(&mut notebook.ledger), now);
        let (owner, inbox) = mpsc::unbounded_channel();
        let (show, view) = watch::channel(Arc::new(machine.view(now)));
        let shared = Arc::new(Shared {
            owner,
            open: ArcSwap::default(),
            view,
            book: Book::default(),
            last_number: AtomicU64::new(0),
        });
        let owner = Owner::new(
            machine,
            told,
            launcher,
            tasks,
            (shared.clone(), notebook),
            inbox,
            show,
        );
        tasks.spawn(owner.supervise());
        Self {
            shared,
            asker: None,
        }
    }

    /// A handle through which this one asks.
    pub fn asked_by(&self, asker: Arc<Asker>) -> Self {
        Self {
            shared: self.shared.clone(),
            asker: Some(asker),
        }
    }

    /// A pool that begins with nothing learnt and writes nothing down.
    pub fn start(
        settings: Settings,
        models: Vec<Resident>,
        launcher: impl Launch,
        tasks: &Tasks,
    ) -> Self {
        Self::open(settings, models, Notebook::default(), launcher, tasks)
    }

    /// Waits for a lease on a model, or on one of several: the lease says which.
    /// Dropping the future gives up the place in the line.
    pub async fn acquire(
        &self,
        candidates: impl Into<Candidates>,
        terms: Terms,
    ) -> Result<Lease, Refused> {
        let candidates = candidates.into();
        if let Some(lease) = self.take_open(&candidates.own.model) {
            return Ok(lease.idle_unload(terms.idle_unload));
        }
        let waited = self.wait(|waiter, answer| Message::Acquire {
            waiter,
            candidates,
            terms,
            asker: self.asker.clone(),
            answer,
        });
        Ok(waited.await?.idle_unload(terms.idle_unload))
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

    /// Brings a model up, whatever `pool.autoload` says; answers with a lease when it is
    /// ready.
    pub async fn load(&self, model: &str) -> Result<Lease, Refused> {
        self.wait(|waiter, answer| Message::Load {
            waiter,
            model: model.to_owned(),
            asker: self.asker.clone(),
            answer,
        })
        .await
    }

    /// Holds the model that a lease is on: it stays for `time`, whoever waits for
    /// others. Answers the number of the residency lease; if nobody waits for
    /// the answer any more, it is given back.
    pub async fn hold(
        &self,
        lease: &Lease,
        holder: &str,
        time: Duration,
    ) -> Result<HoldId, HoldError> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Hold {
            generation: lease.generation(),
            holder: holder.to_owned(),
            time,
            answer,
        });
        result.await.unwrap_or_else(|_| Err(self.not_held()))
    }

    /// Gives a residency lease back, only that of `holder` if one is named; answers
    /// the model.
    pub async fn let_go(&self, hold: HoldId, holder: Option<&str>) -> Result<String, HoldError> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::LetGo {
            hold,
            holder: holder.map(str::to_owned),
            answer,
        });
        result.await.unwrap_or_else(|_| Err(self.not_held()))
    }

    /// Why there is no answer about a residency lease.
    fn not_held(&self) -> HoldError {
        match self.unanswered() {
            UnloadError::ShuttingDown => HoldError::ShuttingDown,
            _ => HoldError::Lost,
        }
    }

    /// Unloads a model; answers when its process has been reaped.
    pub async fn unload(&self, model: &str, mode: UnloadMode) -> Result<(), UnloadError> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Unload {
            model: model.to_owned(),
            mode,
            answer,
        });
        result.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// Why a message was dropped without an answer: the owner is gone for good, or
    /// it panicked over that message.
    fn unanswered(&self) -> UnloadError {
        match self.shared.owner.is_closed() {
            true => UnloadError::ShuttingDown,
            false => UnloadError::Lost,
        }
    }

    /// Unloads every idle model that is not kept; answers which, as soon as
    /// nobody can take a lease on them any more.
    pub async fn release(&self) -> Result<Vec<String>, UnloadError> {
        let (answer, result) = oneshot::channel();
        let _ = self.shared.owner.send(Message::Release { answer });
        result.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    /// What would happen to a request for this model that came now; nothing if the
    /// pool is down or starts again.
    pub async fn forecast(&self, plan: &Arc<LoadPlan>, terms: Terms) -> Option<Forecast> {
        let plan = plan.clone();
        self.look(move |machine, _, now| machine.forecast(&plan, &terms, now))
            .await
    }

    /// Everybody who waits, in the order in which they stand, with who it is.
    pub async fn queue(&self) -> Vec<(Waiting, Option<Arc<Asker>>)> {
        let queue = self.look(|machine, witness, now| {
            let queue = machine.queue(now).into_iter();
            let named = queue.map(|waiting| {
                let asker = witness.asker(waiting.waiter).cloned();
                (waiting, asker)
            });
            named.collect()
        });
        queue.await.unwrap_or_default()
    }

    /// Asks the owner something.
    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Machine, &Witness, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |machine, witness, now| {
            // Whoever asked may have gone.
            let _ = answer.send(question(machine, witness, now));
        });
        let _ = self.shared.owner.send(Message::Look(question));
        answered.await.ok()
    }

    /// The way to each worker of our own that is up, by model. Nothing is leased: what is
    /// asked this way is no use of the model, and its worker may be gone by then.
    pub fn own_workers(&self) -> Vec<(String, Client)> {
        let open = self.shared.open.load();
        let own = open
            .iter()
            .filter(|(_, instance)| matches!(instance.plan.engine, PlannedEngine::Own(_)));
        own.map(|(model, instance)| (model.clone(), instance.client.clone()))
            .collect()
    }

    /// The book of swaps.
    pub fn book(&self) -> &Book {
        &self.shared.book
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
        let result = result.await.unwrap_or_else(|_| {
            Err(match self.unanswered() {
                UnloadError::ShuttingDown => Refused::ShuttingDown,
                _ => Refused::Lost,
            })
        });
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

#[cfg(test)]
mod tests;
