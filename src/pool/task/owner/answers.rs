//! Who waits for an answer of the owner, and the answers that are ready. They are
//! told once the view shows what they tell of: whoever hears that a model is up and
//! looks sees it up. What is answered is decided by the machine.

use foldhash::HashMap;
use tokio::sync::oneshot::Sender;

use crate::pool::state::{HoldId, ReplyId, WaiterId};
use crate::pool::{HoldError, Lease, Refused, UnloadError};

/// Everybody whom the owner owes an answer.
#[derive(Default)]
pub(super) struct Answers {
    waiters: HashMap<WaiterId, Sender<Result<Lease, Refused>>>,
    unloads: HashMap<ReplyId, Sender<Result<(), UnloadError>>>,
    releases: HashMap<ReplyId, Sender<Result<Vec<String>, UnloadError>>>,
    holds: HashMap<HoldId, Sender<Result<HoldId, HoldError>>>,
    let_go: HashMap<ReplyId, Sender<Result<String, HoldError>>>,
    ready: Vec<Box<dyn FnOnce() + Send>>,
}

impl Answers {
    /// Somebody waits for a lease.
    pub fn owe_lease(&mut self, waiter: WaiterId, to: Sender<Result<Lease, Refused>>) {
        self.waiters.insert(waiter, to);
    }

    /// Somebody wants to know that a model is gone.
    pub fn owe_unload(&mut self, reply: ReplyId, to: Sender<Result<(), UnloadError>>) {
        self.unloads.insert(reply, to);
    }

    /// Somebody wants to know which idle models went.
    pub fn owe_release(&mut self, reply: ReplyId, to: Sender<Result<Vec<String>, UnloadError>>) {
        self.releases.insert(reply, to);
    }

    /// Somebody wants to know whether a model is held.
    pub fn owe_hold(&mut self, hold: HoldId, to: Sender<Result<HoldId, HoldError>>) {
        self.holds.insert(hold, to);
    }

    /// Somebody wants to know what was let go.
    pub fn owe_letting_go(&mut self, reply: ReplyId, to: Sender<Result<String, HoldError>>) {
        self.let_go.insert(reply, to);
    }

    /// A waiter has left: nothing is owed any more.
    pub fn forget(&mut self, waiter: WaiterId) {
        self.waiters.remove(&waiter);
    }

    /// Of a lease that nobody takes, its end gives it back.
    pub fn lease(&mut self, waiter: WaiterId, result: Result<Lease, Refused>) {
        let to = self.waiters.remove(&waiter);
        self.answer(to, result);
    }

    /// A model is gone, or why it is not.
    pub fn unload(&mut self, reply: ReplyId, result: Result<(), UnloadError>) {
        let to = self.unloads.remove(&reply);
        self.answer(to, result);
    }

    /// These models went.
    pub fn release(&mut self, reply: ReplyId, models: Vec<String>) {
        let to = self.releases.remove(&reply);
        self.answer(to, Ok(models));
    }

    /// A model is held, or why it is not. If whoever asked has gone by the time that
    /// it is told, nobody knows the number, and `undo` is called.
    pub fn hold(
        &mut self,
        hold: HoldId,
        result: Result<(), HoldError>,
        undo: impl FnOnce() + Send + 'static,
    ) {
        let to = self.holds.remove(&hold);
        self.ready.push(Box::new(move || {
            let is_held = result.is_ok();
            let told = to.map(|to| to.send(result.map(|()| hold)));
            if is_held && !matches!(told, Some(Ok(()))) {
                undo();
            }
        }));
    }

    /// This model was let go, or why not.
    pub fn letting_go(&mut self, reply: ReplyId, result: Result<String, HoldError>) {
        let to = self.let_go.remove(&reply);
        self.answer(to, result);
    }

    /// Tells all that is ready.
    pub fn tell(&mut self) {
        self.ready.drain(..).for_each(|tell| tell());
    }

    /// What is ready is told; everybody else hears that it was in vain.
    pub fn tell_all_lost(&mut self) {
        self.tell();
        for (_, to) in self.waiters.drain() {
            let _ = to.send(Err(Refused::Lost));
        }
        for (_, to) in self.unloads.drain() {
            let _ = to.send(Err(UnloadError::Lost));
        }
        for (_, to) in self.releases.drain() {
            let _ = to.send(Err(UnloadError::Lost));
        }
        // Whoever hears nothing knows that it was lost.
        self.holds.clear();
        self.let_go.clear();
    }

    fn answer<T: Send + 'static>(&mut self, to: Option<Sender<T>>, answer: T) {
        if let Some(to) = to {
            self.ready.push(Box::new(move || drop(to.send(answer))));
        }
    }
}
