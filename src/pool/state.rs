//! The pool's machine.

/// Counts the processes the pool has started.
pub type Generation = u64;
