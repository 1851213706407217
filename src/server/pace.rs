//! The pace that a connection has to keep: so long for a head, so long between
//! requests, so long for taking what is ready. It sits between the socket (or
//! TLS on it) and the framing, reads and writes bytes, and knows of HTTP only
//! whether an exchange runs, and the refusals that the framing makes by itself.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::Activity;
use super::refusal;
use crate::alarm::Alarm;

/// How long an answer that went out early may take to arrive while the client is
/// still sending. Without that, closing would reset the connection and the
/// client could lose the answer.
const LINGER: Duration = Duration::from_millis(500);

/// Most bytes that are thrown away meanwhile.
const MOST_DISCARDED: usize = 256 * 1024;

/// Most bytes that are read at once: of a head, and of a body. The framing keeps
/// buffers of the size it last filled, for each connection, and no limit counts them.
const READ_AT_ONCE: (usize, usize) = (8 * 1024, 32 * 1024);

thread_local! {
    /// Where bytes are read to when the framing has a larger place for them than is good.
    static SPACE: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_AT_ONCE.1]);
}

/// So many exchanges that the client gave up, within [`GIVEN_UP_WITHIN`], end its
/// connection (HTTP/2 rapid reset, CVE-2023-44487).
const MOST_GIVEN_UP: usize = 100;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The head of a request, and the first one from the beginning of the connection.
    pub head: Duration,
    /// The wait for the next request.
    pub idle: Duration,
    /// A client's taking of bytes that are ready.
    pub write: Duration,
}

/// A stream that keeps the pace or ends.
pub(super) struct Paced<S> {
    stream: S,
    activity: Arc<Activity>,
    times: Times,
    /// HTTP/2 has frames between requests; there only exchanges count.
    multiplexed: bool,
    waits: Waits,
    /// When the client began not to take what is ready.
    stalled: Option<Instant>,
    given_up: GivenUp,
    reading: Alarm,
    writing: Alarm,
    /// What is sent instead of a refusal that the framing made.
    instead: Option<Instead>,
    discarded: usize,
    lingers_until: Option<Instant>,
}

/// Since when nothing runs, as of this epoch, and since when a head comes in.
struct Waits {
    epoch: usize,
    since: Instant,
    head: Option<Instant>,
}

struct GivenUp {
    before: usize,
    since: Instant,
}

struct Instead {
    text: Vec<u8>,
    sent: usize,
    /// Length of what it stands for.
    counts_as: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, times: Times, multiplexed: bool) -> Self {
        let now = Instant::now();
        Self {
            stream,
            activity,
            times,
            multiplexed,
            waits: Waits {
                epoch: 0,
                since: now,
                head: None,
            },
            stalled: None,
            given_up: GivenUp {
                before: 0,
                since: now,
            },
            reading: Alarm::default(),
            writing: Alarm::default(),
            instead: None,
            discarded: 0,
            lingers_until: None,
        }
    }

    /// When the wait for the client ends; nothing while an exchange runs.
    fn deadline(&mut self) -> Option<Instant> {
        // Asked for again and again while an exchange runs, so without a look at the clock.
        if self.activity.is_busy() {
            return None;
        }
        self.notice(Instant::now());
        let waits = &self.waits;
        Some(match waits.head {
            _ if waits.epoch == 0 => waits.since + self.times.head,
            Some(head) => head + self.times.head,
            None => waits.since + self.times.idle,
        })
    }

    /// Begins a new wait if an exchange was there since the last one.
    fn notice(&mut self, now: Instant) {
        let epoch = self.activity.epoch();
        if epoch != self.waits.epoch {
            self.waits = Waits {
                epoch,
                since: now,
                head: None,
            };
        }
    }

    /// Bytes came: the beginning of a head, unless an exchange runs.
    fn heard(&mut self) {
        if !self.multiplexed && !self.activity.is_busy() {
            let now = Instant::now();
            self.notice(now);
            self.waits.head.get_or_insert(now);
        }
    }

    /// Whether the client gives up too much of what it asks for.
    fn gives_up_too_much(&mut self, now: Instant) -> bool {
        let abandoned = self.activity.abandoned();
        if now.duration_since(self.given_up.since) > GIVEN_UP_WITHIN {
            self.given_up = GivenUp {
                before: abandoned,
                since: now,
            };
        }
        abandoned - self.given_up.before > MOST_GIVEN_UP
    }

    /// The outcome of a write, or the end of the client's time to take it.
    fn or_stall<T>(
        &mut self,
        written: Poll<Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = *self.stalled.get_or_insert_with(Instant::now);
        ready!(self.writing.poll_until(stalled + self.times.write, context));
        Poll::Ready(Err(late("the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let most = match this.activity.is_busy() {
            true => READ_AT_ONCE.1,
            false => READ_AT_ONCE.0,
        };
        let read = read_some(Pin::new(&mut this.stream), context, buffer, most);
        if this.multiplexed && this.gives_up_too_much(Instant::now()) {
            let message = "the client gives up too many requests";
            return Poll::Ready(Err(Error::new(ErrorKind::ConnectionAborted, message)));
        }
        if read.is_ready() {
            if buffer.filled().len() > before {
                this.heard();
            }
            return read;
        }
        if this.multiplexed {
            // Before the look at the exchanges: one that ends in between wakes. Where there
            // is one at a time it ends in this task, which flushes its answer then.
            this.activity.wake_at_end(context);
        }
        let Some(deadline) = this.deadline() else {
            return Poll::Pending;
        };
        ready!(this.reading.poll_until(deadline, context));
        Poll::Ready(Err(late("the client sends nothing")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() && !this.multiplexed && !this.activity.is_busy() {
            this.instead = refusal::instead_of(bytes).map(|text| Instead {
                text,
                sent: 0,
                counts_as: bytes.len(),
            });
        }
        let Some(mut instead) = this.instead.take() else {
            let written = Pin::new(&mut this.stream).poll_write(context, bytes);
            return this.or_stall(written, context);
        };
        // What broke the framing may go on coming.
        this.activity.set_unread();
        while instead.sent < instead.text.len() {
            let rest = &instead.text[instead.sent..];
            match Pin::new(&mut this.stream).poll_write(context, rest) {
                Poll::Ready(Ok(written)) => instead.sent += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.instead = Some(instead);
                    return this.or_stall(Poll::Pending, context);
                }
            }
        }
        Poll::Ready(Ok(instead.counts_as))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        // A refusal of the framing is one slice, and has to go the way of one.
        if let [only] = slices {
            return self.poll_write(context, only);
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.or_stall(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        let flushed = this.or_stall(flushed, context);
        if flushed.is_ready()
            && !this.multiplexed
            && let Some(deadline) = this.deadline()
            && this.reading.poll_until(deadline, context).is_ready()
        {
            // Whoever reads is told that it is too late.
            context.waker().wake_by_ref();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.lingers_until.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(context);
            ready!(this.or_stall(shut, context))?;
            this.lingers_until = Some(Instant::now() + LINGER);
        }
        if !this.activity.is_unread() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; 4096];
        while this.discarded < MOST_DISCARDED {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.discarded += buffer.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    let until = this.lingers_until.unwrap_or_else(Instant::now);
                    return this.reading.poll_until(until, context).map(Ok);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn read_some<S: AsyncRead>(
    stream: Pin<&mut S>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<Result<()>> {
    if buffer.remaining() <= most {
        return stream.poll_read(context, buffer);
    }
    SPACE.with_borrow_mut(|space| {
        let mut some = ReadBuf::new(&mut space[..most]);
        ready!(stream.poll_read(context, &mut some))?;
        buffer.put_slice(some.filled());
        Poll::Ready(Ok(()))
    })
}

fn late(what: &'static str) -> Error {
    // Between two requests the framing takes it for a client that left.
    tracing::debug!(what, "a connection is too slow");
    Error::new(ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests;
