//! Requests, lease drops and the pool's owner around one gate, in every order in
//! which their threads can run. A request does what `Lease::take` and the drop of a
//! `Lease` do; the owner does what the machine does on `Idle`, when it takes a
//! victim and when it drains.
//!
//! Three things are held. Whoever got a lease was seen to be through by the owner
//! before it stopped the worker: his marks are plain relaxed stores, so an ordering
//! that is too weak shows as well as a wrong count. The owner never waits for a word
//! that does not come: loom reports that as a deadlock. And there are never more
//! leases out than there may be.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::thread;

use roundhouse_loom::gate::Gate;

/// A gate and the marks of those who used what stands behind it.
struct Scene {
    gate: Arc<Gate>,
    through: [AtomicBool; 2],
    is_stopped: AtomicBool,
}

impl Scene {
    fn new(leases: u64, most: u64) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(true, leases, most),
            through: [AtomicBool::new(false), AtomicBool::new(false)],
            is_stopped: AtomicBool::new(false),
        })
    }

    /// The way through an open gate; answers whether it was open.
    fn request(&self, who: usize, owner: &Sender<()>) -> bool {
        let is_taken = self.gate.take();
        if is_taken {
            self.hold(who, owner);
        }
        is_taken
    }

    /// A lease from its use to its drop: the last one tells the owner.
    fn hold(&self, who: usize, owner: &Sender<()>) {
        let is_stopped = self.is_stopped.load(Ordering::Relaxed);
        assert!(!is_stopped, "a lease on what was stopped");
        self.through[who].store(true, Ordering::Relaxed);
        if self.gate.give_back() {
            owner.send(()).expect("the owner listens");
        }
    }

    /// The owner stops the worker; answers who had used it by then.
    fn stop(&self) -> [bool; 2] {
        self.is_stopped.store(true, Ordering::Relaxed);
        [0, 1].map(|who| self.through[who].load(Ordering::Relaxed))
    }

    /// The owner lets a closed gate run empty.
    fn drain(&self, inbox: &Receiver<()>) -> [bool; 2] {
        // A word may be from before the closing and says nothing then.
        while self.gate.vacant().is_none() {
            inbox.recv().expect("the last lease says so");
        }
        self.stop()
    }
}

/// Two requests while the owner looks for a victim.
#[test]
fn a_victim_is_a_gate_that_nobody_went_through_unseen() {
    loom::model(|| {
        let scene = Scene::new(0, 2);
        let (owner, _inbox) = channel();
        let requests = [0, 1].map(|who| {
            let (scene, owner) = (scene.clone(), owner.clone());
            thread::spawn(move || scene.request(who, &owner))
        });
        let seen = scene.gate.close_if_idle().map(|_| scene.stop());
        let used = requests.map(|request| request.join().expect("no panic"));
        match seen {
            Some(seen) => assert_eq!(seen, used, "used, but not seen to be through"),
            None => assert!(used[0] || used[1], "an idle gate was not closed"),
        }
    });
}

/// Two leases that were handed over with the model come back while it drains.
#[test]
fn a_drain_hears_of_its_last_lease() {
    loom::model(|| {
        let scene = Scene::new(2, 2);
        let (owner, inbox) = channel();
        let leases = [0, 1].map(|who| {
            let (scene, owner) = (scene.clone(), owner.clone());
            thread::spawn(move || scene.hold(who, &owner))
        });
        let seen = match scene.gate.close() {
            Some(_) => scene.stop(),
            None => scene.drain(&inbox),
        };
        assert_eq!(seen, [true, true]);
        for lease in leases {
            lease.join().expect("no panic");
        }
    });
}

/// A lease comes back and a request tries its luck while the model drains.
#[test]
fn nobody_gets_into_a_drain() {
    loom::model(|| {
        let scene = Scene::new(1, 2);
        let (owner, inbox) = channel();
        let lease = {
            let (scene, owner) = (scene.clone(), owner.clone());
            thread::spawn(move || scene.hold(0, &owner))
        };
        let request = {
            let scene = scene.clone();
            thread::spawn(move || scene.request(1, &owner))
        };
        let seen = match scene.gate.close() {
            Some(_) => scene.stop(),
            None => scene.drain(&inbox),
        };
        lease.join().expect("no panic");
        let used = request.join().expect("no panic");
        assert_eq!(seen, [true, used]);
    });
}

/// The one for whom a model was drained leaves: its gate opens again. Later it is
/// drained for good, with words from the first time still on their way. A client
/// whose answer ends asks again.
#[test]
fn a_drain_that_is_taken_back_loses_no_word() {
    loom::model(|| {
        let scene = Scene::new(1, 2);
        let (owner, inbox) = channel();
        let client = {
            let scene = scene.clone();
            thread::spawn(move || {
                scene.hold(0, &owner);
                scene.request(1, &owner)
            })
        };
        let seen = match scene.gate.close() {
            Some(_) => scene.stop(),
            None => {
                scene.gate.open();
                match scene.gate.close() {
                    Some(_) => scene.stop(),
                    None => scene.drain(&inbox),
                }
            }
        };
        let used = client.join().expect("no panic");
        assert_eq!(seen, [true, used]);
    });
}

/// The owner hears that a model is idle while somebody takes a lease again: it
/// closes the gate then or hears of it once more.
#[test]
fn an_idle_word_that_is_overtaken_is_said_again() {
    loom::model(|| {
        let scene = Scene::new(1, 2);
        let (owner, inbox) = channel();
        let lease = {
            let (scene, owner) = (scene.clone(), owner.clone());
            thread::spawn(move || scene.hold(0, &owner))
        };
        let request = {
            let scene = scene.clone();
            thread::spawn(move || scene.request(1, &owner))
        };
        let seen = loop {
            inbox.recv().expect("the last lease says so");
            if scene.gate.close_if_idle().is_some() {
                break scene.stop();
            }
        };
        lease.join().expect("no panic");
        let used = request.join().expect("no panic");
        assert_eq!(seen, [true, used]);
    });
}

/// Somebody queues for the one lease there may be while it comes back and another
/// request tries its luck: the owner lets him in or hears of a lease that does.
#[test]
fn who_queues_is_let_in() {
    loom::model(|| {
        let scene = Scene::new(1, 1);
        let (owner, inbox) = channel();
        let lease = {
            let (scene, owner) = (scene.clone(), owner.clone());
            thread::spawn(move || scene.hold(0, &owner))
        };
        let request = {
            let scene = scene.clone();
            thread::spawn(move || scene.request(1, &owner))
        };
        // What the machine does when somebody queues, and then for each word.
        while !scene.gate.admit() {
            let is_said = scene.gate.queue(true);
            if !is_said && scene.gate.admit() {
                break;
            }
            inbox.recv().expect("a lease that comes back says so");
        }
        assert_eq!(scene.gate.leases(), 1, "more leases than there may be");
        scene.gate.queue(false);
        scene.gate.give_back();
        lease.join().expect("no panic");
        request.join().expect("no panic");
    });
}

/// What the owner did before it opened a gate is there for whoever gets in.
#[test]
fn who_gets_in_sees_what_was_done_before() {
    loom::model(|| {
        let gate = Gate::new(false, 0, 1);
        let is_set_up = Arc::new(AtomicBool::new(false));
        let request = {
            let (gate, is_set_up) = (gate.clone(), is_set_up.clone());
            thread::spawn(move || {
                if gate.take() {
                    assert!(is_set_up.load(Ordering::Relaxed), "in before it was set up");
                }
            })
        };
        is_set_up.store(true, Ordering::Relaxed);
        gate.open();
        request.join().expect("no panic");
    });
}

/// All leases are out, and the owner lets a request queue while one comes back and
/// somebody else tries to get in before it.
#[test]
fn who_queues_is_let_in_and_nobody_overtakes() {
    loom::model(|| {
        let gate = Gate::new(true, 1, 1);
        let (owner, inbox) = channel();
        let lease = {
            let (gate, owner) = (gate.clone(), owner.clone());
            thread::spawn(move || {
                if gate.give_back() {
                    owner.send(()).expect("the owner listens");
                }
            })
        };
        gate.queue(true);
        assert!(!gate.take(), "somebody queues");
        while !gate.admit() {
            inbox.recv().expect("what comes back is told");
        }
        gate.queue(false);
        lease.join().expect("no panic");
        assert_eq!(gate.leases(), 1);
        assert!(!gate.take(), "there is but one");
    });
}
