//! Connections to one place: opened when there is none free, kept
//! while they are used now and then. HTTP/1.1, one request at a time on each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::elsewhere::Elsewhere;
use super::{Failure, chain};

/// How long a connection may take to be accepted, and a kept one to be free: an engine
/// is on the same machine and listens before it says that it is ready, and another
/// machine that is not reached by then is better asked again.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Why a body of a request did not come to its end.
pub(super) type Unfinished = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
type Outgoing = UnsyncBoxBody<Bytes, Unfinished>;

/// Where they lead to.
#[derive(Debug)]
pub(super) enum Place {
    /// A Unix socket.
    Socket(PathBuf),
    /// An address of this machine.
    Tcp(SocketAddr),
    /// Another machine.
    Elsewhere(Elsewhere),
}

/// The connections to one place.
#[derive(Debug)]
pub(super) struct Connections {
    place: Place,
    /// How long one is kept unused.
    idle: Duration,
    /// The free ones, the one used last at the end.
    free: Mutex<Vec<Free>>,
}

#[derive(Debug)]
struct Free {
    sender: SendRequest<Outgoing>,
    since: Instant,
}

/// One connection, for one request.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Outgoing>,
    /// Whether it has served a request before.
    is_used: bool,
    connections: Arc<Connections>,
}

/// Why a request got no answer.
pub(super) enum Unsent {
    /// The connection was closed before anything of it was written: here it is again.
    Closed(Box<Request<Outgoing>>),
    /// The connection broke.
    Broken(hyper::Error),
}

impl Connections {
    /// No connection yet; a free one is kept for `idle`.
    pub(super) fn to(place: Place, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            place,
            idle,
            free: Mutex::default(),
        })
    }

    /// A connection that is free, or a new one.
    pub(super) async fn one(this: &Arc<Self>) -> Result<Connection, Failure> {
        while let Some(mut sender) = this.take_free() {
            // It was free when it was put back, but for what its own task tidies up.
            let is_ready = sender.is_ready()
                || matches!(timeout(CONNECT_TIME, sender.ready()).await, Ok(Ok(())));
            if is_ready {
                return Ok(this.connection(sender, true));
            }
        }
        let opened = timeout(CONNECT_TIME, this.open()).await;
        let sender = opened.map_err(|_| Failure::Timeout)??;
        Ok(this.connection(sender, false))
    }

    fn connection(self: &Arc<Self>, sender: SendRequest<Outgoing>, is_used: bool) -> Connection {
        Connection {
            sender,
            is_used,
            connections: self.clone(),
        }
    }

    /// The one used last; those that were unused for too long are closed.
    fn take_free(&self) -> Option<SendRequest<Outgoing>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let old = free.partition_point(|free| free.since.elapsed() > self.idle);
        free.drain(..old);
        free.pop().map(|free| free.sender)
    }

    async fn open(&self) -> Result<SendRequest<Outgoing>, Failure> {
        let unreached = |error: std::io::Error| Failure::Unreached(chain(&error));
        match &self.place {
            Place::Socket(path) => {
                Self::begin(UnixStream::connect(path).await.map_err(unreached)?).await
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreached)?;
                stream.set_nodelay(true).map_err(unreached)?;
                Self::begin(stream).await
            }
            Place::Elsewhere(elsewhere) => {
                let stream = elsewhere.connect().await.map_err(unreached)?;
                #[cfg(feature = "tls")]
                if let Some(handshake) = elsewhere.handshake() {
                    let secured = handshake.over(stream).await.map_err(unreached)?;
                    return Self::begin(secured).await;
                }
                Self::begin(stream).await
            }
        }
    }

    async fn begin<S>(stream: S) -> Result<SendRequest<Outgoing>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Gone(chain(&error)))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with the connection, which ends with its sender"
        )]
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(?error, "a connection to an engine ended early");
            }
        });
        Ok(sender)
    }
}

impl Connection {
    /// Sends the request; answers when the headers are there.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unsent> {
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => Unsent::Closed(Box::new(request)),
            None => Unsent::Broken(error.into_error()),
        })
    }

    /// Whether it has served a request before, so that the other side may have closed
    /// it in the meantime.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Puts it back for the next request.
    pub(super) fn keep(self) {
        if self.sender.is_closed() {
            return;
        }
        let free = &self.connections.free;
        free.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Free {
                sender: self.sender,
                since: Instant::now(),
            });
    }
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Closed(_) => Self::Unreached("it closed the connection at once".to_owned()),
            Unsent::Broken(error) if error.is_parse() => Self::Malformed(chain(&error)),
            Unsent::Broken(error) => Self::Gone(chain(&error)),
        }
    }
}
