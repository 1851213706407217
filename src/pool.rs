//! The pool: which models are up, which come next, which go. `state` decides
//! (pure), `task` does (the one owner), `gate` is the fast way to a ready
//! model, `lease` the permission to use one. It knows no HTTP.

mod asker;
mod eta;
pub(crate) mod evict;
pub mod forecast;
pub mod gate;
pub mod lease;
pub mod ledger;
pub mod prefetch;
pub mod residency;
pub mod state;
pub mod swaps;
pub mod task;
pub mod view;

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::config::{Contention, MinResidency};
use crate::units::ByteSize;
use crate::worker::LoadPlan;

pub use asker::Asker;
pub use lease::{Ending, Lease};
pub use task::Pool;
pub use view::{Counters, HeldBy, LastFailure, ModelView, Models, View};

/// What the pool is told of the configuration, whole at each reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `memory`: bytes that loaded, loading and not yet reaped workers may reserve together.
    pub budget: ByteSize,
    /// `pool.max_models`; nothing means unlimited.
    pub max_models: Option<usize>,
    /// `pool.switch_after`: when a waiter has waited this long, busy models are
    /// drained to make room for its model.
    pub switch_after: Duration,
    /// `pool.min_residency`: how long an idle model is kept although others wait.
    pub min_residency: MinResidency,
    /// `pool.queue`: the most waiting requests of one model.
    pub queue: usize,
    /// `pool.queue_per_caller`: the most waiting requests of one caller among these.
    pub queue_per_caller: usize,
    /// `pool.queue_timeout`: the longest wait of one request.
    pub queue_timeout: Duration,
    /// `pool.contention`: what becomes of a request for whose model only busy ones
    /// could make room.
    pub contention: Contention,
    /// `pool.autoload`: whether a request brings up a model that is not loaded.
    pub autoload: bool,
    /// `server.limits.load_time`: the longest time in which a load comes no further.
    pub load_time: Duration,
}

/// Who is first among those who wait for different models. Whoever has waited
/// `switch_after` stands before all of them, whatever the class: nobody starves.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others: somebody sits and waits.
    High,
    /// What is said by saying nothing.
    #[default]
    Normal,
    /// After all others: work in the background.
    Low,
}

impl Priority {
    /// All of them, the highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The next lower class.
    pub fn lower(self) -> Option<Self> {
        match self {
            Self::High => Some(Self::Normal),
            Self::Normal => Some(Self::Low),
            Self::Low => None,
        }
    }

    /// The word in requests, files and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// The word is none of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected high, normal or low")]
pub struct NoPriority;

impl FromStr for Priority {
    type Err = NoPriority;

    fn from_str(text: &str) -> Result<Self, NoPriority> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or(NoPriority)
    }
}

/// Who asks, for fairness: requests with equal ids take one turn together. Only
/// equality means anything; it is another number after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallerId(u64);

impl CallerId {
    /// Whoever is described by these words, such as a key's id and a session.
    pub fn of(words: &[&str]) -> Self {
        // Keyed at random, so that nobody can choose words that make him another.
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEYS.hash_one(words))
    }
}

/// On what terms a request asks for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its place among those who wait, for this model and for others.
    pub priority: Priority,
    /// With whom it takes turns among those of its class.
    pub caller: CallerId,
    /// Whether the model may be brought up for it.
    pub autoload: bool,
    /// When the model is unloaded if this was its last use, at most what its entry
    /// says; nothing means that.
    pub idle_unload: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            priority: Priority::Normal,
            caller: CallerId::default(),
            autoload: true,
            idle_unload: None,
        }
    }
}

/// The models of which one is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// Brought up if none of them is there.
    pub own: Arc<LoadPlan>,
    /// Those that may answer in its place if they are up or coming up.
    pub others: Vec<Arc<LoadPlan>>,
}

impl From<&Arc<LoadPlan>> for Candidates {
    /// This one alone.
    fn from(plan: &Arc<LoadPlan>) -> Self {
        Self {
            own: plan.clone(),
            others: Vec::new(),
        }
    }
}

/// What the registry tells the pool of one served model.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// How to bring it up; `plan.model` is the key.
    pub plan: Arc<LoadPlan>,
    /// `keep: always`: loaded at start, never a victim, brought back after a crash.
    pub keep: bool,
    /// `preload`: loaded at start.
    pub preload: bool,
    /// Unloaded after this long without a lease; nothing means never.
    pub idle_unload: Option<Duration>,
    /// The keys of models that are never in memory beside it, nor it beside them.
    pub never_with: BTreeSet<String>,
}

/// How an unload treats the leases that are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnloadMode {
    /// Only if nobody uses or awaits the model.
    Idle,
    /// After the last lease; new requests wait for the next instance.
    Drain,
    /// At once; leases end as [`Ending::Revoked`].
    Now,
}

/// Why a model was not unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnloadError {
    /// Nothing of it is in memory.
    #[error("{model} is not loaded")]
    NotLoaded {
        /// The model asked for.
        model: String,
    },
    /// Requests use or await it.
    #[error("{model} has {leases} requests in flight; mode \"drain\" waits for them")]
    Busy {
        /// The model asked for.
        model: String,
        /// Leases out, or requests that wait for the load.
        leases: u64,
    },
    /// Somebody holds it by a residency lease.
    #[error("{model} is held for {} more seconds; mode \"now\" ends that", left.as_secs() + 1)]
    Held {
        /// The model asked for.
        model: String,
        /// How much longer.
        left: Duration,
    },
    /// The pool lost its state while it worked on this.
    #[error("the pool failed and starts again with nothing loaded")]
    Lost,
    /// The server is going down, which unloads everything anyway.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a residency lease was not given, or not given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// Its worker is gone or told to go.
    #[error("the model went before it could be held")]
    Leaving,
    /// Somebody has waited too long for another model.
    #[error(
        "{model} cannot be held while a request for another model has waited pool.switch_after"
    )]
    Awaited {
        /// The model asked for.
        model: String,
    },
    /// There are as many as there may be.
    #[error("{most} residency leases hold {model}; expected at most so many")]
    TooMany {
        /// The model asked for.
        model: String,
        /// How many there may be.
        most: usize,
    },
    /// There is none of that number, or it is somebody else's.
    #[error("there is no such residency lease")]
    Unknown,
    /// The pool lost its state while it worked on this.
    #[error("the pool failed and starts again with nothing loaded")]
    Lost,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The states of a model, one word each everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the documentation")]
pub enum ModelState {
    Unloaded,
    Waiting,
    Loading,
    Ready,
    Draining,
    Stopping,
    Failed,
}

/// Why a model was unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are the documentation")]
pub enum UnloadReason {
    Idle,
    Evicted,
    Requested,
    Config,
    Crashed,
    Memory,
    Shutdown,
}

impl UnloadReason {
    /// The word in logs, counters and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Requested => "requested",
            Self::Config => "config",
            Self::Crashed => "crashed",
            Self::Memory => "memory",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why a lease was not given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It can never fit, even alone (or beside what is kept always).
    #[error("{model} needs {need} and the budget is {budget}{held}")]
    NeverFits {
        /// The model asked for.
        model: String,
        /// What it would reserve.
        need: ByteSize,
        /// The whole budget.
        budget: ByteSize,
        /// What of the budget is held for good, as words; may be empty.
        held: String,
    },
    /// It is never in memory beside a model that is always kept.
    #[error("{model} is never in memory beside {kept}, which is kept")]
    NeverBeside {
        /// The model asked for.
        model: String,
        /// The one that is kept.
        kept: String,
    },
    /// The model's queue has no room, or not for this caller.
    #[error("{} already wait for {model}", match own {
        None => format!("{waiting} requests"),
        Some(own) => format!("{own} requests of this caller"),
    })]
    QueueFull {
        /// The model asked for.
        model: String,
        /// How many wait.
        waiting: usize,
        /// How many of them are the caller's, if those alone are too many.
        own: Option<usize>,
        /// When trying again may help.
        retry_after: Duration,
    },
    /// It waited as long as is allowed.
    #[error("{model} was not available within {waited:?}")]
    QueueTimeout {
        /// The model asked for.
        model: String,
        /// How long it waited.
        waited: Duration,
    },
    /// Only busy models could make room, and `pool.contention` is `fail`.
    #[error("{model} is not loaded and everything in its way is in use")]
    Contended {
        /// The model asked for.
        model: String,
        /// When trying again may help.
        retry_after: Duration,
    },
    /// It is not loaded, and the request or `pool.autoload` wants no load.
    #[error("{model} is not loaded, and requests do not load it")]
    NotLoaded {
        /// The model asked for.
        model: String,
    },
    /// The load failed, or failed lately and is not tried again yet.
    #[error("{model} could not be loaded: {reason}")]
    LoadFailed {
        /// The model asked for.
        model: String,
        /// What the worker said.
        reason: String,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The load stood still for longer than is allowed.
    #[error("the load of {model} came no further within {limit:?}")]
    LoadTimeout {
        /// The model asked for.
        model: String,
        /// The limit.
        limit: Duration,
    },
    /// It was ended by an unload request while it loaded.
    #[error("{model} was unloaded on request while it was loading")]
    Unloaded {
        /// The model asked for.
        model: String,
    },
    /// The pool lost its state while the request waited.
    #[error("an internal error; the log has it")]
    Lost,
    /// It is not, or no longer, served; the request may have begun before a reload.
    #[error("{model} is not served")]
    Unlisted {
        /// The model asked for.
        model: String,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}
