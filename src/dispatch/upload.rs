//! A body that is not held: `multipart/form-data` with a file in it. As much of it is
//! taken as stands before its file, its part `model` among it; the rest goes on to the engine
//! as it comes, once there is a lease. What comes is looked through to its end, so that
//! nobody says another model later, and changed as the rules of the entry say.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::headers;
use super::patience::{TooLate, within};
use super::payload::{Edit, Payload};
use super::peek::Peek;
use super::rules::Naming;
use crate::api::error::{ApiError, Code};
use crate::api::intake::Inflow;
use crate::worker::client::Fields;
use form::{Filter, FormRules};
use parts::{Mark, Scanner, Unclear};

pub mod form;
pub mod parts;

/// Most of a body that may stand before the end of its part `model`, bytes.
pub const LOOK_AHEAD: usize = 4 * 1024 * 1024;

/// What is known of an upload of which the beginning has been taken.
#[derive(Debug)]
pub struct Upload {
    kind: HeaderValue,
    boundary: String,
    /// Where the name of the model stands, and what it is.
    model: Option<(Range<usize>, String)>,
    /// Whether it is to be answered in a stream, as far as the beginning says.
    stream: bool,
    /// The parts that begin in the beginning.
    marks: Vec<Mark>,
    /// To where in it that is known of each byte.
    decided: usize,
    /// What comes after that.
    tail: Bytes,
    /// How long the beginning is.
    taken: usize,
    /// How long all of it is, if it was said.
    length: Option<u64>,
    /// What is still on its way, until it goes to an engine.
    rest: Mutex<Option<(Inflow, Scanner)>>,
    /// The way to an engine. One that answers before it has all is not cut off before
    /// its answer has been read.
    way: Mutex<Option<mpsc::Sender<Piece>>>,
}

/// A piece of the rest; nothing at its end.
type Piece = Option<Bytes>;

/// The body is not one that is taken.
pub fn refusal(unclear: Unclear) -> ApiError {
    match unclear {
        Unclear::Boundary => ApiError::new(Code::UnsupportedMediaType, unclear.to_string()),
        Unclear::Twice | Unclear::Name => {
            ApiError::new(Code::InvalidValue, unclear.to_string()).param("model")
        }
        Unclear::Stream => ApiError::new(Code::InvalidValue, unclear.to_string()).param("stream"),
        _ => ApiError::new(Code::BadRequest, unclear.to_string()),
    }
}

impl Upload {
    /// Takes as much of a body as tells its model; the bytes that were taken come beside
    /// it and count against the memory for bodies.
    ///
    /// # Errors
    /// It is none that is taken, says its model too late, or comes too slowly.
    pub async fn begin(kind: HeaderValue, mut inflow: Inflow) -> Result<(Bytes, Self), ApiError> {
        let boundary = parts::boundary(&kind).map_err(refusal)?;
        let mut scanner = Scanner::new(&boundary);
        let mut has_ended = false;
        // Whether it is to be answered in a stream may stand after the model, before the file.
        let is_known = |it: &Scanner| it.model().is_some() && it.has_file();
        while !is_known(&scanner) && !has_ended {
            if inflow.held() > LOOK_AHEAD && scanner.model().is_some() {
                break;
            }
            if inflow.held() > LOOK_AHEAD {
                let message = format!(
                    "the part model has to stand within the first {LOOK_AHEAD} bytes: before the file"
                );
                return Err(ApiError::new(Code::InvalidValue, message).param("model"));
            }
            match inflow.hold_next().await? {
                Some(piece) => scanner.push(&piece).map_err(refusal)?,
                None => {
                    scanner.finish().map_err(refusal)?;
                    has_ended = true;
                }
            }
        }
        // Whoever gets as much as was said has a whole body.
        if inflow.declared() == Some(inflow.held() as u64) {
            scanner.finish().map_err(refusal)?;
        }
        let body = inflow.take_held();
        let upload = Self {
            kind,
            boundary,
            model: scanner.model().cloned(),
            stream: scanner.stream(),
            marks: scanner.take_marks(),
            decided: scanner.decided(),
            tail: body.slice(scanner.decided()..),
            taken: body.len(),
            length: inflow.declared(),
            rest: Mutex::new(Some((inflow, scanner))),
            way: Mutex::default(),
        };
        Ok((body, upload))
    }

    /// What routing needs of it.
    pub(super) fn peek(&self) -> Peek {
        Peek {
            model: self.model.as_ref().map(|(_, name)| name.clone()),
            stream: self.stream,
            idle_unload: None,
            beyond_own: None,
        }
    }

    /// The beginning as the engine gets it, with the name that it has for the model. Where
    /// there are rules, what is not decided comes with the rest.
    pub(super) fn ruled(&self, body: &Bytes, rules: &FormRules, naming: Naming) -> Payload {
        let mut edits = match (&self.model, naming) {
            (Some((at, _)), Naming::Always(name)) => vec![Edit {
                at: at.clone(),
                with: name.to_owned(),
            }],
            (None, Naming::Always(name) | Naming::IfMissing(name)) => vec![Edit {
                at: 0..0,
                with: form::field(&self.boundary, "model", name),
            }],
            _ => Vec::new(),
        };
        if rules.is_empty() {
            return Payload::edited(body, edits);
        }
        let mut filter = Filter::new(rules, &self.boundary);
        edits.extend(filter.edits(&self.marks, self.decided));
        Payload::edited(&body.slice(..self.decided), edits)
    }

    /// Whether nothing of the rest has been passed on.
    pub(super) fn is_unsent(&self) -> bool {
        locked(&self.rest).is_some()
    }

    /// Gives all of it to `send`: the beginning as it is to be, the rest as it comes. Who
    /// gets it may take as long as `limit` to say something after it has got everything.
    ///
    /// # Errors
    /// The client did not send the rest as it should, or it was sent once before.
    pub(super) async fn hand_over<F: Future>(
        &self,
        request_id: &str,
        beginning: Payload,
        rules: &FormRules,
        limit: Duration,
        send: impl FnOnce(Fields, Passing) -> F,
    ) -> Result<Result<F::Output, TooLate>, ApiError> {
        let Some((mut inflow, mut scanner)) = locked(&self.rest).take() else {
            let message = "the engine ended, and what was sent to it is not held to be sent again";
            return Err(ApiError::new(Code::WorkerCrashed, message));
        };
        let mut sieve = None;
        if !rules.is_empty() {
            rules.check(&self.boundary).map_err(refusal)?;
            sieve = Some(Sieve::after(self, rules));
        }
        let mut headers = headers::to_engine(self.kind.clone(), request_id);
        // An answer may come before the end of the body; then there is no next request.
        headers.set(header::CONNECTION, HeaderValue::from_static("close"));
        let (sender, receiver) = mpsc::channel(1);
        let length = self.length.map(|length| length - self.taken as u64);
        // What rules will change of what comes is not known.
        let is_known = sieve.is_none() || length == Some(0);
        let body = Passing {
            length: length
                .filter(|_| is_known)
                .map(|rest| rest + beginning.length()),
            beginning,
            rest: receiver,
        };
        let mut sent = pin!(send(headers, body));
        let early = tokio::select! {
            sent = &mut sent => Some(sent),
            passed = pass_on(&mut inflow, length, &mut scanner, sieve, &sender) => {
                passed?;
                None
            }
        };
        *locked(&self.way) = Some(sender);
        match early {
            Some(sent) => Ok(Ok(sent)),
            None => Ok(within(limit, sent).await),
        }
    }
}

fn locked<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes the rest on to its end. An engine that takes no more is no failure here: it is
/// heard.
async fn pass_on(
    inflow: &mut Inflow,
    mut left: Option<u64>,
    scanner: &mut Scanner,
    mut sieve: Option<Sieve<'_>>,
    to: &mpsc::Sender<Piece>,
) -> Result<(), ApiError> {
    inflow.go_on();
    while let Some(piece) = inflow.next().await? {
        scanner.push(&piece).map_err(refusal)?;
        left = left.map(|left| left.saturating_sub(piece.len() as u64));
        if left == Some(0) {
            scanner.finish().map_err(refusal)?;
        }
        let piece = match &mut sieve {
            Some(sieve) => sieve.pass(piece, scanner),
            None => {
                scanner.take_marks();
                piece
            }
        };
        if !piece.is_empty() && to.send(Some(piece)).await.is_err() {
            return Ok(());
        }
    }
    scanner.finish().map_err(refusal)?;
    let _ = to.send(None).await;
    Ok(())
}

/// Changes what comes as the rules say. It holds back what may be the beginning of a part.
struct Sieve<'r> {
    filter: Filter<'r>,
    held: BytesMut,
    /// Where in the body that begins.
    at: usize,
}

impl<'r> Sieve<'r> {
    /// Goes on after the beginning of this upload.
    fn after(upload: &'r Upload, rules: &'r FormRules) -> Self {
        let mut filter = Filter::new(rules, &upload.boundary);
        // What that changes has been changed in the beginning.
        filter.edits(&upload.marks, upload.decided);
        Self {
            filter,
            held: BytesMut::from(upload.tail.as_ref()),
            at: upload.decided,
        }
    }

    /// What goes on after this piece, which the scanner has seen.
    fn pass(&mut self, piece: Bytes, scanner: &mut Scanner) -> Bytes {
        self.held.extend_from_slice(&piece);
        let decided = scanner.decided();
        let mut edits = self.filter.edits(&scanner.take_marks(), decided);
        for edit in &mut edits {
            edit.at = edit.at.start - self.at..edit.at.end - self.at;
        }
        let whole = self.held.split_to(decided - self.at).freeze();
        self.at = decided;
        Payload::edited(&whole, edits).joined()
    }
}

/// The body of a request to an engine.
pub(super) struct Passing {
    beginning: Payload,
    rest: mpsc::Receiver<Piece>,
    /// How much is to come, if that is known.
    length: Option<u64>,
}

/// The client sent less than a whole body.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client's body did not come to its end")]
pub(super) struct Cut;

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let beginning = ready!(Pin::new(&mut self.beginning).poll_frame(context));
        if let Some(frame) = beginning {
            return Poll::Ready(Some(frame.map_err(|never: Infallible| match never {})));
        }
        match ready!(self.rest.poll_recv(context)) {
            Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            Some(None) => Poll::Ready(None),
            None => Poll::Ready(Some(Err(Cut))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
