//! What decides in a run, and the words in which it is told and answers. The
//! pool's own machine is one policy, the others are small ones to compare it with.

mod books;
mod fifo_lru;
mod llama_swap;
mod roundhouse;

use std::time::Instant;

pub use fifo_lru::FifoLru;
pub use llama_swap::LlamaSwap;
pub use roundhouse::Roundhouse;

use super::{ModelIndex, RequestIndex};
use crate::pool::{CallerId, Priority};

/// What has happened.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// A request has come.
    Asked {
        /// Which.
        request: RequestIndex,
        /// For which model.
        model: ModelIndex,
        /// Which others may answer in its place if they are up or coming up: a
        /// background name. Who knows no such names takes it as any other.
        others: &'a [ModelIndex],
        /// With whom it takes turns.
        caller: CallerId,
        /// Its class.
        priority: Priority,
    },
    /// A worker is ready.
    Ready {
        /// Of which model.
        model: ModelIndex,
    },
    /// A worker has ended and its memory is free.
    Gone {
        /// Of which model.
        model: ModelIndex,
    },
    /// A request that was served has ended.
    Done {
        /// Which.
        request: RequestIndex,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a worker.
    Load {
        /// Of which model.
        model: ModelIndex,
    },
    /// End a worker.
    Unload {
        /// Of which model.
        model: ModelIndex,
    },
    /// Hand a request to a model, which is up.
    Serve {
        /// Which.
        request: RequestIndex,
        /// By which model.
        model: ModelIndex,
    },
    /// Tell a request no.
    Refuse {
        /// Which.
        request: RequestIndex,
    },
}

/// Decides.
pub trait Policy {
    /// Takes in what happened and answers what is to be done, in order.
    fn on(&mut self, what: &Happening<'_>, now: Instant) -> Vec<Action>;

    /// When time alone will change something; a policy without clocks says nothing.
    fn next_wake(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// Loads so far for which another model had to go.
    fn swaps(&self) -> u64;
}
