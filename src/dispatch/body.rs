//! The half of a stream that the client reads: what is in the spool, and
//! comments while there is nothing. Dropping it tells the reading half that the
//! client is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::DropGuard;

use super::spool::Reader;

/// What keeps idle connections alive; clients skip comments.
const HEARTBEAT: &[u8] = b": waiting\n\n";

/// A body of server-sent events.
pub(super) struct EventBody {
    first: Option<Bytes>,
    reader: Reader,
    heartbeat: Interval,
    _leave: DropGuard,
}

impl EventBody {
    /// Serves `first`, then the spool, with a heartbeat for each silent `every`.
    pub(super) fn new(
        reader: Reader,
        every: Duration,
        leave: DropGuard,
        first: Option<Bytes>,
    ) -> Self {
        let mut heartbeat = tokio::time::interval(every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        Self {
            first,
            reader,
            heartbeat,
            _leave: leave,
        }
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Poll::Ready(taken) = self.reader.poll_read(context) {
            self.heartbeat.reset();
            return Poll::Ready(taken.map(|bytes| Ok(Frame::data(bytes))));
        }
        self.heartbeat
            .poll_tick(context)
            .map(|_| Some(Ok(Frame::data(Bytes::from_static(HEARTBEAT)))))
    }
}

/// What headers would have said, as one comment.
pub(super) fn comment(headers: &[(HeaderName, HeaderValue)]) -> Bytes {
    let lines: String = headers
        .iter()
        .filter_map(|(name, value)| Some(format!(": {name}: {}\n", value.to_str().ok()?)))
        .collect();
    Bytes::from(format!("{lines}\n"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::super::spool::{Budget, spool};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_comments_and_dropping_is_told() {
        let (writer, reader) = spool(&Budget::default());
        let gone = CancellationToken::new();
        let first = comment(&[(
            HeaderName::from_static("x-roundhouse-model"),
            HeaderValue::from_static("a/b"),
        )]);
        let every = Duration::from_secs(10);
        let mut body = EventBody::new(reader, every, gone.clone().drop_guard(), Some(first));
        let start = tokio::time::Instant::now();
        let mut next = async || {
            let frame = body.frame().await.map(|frame| frame.expect("infallible"));
            frame.map(|frame| frame.into_data().expect("data"))
        };
        assert_eq!(
            next().await.as_deref(),
            Some(&b": x-roundhouse-model: a/b\n\n"[..])
        );
        assert_eq!(next().await.as_deref(), Some(HEARTBEAT));
        assert_eq!(start.elapsed().as_secs(), 10);
        writer
            .write(Bytes::from_static(b"data: 1\n\n"))
            .await
            .expect("room");
        assert_eq!(next().await.as_deref(), Some(&b"data: 1\n\n"[..]));
        assert_eq!(next().await.as_deref(), Some(HEARTBEAT));
        assert_eq!(start.elapsed().as_secs(), 20);
        drop(writer);
        assert_eq!(next().await, None);
        assert!(!gone.is_cancelled());
        drop(body);
        assert!(gone.is_cancelled());
    }
}
