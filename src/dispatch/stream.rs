//! Streamed answers. One half reads the engine and holds the lease; it ends at
//! the engine's last byte or when the client is gone. The other half is the
//! body that the client reads, served from a spool. Headers are held until the
//! engine's first byte or `server.heartbeat_after`, so that every earlier
//! refusal is a plain status; after that a failure is one error event and the
//! body ends cleanly without `[DONE]`.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::body::{EventBody, comment};
use super::heartbeat::Heartbeat;
use super::hold::{Hold, crashed, cut_short, ended_well, give_up, revoked};
use super::observer::Observer;
use super::patience::{Patience, within};
use super::refusals::cancelled;
use super::relay::Relay;
use super::reply::Wait;
use super::spool::{self, NotNow, Writer};
use super::whole::{collect, is_compressed, json_headers, usage_of};
use super::{Dispatch, Routed, headers};
use crate::api::error::{ApiError, Code};
use crate::config;
use crate::records::usage::Usage;
use crate::shutdown::Place;
use crate::worker::client::{self, Arrived};

/// How an answer begins.
enum Beginning {
    /// A stream of events: what the engine said in headers, and the wait for it.
    Events(HeaderMap, Wait),
    /// A plain answer of the engine: a refusal of its own.
    Plain(Box<Response<Bytes>>),
    /// No answer.
    Refused(ApiError),
}

/// How a stream ended other than well.
enum Ending {
    /// Nobody is there to tell.
    ClientGone,
    /// The client has been told by the engine's own plain answer.
    Told,
    /// The client is to be told.
    Failed(ApiError),
}

/// Starts the reading half and answers with the other.
pub(super) async fn answer(
    dispatch: Arc<Dispatch>,
    routed: Arc<Routed>,
) -> Result<Response<Body>, ApiError> {
    let server = &routed.snapshot.config.server;
    let (patience, every) = match server.heartbeat {
        // Longer than any answer takes.
        config::Heartbeat::Off => (Duration::MAX, None),
        _ => (server.heartbeat_after, Some(server.heartbeat_every)),
    };
    let (writer, reader) = spool::spool(&dispatch.spools);
    let (begin, mut beginning) = oneshot::channel();
    // One thing to wait for beside each event.
    let gone = routed.place.running().token();
    // Dropped with this future or with the body: either way the client is gone.
    let leave = gone.clone().drop_guard();
    let heartbeat = Heartbeat {
        form: routed.snapshot.config.server.heartbeat,
        endpoint: routed.request.endpoint,
        pool: dispatch.pool.clone(),
        running: routed.place.running().clone(),
    };
    let half = ReadingHalf {
        dispatch,
        routed: routed.clone(),
        writer,
        begin: Some(begin),
        has_begun: false,
        events: 0,
    };
    half.dispatch.tasks.clone().spawn(half.run(gone));

    let began = match timeout(patience, &mut beginning).await {
        Ok(began) => began.ok(),
        Err(_) => {
            // What was sent just now must not be lost.
            beginning.close();
            match beginning.try_recv() {
                Ok(began) => Some(began),
                Err(_) => {
                    let held = heartbeat.headers();
                    let said = routed.headers().chain(held.iter().cloned());
                    let first = comment(&said.collect::<Vec<_>>());
                    let held = held.into_iter().collect();
                    let body = EventBody::new(reader, every, heartbeat.beat(), leave, Some(first));
                    return Ok(routed.finish(event_stream(body, held), None));
                }
            }
        }
    };
    match began {
        Some(Beginning::Events(headers, wait)) => {
            let body = EventBody::new(reader, every, heartbeat.beat(), leave, None);
            Ok(routed.finish(event_stream(body, headers), Some(wait)))
        }
        Some(Beginning::Plain(response)) => Ok(routed.finish((*response).map(Body::from), None)),
        Some(Beginning::Refused(error)) => Err(error),
        None => Err(ApiError::new(Code::InternalError, "the answer was lost")),
    }
}

/// A response whose body is events.
fn event_stream(body: EventBody, headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::new(body));
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise collect the stream before passing it on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn panicked() -> ApiError {
    ApiError::new(
        Code::InternalError,
        "an internal error; the log has it under the request id",
    )
}

/// From the wait for the model to the engine's last byte.
struct ReadingHalf {
    dispatch: Arc<Dispatch>,
    routed: Arc<Routed>,
    writer: Writer,
    /// Taken when the beginning has been told, or the headers went out without it.
    begin: Option<oneshot::Sender<Beginning>>,
    /// Whether anything of an answer has gone out.
    has_begun: bool,
    /// How many events of the engine have gone out.
    events: u64,
}

impl ReadingHalf {
    async fn run(mut self, gone: CancellationToken) {
        let mut usage = None;
        let entry = self.routed.request.entry.clone();
        let running = self.routed.place.running().clone();
        let passing = AssertUnwindSafe(self.pass_on(&mut usage)).catch_unwind();
        let ended = tokio::select! {
            biased;
            ended = passing => ended.unwrap_or_else(|_| {
                entry.panicked(Place::Stream);
                Err(Ending::Failed(panicked()))
            }),
            () = gone.cancelled() => Err(match running.is_cancelled() {
                true => Ending::Failed(cancelled()),
                false => Ending::ClientGone,
            }),
        };
        let outcome = match &ended {
            Ok(()) => "complete",
            Err(Ending::ClientGone) => "client_gone",
            Err(Ending::Told) => "refused_by_engine",
            Err(Ending::Failed(error)) => error.code.facts().0,
        };
        self.routed.count(usage.as_ref(), self.events);
        self.routed.log(outcome, usage.as_ref());
        match ended {
            Err(Ending::Failed(error)) => {
                entry.failed(error.code.facts().0);
                self.tell(error);
            }
            Err(Ending::Told) => entry.refused_by_engine(),
            Ok(()) | Err(Ending::ClientGone) => {}
        }
    }

    /// Tells a failure: as a plain refusal while headers are held, as one event after.
    fn tell(mut self, error: ApiError) {
        let event = Bytes::from(error.event());
        match self
            .begin
            .take()
            .map(|begin| begin.send(Beginning::Refused(error)))
        {
            Some(Ok(())) => {}
            Some(Err(_)) | None => self.writer.write_last(event),
        }
    }

    /// Passes on what whoever the name leads to says; if that fails before a byte of it
    /// has gone out and the entry says so, what its upstream says.
    async fn pass_on(&mut self, usage: &mut Option<Usage>) -> Result<(), Ending> {
        self.dispatch.tasks.pass(Place::Stream);
        match self.pass_on_one(usage).await {
            Err(Ending::Failed(error)) if !self.has_begun && self.routed.falls_back(&error) => {
                self.pass_on_one(usage).await
            }
            ended => ended,
        }
    }

    /// Waits for the model, asks it, and passes on what it says.
    async fn pass_on_one(&mut self, usage: &mut Option<Usage>) -> Result<(), Ending> {
        let routed = self.routed.clone();
        // What the way to an engine needs is not there any more while the answer passes.
        let sent = Box::pin(routed.send(&self.dispatch)).await;
        let (lease, response) = sent.map_err(Ending::Failed)?;
        let (head, mut body) = response.into_parts();
        let events = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if head.status == StatusCode::OK && events && !is_compressed(&head.headers) {
            self.pass_events(&lease, &head.headers, &mut body, usage)
                .await
        } else {
            Box::pin(self.pass_plain(lease, head.status, head.headers, body)).await
        }
    }

    /// Passes on whole events until the engine ends.
    async fn pass_events(
        &mut self,
        lease: &Hold,
        headers: &HeaderMap,
        body: &mut client::Body,
        usage: &mut Option<Usage>,
    ) -> Result<(), Ending> {
        let routed = self.routed.clone();
        let limits = &routed.snapshot.config.server.limits;
        let mut relay = Relay::default();
        let mut observer = Observer::new(self.routed.is_foreign());
        let mut silence = (limits.first_token, Code::FirstTokenTimeout);
        let mut come = BytesMut::new();
        let mut patience = Patience::default();
        let mut taken_away = pin!(revoked(lease));
        let mut goes_on = true;
        while goes_on {
            come.clear();
            // All that has arrived is looked at once and leaves in one write.
            let arrived = poll_fn(|context| body.poll_arrived(context, &mut come));
            let arrived = tokio::select! {
                biased;
                arrived = patience.within(silence.0, arrived) => arrived,
                error = &mut taken_away => return Err(Ending::Failed(error)),
            };
            let arrived = arrived.map_err(|_| {
                give_up(lease);
                let message = format!("{} fell silent", routed.model());
                Ending::Failed(ApiError::new(silence.1, message))
            })?;
            silence = (limits.between_tokens, Code::UpstreamTimeout);
            let events = relay.push(&come).map_err(|too_long| {
                let message = too_long.to_string();
                Ending::Failed(ApiError::new(Code::BadUpstreamResponse, message))
            })?;
            if let Some(events) = events {
                let seen = observer.see(&events);
                if let Some(said) = observer.usage() {
                    *usage = Some(said.clone());
                }
                self.has_begun = true;
                if self.begin.is_some() {
                    Box::pin(self.begin_events(headers, Wait::of(lease))).await?;
                }
                self.events += seen;
                self.routed.place.running().passed(seen);
                self.write(events, limits.write_stall).await?;
            }
            match arrived {
                Arrived::Data => {}
                Arrived::Trailers(trailers) => *usage = usage_of(&trailers).or(usage.take()),
                Arrived::End => goes_on = false,
                // After the engine's own ending a broken connection is no failure.
                Arrived::Failure(_) if observer.ended() => goes_on = false,
                Arrived::Failure(failure) => {
                    let id = self.routed.request.id();
                    let crashed = Box::pin(crashed(id, lease, &failure));
                    return Err(Ending::Failed(crashed.await));
                }
            }
        }
        // The engine's last byte: what the client has not taken yet drains from the spool.
        match observer.ended() || !self.routed.request.endpoint.says_done() {
            true => {
                ended_well(lease);
                Ok(())
            }
            false => Err(Ending::Failed(cut_short(lease))),
        }
    }

    /// Lets the headers go, or says in a comment what they would have said.
    async fn begin_events(&mut self, headers: &HeaderMap, wait: Wait) -> Result<(), Ending> {
        let Some(begin) = self.begin.take() else {
            return Ok(());
        };
        self.routed.request.entry.first_event();
        let passed = headers::to_client(headers);
        let Err(Beginning::Events(late, _)) = begin.send(Beginning::Events(passed, wait)) else {
            return Ok(());
        };
        let said: Vec<_> = late
            .into_iter()
            .filter_map(|(name, value)| Some((name?, value)))
            .filter(|(name, _)| name.as_str().starts_with("x-roundhouse-"))
            .chain(self.routed.late_headers())
            .chain(wait.headers())
            .collect();
        let stall = self.routed.snapshot.config.server.limits.write_stall;
        self.write(comment(&said), stall).await
    }

    /// Puts events into the spool; a client that takes nothing for too long is cut off.
    async fn write(&self, events: Bytes, stall: Duration) -> Result<(), Ending> {
        let id = self.routed.request.id();
        self.dispatch.log_body(id, "events of an answer", &events);
        let events = match self.writer.try_write(events) {
            Ok(()) => return Ok(()),
            Err(NotNow::Gone) => return Err(Ending::ClientGone),
            Err(NotNow::Full(events)) => events,
        };
        let written = Box::pin(within(stall, Box::pin(self.writer.write(events))));
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(spool::Gone)) => Err(Ending::ClientGone),
            Err(_) => Err(Ending::Failed(ApiError::new(
                Code::RequestTimeout,
                format!("the client took nothing for {stall:?}"),
            ))),
        }
    }

    /// Passes on an engine's refusal: plainly while headers are held, else as an event.
    async fn pass_plain(
        &mut self,
        lease: Hold,
        status: StatusCode,
        headers: HeaderMap,
        body: client::Body,
    ) -> Result<(), Ending> {
        let routed = self.routed.clone();
        let (bytes, _) = collect(&routed, &lease, body)
            .await
            .map_err(Ending::Failed)?;
        drop(lease);
        if let Some(refusal) = routed.refusal(status, &headers, &bytes) {
            return Err(Ending::Failed(refusal));
        }
        // Elsewhere than at chats and completions a stream is a wish.
        if status.is_success() && !routed.request.endpoint.says_done() {
            return self.pass_other(&headers, bytes);
        }
        let refusal = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let Some(refusal) =
            refusal.filter(|value| !status.is_success() && value["error"].is_object())
        else {
            let message = format!("{} did not answer with events", routed.model());
            return Err(Ending::Failed(ApiError::new(
                Code::BadUpstreamResponse,
                message,
            )));
        };
        let mut response = Response::new(bytes);
        *response.status_mut() = status;
        *response.headers_mut() = json_headers(&headers);
        let told = self
            .begin
            .take()
            .map(|begin| begin.send(Beginning::Plain(Box::new(response))));
        if !matches!(told, Some(Ok(()))) {
            self.writer
                .write_last(Bytes::from(format!("data: {refusal}\n\n")));
        }
        Err(Ending::Told)
    }
    /// Passes on an answer that is no stream where one was asked for.
    fn pass_other(&mut self, headers: &HeaderMap, bytes: Bytes) -> Result<(), Ending> {
        let mut response = Response::new(bytes);
        *response.headers_mut() = headers::with_media(headers);
        let begin = self.begin.take();
        let told = begin.map(|begin| begin.send(Beginning::Plain(Box::new(response))));
        match told {
            Some(Ok(())) => Ok(()),
            _ => {
                let message = "the answer is no stream, and as one it has begun";
                Err(Ending::Failed(ApiError::new(
                    Code::BadUpstreamResponse,
                    message,
                )))
            }
        }
    }
}
