//! Who asks the pool for a model. The pool decides nothing by it: it is kept so
//! that waits and swaps can be told with the request that they are for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Not told yet, or never: the model was there.
const NOWHERE: u64 = u64::MAX;

/// Who asks for one lease.
#[derive(Debug)]
pub struct Asker {
    /// The id of the request, as in the request log.
    pub request_id: String,
    /// The id of a key, `local` or `owner`.
    pub caller: String,
    /// The name that was asked for; an alias, where one was.
    pub name: String,
    position: AtomicU64,
}

impl Asker {
    /// Somebody who has not asked yet.
    pub fn new(request_id: &str, caller: &str, name: &str) -> Self {
        Self {
            request_id: request_id.to_owned(),
            caller: caller.to_owned(),
            name: name.to_owned(),
            position: AtomicU64::new(NOWHERE),
        }
    }

    /// How many waiting requests stood before it when it joined them.
    pub fn position(&self) -> Option<u64> {
        let position = self.position.load(Ordering::Relaxed);
        (position != NOWHERE).then_some(position)
    }

    /// It has joined those who wait.
    pub(super) fn queued(&self, position: usize) {
        self.position.store(position as u64, Ordering::Relaxed);
    }
}
