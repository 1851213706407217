//! HTTP to a worker over its socket, or to an engine over its socket or its port of
//! this machine. It knows the secret and the connection; it does not know what the
//! bytes mean, and it never repeats a request. No proxy of the system, no redirect.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::header::TE;
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::SECRET_HEADER;

/// How long a worker may take to accept a connection. It is on the same machine
/// and listens before it says that it is ready.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long an unused connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// The way to one worker. Cloning shares its connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// What stands before paths.
    origin: String,
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

/// What came back: frames of data, then trailers if the worker sent any.
/// Dropping it before the end closes the connection, so that the worker cancels.
#[derive(Debug)]
pub struct Body(reqwest::Body);

/// Why a worker did not answer, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was no connection, so the worker has seen nothing of the request.
    #[error("the worker cannot be reached: {0}")]
    Unreached(String),
    /// The connection broke before the headers.
    #[error("the worker is gone: {0}")]
    Gone(String),
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
        Ok(Self {
            http: connections(Some(socket))?,
            origin: "http://worker".to_owned(),
            secret: Some(secret),
        })
    }

    /// A client for an engine that is not ours.
    pub fn of_engine(address: &Address) -> Result<Self, Failure> {
        let (socket, origin) = match address {
            Address::Socket(path) => (Some(path.as_path()), "http://localhost".to_owned()),
            Address::Port(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                (None, format!("http://{address}"))
            }
        };
        Ok(Self {
            http: connections(socket)?,
            origin,
            secret: None,
        })
    }

    /// Sends one request; `path` begins with `/` and may have a query. Answers
    /// when the headers are there. `headers` go out as they are; for a worker of our
    /// own, with the secret and the wish for trailers added.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: impl Into<reqwest::Body>,
    ) -> Result<Response<Body>, Failure> {
        if let Some(secret) = &self.secret {
            headers.insert(SECRET_HEADER, secret.clone());
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        let request = self
            .http
            .request(method, format!("{}{path}", self.origin))
            .headers(headers)
            .body(body);
        let response = request.send().await.map_err(Failure::before_headers)?;
        Ok(Response::from(response).map(Body))
    }
}

/// Connections to one place of this machine.
fn connections(socket: Option<&Path>) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIME)
        .pool_idle_timeout(IDLE_TIME);
    if let Some(socket) = socket {
        builder = builder.unix_socket(socket);
    }
    let built = builder.build();
    built.map_err(|error| Failure::Invalid(chain(&error)))
}

impl Failure {
    /// Sorts an error that came before the headers.
    fn before_headers(error: reqwest::Error) -> Self {
        if error.is_builder() {
            Self::Invalid(chain(&error.without_url()))
        } else if error.is_timeout() {
            Self::Timeout
        } else if error.is_connect() {
            Self::Unreached(chain(&error.without_url()))
        } else {
            Self::Gone(chain(&error.without_url()))
        }
    }
}

/// An error with its causes, in one line: reqwest keeps what happened in the causes.
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
        Pin::new(&mut self.0)
            .poll_frame(context)
            .map_err(|error| Failure::Cut(chain(&error.without_url())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
