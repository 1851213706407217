//! Open to everybody, and silent on details: whether the process lives, and
//! whether it can serve.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::service::Service;

/// `HEAD /`: some clients ask it first.
pub async fn head() -> StatusCode {
    StatusCode::OK
}

/// `GET /health`: 200 while the process lives; `degraded` when an edit of the
/// configuration is not in force. A server that was told to let everybody in says
/// that too: its users should know, and whoever asks knows already.
pub async fn health(State(service): State<Service>) -> Response {
    let well = service.reload.last_failure().is_none();
    if service.entrance.is_open_to_all() {
        let body = json!({"status": word(well), "authentication": "off"});
        return Json(body).into_response();
    }
    answer(StatusCode::OK, well)
}

/// `GET /ready`: 503 until what is to be loaded at start has been, while the
/// server drains, and while no descriptor is free.
pub async fn ready(State(service): State<Service>) -> Response {
    let ready = service.is_ready();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(status, ready)
}

fn answer(status: StatusCode, well: bool) -> Response {
    (status, Json(json!({"status": word(well)}))).into_response()
}

fn word(well: bool) -> &'static str {
    if well { "ok" } else { "degraded" }
}
