//! A fact of a request that comes later, and that whoever answers it shares. It is set a
//! few times and looked at a few times, by one request, so a lock that nobody else ever
//! asks for costs less than one that readers share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The fact; nothing until it is known.
#[derive(Debug)]
pub(super) struct Late<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Late<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Late<T> {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        // Each change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(super) fn get(&self) -> Option<Arc<T>> {
        self.lock().clone()
    }

    /// Whether something is.
    pub(super) fn is_known(&self) -> bool {
        self.lock().is_some()
    }

    /// From now on this is known, or nothing again.
    pub(super) fn set(&self, fact: Option<Arc<T>>) {
        *self.lock() = fact;
    }
}
