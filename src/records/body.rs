//! The body of an answer on its way out, which tells the record how much of it
//! went to the connection and whether that was all.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::entry::Entry;

/// A body that is counted.
pub struct Counted {
    body: Body,
    entry: Entry,
}

impl Counted {
    /// Counts a body.
    pub fn new(body: Body, entry: Entry) -> Self {
        if http_body::Body::is_end_stream(&body) {
            entry.delivered();
        }
        Self { body, entry }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.entry.sent(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => {}
            None => self.entry.delivered(),
        }
        // A body of known length is not asked again after its last byte.
        if self.body.is_end_stream() {
            self.entry.delivered();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
