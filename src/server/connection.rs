//! One connection: TLS where there is a certificate, HTTP/1.1, or HTTP/2 if the
//! client asks for it within TLS (ALPN, RFC 7301). Each request gets the door it
//! came through; each exchange is counted.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::App;
use super::exchange::{Activity, AnswerBody, RequestBody};
use super::offer;
use super::pace::{Paced, Times};
use super::tls::Secured;
use crate::access::Door;
use crate::shutdown::Tasks;

/// Largest head of a request, bytes; the smallest that hyper takes is 8 KiB.
pub(super) const LARGEST_HEAD: usize = 64 * 1024;

/// What a connection needs besides its socket.
pub(super) struct Connection {
    pub(super) app: App,
    pub(super) door: Door,
    pub(super) times: Times,
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "only HTTP/2 starts tasks of its own")
    )]
    pub(super) tasks: Tasks,
}

impl Connection {
    /// Serves until the client leaves, breaks a limit, or the stop signal came
    /// and the running exchanges ended.
    pub(super) async fn serve<S>(self, secured: Secured<S>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match secured {
            Secured::Plain(stream) => self.serve_http1(stream, stop).await,
            #[cfg(feature = "tls")]
            Secured::Tls(stream) => match stream.get_ref().1.alpn_protocol() {
                // Its own is larger than what most connections need.
                Some(super::tls::HTTP2) => {
                    Box::pin(super::http2::serve(self, stream, stop)).await;
                }
                _ => self.serve_http1(stream, stop).await,
            },
        }
    }

    async fn serve_http1<S>(self, stream: S, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::default());
        let stream = Paced::new(stream, activity.clone(), self.times, false);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The pace of heads and of idle connections is kept below.
            .header_read_timeout(None)
            // Of fields it takes 100 unless it is told another number, and then it makes
            // two lists ready for that many before it reads a head.
            .max_header_size(LARGEST_HEAD)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service(self.app, self.door, activity));
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        log(ended);
    }
}

/// A connection that broke off is no trouble of ours.
pub(super) fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(?error, "a connection ended early");
    }
}

/// The routes as one connection sees them.
pub(super) fn service(
    app: App,
    door: Door,
    activity: Arc<Activity>,
) -> impl HttpService<Incoming, ResBody = AnswerBody<Body>, Error = Infallible, Future: Send> {
    service_fn(move |request: Request<Incoming>| {
        let exchange = activity.begin();
        let mut request = request.map(|body| Body::new(RequestBody::new(body, activity.clone())));
        request.extensions_mut().insert(door.clone());
        let answer = app(request);
        async move {
            let response = answer.await;
            let exchange = exchange.answered();
            offer::note(true);
            Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, exchange)))
        }
    })
}
