//! What is asked of the models now: `GET /admin/queue`, `GET /admin/requests`, and
//! the call that ends one request.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::{id_in_path, record};
use crate::access::Caller;
use crate::api::error::{ApiError, Code};
use crate::dispatch::live::Running;
use crate::pool::View;
use crate::records::redact;
use crate::service::Service;

/// `GET /admin/queue`: who waits for what, in the order in which they stand.
pub async fn queue(State(service): State<Service>) -> Json<Value> {
    let queue = service.dispatch.pool.queue().await;
    let waiting: Vec<_> = queue
        .iter()
        .map(|(waiting, asker)| {
            json!({
                "position": waiting.position,
                "model": waiting.model,
                "priority": waiting.priority,
                "waited_ms": waiting.waited.as_millis() as u64,
                "eta_ms": waiting.eta.map(|eta| eta.as_millis() as u64),
                "request_id": asker.as_ref().map(|asker| asker.request_id.as_str()),
                "caller": asker.as_ref().map(|asker| asker.caller.as_str()),
                "name": asker.as_ref().map(|asker| asker.name.as_str()),
            })
        })
        .collect();
    Json(json!({"waiting": waiting}))
}

/// `GET /admin/requests`: the requests that wait or are answered, in the order in
/// which they came.
pub async fn list(State(service): State<Service>) -> Json<Value> {
    let (view, now) = (service.dispatch.pool.view(), Instant::now());
    let live = service.dispatch.live.all();
    let requests: Vec<_> = live.iter().map(|it| shown(it, &view, now)).collect();
    Json(json!({"requests": requests}))
}

/// One request.
pub(super) fn shown(running: &Running, view: &View, now: Instant) -> Value {
    let waited = running.waited();
    let eta = match waited {
        Some(_) => None,
        None => view.eta(&running.model, now),
    };
    let since = running.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "request_id": running.asker.request_id,
        "caller": running.asker.caller,
        "name": running.asker.name,
        "model": running.model,
        "route": running.route,
        "stream": running.streamed,
        "state": if waited.is_some() { "running" } else { "waiting" },
        "since_ms": since.as_millis() as u64,
        "age_ms": now.saturating_duration_since(running.since).as_millis() as u64,
        "waited_ms": waited.map(|waited| waited.as_millis() as u64),
        "queue_position": running.asker.position(),
        "eta_ms": eta.map(|eta| eta.as_millis() as u64),
        "tokens": running.streamed.then(|| running.events()),
    })
}

/// `DELETE /admin/requests/{id}`: ends every request with this id, of which clients
/// may have made several. Whoever asked hears an error.
pub async fn cancel(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = id_in_path(id)?;
    let live = &service.dispatch.live;
    if live.of(&id).is_empty() {
        return Err(nobody(&id));
    }
    record(&service, &caller, "cancel", &id).await?;
    // Once more: writing the line took its time.
    let found = live.of(&id);
    for running in &found {
        running.cancel();
    }
    Ok(Json(
        json!({"success": true, "id": id, "requests": found.len()}),
    ))
}

/// There is no such request, or not any more.
pub(super) fn nobody(id: &str) -> ApiError {
    let id = redact::path(id);
    ApiError::new(
        Code::NotFound,
        format!("no request with the id \"{id}\" waits or is answered"),
    )
}

/// Milliseconds since 1970 of a moment that is so long ago.
pub(super) fn milliseconds_ago(ago: std::time::Duration) -> u64 {
    let then = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
    let since = then.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
