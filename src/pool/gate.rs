//! The gate of a ready model: one atomic word that holds an open bit and the
//! number of leases. Anybody may take a lease while it is open; only the pool's
//! owner opens and closes it. It knows nothing of models or processes.

// Everything is one word, so all that happens to it has one order. What has to be
// ordered beside it: whatever was done with a lease happens before the owner learns
// that nobody holds one (every give-back releases, every way to a `Vacant` acquires,
// and what counts in between reads, modifies and writes, which carries the release
// on); and what the owner did before it opened happens before what is done with a
// lease (opening releases, taking acquires). `loom/` compiles this file over a model
// checker's atomics and holds it to that in every interleaving.
#[cfg(loom)]
use crate::sync::{Arc, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The top bit says open; the rest counts leases.
const OPEN: u64 = 1 << 63;

/// One word: open bit and lease count.
#[derive(Debug)]
pub struct Gate(AtomicU64);

/// Proof that a gate was closed while nobody held a lease. Nobody can take one
/// any more, so what stands behind the gate may be stopped.
#[derive(Debug)]
pub struct Vacant(());

impl Gate {
    /// A gate with leases already taken: those of the waiters to whom a model is
    /// handed over in the same step in which it becomes ready.
    pub fn new(open: bool, leases: u64) -> Arc<Self> {
        debug_assert!(leases < OPEN);
        let bit = if open { OPEN } else { 0 };
        Arc::new(Self(AtomicU64::new(bit | leases)))
    }

    /// Takes a lease if the gate is open: one compare-and-swap when nobody interferes.
    pub fn take(&self) -> bool {
        self.0
            .try_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                (word & OPEN != 0).then_some(word + 1)
            })
            .is_ok()
    }

    /// Gives a lease back. Answers whether it was the last, which the one who
    /// gives it back must then tell the owner.
    pub fn give_back(&self) -> bool {
        let before = self.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & !OPEN > 0, "a lease was given back twice");
        before & !OPEN == 1
    }

    /// Closes the gate if it is open and nobody holds a lease.
    pub fn close_if_idle(&self) -> Option<Vacant> {
        self.0
            .compare_exchange(OPEN, 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()
            .map(|_| Vacant(()))
    }

    /// Closes the gate whatever is out. Nothing means that leases are out: the
    /// last of them will say so when it is given back.
    pub fn close(&self) -> Option<Vacant> {
        let before = self.0.fetch_and(!OPEN, Ordering::AcqRel);
        (before & !OPEN == 0).then_some(Vacant(()))
    }

    /// Whether a closed gate has seen its last lease go.
    pub fn vacant(&self) -> Option<Vacant> {
        (self.0.load(Ordering::Acquire) == 0).then_some(Vacant(()))
    }

    /// Opens a gate that was closed to drain and is to stay after all.
    pub fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::AcqRel);
    }

    /// Whether leases may be taken now. Only the owner may act on it.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) & OPEN != 0
    }

    /// Leases out now. Only good for showing, or on a closed gate.
    pub fn leases(&self) -> u64 {
        self.0.load(Ordering::Acquire) & !OPEN
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_closed_gate_gives_nothing_and_counts_down_to_vacant() {
        let gate = Gate::new(true, 1);
        assert!(gate.take());
        assert!(gate.close_if_idle().is_none(), "two leases are out");
        assert!(gate.close().is_none());
        assert!(!gate.take());
        assert!(!gate.give_back());
        assert!(gate.vacant().is_none());
        assert!(gate.give_back(), "the last one says so");
        assert!(gate.vacant().is_some());
    }

    #[test]
    fn an_idle_gate_closes_once_and_opens_again() {
        let gate = Gate::new(true, 0);
        assert!(gate.close_if_idle().is_some());
        assert!(gate.close_if_idle().is_none(), "already closed");
        gate.open();
        assert!(gate.take());
        assert_eq!(gate.leases(), 1);
        assert!(gate.is_open());
    }

    /// Takers and a closer race for real: whoever got a lease finds the thing
    /// behind the gate alive, and a drain always hears of its last lease.
    #[test]
    fn nobody_holds_a_lease_on_what_was_stopped() {
        const ROUNDS: usize = 500;
        const TAKERS: usize = 4;
        for round in 0..ROUNDS {
            let gate = Gate::new(true, 0);
            let stopped = AtomicBool::new(false);
            let (last, heard) = mpsc::channel();
            thread::scope(|scope| {
                for _ in 0..TAKERS {
                    let (gate, stopped, last) = (&gate, &stopped, last.clone());
                    scope.spawn(move || {
                        while gate.take() {
                            assert!(!stopped.load(Ordering::SeqCst), "a victim was in use");
                            if gate.give_back() && !gate.is_open() {
                                last.send(()).expect("the owner listens");
                            }
                        }
                    });
                }
                let idle = (round % 2 == 0).then(|| gate.close_if_idle()).flatten();
                if idle.or_else(|| gate.close()).is_none() {
                    // A word from before the closing says nothing, so look again.
                    while gate.vacant().is_none() {
                        heard.recv().expect("the last lease says so");
                    }
                }
                stopped.store(true, Ordering::SeqCst);
            });
        }
    }
}
