//! Open to everybody, and silent on details: whether the process lives, and
//! whether it can serve.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::service::Service;

/// `HEAD /`: some clients ask it first.
pub async fn head() -> StatusCode {
    StatusCode::OK
}

/// `GET /health`: 200 while the process lives; `degraded` when an edit of the
/// configuration is not in force.
pub async fn health(State(service): State<Service>) -> Response {
    answer(StatusCode::OK, service.reload.last_failure().is_none())
}

/// `GET /ready`: 503 until what is to be loaded at start has been, and while the
/// server drains.
pub async fn ready(State(service): State<Service>) -> Response {
    let ready = service.dispatch.pool.ready();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(status, ready)
}

fn answer(status: StatusCode, well: bool) -> Response {
    let body = if well {
        r#"{"status":"ok"}"#
    } else {
        r#"{"status":"degraded"}"#
    };
    (status, [("content-type", "application/json")], body).into_response()
}
