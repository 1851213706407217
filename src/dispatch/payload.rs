//! A request's body on its way to an engine: pieces of what came, and what was put
//! between them. The bytes that came are shared, never copied, and count against
//! the memory for bodies until the last piece is gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// The bytes of a body, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(VecDeque<Bytes>);

/// A change of a text: what stands in the place of these bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The bytes that go; none where something is only put in.
    pub at: Range<usize>,
    /// What comes.
    pub with: String,
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Self {
        Self([body].into())
    }
}

impl Payload {
    /// The body with all of these changes, which do not overlap. What begins at the
    /// same byte keeps its order.
    pub fn edited(body: &Bytes, mut edits: Vec<Edit>) -> Self {
        edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
        let mut pieces = VecDeque::with_capacity(2 * edits.len() + 1);
        let mut next = 0;
        for Edit { at, with } in edits {
            pieces.push_back(body.slice(next..at.start.max(next)));
            pieces.push_back(with.into());
            next = at.end.max(next);
        }
        pieces.push_back(body.slice(next..));
        pieces.retain(|piece| !piece.is_empty());
        Self(pieces)
    }

    /// All bytes in one, copied unless there is one piece only.
    pub fn joined(&self) -> Bytes {
        match self.0.len() {
            1 => self.0[0].clone(),
            _ => self.0.iter().flatten().copied().collect(),
        }
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl http_body::Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    /// Exact, so that the engine is told the length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_change_their_own_bytes_and_share_the_rest() {
        let body = Bytes::from_static(b"{\"a\":1,\"b\":2}");
        let check = |edits: &[(Range<usize>, &str)], expected: &str| {
            let edits = edits.iter().map(|(at, with)| Edit {
                at: at.clone(),
                with: (*with).to_owned(),
            });
            let payload = Payload::edited(&body, edits.collect());
            assert_eq!(payload.joined(), expected.as_bytes());
            assert_eq!(payload.length(), expected.len() as u64);
            let inside = body.as_ptr_range();
            let shared = payload
                .0
                .iter()
                .filter(|piece| inside.contains(&piece.as_ptr()));
            assert!(shared.count() >= 1, "{expected}");
        };
        check(&[], "{\"a\":1,\"b\":2}");
        check(&[(11..12, "3"), (5..6, "7")], "{\"a\":7,\"b\":3}");
        check(&[(1..7, "")], "{\"b\":2}");
        check(&[(1..1, "\"c\":0,"), (1..7, "")], "{\"c\":0,\"b\":2}");
    }
}
