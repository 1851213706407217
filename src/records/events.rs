//! What happens to requests and to the configuration, for whoever looks on now.
//! Nobody who tells waits, and nothing is kept: who follows too slowly misses
//! events and is told how many. Nothing said and no key is ever in one.

use std::sync::{Arc, OnceLock};

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

/// A handle to tell and to follow. Cloning gives another one. The channel takes its whole room
/// when it is made, so that is done for the first who follows.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<OnceLock<broadcast::Sender<Event>>>);

impl Events {
    /// Tells an event; its words are only made if somebody follows.
    pub fn tell(&self, name: &'static str, data: impl FnOnce() -> String) {
        let followed = self.0.get().filter(|events| events.receiver_count() > 0);
        if let Some(events) = followed {
            let data = data().into();
            // The last follower may have gone meanwhile.
            let _ = events.send(Event { name, data });
        }
    }

    /// Follows from now on.
    pub fn follow(&self) -> broadcast::Receiver<Event> {
        let events = self.0.get_or_init(|| broadcast::Sender::new(BEHIND));
        events.subscribe()
    }
}
