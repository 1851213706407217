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
use crate::service::Service;

/// `POST /v1/chat/completions`
pub async fn chat_completions(
    state: State<Service>,
    caller: Extension<Caller>,
    id: Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    forward("/v1/chat/completions", state, caller, id, headers, body).await
}

/// `POST /v1/completions`
pub async fn completions(
    state: State<Service>,
    caller: Extension<Caller>,
    id: Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    forward("/v1/completions", state, caller, id, headers, body).await
}

async fn forward(
    path: &'static str,
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let snapshot = service.dispatch.registry.load();
    let limits = &snapshot.config.server.limits;
    let body = read_json(&headers, body, limits, &service.bodies).await?;
    let request = Request {
        path,
        body,
        request_id,
        caller,
    };
    service.dispatch.answer(request).await
}
