//! What a connection is busy with: its running exchanges, from the head of the
//! request to the last byte of the answer's body. Pacing and the defences of
//! HTTP/2 go by it. It knows no sockets and no times.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};

use super::offer;

/// The exchanges of one connection. Shared by its reader, its requests and its answers.
#[derive(Debug, Default)]
pub(super) struct Activity {
    running: AtomicUsize,
    /// Grows with each beginning and each end.
    epoch: AtomicUsize,
    /// Exchanges that the client gave up before they were answered.
    abandoned: AtomicUsize,
    /// Whether an answer went out while the client was still sending its request.
    unread: AtomicBool,
    reader: AtomicWaker,
}

impl Activity {
    /// Counts an exchange until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Exchange {
            activity: self.clone(),
            answered: false,
        }
    }

    /// Whether an exchange runs.
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Ordering::Acquire) > 0
    }

    /// A number that is another one after each beginning and each end; 0 before the first.
    pub(super) fn epoch(&self) -> usize {
        self.epoch.load(Ordering::Acquire)
    }

    /// How many exchanges the client gave up so far.
    pub(super) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether the client may still be sending what nobody will read.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Says so.
    pub(super) fn set_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// Wakes this task when an exchange ends, which it may do in another one.
    pub(super) fn wake_at_end(&self, context: &Context<'_>) {
        self.reader.register(context.waker());
    }
}

/// One exchange that runs.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Arc<Activity>,
    answered: bool,
}

impl Exchange {
    /// An answer is there; from here on the exchange lives with its body.
    pub(super) fn answered(mut self) -> Self {
        self.answered = true;
        self
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.answered {
            self.activity.abandoned.fetch_add(1, Ordering::Relaxed);
        }
        self.activity.epoch.fetch_add(1, Ordering::AcqRel);
        self.activity.running.fetch_sub(1, Ordering::AcqRel);
        self.activity.reader.wake();
    }
}

/// The body of an answer; its exchange ends with it.
pub(super) struct AnswerBody<B> {
    body: B,
    _exchange: Exchange,
}

impl<B> AnswerBody<B> {
    pub(super) fn new(body: B, exchange: Exchange) -> Self {
        Self {
            body,
            _exchange: exchange,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        offer::note(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request, which notices if it is dropped before its end.
pub(super) struct RequestBody<B: Body> {
    body: B,
    activity: Arc<Activity>,
    ended: bool,
}

impl<B: Body> RequestBody<B> {
    pub(super) fn new(body: B, activity: Arc<Activity>) -> Self {
        Self {
            body,
            activity,
            ended: false,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for RequestBody<B> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.activity.set_unread();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn a_connection_is_busy_until_the_last_answer_is_gone() {
        let activity = Arc::new(Activity::default());
        assert_eq!((activity.is_busy(), activity.epoch()), (false, 0));
        let (first, second) = (activity.begin(), activity.begin());
        let body = AnswerBody::new(Full::new(Bytes::new()), first.answered());
        assert!(activity.is_busy());
        drop(body);
        assert!(activity.is_busy());
        drop(second);
        assert_eq!((activity.is_busy(), activity.epoch()), (false, 4));
        assert_eq!(activity.abandoned(), 1);
    }

    #[tokio::test]
    async fn a_body_left_unread_is_noticed() {
        let activity = Arc::new(Activity::default());
        let body =
            |text: &'static str| RequestBody::new(Full::new(Bytes::from(text)), activity.clone());
        body("read").collect().await.expect("infallible");
        drop(body(""));
        assert!(!activity.is_unread());
        drop(body("unread"));
        assert!(activity.is_unread());
    }
}
