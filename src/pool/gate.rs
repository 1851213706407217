//! The gate of a ready model: one atomic word that holds an open bit, a queue bit
//! and the number of leases. Anybody may take a lease while it is open, nobody
//! queues for it and fewer are out than there may be; only the pool's owner opens
//! and closes it, and lets in those who queue. It knows nothing of models or processes.

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

/// The top bit says open.
const OPEN: u64 = 1 << 63;

/// The next one says that requests queue, and that whoever gives a lease back must
/// tell the owner.
const QUEUED: u64 = 1 << 62;

/// The rest counts leases.
const LEASES: u64 = QUEUED - 1;

/// One word, and how many leases may be out.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    most: u64,
}

/// Proof that a gate was closed while nobody held a lease. Nobody can take one
/// any more, so what stands behind the gate may be stopped.
#[derive(Debug)]
pub struct Vacant(());

impl Gate {
    /// A gate through which at most `most` leases are taken, with some already out:
    /// those of the waiters to whom a model is handed over in the same step in which
    /// it becomes ready.
    pub fn new(open: bool, leases: u64, most: u64) -> Arc<Self> {
        debug_assert!(leases < LEASES);
        let bit = if open { OPEN } else { 0 };
        Arc::new(Self {
            word: AtomicU64::new(bit | leases),
            most,
        })
    }

    /// Takes a lease if there is one to have and nobody queues: one compare-and-swap
    /// when nobody interferes.
    pub fn take(&self) -> bool {
        let most = OPEN + self.most;
        // With the queue bit the word is greater than this as well.
        self.update(|word| word & OPEN != 0 && word < most)
    }

    /// Takes a lease for somebody who queues. Only the owner may.
    pub fn admit(&self) -> bool {
        self.update(|word| word & OPEN != 0 && word & LEASES < self.most)
    }

    /// Takes a lease whatever others there are, for somebody who will not use it.
    /// Only the owner may.
    pub fn enter(&self) -> bool {
        self.update(|word| word & OPEN != 0)
    }

    /// One lease more, if the word says that it may be.
    fn update(&self, may: impl Fn(u64) -> bool) -> bool {
        self.word
            .try_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                may(word).then_some(word + 1)
            })
            .is_ok()
    }

    /// Gives a lease back. Answers whether the one who gives it back must tell the
    /// owner: it was the last, or somebody queues for it.
    pub fn give_back(&self) -> bool {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & LEASES > 0, "a lease was given back twice");
        before & LEASES == 1 || before & QUEUED != 0
    }

    /// Says whether requests queue. Answers what was said before: only leases that
    /// come back after that are told.
    pub fn queue(&self, is_queued: bool) -> bool {
        let before = if is_queued {
            self.word.fetch_or(QUEUED, Ordering::AcqRel)
        } else {
            self.word.fetch_and(!QUEUED, Ordering::AcqRel)
        };
        before & QUEUED != 0
    }

    /// Whether it is said that requests queue.
    pub fn is_queued(&self) -> bool {
        self.word.load(Ordering::Acquire) & QUEUED != 0
    }

    /// Closes the gate if it is open and nobody holds or awaits a lease.
    pub fn close_if_idle(&self) -> Option<Vacant> {
        self.word
            .compare_exchange(OPEN, 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()
            .map(|_| Vacant(()))
    }

    /// Closes the gate whatever is out. Nothing means that leases are out: the
    /// last of them will say so when it is given back.
    pub fn close(&self) -> Option<Vacant> {
        let before = self.word.fetch_and(LEASES, Ordering::AcqRel);
        (before & LEASES == 0).then_some(Vacant(()))
    }

    /// Whether a closed gate has seen its last lease go.
    pub fn vacant(&self) -> Option<Vacant> {
        (self.word.load(Ordering::Acquire) == 0).then_some(Vacant(()))
    }

    /// Opens a gate that was closed to drain and is to stay after all.
    pub fn open(&self) {
        self.word.fetch_or(OPEN, Ordering::AcqRel);
    }

    /// Whether leases may be taken now. Only the owner may act on it.
    pub fn is_open(&self) -> bool {
        self.word.load(Ordering::Acquire) & OPEN != 0
    }

    /// Leases out now. Only good for showing, or on a closed gate.
    pub fn leases(&self) -> u64 {
        self.word.load(Ordering::Acquire) & LEASES
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
        let gate = Gate::new(true, 1, u64::MAX >> 2);
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
        let gate = Gate::new(true, 0, 1);
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
            let gate = Gate::new(true, 0, 3);
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
