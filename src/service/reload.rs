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

use super::seen::Seen;
use super::{pool_settings, residents};
use crate::access::keys::KeyRing;
use crate::config::Config;
use crate::config::problem::Problems;
use crate::pool::task::Pool;
use crate::records::Records;
use crate::registry::{Change, Registry};
use crate::shutdown::{Place, Tasks};

/// How often the file is looked at: with the settling and the reading, an edit is in
/// force well within a second.
const LOOKS: Duration = Duration::from_millis(250);

/// How long a file has to look the same before it is read: an editor that empties
/// it and then writes is not met in between.
const SETTLES: Duration = Duration::from_millis(60);

/// How often that is waited for; a file that never rests is read all the same.
const PATIENCE: usize = 8;

/// Reads the configuration again, or a text as if it stood in the file's place; made
/// by whoever knows where that lies.
pub type ReadConfig = Box<dyn Fn(Option<String>) -> Result<Config, ReloadError> + Send + Sync>;

/// What follows the configuration besides the pool: the log, the request log, and the
/// ways to upstreams.
pub type Follow = Box<dyn Fn(&Config) + Send + Sync>;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read or has problems; the last good one stays in force.
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
    parts: Arc<Parts>,
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
    pub records: Arc<Records>,
    /// Holds the snapshot in force.
    pub registry: Arc<Registry>,
    /// The keys, which are read again as well.
    pub keys: Arc<KeyRing>,
    /// Is told before the snapshot is in force.
    pub pool: Pool,
    /// What the configuration in force was read from.
    pub seen: Seen,
}

impl Reload {
    /// Starts the task. It reads and looks off the runtime's threads.
    pub fn start(parts: Parts, tasks: &Tasks) -> Self {
        let (requests, asked) = mpsc::channel(8);
        let (failed, last_failure) = watch::channel(None);
        let parts = Arc::new(parts);
        let task = Task {
            seen: parts.seen.clone(),
            parts: parts.clone(),
            failed,
            tasks: tasks.clone(),
        };
        tasks.spawn(task.run(asked));
        Self {
            parts,
            requests,
            last_failure,
        }
    }

    /// What would be different with this text in the file's place. Changes nothing.
    pub async fn consider(&self, text: String) -> Outcome {
        let parts = self.parts.clone();
        let considered = tokio::task::spawn_blocking(move || {
            let config = (parts.read)(Some(text))?;
            let change = parts.registry.consider(config);
            change.map_err(ReloadError::Problems)
        });
        considered.await.map_err(not_finished)?
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

/// Why there is a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Somebody asked for it: it is carried out and told, whatever it finds.
    Asked,
    /// Something looks different, which need not mean anything.
    Seen,
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
        let mut tick = tokio::time::interval(LOOKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                reply = asked.recv() => {
                    let Some(reply) = reply else { return };
                    self.look().await;
                    let outcome = self.reload(Wish::Asked).await;
                    // Whoever asked may be gone.
                    let _ = reply.send(outcome);
                }
                _ = tick.tick() => {
                    if self.look_until_it_rests().await {
                        // What came of it has been told.
                        let _ = self.reload(Wish::Seen).await;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at the file and the folders until they rest; answers whether they are
    /// different from before.
    async fn look_until_it_rests(&mut self) -> bool {
        for looks in 0..PATIENCE {
            if !self.look().await {
                return looks > 0;
            }
            tokio::time::sleep(SETTLES).await;
        }
        true
    }

    /// Looks once; answers whether anything is different from the last time.
    async fn look(&mut self) -> bool {
        let (mut seen, parts) = (self.seen.clone(), self.parts.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let is_different = seen.look(&parts.registry.load().config);
            (seen, is_different)
        });
        // A panic has been told; the next look is another attempt.
        let Ok((seen, is_different)) = looked.await else {
            return false;
        };
        self.seen = seen;
        is_different
    }

    /// Replaces the configuration, and tells how that went.
    async fn reload(&mut self, wish: Wish) -> Outcome {
        let replacing = async {
            self.tasks.pass(Place::Reload);
            replace(&self.parts, wish).await
        };
        // A panic costs whoever asked; the next reload is a new attempt.
        let replaced = AssertUnwindSafe(replacing).catch_unwind().await;
        let replaced = replaced.unwrap_or(Err(ReloadError::Panicked));
        let failure = replaced.as_ref().err().map(ToString::to_string);
        let before = self.failed.send_replace(failure);
        // What was broken and is now as it was before is told, since the breaking was.
        let is_news = before.is_some() || !matches!(&replaced, Ok(it) if it.is_same);
        let outcome = replaced.map(|replaced| {
            self.seen.has_loaded(&replaced.seen);
            replaced.change
        });
        if is_news {
            self.tell(&outcome);
        }
        outcome
    }

    /// Says how a reload went, in the log and to those who listen to events.
    fn tell(&self, outcome: &Outcome) {
        let records = &self.parts.records;
        match outcome {
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
        records.events.tell("config_reload", || {
            let change = outcome.as_ref().map(ToString::to_string).ok();
            json!({"success": outcome.is_ok(), "change": change}).to_string()
        });
    }
}

/// What a reload came to.
struct Replaced {
    change: Change,
    /// Nothing is different and nothing was put in force.
    is_same: bool,
    /// What it was read from.
    seen: Seen,
}

async fn replace(parts: &Arc<Parts>, wish: Wish) -> Result<Replaced, ReloadError> {
    let preparing = parts.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        let Parts {
            read,
            registry,
            keys,
            ..
        } = &*preparing;
        let config = read(None)?;
        // Before the folders are scanned: what changes meanwhile is seen as one more.
        let seen = Seen::of(&config);
        let snapshot = registry.prepare(config).map_err(ReloadError::Problems)?;
        // The keys are followed by themselves; who reloads wants no second of patience.
        keys.refresh().map_err(ReloadError::Keys)?;
        Ok((snapshot, seen))
    });
    let (snapshot, seen) = prepared.await.map_err(not_finished)??;
    let in_force = parts.registry.load();
    if wish == Wish::Seen && snapshot.is_like(&in_force) {
        let change = Change::none(in_force.generation);
        return Ok(Replaced {
            change,
            is_same: true,
            seen,
        });
    }
    (parts.follow)(&snapshot.config);
    // Before the snapshot: then every request that sees it finds its models known.
    parts
        .pool
        .apply(pool_settings(&snapshot), residents(&snapshot));
    Ok(Replaced {
        change: parts.registry.publish(snapshot),
        is_same: false,
        seen,
    })
}

/// Why a thread that may block did not come to its end.
fn not_finished(error: tokio::task::JoinError) -> ReloadError {
    match error.is_panic() {
        true => ReloadError::Panicked,
        false => ReloadError::Stopping,
    }
}
