//! The one task that replaces the configuration: prepare (may fail), publish
//! (cannot), tell the pool. It does so when somebody asks, and when the file or the
//! cache folders look different. What they look like is told by `seen`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::seen::{Difference, Seen};
use super::{pool_settings, residents};
use crate::access::keys::KeyRing;
use crate::config::Config;
use crate::config::problem::Problems;
use crate::follow;
use crate::pool::task::Pool;
use crate::records::Records;
use crate::registry::{Change, Registry};
use crate::shutdown::{Place, Tasks};

/// How long a file has to look the same before it is read: an editor that empties
/// it and then writes is not met in between.
const SETTLES: Duration = Duration::from_millis(60);

/// How often that is waited for; a file that never rests is read all the same.
const PATIENCE: usize = 8;

/// Reads the configuration again; made by whoever knows where it lies.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, ReloadError> + Send + Sync>;

/// What follows the configuration besides the pool: the log and the request log.
pub type Follow = Box<dyn Fn(&Config) + Send + Sync>;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or has problems; the last good one stays in force.
    #[error("{0}")]
    Config(crate::config::locate::LoadError),
    /// The cache cannot give what the file asks for.
    #[error("{0}")]
    Problems(Problems),
    /// The keys file could not be read.
    #[error("{0}")]
    Keys(crate::access::keys::KeyError),
    /// It panicked.
    #[error("an internal error while the configuration was read; the log has it")]
    Panicked,
    /// The task that reloads is gone.
    #[error("the server is shutting down")]
    Stopping,
}

type Outcome = Result<Change, ReloadError>;

/// Asks the one task that replaces the configuration.
#[derive(Clone)]
pub struct Reload {
    requests: mpsc::Sender<oneshot::Sender<Outcome>>,
    last_failure: watch::Receiver<Option<String>>,
}

/// What the task works with.
pub struct Parts {
    /// Reads the file.
    pub read: ReadConfig,
    /// What else follows the configuration.
    pub follow: Follow,
    /// Where it is told and counted.
    pub records: Records,
    /// Holds the snapshot in force.
    pub registry: Arc<Registry>,
    /// The keys, which are read again as well.
    pub keys: Arc<KeyRing>,
    /// Is told before the snapshot is in force.
    pub pool: Pool,
}

impl Reload {
    /// Starts the task. It reads and looks off the runtime's threads.
    pub fn start(parts: Parts, tasks: &Tasks) -> Self {
        let (requests, asked) = mpsc::channel(8);
        let (failed, last_failure) = watch::channel(None);
        let task = Task {
            seen: Seen::of(&parts.registry.load().config),
            parts: Arc::new(parts),
            failed,
            tasks: tasks.clone(),
        };
        tasks.spawn(task.run(asked));
        Self {
            requests,
            last_failure,
        }
    }

    /// Reads, checks and replaces the configuration; answers what is different.
    pub async fn reload(&self) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.requests
            .send(reply)
            .await
            .map_err(|_| ReloadError::Stopping)?;
        outcome.await.map_err(|_| ReloadError::Stopping)?
    }

    /// Why the last reload failed, if it did.
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.borrow().clone()
    }
}

/// The task.
struct Task {
    parts: Arc<Parts>,
    /// What file and folders looked like before they were read last.
    seen: Seen,
    failed: watch::Sender<Option<String>>,
    tasks: Tasks,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<Outcome>>) {
        let stop = self.tasks.stop_signal();
        let mut tick = tokio::time::interval(follow::EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                reply = asked.recv() => {
                    let Some(reply) = reply else { return };
                    self.look().await;
                    let outcome = self.reload().await;
                    // Whoever asked may be gone.
                    let _ = reply.send(outcome);
                }
                _ = tick.tick() => {
                    if self.look().await.is_some() {
                        // What came of it has been told.
                        let _ = self.reload().await;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at the file and the folders; answers what is different, once that has
    /// settled.
    async fn look(&mut self) -> Option<Difference> {
        let mut found = None;
        for _ in 0..PATIENCE {
            let (mut seen, parts) = (self.seen.clone(), self.parts.clone());
            let looked = tokio::task::spawn_blocking(move || {
                let difference = seen.look(&parts.registry.load().config);
                (seen, difference)
            });
            let Ok((seen, difference)) = looked.await else {
                break;
            };
            self.seen = seen;
            if difference.is_none() {
                break;
            }
            found = difference;
            tokio::time::sleep(SETTLES).await;
        }
        found
    }

    /// Replaces the configuration, and tells how that went.
    async fn reload(&self) -> Outcome {
        let records = &self.parts.records;
        let replacing = async {
            self.tasks.pass(Place::Reload);
            replace(&self.parts).await
        };
        // A panic costs whoever asked; the next reload is a new attempt.
        let outcome = AssertUnwindSafe(replacing).catch_unwind().await;
        let outcome = outcome.unwrap_or(Err(ReloadError::Panicked));
        match &outcome {
            Ok(change) => {
                let change = change.to_string();
                tracing::info!(change, "configuration reloaded");
            }
            Err(error) => {
                if matches!(error, ReloadError::Panicked) {
                    records.counters.panicked(Place::Reload.as_str());
                }
                let error = error.to_string();
                tracing::error!(error, "configuration not reloaded");
            }
        }
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.failed.send_replace(failure);
        records.events.tell("config_reload", || {
            let change = outcome.as_ref().map(ToString::to_string).ok();
            json!({"success": outcome.is_ok(), "change": change}).to_string()
        });
        outcome
    }
}

async fn replace(parts: &Arc<Parts>) -> Outcome {
    let preparing = parts.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        let Parts {
            read,
            registry,
            keys,
            ..
        } = &*preparing;
        let snapshot = registry.prepare(read()?).map_err(ReloadError::Problems)?;
        // The keys are followed by themselves; who reloads wants no second of patience.
        keys.refresh().map_err(ReloadError::Keys)?;
        Ok(snapshot)
    });
    let prepared = prepared.await.map_err(|error| match error.is_panic() {
        true => ReloadError::Panicked,
        false => ReloadError::Stopping,
    });
    let snapshot = prepared??;
    (parts.follow)(&snapshot.config);
    // Before the snapshot: then every request that sees it finds its models known.
    parts
        .pool
        .apply(pool_settings(&snapshot), residents(&snapshot));
    Ok(parts.registry.publish(snapshot))
}
