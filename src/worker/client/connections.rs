//! Connections to one place: opened when there is none free, kept
//! while they are used now and then. HTTP/1.1, one request at a time on each. A
//! connection has no task of its own: whoever waits for its answer drives it, so
//! that nothing of an answer changes tasks on its way.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
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
pub type Unfinished = Box<dyn std::error::Error + Send + Sync>;

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
    way: Way,
    since: Instant,
}

/// One connection, for one request.
#[derive(Debug)]
pub(super) struct Connection {
    way: Way,
    /// Whether it has served a request before.
    is_used: bool,
    connections: Arc<Connections>,
}

/// The two ends of hyper's connection.
struct Way {
    sender: SendRequest<Outgoing>,
    /// Reads and writes when it is polled; nothing once the connection has ended.
    driver: Option<Driver>,
}

/// hyper's side of a connection, whatever carries it.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

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
        while let Some(mut way) = this.take_free() {
            if way.is_free() {
                return Ok(this.connection(way, true));
            }
        }
        let opened = timeout(CONNECT_TIME, this.open()).await;
        let way = opened.map_err(|_| Failure::Timeout)??;
        Ok(this.connection(way, false))
    }

    fn connection(self: &Arc<Self>, way: Way, is_used: bool) -> Connection {
        Connection {
            way,
            is_used,
            connections: self.clone(),
        }
    }

    /// The one used last; those that were unused for too long are closed.
    fn take_free(&self) -> Option<Way> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = free.partition_point(|free| now.duration_since(free.since) > self.idle);
        free.drain(..old);
        free.pop().map(|free| free.way)
    }

    async fn open(&self) -> Result<Way, Failure> {
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

    async fn begin<S>(stream: S) -> Result<Way, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Gone(chain(&error)))?;
        let driver: Driver = Box::pin(connection);
        Ok(Way {
            sender,
            driver: Some(driver),
        })
    }
}

/// Reads and writes what can be read and written now.
fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    if let Some(running) = driver
        && let Poll::Ready(ended) = running.as_mut().poll(context)
    {
        if let Err(error) = ended {
            tracing::debug!(?error, "a connection to an engine ended early");
        }
        // What still waits for it hears of its end by this.
        *driver = None;
    }
}

impl Way {
    /// Whether it can take a request: it looks whether the other side has closed it
    /// since its last answer.
    fn is_free(&mut self) -> bool {
        // Nobody waits for anything yet.
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends the request; answers when the headers are there.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unsent> {
        let way = &mut self.way;
        let mut sent = pin!(way.sender.try_send_request(request));
        let sent = poll_fn(|context| {
            // First what makes the answer come.
            drive(&mut way.driver, context);
            sent.as_mut().poll(context)
        });
        sent.await.map_err(|mut error| match error.take_message() {
            Some(request) => Unsent::Closed(Box::new(request)),
            None => Unsent::Broken(error.into_error()),
        })
    }

    /// Reads and writes what can be read and written now.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        drive(&mut self.way.driver, context);
    }

    /// Whether it has served a request before, so that the other side may have closed
    /// it in the meantime.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Puts it back for the next request.
    pub(super) fn keep(self) {
        if self.way.driver.is_none() || self.way.sender.is_closed() {
            return;
        }
        let free = &self.connections.free;
        free.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Free {
                way: self.way,
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
