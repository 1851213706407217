//! The permission to use a model. A [`Lease`] is the only way to a worker; it
//! belongs to the half that reads the engine and is given back by being dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::gate::Gate;
use super::state::Generation;
use super::task::Message;
use super::{UnloadMode, UnloadReason};
use crate::units::ByteSize;
use crate::worker::client::Client;
use crate::worker::{LoadPlan, Ready};

/// Why a lease ended before it was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The worker died; says how, without paths.
    Crashed(String),
    /// The pool takes the model away: an unload with mode `now`, or the drain
    /// deadline of the server has passed.
    Revoked(UnloadReason),
    /// The system ended the worker because memory ran out.
    OutOfMemory,
    /// The worker held more than it may, and was ended for it.
    Outgrew {
        /// What it held.
        held: ByteSize,
        /// What was reserved for it.
        promised: ByteSize,
        /// The budget that was passed.
        budget: ByteSize,
    },
    /// The pool lost its state and starts again with nothing loaded.
    Lost,
}

/// One ready worker, shared by its leases and the pool's map of open gates.
pub(super) struct Instance {
    pub generation: Generation,
    pub pid: u32,
    pub plan: Arc<LoadPlan>,
    pub ready: Arc<Ready>,
    pub gate: Arc<Gate>,
    pub client: Client,
    pub ending: watch::Sender<Option<Ending>>,
    pub owner: mpsc::UnboundedSender<Message>,
}

/// The permission to use one ready model, given back by drop.
pub struct Lease {
    instance: Arc<Instance>,
    waited: Duration,
    position: usize,
    idle_unload: Option<Duration>,
}

impl Lease {
    /// Wraps a lease that was already counted in the gate.
    pub(super) fn counted(instance: Arc<Instance>, waited: Duration, position: usize) -> Self {
        Self {
            instance,
            waited,
            position,
            idle_unload: None,
        }
    }

    /// If it is the last to be given back, the model is to stay so long.
    pub(super) fn idle_unload(mut self, wish: Option<Duration>) -> Self {
        self.idle_unload = wish;
        self
    }

    /// Takes a lease if the gate is open, without asking the owner.
    pub(super) fn take(instance: &Arc<Instance>) -> Option<Self> {
        instance
            .gate
            .take()
            .then(|| Self::counted(instance.clone(), Duration::ZERO, 0))
    }

    /// The way to the worker.
    pub fn client(&self) -> &Client {
        &self.instance.client
    }

    /// How the model was brought up. After a reload this can be older than the
    /// plan that was asked for: load settings hold at the next load.
    pub fn plan(&self) -> &Arc<LoadPlan> {
        &self.instance.plan
    }

    /// What the worker said of itself.
    pub fn ready(&self) -> &Ready {
        &self.instance.ready
    }

    /// The process that answers.
    pub fn pid(&self) -> u32 {
        self.instance.pid
    }

    /// Counts the processes the pool has started; no two are the same.
    pub fn generation(&self) -> u64 {
        self.instance.generation
    }

    /// How long the request waited for the lease.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// How many requests, of all models, were waiting when it joined the queue.
    pub fn queue_position(&self) -> usize {
        self.position
    }

    /// Has the worker leave after its last lease, this one among them: it has
    /// fallen silent, and who comes next gets another.
    pub fn give_up(&self) {
        let (answer, _) = oneshot::channel();
        // Without an owner there is nothing left to give up.
        let _ = self.instance.owner.send(Message::Unload {
            model: self.instance.plan.model.clone(),
            mode: UnloadMode::Drain,
            answer,
        });
    }

    /// Why the lease ended early, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.instance.ending.borrow().clone()
    }

    /// Waits until the lease ends early; for ever if it never does. Does not
    /// borrow the lease, so that it can be awaited beside its use.
    pub fn ended(&self) -> impl Future<Output = Ending> + Send + use<> {
        let mut ending = self.instance.ending.subscribe();
        async move {
            match ending.wait_for(Option::is_some).await {
                Ok(value) => value.clone().unwrap_or_else(unexplained),
                Err(_) => unexplained(),
            }
        }
    }
}

/// The instance was forgotten without a word, which only a lost owner does.
fn unexplained() -> Ending {
    Ending::Crashed("the pool is gone".to_owned())
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.instance.gate.give_back() {
            // Without an owner nobody keeps an idle clock any more.
            let _ = self.instance.owner.send(Message::Idle {
                generation: self.instance.generation,
                idle_unload: self.idle_unload,
            });
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("model", &self.instance.plan.model)
            .field("generation", &self.instance.generation)
            .field("waited", &self.waited)
            .finish_non_exhaustive()
    }
}
