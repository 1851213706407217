//! The OpenAI dialect. It is the inner language too, so a request goes on as it
//! came: read, dispatched, answered.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response};

use super::body::read_json;
use super::error::ApiError;
use super::front::RequestId;
use crate::access::Caller;
use crate::dispatch::Request;
use crate::records::entry::Entry;
use crate::service::Service;

/// `POST /v1/chat/completions`
pub async fn chat_completions(
    state: State<Service>,
    caller: Extension<Caller>,
    id: Extension<RequestId>,
    entry: Extension<Entry>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    forward(
        "/v1/chat/completions",
        state,
        caller,
        id,
        entry,
        headers,
        body,
    )
    .await
}

/// `POST /v1/completions`
pub async fn completions(
    state: State<Service>,
    caller: Extension<Caller>,
    id: Extension<RequestId>,
    entry: Extension<Entry>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    forward("/v1/completions", state, caller, id, entry, headers, body).await
}

async fn forward(
    path: &'static str,
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Extension(entry): Extension<Entry>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let snapshot = service.dispatch.registry.load();
    let body = read_json(&headers, body, &snapshot.config.server.limits).await?;
    entry.received(body.len());
    let request = Request {
        path,
        body,
        request_id,
        caller,
        entry,
    };
    service.dispatch.answer(request).await
}
