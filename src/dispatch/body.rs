//! The half of a stream that the client reads: what is in the spool, and
//! comments while there is nothing. Dropping it tells the reading half that the
//! client is gone.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::spool::Reader;
use crate::alarm::Alarm;

/// Makes what fills a silence.
pub(super) type Beat = Box<dyn Fn() -> Bytes + Send>;

/// A body of server-sent events.
pub(super) struct EventBody {
    first: Option<Bytes>,
    reader: Reader,
    silence: Option<Silence>,
    heartbeat: Beat,
    _leave: DropGuard,
}

/// The time in which nothing comes.
struct Silence {
    every: Duration,
    /// When it is to be filled.
    until: Instant,
    alarm: Alarm,
}

impl EventBody {
    /// Serves `first`, then the spool, with a heartbeat for each silent `every`.
    pub(super) fn new(
        reader: Reader,
        every: Option<Duration>,
        heartbeat: Beat,
        leave: DropGuard,
        first: Option<Bytes>,
    ) -> Self {
        let silence = every.map(|every| Silence {
            every,
            until: Instant::now() + every,
            alarm: Alarm::default(),
        });
        Self {
            first,
            reader,
            silence,
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
            if let Some(silence) = &mut self.silence {
                silence.until = Instant::now() + silence.every;
            }
            return Poll::Ready(taken.map(|bytes| Ok(Frame::data(bytes))));
        }
        let Some(silence) = &mut self.silence else {
            return Poll::Pending;
        };
        ready!(silence.alarm.poll_until(silence.until, context));
        silence.until = Instant::now() + silence.every;
        Poll::Ready(Some(Ok(Frame::data((self.heartbeat)()))))
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
        let guard = gone.clone().drop_guard();
        let said = Bytes::from_static(b": loading a/b 62 %\n\n");
        let again = said.clone();
        let heartbeat: Beat = Box::new(move || again.clone());
        let mut body = EventBody::new(reader, Some(every), heartbeat, guard, Some(first));
        let start = tokio::time::Instant::now();
        let mut next = async || {
            let frame = body.frame().await.map(|frame| frame.expect("infallible"));
            frame.map(|frame| frame.into_data().expect("data"))
        };
        assert_eq!(
            next().await.as_deref(),
            Some(&b": x-roundhouse-model: a/b\n\n"[..])
        );
        assert_eq!(next().await, Some(said.clone()));
        assert_eq!(start.elapsed().as_secs(), 10);
        writer
            .write(Bytes::from_static(b"data: 1\n\n"))
            .await
            .expect("room");
        assert_eq!(next().await.as_deref(), Some(&b"data: 1\n\n"[..]));
        assert_eq!(next().await, Some(said.clone()));
        assert_eq!(start.elapsed().as_secs(), 20);
        drop(writer);
        assert_eq!(next().await, None);
        assert!(!gone.is_cancelled());
        drop(body);
        assert!(gone.is_cancelled());
    }
}
