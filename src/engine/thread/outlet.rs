//! The way of one sequence's tokens from the engine thread to whoever reads them.
//! It never blocks the engine: when it is full the engine is told so and leaves
//! the sequence alone, and the reader tells when there is room again. Both happen
//! under one lock, so that no sequence is forgotten.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::engine::sampling::Sampled;
use crate::engine::{EngineError, Finish};

/// Tokens that may lie unread before the sequence is paused, and how many may be
/// left when it goes on.
const FULL: usize = 64;
const HALF: usize = FULL / 2;

/// What a sequence says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It begins, and need not read so many tokens of its prompt.
    Began {
        /// How many are in the prompt cache.
        cached: u64,
    },
    /// A token of the answer.
    Token(Sampled),
    /// It is over.
    End {
        /// Why.
        finish: Finish,
        /// Whether an end token was made, which is counted and not told.
        end_token: bool,
    },
    /// It cannot go on.
    Failed(EngineError),
}

/// The engine's end. Dropping it without an end said means that the engine is gone.
pub struct Inlet(Arc<Shared>);

/// The reader's end.
pub struct Outlet(Arc<Shared>);

/// What was taken out.
pub struct Taken {
    /// What the sequence said.
    pub said: Said,
    /// The sequence had been paused, and there is room again: the engine is to be told.
    pub was_full: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    guessed: AtomicU64,
    accepted: AtomicU64,
}

#[derive(Default)]
struct State {
    unread: VecDeque<Said>,
    paused: bool,
    closed: bool,
}

/// A new way.
pub fn outlet() -> (Inlet, Outlet) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        changed: Notify::new(),
        guessed: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
    });
    (Inlet(Arc::clone(&shared)), Outlet(shared))
}

impl Shared {
    /// The state is a queue and two flags: no panic can leave it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inlet {
    /// Says something. True means that the sequence is to be paused.
    #[must_use]
    pub fn say(&self, said: Said) -> bool {
        let mut state = self.0.state();
        state.unread.push_back(said);
        state.paused = state.unread.len() >= FULL;
        let paused = state.paused;
        drop(state);
        self.0.changed.notify_one();
        paused
    }
}

impl Inlet {
    /// Counts guesses that are tried, and those of them that were right, before what comes
    /// of them is said.
    pub fn guessed(&self, tried: u64, accepted: u64) {
        self.0.guessed.fetch_add(tried, Ordering::Relaxed);
        self.0.accepted.fetch_add(accepted, Ordering::Relaxed);
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_one();
    }
}

impl Outlet {
    /// Guesses that were tried for the sequence, and those of them that were right.
    pub fn guesses(&self) -> (u64, u64) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (read(&self.0.guessed), read(&self.0.accepted))
    }

    /// Waits for the next thing said; nothing when the engine's end is gone and all
    /// has been taken.
    pub async fn take(&mut self) -> Option<Taken> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(said) = state.unread.pop_front() {
                    let was_full = state.paused && state.unread.len() <= HALF;
                    state.paused &= !was_full;
                    return Some(Taken { said, was_full });
                }
                if state.closed {
                    return None;
                }
            }
            // A notice given since the look above is kept for this.
            self.0.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(token: u32) -> Said {
        Said::Token(Sampled {
            token,
            logprob: None,
            top: Vec::new(),
        })
    }

    #[tokio::test]
    async fn a_full_way_pauses_once_and_goes_on_once() {
        let (inlet, mut outlet) = outlet();
        let paused: Vec<u32> = (0..FULL as u32).filter(|n| inlet.say(token(*n))).collect();
        assert_eq!(paused, [FULL as u32 - 1]);
        let mut went_on = Vec::new();
        for number in 0..FULL as u32 {
            let taken = outlet.take().await.expect("said");
            assert_eq!(taken.said, token(number));
            if taken.was_full {
                went_on.push(number);
            }
        }
        assert_eq!(went_on, [HALF as u32 - 1]);
    }

    #[tokio::test]
    async fn all_that_was_said_is_read_before_the_end_is_seen() {
        let (inlet, mut outlet) = outlet();
        let _ = inlet.say(token(1));
        drop(inlet);
        assert!(outlet.take().await.is_some());
        assert!(outlet.take().await.is_none());
    }
}
