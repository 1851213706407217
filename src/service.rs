//! What the handlers of both ports share, and the one task that replaces the
//! configuration: prepare (may fail), publish (cannot), tell the pool.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::access::Entrance;
use crate::access::keys::KeyRing;
use crate::api::intake::Bodies;
use crate::config::Config;
use crate::config::problem::Problems;
use crate::dispatch::Dispatch;
use crate::pool::Resident;
use crate::pool::task::Pool;
use crate::records::Records;
use crate::records::audit::Audit;
use crate::registry::{Change, Registry, Snapshot};
use crate::server::descriptors;
use crate::shutdown::{Place, Tasks};

/// Shared by all handlers. Cloning gives another handle.
#[derive(Clone)]
pub struct Service {
    /// The way to models.
    pub dispatch: Dispatch,
    /// Who gets in.
    pub entrance: Arc<Entrance>,
    /// Where management effects are written down.
    pub audit: Audit,
    /// Where requests are written down and counted.
    pub records: Records,
    /// The memory that the bodies of requests share.
    pub bodies: Bodies,
    /// Asks for the configuration to be read again.
    pub reload: Reload,
    /// When this process began to serve.
    pub started: Instant,
}

impl Service {
    /// Whether requests can be served: the pool is up and does not drain, and a
    /// connection or a worker that comes would find a descriptor.
    pub fn is_ready(&self) -> bool {
        self.dispatch.pool.ready() && descriptors::is_one_free()
    }
}

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

/// Asks the one task that replaces the configuration.
#[derive(Clone)]
pub struct Reload {
    requests: mpsc::Sender<oneshot::Sender<Result<Change, ReloadError>>>,
    last_failure: watch::Receiver<Option<String>>,
}

impl Reload {
    /// Starts the task. It reads with `read`, off the runtime's threads.
    pub fn start(
        read: ReadConfig,
        follow: Follow,
        records: Records,
        registry: Arc<Registry>,
        keys: Arc<KeyRing>,
        pool: Pool,
        tasks: &Tasks,
    ) -> Self {
        let (requests, mut asked) = mpsc::channel::<oneshot::Sender<_>>(8);
        let (failed, last_failure) = watch::channel(None);
        let stop = tasks.stop_signal();
        let read = Arc::new(read);
        let fail_points = tasks.clone();
        tasks.spawn(async move {
            loop {
                let reply = tokio::select! {
                    reply = asked.recv() => reply,
                    () = stop.cancelled() => None,
                };
                let Some(reply) = reply else { return };
                let replacing = async {
                    fail_points.pass(Place::Reload);
                    replace(&read, &follow, &registry, &keys, &pool).await
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
                failed.send_replace(outcome.as_ref().err().map(ToString::to_string));
                records.events.tell("config_reload", || {
                    let change = outcome.as_ref().map(ToString::to_string).ok();
                    json!({"success": outcome.is_ok(), "change": change}).to_string()
                });
                // Whoever asked may be gone.
                let _ = reply.send(outcome);
            }
        });
        Self {
            requests,
            last_failure,
        }
    }

    /// Reads, checks and replaces the configuration; answers what is different.
    pub async fn reload(&self) -> Result<Change, ReloadError> {
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

async fn replace(
    read: &Arc<ReadConfig>,
    follow: &Follow,
    registry: &Arc<Registry>,
    keys: &Arc<KeyRing>,
    pool: &Pool,
) -> Result<Change, ReloadError> {
    let (read, preparing, keys) = (read.clone(), registry.clone(), keys.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        let snapshot = preparing.prepare(read()?).map_err(ReloadError::Problems)?;
        // The keys are followed by themselves; who reloads wants no second of patience.
        keys.refresh().map_err(ReloadError::Keys)?;
        Ok(snapshot)
    });
    let prepared = prepared.await.map_err(|error| match error.is_panic() {
        true => ReloadError::Panicked,
        false => ReloadError::Stopping,
    });
    let snapshot = prepared??;
    follow(&snapshot.config);
    // Before the snapshot: then every request that sees it finds its models known.
    pool.apply(pool_settings(&snapshot), residents(&snapshot));
    Ok(registry.publish(snapshot))
}

/// What the pool is told of the configuration.
pub fn pool_settings(snapshot: &Snapshot) -> crate::pool::Settings {
    let pool = &snapshot.config.pool;
    crate::pool::Settings {
        budget: snapshot.budget,
        max_models: pool.max_models,
        switch_after: pool.switch_after,
        min_residency: pool.min_residency,
        queue: pool.queue,
        queue_per_caller: pool.places_per_caller(),
        queue_timeout: pool.queue_timeout,
        contention: pool.contention,
        autoload: pool.autoload,
        load_time: snapshot.config.server.limits.load_time,
    }
}

/// What the pool is told of each model that may be served.
pub fn residents(snapshot: &Snapshot) -> Vec<Resident> {
    snapshot
        .served
        .values()
        .filter_map(|served| {
            Some(Resident {
                plan: served.plan.as_ref().ok()?.clone(),
                keep: served.keep,
                preload: served.preload,
                idle_unload: served.idle_unload,
            })
        })
        .collect()
}
