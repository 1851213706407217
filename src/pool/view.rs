//! What the pool shows of itself: to the status call, the model list, metrics
//! and dashboard. Being a moment old harms nobody there; nothing decides by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::ledger::Seen;
use super::{ModelState, UnloadReason};
use crate::units::ByteSize;
use crate::worker::{LoadPlan, Ready};

/// The pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The budget.
    pub budget: ByteSize,
    /// Reserved by everything loaded, loading and not yet reaped.
    pub reserved: ByteSize,
    /// Every model the pool knows, ordered by name.
    pub models: Vec<ModelView>,
    /// What has happened since the start.
    pub counters: Counters,
    /// Models still to be brought up before the server is ready.
    pub preloading: usize,
    /// Whether the pool is going down.
    pub stopping: bool,
}

/// One model at one moment.
#[derive(Clone, Debug)]
pub struct ModelView {
    /// The pool's key.
    pub model: String,
    /// Its state.
    pub state: ModelState,
    /// Whether new requests are taken.
    pub listed: bool,
    /// `keep: always`.
    pub keep: bool,
    /// How it is, or would be, brought up. While it is up: how it was.
    pub plan: Arc<LoadPlan>,
    /// What the next load reserves: the plan's figure, or what was learnt.
    pub need: ByteSize,
    /// What is reserved now; nothing when unloaded.
    pub reserved: ByteSize,
    /// What its worker held when it was looked at last.
    pub footprint: Option<ByteSize>,
    /// What the ledger knows of it.
    pub seen: Option<Seen>,
    /// What the worker said of itself, when it is up.
    pub ready: Option<Arc<Ready>>,
    /// The worker process.
    pub pid: Option<u32>,
    /// Counts the processes the pool has started.
    pub generation: Option<u64>,
    /// Requests that wait.
    pub waiting: usize,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Instant>,
    /// Since when the load runs.
    pub loading_since: Option<Instant>,
    /// Since when it is ready.
    pub ready_since: Option<Instant>,
    /// Since when nobody uses it.
    pub idle_since: Option<Instant>,
    /// When it will be unloaded if nobody uses it.
    pub unload_at: Option<Instant>,
    /// The last failed load or early crash since it was last up.
    pub last_failure: Option<LastFailure>,
    /// How long the last loads took, the newest last.
    pub load_times: Vec<Duration>,
    pub(super) gate: Option<Arc<Gate>>,
}

/// A failed load, or a crash right after loading.
#[derive(Clone, Debug, PartialEq)]
pub struct LastFailure {
    /// What the worker said, or how it ended.
    pub reason: String,
    /// When it failed.
    pub at: Instant,
    /// Until then requests are refused.
    pub retry_at: Instant,
    /// How many in a row.
    pub in_a_row: u32,
}

/// What has happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Worker processes started.
    pub loads: u64,
    /// Loads that failed or took too long.
    pub load_failures: u64,
    /// Loads for which another model had to go.
    pub swaps: u64,
    /// Models that were ready and went, by reason.
    pub unloads: BTreeMap<UnloadReason, u64>,
}

impl View {
    /// One model.
    pub fn model(&self, model: &str) -> Option<&ModelView> {
        self.models
            .binary_search_by(|view| view.model.as_str().cmp(model))
            .ok()
            .map(|index| &self.models[index])
    }

    /// What all workers held when they were looked at last.
    pub fn footprint(&self) -> ByteSize {
        let held = self.models.iter().filter_map(|model| model.footprint);
        held.fold(ByteSize::ZERO, ByteSize::saturating_add)
    }

    /// Requests that wait, of all models.
    pub fn waiting(&self) -> usize {
        self.models.iter().map(|model| model.waiting).sum()
    }
}

impl ModelView {
    /// Leases out right now: read from the gate, not from the moment of the view.
    pub fn leases(&self) -> u64 {
        self.gate.as_ref().map_or(0, |gate| gate.leases())
    }
}
