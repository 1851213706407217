//! The pool's one owner.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::state::Generation;
use super::{Lease, Refused, Resident, Settings, UnloadError, UnloadMode, View};
use crate::shutdown::Tasks;
use crate::worker::LoadPlan;
use crate::worker::process::Launcher;

/// A handle to the pool. Cloning gives another handle to the same pool.
#[derive(Clone)]
pub struct Pool {
    view: watch::Receiver<Arc<View>>,
}

pub(super) enum Message {
    Idle { generation: Generation },
}

impl Pool {
    /// Starts the owner, and with it the loads of what is kept or preloaded.
    pub fn start(
        settings: Settings,
        models: Vec<Resident>,
        launcher: Launcher,
        tasks: &Tasks,
    ) -> Self {
        let _ = (settings, models, launcher, tasks);
        unimplemented!()
    }

    /// Waits for a lease. Dropping the future gives up the place in the queue.
    pub async fn acquire(&self, plan: &Arc<LoadPlan>) -> Result<Lease, Refused> {
        let _ = plan;
        unimplemented!()
    }

    /// Takes over a reload. Call it just before the snapshot is published: then
    /// every request that sees the new snapshot finds its models known here.
    pub fn apply(&self, settings: Settings, models: Vec<Resident>) {
        let _ = (settings, models);
        unimplemented!()
    }

    /// Brings a model up without using it; answers when it is ready.
    pub async fn load(&self, model: &str) -> Result<(), Refused> {
        let _ = model;
        unimplemented!()
    }

    /// Unloads a model; answers when its process has been reaped.
    pub async fn unload(&self, model: &str, mode: UnloadMode) -> Result<(), UnloadError> {
        let _ = (model, mode);
        unimplemented!()
    }

    /// Unloads every idle model that is not kept; answers which, when their gates are closed.
    pub async fn release(&self) -> Vec<String> {
        unimplemented!()
    }

    /// The pool as it is shown.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Follows the view.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether everything kept or preloaded has been brought up, or has failed once.
    pub fn ready(&self) -> bool {
        let view = self.view.borrow();
        view.preloading == 0 && !view.stopping
    }

    /// Refuses everything new, lets leases end for `drain`, revokes the rest;
    /// answers when every process has been reaped.
    pub async fn stop(&self, drain: Duration) {
        let _ = drain;
        unimplemented!()
    }
}
