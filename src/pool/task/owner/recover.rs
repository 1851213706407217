//! After a panic in the owner nothing that the machine believes can be trusted.
//! What is certain are the processes that were started: they are ended and
//! reaped, everybody who waited is told, and a new machine begins with nothing
//! loaded. Answers that run get a moment to end by themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Owner, now};
use crate::pool::Ending;
use crate::pool::state::{GRACE, Machine, SHORT_GRACE};
use crate::pool::task::Message;
use crate::worker::Leave;
use crate::worker::process::Launch;

/// How long running answers may take to end by themselves.
const DRAIN: Duration = Duration::from_secs(10);

/// The pause before a new machine, so that what panics at once does not spin.
const PAUSE: Duration = Duration::from_millis(100);

impl<L: Launch> Owner<L> {
    /// Ends everything and begins again. Messages that come meanwhile wait.
    pub(super) async fn start_over(&mut self) {
        tracing::error!("the pool lost its state; it ends its workers and starts again");
        // Not ready, until a machine shows itself again.
        let mut view = crate::pool::View::clone(&self.show.borrow());
        view.preloading = view.preloading.max(1);
        self.show.send_replace(Arc::new(view));
        self.witness.forget();
        self.answers.tell_all_lost();
        self.close_gates();
        let deadline = now() + DRAIN;
        while self.leases() > 0 && self.hear_until(deadline).await {}
        for process in self.workers.values() {
            if let Some(instance) = &process.instance {
                instance.ending.send_replace(Some(Ending::Lost));
            }
            process.stop.send_replace(Some(Leave::within(SHORT_GRACE)));
        }
        // A process that cannot be killed must not keep the others from working.
        let deadline = now() + GRACE;
        while !self.workers.is_empty() && self.hear_until(deadline).await {}
        self.workers.clear();
        tokio::time::sleep(PAUSE).await;
        let (settings, models) = self.told.clone();
        self.machine = Machine::after(self.machine.past(), settings, models, now());
    }

    /// From here on nobody gets a lease.
    fn close_gates(&self) {
        self.shared.open.store(Arc::default());
        for process in self.workers.values() {
            if let Some(instance) = &process.instance {
                // Leases that are out are counted below.
                let _ = instance.gate.close();
            }
        }
    }

    /// Leases that are still out.
    fn leases(&self) -> u64 {
        let instances = self.workers.values().filter_map(|p| p.instance.as_ref());
        instances.map(|instance| instance.gate.leases()).sum()
    }

    /// Takes in one message, keeping for later what is for the machine. Answers
    /// whether one came before the deadline.
    async fn hear_until(&mut self, deadline: Instant) -> bool {
        let message = tokio::time::timeout_at(deadline.into(), self.inbox.recv()).await;
        let Ok(Some(message)) = message else {
            return false;
        };
        match message {
            Message::Exited { generation, .. } => {
                self.workers.remove(&generation);
            }
            Message::Idle { .. } | Message::Worker { .. } => {}
            message => self.deferred.push_back(message),
        }
        true
    }
}
