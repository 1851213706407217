//! The pool: which models are up, which come next, which go. `state` decides
//! (pure), `task` does (the one owner), `gate` is the fast way to a ready
//! model, `lease` the permission to use one. It knows no HTTP.

pub mod evict;
pub mod gate;
pub mod lease;
pub mod state;
pub mod task;

use std::time::Duration;

use crate::units::ByteSize;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
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
    /// The model's queue has no room.
    #[error("{waiting} requests already wait for {model}")]
    QueueFull {
        /// The model asked for.
        model: String,
        /// How many wait.
        waiting: usize,
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
    /// The load took longer than is allowed.
    #[error("{model} was not ready within {limit:?}")]
    LoadTimeout {
        /// The model asked for.
        model: String,
        /// The limit.
        limit: Duration,
    },
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}
