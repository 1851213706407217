//! HTTP to a worker over its socket, to an engine over its socket or its port of this
//! machine, or to an upstream elsewhere. It knows the secret and what an answer is; it
//! does not know what the bytes mean, it repeats no request that may have been seen, it
//! follows no redirect and asks no proxy. The connections are kept in `connections`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::header::{HOST, TE};
use axum::http::{HeaderValue, Method, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;

use super::SECRET_HEADER;
pub use connections::Arrived;
use connections::{Connection, Connections};
use elsewhere::Elsewhere;
use question::Question;
pub use question::{Fields, Unfinished};

pub mod answer;
mod connections;
pub mod elsewhere;
mod question;

/// How long a connection to our own worker is kept unused.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// How long one to another engine is: shorter than any server closes its side (the
/// shortest known is uvicorn's five seconds), since a request that meets the closing
/// is lost.
const ENGINE_IDLE_TIME: Duration = Duration::from_secs(2);

/// How long one to an upstream is: servers of others close theirs after a minute or so.
const UPSTREAM_IDLE_TIME: Duration = Duration::from_secs(20);

/// The way to one worker. Cloning shares its connections.
#[derive(Clone)]
pub struct Client {
    connections: Arc<Connections>,
    host: HeaderValue,
    /// Of our own workers alone: no other engine could ask for it.
    secret: Option<HeaderValue>,
}

/// Where an engine that is not ours listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On a Unix socket.
    Socket(PathBuf),
    /// On a port of 127.0.0.1.
    Port(u16),
}

/// What came back: data, then trailers if the worker sent any.
/// Dropping it before the end closes the connection, so that the worker cancels.
#[derive(Debug)]
pub struct Body {
    /// Kept for the next request once this answer has ended.
    connection: Option<Connection>,
    /// What came after the last frame and is still to be told.
    after: Option<Arrived>,
}

/// Why a worker did not answer, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was no connection, so the worker has seen nothing of the request.
    #[error("the worker cannot be reached: {0}")]
    Unreached(String),
    /// The connection broke before the headers.
    #[error("the worker is gone: {0}")]
    Gone(String),
    /// What came is no HTTP, or more of it than is taken.
    #[error("the worker's answer is no HTTP: {0}")]
    Malformed(String),
    /// The connection was not accepted in time.
    #[error("the worker does not accept connections")]
    Timeout,
    /// The body broke off after the headers.
    #[error("the worker's answer broke off: {0}")]
    Cut(String),
    /// The request could not be formed, or the client not be set up.
    #[error("the request to the worker is not valid: {0}")]
    Invalid(String),
}

impl Client {
    /// A client for the worker behind `socket`, whose secret is `secret`.
    pub fn new(socket: &Path, secret: &str) -> Result<Self, Failure> {
        let mut secret =
            HeaderValue::from_str(secret).map_err(|error| Failure::Invalid(error.to_string()))?;
        secret.set_sensitive(true);
        let place = connections::Place::Socket(socket.to_owned());
        Ok(Self {
            connections: Connections::to(place, IDLE_TIME),
            host: HeaderValue::from_static("worker"),
            secret: Some(secret),
        })
    }

    /// A client for an engine that is not ours.
    pub fn of_engine(address: &Address) -> Result<Self, Failure> {
        let (place, host) = match address {
            Address::Socket(path) => {
                let host = HeaderValue::from_static("localhost");
                (connections::Place::Socket(path.clone()), host)
            }
            Address::Port(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                let host = HeaderValue::from_str(&address.to_string());
                let host = host.map_err(|error| Failure::Invalid(error.to_string()))?;
                (connections::Place::Tcp(address), host)
            }
        };
        Ok(Self {
            connections: Connections::to(place, ENGINE_IDLE_TIME),
            host,
            secret: None,
        })
    }

    /// A client for an upstream, whose name for itself is `host`.
    pub fn of_upstream(place: Elsewhere, host: &str) -> Result<Self, Failure> {
        let host =
            HeaderValue::from_str(host).map_err(|error| Failure::Invalid(error.to_string()))?;
        Ok(Self {
            connections: Connections::to(connections::Place::Elsewhere(place), UPSTREAM_IDLE_TIME),
            host,
            secret: None,
        })
    }

    /// Sends one request; `path` begins with `/` and may have a query. Answers
    /// when the headers are there. `headers` go out as they are with the host; for a
    /// worker of our own, with the secret and the wish for trailers too.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        mut headers: Fields,
        body: impl http_body::Body<Data = Bytes, Error: Into<Unfinished>> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        headers.set(HOST, self.host.clone());
        if let Some(secret) = &self.secret {
            headers.set(SECRET_HEADER, secret.clone());
            headers.set(TE, HeaderValue::from_static("trailers"));
        }
        let question = Question::new(&method, path, &headers, body);
        let mut question = question.map_err(|error| Failure::Invalid(error.to_string()))?;
        let is_head = method == Method::HEAD;
        loop {
            let mut connection = Connections::one(&self.connections, is_head).await?;
            match connection.send(question).await {
                Ok(response) => return Ok(response.map(|()| Body::new(connection))),
                Err(connections::Unsent::Closed(again)) if connection.is_used() => {
                    question = *again;
                }
                Err(unsent) => return Err(unsent.into()),
            }
        }
    }
}

impl Body {
    fn new(connection: Connection) -> Self {
        let mut body = Self {
            connection: Some(connection),
            after: None,
        };
        body.keep_if_ended();
        body
    }

    /// Waits until something arrives, and puts all that has arrived then into `come`.
    /// What is answered came after that.
    pub fn poll_arrived(
        &mut self,
        context: &mut Context<'_>,
        come: &mut BytesMut,
    ) -> Poll<Arrived> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Arrived::End);
        };
        let arrived = ready!(connection.poll_arrived(context, come));
        match arrived {
            Arrived::Failure(_) => self.connection = None,
            _ => self.keep_if_ended(),
        }
        Poll::Ready(arrived)
    }

    /// The connection is free for the next request once nothing more can come.
    fn keep_if_ended(&mut self) {
        if self.connection.as_ref().is_some_and(Connection::has_ended)
            && let Some(connection) = self.connection.take()
        {
            connection.keep();
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut come = BytesMut::new();
        let arrived = match self.after.take() {
            Some(after) => after,
            None => ready!(self.poll_arrived(context, &mut come)),
        };
        if !come.is_empty() {
            self.after = Some(arrived).filter(|after| !matches!(after, Arrived::Data));
            return Poll::Ready(Some(Ok(Frame::data(come.freeze()))));
        }
        Poll::Ready(match arrived {
            // Data never comes without bytes.
            Arrived::End | Arrived::Data => None,
            Arrived::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Arrived::Failure(failure) => Some(Err(failure)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() && matches!(self.after, None | Some(Arrived::End))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
