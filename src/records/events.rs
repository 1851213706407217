//! What happens to requests and to the configuration, for whoever looks on now.
//! Nobody who tells waits, and nothing is kept: who follows too slowly misses
//! events and is told how many. Nothing said and no key is ever in one.

use std::sync::Arc;

use tokio::sync::broadcast;

/// How much a slow follower may lie behind before it misses something.
const BEHIND: usize = 1024;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// What kind it is of.
    pub name: &'static str,
    /// What happened, as one line of JSON.
    pub data: Arc<str>,
}

/// A handle to tell and to follow. Cloning gives another one.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND).0)
    }
}

impl Events {
    /// Tells an event; its words are only made if somebody follows.
    pub fn tell(&self, name: &'static str, data: impl FnOnce() -> String) {
        if self.0.receiver_count() > 0 {
            let data = data().into();
            // The last follower may have gone meanwhile.
            let _ = self.0.send(Event { name, data });
        }
    }

    /// Follows from now on.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
