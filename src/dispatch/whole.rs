//! Answers that are not streamed: the engine's whole body is read before a byte
//! goes out, so that an answer cut short becomes an honest refusal.

use std::future::poll_fn;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::{Bytes, BytesMut};

use super::hold::{Hold, crashed, ended_well, give_up, revoked};
use super::patience::within;
use super::refusals::cancelled;
use super::reply::Wait;
use super::{Dispatch, Routed, foreign, headers};
use crate::api::error::{ApiError, Code};
use crate::records::usage::Usage;
use crate::worker::USAGE_TRAILER;
use crate::worker::client::{self, Arrived};

/// Largest answer that is taken from an engine, bytes.
const LARGEST: usize = 64 * 1024 * 1024;

/// Waits for a model, asks it, and answers with what it said. Dropping the
/// future (the client is gone) gives the lease back and closes the connection
/// to the worker, which cancels the generation.
pub(super) async fn answer(
    dispatch: &Dispatch,
    routed: Arc<Routed>,
) -> Result<Response<Body>, ApiError> {
    let running = routed.place.running();
    let answered = tokio::select! {
        answered = read_from_any(dispatch, &routed) => answered,
        () = running.cancelled() => Err(cancelled()),
    };
    let outcome = answered
        .as_ref()
        .map_or_else(|error| error.code.facts().0, |_| "complete");
    let usage = answered.as_ref().ok().and_then(|(_, usage)| usage.as_ref());
    routed.count(usage, 0);
    routed.log(outcome, usage);
    answered.map(|(response, _)| response)
}

/// The answer of whom the name leads to; if that fails and the entry says so, of its
/// upstream.
async fn read_from_any(
    dispatch: &Dispatch,
    routed: &Routed,
) -> Result<(Response<Body>, Option<Usage>), ApiError> {
    match read(dispatch, routed).await {
        Err(error) if routed.falls_back(&error) => read(dispatch, routed).await,
        answered => answered,
    }
}

async fn read(
    dispatch: &Dispatch,
    routed: &Routed,
) -> Result<(Response<Body>, Option<Usage>), ApiError> {
    let (lease, response) = routed.send(dispatch).await?;
    let wait = Wait::of(&lease);
    let (head, body) = response.into_parts();
    if is_compressed(&head.headers) {
        let message = format!(
            "{} answered in a form that was not asked for",
            routed.model()
        );
        return Err(ApiError::new(Code::BadUpstreamResponse, message));
    }
    let (bytes, usage) = tokio::select! {
        collected = collect(routed, &lease, body) => collected?,
        error = revoked(&lease) => return Err(error),
    };
    drop(lease);
    dispatch.log_body(routed.request.id(), "an answer", &bytes);
    if let Some(refusal) = routed.refusal(head.status, &head.headers, &bytes) {
        return Err(refusal);
    }
    let is_json = routed.request.endpoint.answers_json();
    let usage = match (is_json, usage) {
        (true, None) if routed.is_foreign() => foreign::usage_if_json(&bytes),
        (true, usage) if foreign::is_json(&bytes) => Ok(usage),
        (true, _) => Err(foreign::NoJson),
        (false, None) if routed.is_foreign() => Ok(foreign::usage_of_answer(&bytes)),
        (false, usage) => Ok(usage),
    };
    let usage = usage.map_err(|_| {
        let message = format!("{} did not answer with JSON", routed.model());
        ApiError::new(Code::BadUpstreamResponse, message)
    })?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = head.status;
    *response.headers_mut() = match is_json {
        true => json_headers(&head.headers),
        false => headers::with_media(&head.headers),
    };
    Ok((routed.finish(response, Some(wait)), usage))
}

/// The whole body of an engine's answer, and the usage it reports beside it.
pub(super) async fn collect(
    routed: &Routed,
    lease: &Hold,
    mut body: client::Body,
) -> Result<(Bytes, Option<Usage>), ApiError> {
    let silence = routed.snapshot.config.server.limits.first_token;
    let mut bytes = BytesMut::new();
    let mut usage = None;
    loop {
        let mut come = BytesMut::new();
        let arrived = poll_fn(|context| body.poll_arrived(context, &mut come));
        let arrived = within(silence, arrived).await.map_err(|_| {
            give_up(lease);
            let message = format!("{} stopped answering", routed.model());
            ApiError::new(Code::UpstreamTimeout, message)
        })?;
        if bytes.len() + come.len() > LARGEST {
            let message = "the engine's answer is larger than can be passed on";
            return Err(ApiError::new(Code::BadUpstreamResponse, message));
        }
        match bytes.is_empty() {
            true => bytes = come,
            false => bytes.extend_from_slice(&come),
        }
        match arrived {
            Arrived::Data => {}
            Arrived::Trailers(trailers) => usage = usage_of(&trailers).or(usage),
            Arrived::End => {
                ended_well(lease);
                return Ok((bytes.freeze(), usage));
            }
            Arrived::Failure(failure) => {
                let id = routed.request.id();
                return Err(Box::pin(crashed(id, lease, &failure)).await);
            }
        }
    }
}

/// The engine answered that it failed. Its words are not passed on: they may name
/// inner things, and the worker's own lines in the log say more.
pub(super) fn engine_failed(routed: &Routed, status: StatusCode) -> ApiError {
    tracing::warn!(
        request.id = routed.request.id(),
        model.id = routed.model(),
        status = status.as_u16(),
        "an engine failed to answer"
    );
    let message = format!("the engine of {} failed to answer", routed.model());
    ApiError::new(Code::BadUpstreamResponse, message)
}

/// Whether a status is one that an engine answers or refuses a request with. It
/// sends nobody elsewhere, and its own failures are not the client's.
pub(super) fn is_answer(status: StatusCode) -> bool {
    status.is_success() || status.is_client_error()
}

/// The headers of an answer that was read and is JSON.
pub(super) fn json_headers(of_engine: &HeaderMap) -> HeaderMap {
    let mut headers = headers::to_client(of_engine);
    let kind = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, kind);
    headers
}

/// Whether an engine compressed its answer, which nobody asked it to.
pub(super) fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The usage a worker reports beside its answer.
pub(super) fn usage_of(trailers: &HeaderMap) -> Option<Usage> {
    let said = trailers.get(USAGE_TRAILER)?.to_str().ok()?;
    Some(Usage::said(said))
}
