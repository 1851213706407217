//! Standing by: a process that was started ahead of its load prepares what takes little
//! memory, and takes that of the model when the router says so. Any other may from the
//! start.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::worker::LoadPhases;

/// Whether the model may be loaded, for all threads that prepare for it.
#[derive(Clone, Default)]
pub struct Standby(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// When the router said so.
    told: OnceLock<Instant>,
    /// When the last part so far was prepared.
    prepared: Mutex<Option<Instant>>,
}

impl Standby {
    /// One in which the model may be loaded already.
    pub fn over() -> Self {
        let standby = Self::default();
        standby.tell();
        standby
    }

    /// The model may be loaded from now on.
    pub fn tell(&self) {
        // Said twice is said.
        let _ = self.0.told.set(Instant::now());
    }

    /// A part is prepared that the load does not wait for.
    pub fn is_prepared(&self) {
        let mut prepared = self
            .0
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *prepared = Some(Instant::now());
    }

    /// Everything is prepared that has to be before the load. Blocks until the model may
    /// be loaded.
    pub fn wait(&self) {
        self.is_prepared();
        self.0.told.wait();
    }

    /// Tells what was done ahead of the load, which is over, and how long nothing was done,
    /// of a process that `began` then.
    pub fn note(&self, phases: &mut LoadPhases, began: Instant) {
        let prepared = *self
            .0
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let (Some(told), Some(prepared)) = (self.0.told.get(), prepared) {
            let in_ms = |time: Duration| time.as_secs_f64() * 1e3;
            let ahead = prepared.min(*told).saturating_duration_since(began);
            phases.ahead_ms = in_ms(ahead);
            phases.standby_ms = in_ms(told.saturating_duration_since(prepared));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of a process that began at 0, whose parts were prepared at the second of
    /// these milliseconds and which was told to load at the first.
    #[track_caller]
    fn check(told: u64, prepared: u64, expected: (f64, f64)) {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let standby = Standby::default();
        standby.0.told.set(at(told)).expect("said once");
        *standby.0.prepared.lock().expect("not poisoned") = Some(at(prepared));
        let mut phases = LoadPhases::default();
        standby.note(&mut phases, began);
        assert_eq!((phases.ahead_ms, phases.standby_ms), expected);
    }

    #[test]
    fn what_was_done_ahead_is_told_apart_from_what_was_waited() {
        check(0, 40, (0.0, 0.0));
        check(30, 40, (30.0, 0.0));
        check(100, 40, (40.0, 60.0));
    }

    #[test]
    fn nothing_is_loaded_before_the_word() {
        let standby = Standby::default();
        let waits = standby.clone();
        let waiting = std::thread::spawn(move || waits.wait());
        while standby.0.prepared.lock().expect("not poisoned").is_none() {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        standby.tell();
        waiting.join().expect("no panic");
        Standby::over().wait();
    }
}
