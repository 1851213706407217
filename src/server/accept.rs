//! Taking connections: one loop for each listener, with a bound on how many
//! there are at once. What is beyond it waits in the system's queue.

use std::io::{ErrorKind, Result};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::tls::Secured;
use super::{App, Limits, Settings};
use crate::access::Door;
use crate::shutdown::{Place, Tasks};

/// How long to wait after the system refused a connection for want of descriptors,
/// and after a panic.
const PAUSE: Duration = Duration::from_millis(100);

/// The same trouble is told once in this time, not for each connection.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What listens.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Door),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// The next connection; nothing if it was gone before it could be taken.
    async fn accept(&self) -> Result<Option<(Stream, Door)>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Events are small and must not wait for each other.
                let local = stream.set_nodelay(true).and_then(|()| stream.local_addr());
                Ok(local.ok().map(|local| {
                    let door = Door::Tcp {
                        local: local.ip(),
                        peer: peer.ip(),
                    };
                    (Stream::Tcp(stream), door)
                }))
            }
            Self::Unix(listener, door) => {
                let (stream, _) = listener.accept().await?;
                Ok(Some((Stream::Unix(stream), door.clone())))
            }
        }
    }
}

/// The connections of one listener.
pub(super) struct Connections {
    app: App,
    settings: Settings,
    tasks: Tasks,
    seats: Seats,
    full: Rarely,
    refused: Rarely,
}

impl Connections {
    pub(super) fn new(app: App, settings: Settings, tasks: Tasks) -> Self {
        Self {
            app,
            settings,
            tasks,
            seats: Seats::none(),
            full: Rarely::default(),
            refused: Rarely::default(),
        }
    }

    /// Takes connections until the stop signal. A panic costs the connection that
    /// was being taken.
    pub(super) async fn accept(mut self, listener: Listener, stop: CancellationToken) {
        loop {
            let taking = AssertUnwindSafe(self.take(&listener, &stop)).catch_unwind();
            match taking.await {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(_) => {
                    tracing::error!("a panic cost a connection");
                    self.settings.counters.panicked(Place::Accept.as_str());
                    // What panics each time must not take a whole processor.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes one connection, or nothing more once the server stops.
    async fn take(&mut self, listener: &Listener, stop: &CancellationToken) -> ControlFlow<()> {
        let limits = (self.settings.limits)();
        let Some(seat) = self.seat(&limits, stop).await else {
            return ControlFlow::Break(());
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return ControlFlow::Break(()),
        };
        match accepted {
            Ok(Some((stream, door))) => {
                self.tasks.pass(Place::Accept);
                self.connect(stream, door, &limits, seat, stop.clone());
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if self.refused.is_due(Instant::now()) {
                    tracing::warn!(?error, "connections are not accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        ControlFlow::Continue(())
    }

    /// Waits until one more connection may be taken; nothing once the server stops.
    async fn seat(
        &mut self,
        limits: &Limits,
        stop: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        let most = limits.connections.min(self.settings.room);
        self.seats.resize(most);
        if let Ok(seat) = self.seats.free.clone().try_acquire_owned() {
            return Some(seat);
        }
        if self.full.is_due(Instant::now()) {
            tracing::warn!(
                connections = most,
                "a listener is full; further connections wait"
            );
        }
        tokio::select! {
            seat = self.seats.free.clone().acquire_owned() => seat.ok(),
            () = stop.cancelled() => None,
        }
    }

    /// Serves one connection in a task of its own.
    fn connect(
        &self,
        stream: Stream,
        door: Door,
        limits: &Limits,
        seat: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let connection = Connection {
            app: self.app.clone(),
            door,
            times: limits.times,
            tasks: self.tasks.clone(),
        };
        let (tls, patience) = (self.settings.tls.clone(), limits.times.head);
        self.tasks.spawn(async move {
            let _seat = seat;
            let stream = match stream {
                Stream::Unix(stream) => {
                    return connection.serve(Secured::Plain(stream), stop).await;
                }
                Stream::Tcp(stream) => stream,
            };
            let secured = tokio::select! {
                secured = tokio::time::timeout(patience, tls.secure(stream)) => secured,
                () = stop.cancelled() => return,
            };
            match secured {
                Ok(Ok(secured)) => connection.serve(secured, stop).await,
                Ok(Err(error)) => tracing::debug!(?error, "a handshake failed"),
                Err(_) => tracing::debug!("a handshake took too long"),
            }
        });
    }
}

/// Places for connections, whose number follows the configuration.
struct Seats {
    free: Arc<Semaphore>,
    all: usize,
}

impl Seats {
    fn none() -> Self {
        Self {
            free: Arc::new(Semaphore::new(0)),
            all: 0,
        }
    }

    /// More places at once; fewer as they become free.
    fn resize(&mut self, wanted: usize) {
        let wanted = wanted.min(Semaphore::MAX_PERMITS);
        match wanted.checked_sub(self.all) {
            Some(more) => {
                self.free.add_permits(more);
                self.all = wanted;
            }
            None => self.all -= self.free.forget_permits(self.all - wanted),
        }
    }
}

/// Says when a trouble may be told again.
#[derive(Default)]
struct Rarely {
    last: Option<Instant>,
}

impl Rarely {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= TELL_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_the_number_that_is_wanted() {
        let mut seats = Seats::none();
        seats.resize(3);
        let taken: Vec<_> = (0..3)
            .map(|_| seats.free.clone().try_acquire_owned().expect("a seat"))
            .collect();
        assert!(seats.free.clone().try_acquire_owned().is_err());
        seats.resize(1);
        drop(taken);
        seats.resize(1);
        let only = seats.free.clone().try_acquire_owned().expect("a seat");
        assert!(
            seats.free.clone().try_acquire_owned().is_err(),
            "one is left"
        );
        seats.resize(2);
        assert!(seats.free.clone().try_acquire_owned().is_ok());
        drop(only);
    }

    #[test]
    fn a_trouble_is_told_once_in_five_seconds() {
        let mut rarely = Rarely::default();
        let now = Instant::now();
        assert!(rarely.is_due(now));
        assert!(!rarely.is_due(now + Duration::from_millis(4999)));
        assert!(rarely.is_due(now + TELL_EVERY));
        assert!(!rarely.is_due(now + TELL_EVERY));
    }
}
