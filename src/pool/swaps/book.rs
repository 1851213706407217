//! The book of swaps: the last ones, who follows them, and what is counted of
//! loads and of the ends of processes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::pool::UnloadReason;

/// How many swaps are kept. One is under a kilobyte unless its names are long.
const KEPT: usize = 1000;

/// How much a slow follower may lie behind before it misses something.
const BEHIND: usize = 256;

/// From a mapped model to the longest load, seconds.
const SECONDS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0,
];

type Labels = [(&'static str, String); 2];

/// One swap, from the decision until the model that came is ready. Its phases
/// follow each other; together they are what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// Counts the swaps since the start.
    pub number: u64,
    /// When it was decided, milliseconds since 1970.
    pub time_ms: u64,
    /// The model that came.
    pub model: String,
    /// The request that it was for, as in the request log; nothing for a load that
    /// the configuration wants.
    pub request_id: Option<String>,
    /// Who asked.
    pub caller: Option<String>,
    /// The name that was asked for.
    pub name: Option<String>,
    /// The models that went.
    pub victims: Vec<Victim>,
    /// Until the last of them was told to end: answers that ran.
    pub drain_ms: u64,
    /// Until their memory was free and the load began.
    pub unload_ms: u64,
    /// Until the model was ready, or had failed.
    pub load_ms: u64,
    /// How many requests waited for the model.
    pub waiters: u64,
    /// How long they waited, all together.
    pub waited_ms: u64,
    /// Whether it came up.
    pub ready: bool,
}

/// A model that went for another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// The model.
    pub model: String,
    /// How long its running answers took to end.
    pub drain_ms: u64,
    /// How long its process took to end.
    pub unload_ms: u64,
}

/// A worker process that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Its model.
    pub model: String,
    /// Why it went; nothing if it never was ready.
    pub reason: Option<UnloadReason>,
    /// How it ended, as words.
    pub how: String,
}

/// What followers hear.
#[derive(Clone, Debug)]
pub enum Happened {
    /// The load of this model begins.
    Loads(Arc<str>),
    /// The load of this model is done.
    Ready(Arc<str>),
    /// A swap is over.
    Swap(Arc<Swap>),
    /// A process has ended.
    Exit(Arc<Exit>),
}

impl Swap {
    /// Drain, unload and load together, milliseconds.
    pub fn lost_ms(&self) -> u64 {
        self.drain_ms + self.unload_ms + self.load_ms
    }
}

/// The book. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct Book(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pages: Mutex<Pages>,
    happened: broadcast::Sender<Happened>,
    phases: Family<Labels, Histogram>,
    exits: Family<Labels, Counter>,
}

#[derive(Debug, Default)]
struct Pages {
    written: u64,
    kept: VecDeque<Arc<Swap>>,
}

impl Default for Book {
    fn default() -> Self {
        Self(Arc::new(Inner {
            pages: Mutex::default(),
            happened: broadcast::channel(BEHIND).0,
            phases: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            exits: Family::default(),
        }))
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        // A page is written in whole steps.
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The swaps that are kept, the oldest first, and how many there were in all.
    pub fn swaps(&self) -> (Vec<Arc<Swap>>, u64) {
        let pages = self.pages();
        (pages.kept.iter().cloned().collect(), pages.written)
    }

    /// Follows what happens from now on.
    pub fn follow(&self) -> broadcast::Receiver<Happened> {
        self.0.happened.subscribe()
    }

    /// Puts what is counted into a registry for one scrape.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "load_phase_seconds",
            "What loads took, and before them the drain and unload of models in their way",
            self.0.phases.clone(),
        );
        registry.register(
            "worker_exits",
            "Worker processes that ended, by model and reason",
            self.0.exits.clone(),
        );
    }

    /// Takes down a swap that is over, under the next number.
    pub(super) fn write(&self, mut swap: Swap) {
        let mut pages = self.pages();
        pages.written += 1;
        swap.number = pages.written;
        let swap = Arc::new(swap);
        if pages.kept.len() == KEPT {
            pages.kept.pop_front();
        }
        pages.kept.push_back(swap.clone());
        drop(pages);
        // Nobody may follow.
        let _ = self.0.happened.send(Happened::Swap(swap));
    }

    /// A load begins.
    pub(super) fn loads(&self, model: &str) {
        let _ = self.0.happened.send(Happened::Loads(model.into()));
    }

    /// A load is done.
    pub(super) fn ready(&self, model: &str) {
        let _ = self.0.happened.send(Happened::Ready(model.into()));
    }

    /// A phase of a load is over.
    pub(super) fn took(&self, model: &str, phase: &'static str, time: Duration) {
        let labels = [("model", model.to_owned()), ("phase", phase.to_owned())];
        let phases = self.0.phases.get_or_create(&labels);
        phases.observe(time.as_secs_f64());
    }

    /// A process has ended.
    pub(super) fn exited(&self, exit: Exit) {
        let reason = exit.reason.map_or("not_ready", UnloadReason::as_str);
        let labels = [("model", exit.model.clone()), ("reason", reason.to_owned())];
        self.0.exits.get_or_create(&labels).inc();
        let _ = self.0.happened.send(Happened::Exit(Arc::new(exit)));
    }
}
