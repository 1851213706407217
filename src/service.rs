//! What the handlers of both ports share, and what the pool is told of a
//! configuration. How one takes the place of another is in `reload`.

pub mod prefetch;
pub mod reload;
pub mod rest;
pub mod seen;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use self::reload::Reload;
use crate::access::Entrance;
use crate::api::intake::Bodies;
use crate::dispatch::Dispatch;
use crate::engine::stored;
use crate::pool::Resident;
use crate::records::Records;
use crate::records::audit::Audit;
use crate::registry::Snapshot;
use crate::server::descriptors;

/// Shared by all handlers. Cloning gives another handle, which every layer of every
/// request does: it is one counted reference.
#[derive(Clone)]
pub struct Service(Arc<Parts>);

/// What is shared.
pub struct Parts {
    /// The way to models.
    pub dispatch: Arc<Dispatch>,
    /// Who gets in.
    pub entrance: Arc<Entrance>,
    /// Where management effects are written down.
    pub audit: Audit,
    /// Where requests are written down and counted.
    pub records: Arc<Records>,
    /// The memory that the bodies of requests share.
    pub bodies: Bodies,
    /// Asks for the configuration to be read again.
    pub reload: Reload,
    /// The prompts on disk.
    pub prompts: stored::folder::Folder,
    /// When this process began to serve.
    pub started: Instant,
}

impl From<Parts> for Service {
    fn from(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Service {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Parts {
    /// Whether requests can be served: the pool is up and does not drain, and a
    /// connection or a worker that comes would find a descriptor.
    pub fn is_ready(&self) -> bool {
        self.dispatch.pool.ready() && descriptors::is_one_free()
    }
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
            let key = |name: &String| {
                let other = snapshot.served.get(name)?.plan.as_ref().ok()?;
                Some(other.model.clone())
            };
            Some(Resident {
                plan: served.plan.as_ref().ok()?.clone(),
                keep: served.keep,
                preload: served.preload,
                idle_unload: served.idle_unload,
                never_with: served.never_with.iter().filter_map(key).collect(),
            })
        })
        .collect()
}
