//! HTTP/2, spoken within TLS alone. Its frames allow work that costs a client
//! nothing, so each kind of it has a bound here: streams at once, streams given
//! up, the size of heads and of what waits to be sent.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, LARGEST_HEAD, log, service};
use super::exchange::Activity;
use super::offer::until_stalled;
use super::pace::Paced;
use crate::shutdown::Tasks;

/// Requests at once on one connection.
const MOST_STREAMS: u32 = 128;

/// Streams that were reset before they were looked at, by the client or for an
/// error of its; more end the connection (CVE-2023-44487). Those that were looked
/// at are counted by `pace.rs`.
const MOST_RESET: usize = 20;

/// Bytes that wait for the client in each stream's buffer.
const SEND_BUFFER: usize = 64 * 1024;

/// A client that answers no ping for this long is gone.
const PING: Duration = Duration::from_secs(30);

/// Serves until the client leaves, breaks a limit, or the stop signal came and
/// the running exchanges ended.
pub(super) async fn serve<S>(connection: Connection, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connection {
        app,
        door,
        times,
        tasks,
    } = connection;
    let activity = Arc::new(Activity::default());
    let stream = Paced::new(stream, activity.clone(), times, true);
    let connection = http2::Builder::new(Streams {
        tasks,
        patience: times.write,
    })
    .timer(TokioTimer::new())
    .max_concurrent_streams(MOST_STREAMS)
    .max_header_list_size(LARGEST_HEAD as u32)
    .max_pending_accept_reset_streams(MOST_RESET)
    .max_local_error_reset_streams(MOST_RESET)
    .max_send_buf_size(SEND_BUFFER)
    .keep_alive_interval(PING)
    .keep_alive_timeout(PING)
    .serve_connection(TokioIo::new(stream), service(app, door, activity));
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

/// Runs the streams of a connection where the end of the server waits for them.
#[derive(Clone)]
struct Streams {
    tasks: Tasks,
    patience: Duration,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.tasks.spawn(until_stalled(stream, self.patience));
    }
}
