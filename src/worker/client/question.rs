//! Writes a question as HTTP/1.1 frames it: its head, then its body as that comes, in
//! as few writes as can be.
//!
//! Source: RFC 9112, sections 3, 6 and 7.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderName, HeaderValue, Method};
use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

/// Most pieces that wait to be written, and that go out in one write.
const MOST_PIECES: usize = 16;

/// Why a body of a question did not come to its end.
pub type Unfinished = Box<dyn std::error::Error + Send + Sync>;

type Rest = Pin<Box<dyn Body<Data = Bytes, Error = Unfinished> + Send>>;

/// Fields of a question's head, each name once. There are few, so that looking through a
/// list costs less than a table of them.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

impl Fields {
    /// No field yet, and room for so many.
    pub fn with_room(room: usize) -> Self {
        Self(Vec::with_capacity(room))
    }

    /// This field has this value, whatever it had.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    /// All of them, in the order in which they were set first.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

/// A question on its way.
pub(super) struct Question {
    /// What can be written.
    pieces: VecDeque<Bytes>,
    /// What has not come yet.
    rest: Option<Rest>,
    /// How much of the body is still to be put into pieces, if that was said; without it
    /// the body goes in chunks.
    left: Option<u64>,
    /// Why the body cannot come to its end, until that is told.
    failed: Option<Unfinished>,
    has_begun: bool,
    is_flushed: bool,
}

/// Why a question was not written to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Its body did not come as it should have.
    Body(Unfinished),
    /// The connection takes nothing more.
    Connection(io::Error),
}

/// What is asked is none that can stand in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is not one")]
pub(super) struct NoPath;

impl Question {
    /// A question with these fields; how its body is framed is told here alone.
    pub(super) fn new<B>(
        method: &Method,
        path: &str,
        headers: &Fields,
        body: B,
    ) -> Result<Self, NoPath>
    where
        B: Body<Data = Bytes, Error: Into<Unfinished>> + Send + 'static,
    {
        let length = body.size_hint().exact();
        let head = head(method, path, headers, length)?;
        let mut question = Self {
            pieces: VecDeque::with_capacity(4),
            rest: None,
            left: length,
            failed: None,
            has_begun: false,
            is_flushed: false,
        };
        question.pieces.push_back(head.into());
        if length != Some(0) {
            let body = http_body_util::BodyExt::map_err(body, Into::into);
            question.rest = Some(Box::pin(body));
            // Most bodies are whole by now. Who waits for the others asks again.
            let waits_for_nobody = &mut Context::from_waker(Waker::noop());
            question.failed = question.take(waits_for_nobody).err();
        }
        Ok(question)
    }

    /// Whether anything of it has been written.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether all of it has been written.
    pub(super) fn is_written(&self) -> bool {
        self.rest.is_none() && self.pieces.is_empty() && self.is_flushed
    }

    /// Writes what can be written now; ready when that was all.
    pub(super) fn poll_write<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.is_written() {
            return Poll::Ready(Ok(()));
        }
        loop {
            self.take(context).map_err(Broken::Body)?;
            if self.pieces.is_empty() {
                ready!(Pin::new(&mut *stream).poll_flush(context)).map_err(Broken::Connection)?;
                self.is_flushed = self.rest.is_none();
                return match self.rest {
                    Some(_) => Poll::Pending,
                    None => Poll::Ready(Ok(())),
                };
            }
            let mut slices = [IoSlice::new(&[]); MOST_PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            let slices = &slices[..self.pieces.len().min(MOST_PIECES)];
            let written = Pin::new(&mut *stream).poll_write_vectored(context, slices);
            match ready!(written) {
                Ok(0) => {
                    return Poll::Ready(Err(Broken::Connection(io::ErrorKind::WriteZero.into())));
                }
                Ok(count) => self.written(count),
                Err(error) => return Poll::Ready(Err(Broken::Connection(error))),
            }
        }
    }

    fn written(&mut self, mut count: usize) {
        self.has_begun = true;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Takes what there is of the body.
    fn take(&mut self, context: &mut Context<'_>) -> Result<(), Unfinished> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        while self.pieces.len() < MOST_PIECES
            && let Some(rest) = &mut self.rest
        {
            let Poll::Ready(frame) = rest.as_mut().poll_frame(context) else {
                return Ok(());
            };
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => self.add(data)?,
                // There are no fields after a question.
                Some(Err(_)) => {}
                None => {
                    self.rest = None;
                    match self.left {
                        None => self.pieces.push_back(Bytes::from_static(b"0\r\n\r\n")),
                        Some(0) => {}
                        Some(_) => return Err("the body is shorter than was said".into()),
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, data: Bytes) -> Result<(), Unfinished> {
        let Some(left) = &mut self.left else {
            self.pieces
                .push_back(format!("{:x}\r\n", data.len()).into());
            self.pieces.push_back(data);
            self.pieces.push_back(Bytes::from_static(b"\r\n"));
            return Ok(());
        };
        *left = (*left)
            .checked_sub(data.len() as u64)
            .ok_or("the body is longer than was said")?;
        self.pieces.push_back(data);
        if *left == 0 && self.rest.as_ref().is_some_and(|rest| rest.is_end_stream()) {
            self.rest = None;
        }
        Ok(())
    }
}

/// The head with the framing of a body of this length, or of one in chunks.
fn head(
    method: &Method,
    path: &str,
    headers: &Fields,
    length: Option<u64>,
) -> Result<String, NoPath> {
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NoPath);
    }
    let mut head = String::with_capacity(512);
    head.push_str(method.as_str());
    head.push(' ');
    head.push_str(path);
    head.push_str(" HTTP/1.1\r\n");
    for (name, value) in headers.iter() {
        // Values of ours are text.
        if let Ok(value) = value.to_str()
            && name != CONTENT_LENGTH
            && name != TRANSFER_ENCODING
        {
            head.push_str(name.as_str());
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
    }
    // Writing to a string cannot fail.
    let _ = match length {
        Some(0) if [Method::GET, Method::HEAD, Method::DELETE].contains(method) => Ok(()),
        Some(length) => write!(head, "content-length: {length}\r\n"),
        None => head.write_str("transfer-encoding: chunked\r\n"),
    };
    head.push_str("\r\n");
    Ok(head)
}

#[cfg(test)]
mod tests {
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    /// Takes so many bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn pieces(
        pieces: &[&'static str],
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static {
        let frames: Vec<_> = pieces
            .iter()
            .map(|&piece| Ok(Frame::data(piece.into())))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    fn written(question: &mut Question, at_once: usize) -> Result<String, String> {
        let mut slow = Slow(Vec::new(), at_once);
        let context = &mut Context::from_waker(Waker::noop());
        match question.poll_write(&mut slow, context) {
            Poll::Ready(Ok(())) => Ok(String::from_utf8(slow.0).expect("text")),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_question_is_framed_by_what_is_known_of_its_body() {
        let mut headers = Fields::default();
        for (name, value) in [
            ("host", "another"),
            ("content-length", "7"),
            ("transfer-encoding", "gzip"),
            ("host", "worker"),
        ] {
            headers.set(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let check = |method: Method, body: UnsyncBoxBody<_, _>, expected: &str| {
            let mut question = Question::new(&method, "/v1", &headers, body).expect("a path");
            assert_eq!(written(&mut question, 7).as_deref(), Ok(expected));
            assert!(question.is_written());
        };
        let full = |text: &'static str| Full::new(Bytes::from(text)).boxed_unsync();
        check(
            Method::POST,
            full("abc"),
            "POST /v1 HTTP/1.1\r\nhost: worker\r\ncontent-length: 3\r\n\r\nabc",
        );
        check(
            Method::POST,
            full(""),
            "POST /v1 HTTP/1.1\r\nhost: worker\r\ncontent-length: 0\r\n\r\n",
        );
        check(
            Method::GET,
            full(""),
            "GET /v1 HTTP/1.1\r\nhost: worker\r\n\r\n",
        );
        check(
            Method::POST,
            pieces(&["abc", "", "0123456789abcdef"]).boxed_unsync(),
            "POST /v1 HTTP/1.1\r\nhost: worker\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        );
        for path in ["", "v1", "/a b", "/a\r\nx: y", "/\u{e9}"] {
            let question = Question::new(&Method::GET, path, &headers, full(""));
            assert!(question.is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_body_of_another_length_than_was_said_is_not_passed_on() {
        /// Says that it has four bytes.
        struct Four<B>(B);
        impl<B: Body<Data = Bytes> + Unpin> Body for Four<B> {
            type Data = Bytes;
            type Error = B::Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
                Pin::new(&mut self.0).poll_frame(context)
            }
            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(4)
            }
        }
        let check = |body: &[&'static str], is_right: bool| {
            let body = Four(pieces(body));
            let question = Question::new(&Method::POST, "/", &Fields::default(), body);
            let written = written(&mut question.expect("a path"), 1000);
            assert_eq!(written.is_ok(), is_right, "{written:?}");
        };
        check(&["ab", "cd"], true);
        check(&["ab"], false);
        check(&["ab", "cde"], false);
    }
}
