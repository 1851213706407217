//! `POST /admin/check`: what a reload would do if a text stood in the file's place. It
//! changes nothing, and is for the owner alone: what becomes of a text tells what lies
//! on the disk.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::not_reloaded;
use crate::access::Door;
use crate::api::body::read;
use crate::api::error::{ApiError, Code};
use crate::pool::View;
use crate::registry::Change;
use crate::service::Service;

/// `{"text"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Candidate {
    text: String,
}

/// The answer.
pub async fn check(
    State(service): State<Service>,
    Extension(door): Extension<Door>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    if door != Door::ControlSocket {
        let message = "only the owner may ask this, over the control socket";
        return Err(ApiError::new(Code::InsufficientScope, message));
    }
    let Candidate { text } = read(&service, &headers, body).await?;
    let snapshot = service.dispatch.registry.load();
    let considered = service.reload.consider(text).await;
    let change = considered.map_err(|error| not_reloaded(&service, &error))?;
    let view = service.dispatch.pool.view();
    let file = snapshot.config.source.as_deref();
    let file = file.and_then(|file| std::path::absolute(file).ok());
    Ok(Json(json!({
        "file": file,
        "generation": snapshot.generation,
        "changes": !change.is_empty(),
        "change": change.to_string(),
        "details": change.details(),
        "unloads": unloads(&change, &view),
    })))
}

/// What is loaded now and would go, with the requests it answers.
fn unloads(change: &Change, view: &View) -> Vec<Value> {
    let gone = change.gone.iter().filter_map(|model| view.model(model));
    gone.filter(|model| model.pid.is_some())
        .map(|model| json!({"model": model.model, "requests": model.leases()}))
        .collect()
}
