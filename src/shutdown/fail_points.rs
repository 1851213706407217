//! Places where a test makes the program panic, to see that it lives on. They do
//! nothing unless the server was started with the engine that plays a file, which
//! exists for tests too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A place that can be made to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// When a connection has been taken and not yet been served.
    Accept,
    /// Before a handler runs.
    Handler,
    /// When a stream is about to be read from its engine.
    Stream,
    /// In the pool's owner, when it is asked for a lease.
    Pool,
    /// While the configuration is read again.
    Reload,
    /// While lines of the request log are written.
    RequestLog,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Accept,
        Self::Handler,
        Self::Stream,
        Self::Pool,
        Self::Reload,
        Self::RequestLog,
    ];

    /// The word in metrics and in the header that arms the place.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handler => "handler",
            Self::Stream => "stream",
            Self::Pool => "pool",
            Self::Reload => "reload",
            Self::RequestLog => "request_log",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// Which places are armed; nothing where they are switched off.
#[derive(Clone, Debug, Default)]
pub struct FailPoints(Option<Arc<AtomicU8>>);

impl FailPoints {
    /// Fail points that can be armed.
    pub fn switched_on() -> Self {
        Self(Some(Arc::default()))
    }

    /// Makes the next pass through the place of this name panic.
    pub fn arm(&self, name: &str) {
        let place = Place::ALL.iter().find(|place| place.as_str() == name);
        if let (Some(armed), Some(place)) = (&self.0, place) {
            armed.fetch_or(place.bit(), Ordering::SeqCst);
        }
    }

    /// Panics if the place is armed, and disarms it.
    pub fn pass(&self, place: Place) {
        if let Some(armed) = &self.0 {
            let before = armed.fetch_and(!place.bit(), Ordering::SeqCst);
            assert!(before & place.bit() == 0, "a fail point was armed");
        }
    }
}
