//! What would happen if a model were asked for now, as the machine answers it.

use std::time::Duration;

use serde::Serialize;

use super::{ModelState, Priority};
use crate::engine::progress::Progress;
use crate::units::ByteSize;

/// What would be done for a request that came now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// It is there: the request is answered at once.
    Answer,
    /// It waits for the load that runs.
    Join,
    /// The model is loaded into room that is free.
    Load,
    /// Idle models go for it first.
    Evict,
    /// Busy models have to end their answers and go first.
    Drain,
    /// It stands behind others who wait for the model.
    Wait,
    /// It is refused.
    Refuse,
}

/// What would happen if a model were asked for now.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The pool's key.
    pub model: String,
    /// Where it stands.
    pub state: ModelState,
    /// How far its load is.
    pub progress: Option<Progress>,
    /// What would be done.
    pub course: Course,
    /// Why it would be refused.
    pub refusal: Option<String>,
    /// What its load reserves.
    pub need: ByteSize,
    /// What loads of it were seen to hold; nothing if none was.
    pub observed: ByteSize,
    /// The budget.
    pub budget: ByteSize,
    /// What of it is reserved now.
    pub reserved: ByteSize,
    /// The models that would go, in the order in which they would be told.
    pub victims: Vec<Candidate>,
    /// How many waiting requests would stand before it.
    pub before: usize,
    /// How long its load takes, as far as anything was measured.
    pub load_time: Option<Duration>,
    /// When it would have its model, as far as that can be told.
    pub eta: Option<Duration>,
}

/// A model that would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The model.
    pub model: String,
    /// What its going frees.
    pub bytes: ByteSize,
    /// Whether it answers requests now.
    pub busy: bool,
}

/// A request that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pool's number for it.
    pub waiter: u64,
    /// The model it waits for.
    pub model: String,
    /// How long it has waited.
    pub waited: Duration,
    /// Its class.
    pub priority: Priority,
    /// How many stand before it now.
    pub position: usize,
    /// When it will have its model, as far as that can be told.
    pub eta: Option<Duration>,
}
