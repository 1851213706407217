//! Connections to one place: opened when there is none free, kept
//! while they are used now and then. HTTP/1.1, one request at a time on each. A
//! connection has no task of its own: whoever waits for its answer drives it, so
//! that nothing of an answer changes tasks on its way.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::http::{HeaderMap, Response};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::answer::{Part, Reader};
use super::elsewhere::Elsewhere;
use super::question::{Broken, Question};
use super::{Failure, chain};

/// How long a connection may take to be accepted, and a kept one to be free: an engine
/// is on the same machine and listens before it says that it is ready, and another
/// machine that is not reached by then is better asked again.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Most bytes that are read at once, and that an answer is ahead of whoever takes it.
const AT_ONCE: usize = 64 * 1024;

thread_local! {
    /// Where bytes are read to before it is known what they are: what is read is taken
    /// apart before anybody else reads, so that no connection needs such a place of its own.
    static ARRIVALS: RefCell<Vec<u8>> = RefCell::new(vec![0; AT_ONCE]);
}

/// Where they lead to.
#[derive(Debug)]
pub(super) enum Place {
    /// A Unix socket.
    Socket(PathBuf),
    /// An address of this machine.
    Tcp(SocketAddr),
    /// Another machine.
    Elsewhere(Elsewhere),
}

/// The connections to one place.
#[derive(Debug)]
pub(super) struct Connections {
    place: Place,
    /// How long one is kept unused.
    idle: Duration,
    /// The free ones, the one used last at the end.
    free: Mutex<Vec<Free>>,
}

#[derive(Debug)]
struct Free {
    way: Way,
    since: Instant,
}

/// What carries bytes both ways.
trait Transport: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Transport for S {}

/// A connection that is open.
struct Way(Pin<Box<dyn Transport>>);

/// One connection, for one request and its answer.
pub(super) struct Connection {
    way: Way,
    /// Whether it has served a request before.
    is_used: bool,
    question: Option<Question>,
    reader: Reader,
    /// What came of the body and was not taken yet.
    ahead: BytesMut,
    trailers: Option<HeaderMap>,
    /// Whether something came after the end of the answer.
    is_overfull: bool,
    connections: Arc<Connections>,
}

/// Why a request got no answer.
pub(super) enum Unsent {
    /// The connection was closed before anything of it was written: here it is again.
    Closed(Box<Question>),
    /// The connection broke, or what came is no answer.
    Failed(Failure),
}

/// What followed the data that arrived.
#[derive(Debug)]
pub enum Arrived {
    /// Nothing yet.
    Data,
    /// The fields after the body.
    Trailers(HeaderMap),
    /// The end of the answer.
    End,
    /// The answer broke off.
    Failure(Failure),
}

impl Connections {
    /// No connection yet; a free one is kept for `idle`.
    pub(super) fn to(place: Place, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            place,
            idle,
            free: Mutex::default(),
        })
    }

    /// A connection that is free, or a new one; `is_head` if the question is one that is
    /// answered without a body.
    pub(super) async fn one(this: &Arc<Self>, is_head: bool) -> Result<Connection, Failure> {
        while let Some(mut way) = this.take_free() {
            if way.is_silent() {
                return Ok(this.connection(way, true, is_head));
            }
        }
        // Rare, and large with the handshake in it.
        let opened = timeout(CONNECT_TIME, Box::pin(this.open())).await;
        let way = opened.map_err(|_| Failure::Timeout)??;
        Ok(this.connection(way, false, is_head))
    }

    fn connection(self: &Arc<Self>, way: Way, is_used: bool, is_head: bool) -> Connection {
        Connection {
            way,
            is_used,
            question: None,
            reader: Reader::new(is_head),
            ahead: BytesMut::new(),
            trailers: None,
            is_overfull: false,
            connections: self.clone(),
        }
    }

    /// The one used last; those that were unused for too long are closed.
    fn take_free(&self) -> Option<Way> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let old = free.partition_point(|free| now.duration_since(free.since) > self.idle);
        free.drain(..old);
        free.pop().map(|free| free.way)
    }

    async fn open(&self) -> Result<Way, Failure> {
        let unreached = |error: io::Error| Failure::Unreached(chain(&error));
        Ok(match &self.place {
            Place::Socket(path) => Way::over(UnixStream::connect(path).await.map_err(unreached)?),
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreached)?;
                stream.set_nodelay(true).map_err(unreached)?;
                Way::over(stream)
            }
            Place::Elsewhere(elsewhere) => {
                let stream = elsewhere.connect().await.map_err(unreached)?;
                #[cfg(feature = "tls")]
                if let Some(handshake) = elsewhere.handshake() {
                    return Ok(Way::over(handshake.over(stream).await.map_err(unreached)?));
                }
                Way::over(stream)
            }
        })
    }
}

impl Way {
    fn over(stream: impl Transport + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// Whether the other side has neither closed it nor said anything since its last
    /// answer: what it says unasked would be taken for the next one.
    fn is_silent(&mut self) -> bool {
        let mut space = [0; 1];
        let mut buffer = ReadBuf::new(&mut space);
        // Nobody waits for anything yet.
        let context = &mut Context::from_waker(Waker::noop());
        self.0.as_mut().poll_read(context, &mut buffer).is_pending()
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

impl Connection {
    /// Sends the request; answers when the headers are there.
    pub(super) async fn send(&mut self, question: Question) -> Result<Response<()>, Unsent> {
        self.question = Some(question);
        poll_fn(|context| self.poll_head(context)).await
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response<()>, Unsent>> {
        let failed = |failure| Poll::Ready(Err(Unsent::Failed(failure)));
        if let Err(broken) = self.write(context) {
            match (broken, self.question.take()) {
                (Broken::Body(error), _) => return failed(Failure::Gone(error.to_string())),
                (Broken::Connection(_), Some(question)) if !question.has_begun() => {
                    return Poll::Ready(Err(Unsent::Closed(Box::new(question))));
                }
                // It may have answered before it closed its side.
                (Broken::Connection(error), _) => {
                    tracing::debug!(?error, "an engine took not all of a request");
                }
            }
        }
        match ready!(self.poll_arrivals(context)) {
            Ok(Some(head)) => Poll::Ready(Ok(head)),
            Ok(None) => failed(Failure::Gone("it closed the connection".to_owned())),
            Err(failure) => failed(failure),
        }
    }

    /// Writes what can be written now of the question.
    fn write(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        match &mut self.question {
            Some(question) => match question.poll_write(&mut self.way.0, context) {
                Poll::Ready(written) => written,
                Poll::Pending => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Reads until there is a head; nothing means that the connection ended before.
    fn poll_arrivals(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Response<()>>, Failure>> {
        loop {
            let mut ahead = std::mem::take(&mut self.ahead);
            let read = self.poll_read(context, &mut ahead);
            self.ahead = ahead;
            match ready!(read) {
                Ok((_, Some(head))) => return Poll::Ready(Ok(Some(head))),
                Ok((0, None)) => return Poll::Ready(Ok(None)),
                Ok(_) => {}
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }

    /// Reads once and puts what it is of the body into `come`; answers how many bytes
    /// there were, and the head if it was among them.
    #[expect(clippy::type_complexity, reason = "a poll of a result of two things")]
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        come: &mut BytesMut,
    ) -> Poll<Result<(usize, Option<Response<()>>), Failure>> {
        ARRIVALS.with_borrow_mut(|arrivals| {
            let mut buffer = ReadBuf::new(arrivals);
            let read = ready!(self.way.0.as_mut().poll_read(context, &mut buffer));
            if let Err(error) = read {
                return Poll::Ready(Err(Failure::Gone(chain(&error))));
            }
            let mut bytes = buffer.filled();
            let (count, mut head) = (bytes.len(), None);
            let malformed = |error: super::answer::Malformed| Failure::Malformed(error.to_string());
            while let Some(part) = self.reader.next(&mut bytes).map_err(malformed)? {
                match part {
                    Part::Head(told) => head = Some(told),
                    Part::Data(data) => come.extend_from_slice(data),
                    Part::Trailers(trailers) => self.trailers = Some(trailers),
                    Part::End => break,
                }
            }
            self.is_overfull |= !bytes.is_empty();
            Poll::Ready(Ok((count, head)))
        })
    }

    /// Waits until something of the body arrives, and puts all that has arrived then into
    /// `come`. What it says came after that.
    pub(super) fn poll_arrived(
        &mut self,
        context: &mut Context<'_>,
        come: &mut BytesMut,
    ) -> Poll<Arrived> {
        // An answer may begin before all of the question has been written.
        if let Err(broken) = self.write(context) {
            self.question = None;
            if let Broken::Body(error) = broken {
                return Poll::Ready(Arrived::Failure(Failure::Cut(error.to_string())));
            }
        }
        if come.is_empty() {
            std::mem::swap(come, &mut self.ahead);
        } else {
            come.extend_from_slice(&self.ahead.split());
        }
        while !self.reader.has_ended() && come.len() < AT_ONCE {
            let failure = match self.poll_read(context, come) {
                Poll::Pending if come.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Arrived::Data),
                Poll::Ready(Ok((0, _))) => match self.reader.finish() {
                    Ok(()) => break,
                    Err(cut) => cut.to_string(),
                },
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(Failure::Gone(words) | Failure::Malformed(words))) => words,
                Poll::Ready(Err(failure)) => failure.to_string(),
            };
            return Poll::Ready(Arrived::Failure(Failure::Cut(failure)));
        }
        if !self.reader.has_ended() {
            return Poll::Ready(Arrived::Data);
        }
        Poll::Ready(match self.trailers.take() {
            Some(trailers) => Arrived::Trailers(trailers),
            None => Arrived::End,
        })
    }

    /// Whether all of the answer has come, and nothing of it is left to be taken.
    pub(super) fn has_ended(&self) -> bool {
        self.reader.has_ended() && self.ahead.is_empty() && self.trailers.is_none()
    }

    /// Whether it has served a request before, so that the other side may have closed
    /// it in the meantime.
    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Puts it back for the next request, if there can be one.
    pub(super) fn keep(self) {
        let is_written = self.question.is_some_and(|question| question.is_written());
        if !is_written || self.is_overfull || !self.reader.goes_on() {
            return;
        }
        let free = &self.connections.free;
        free.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Free {
                way: self.way,
                since: Instant::now(),
            });
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Closed(_) => Self::Unreached("it closed the connection at once".to_owned()),
            Unsent::Failed(failure) => failure,
        }
    }
}
