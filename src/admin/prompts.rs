//! What the embedded engine keeps of prompts, model by model, in memory and on disk, and
//! forgetting it. The workers that are up are asked themselves; that is no use of a model.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::{Extension, Json};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{record, resolve};
use crate::access::Caller;
use crate::api::body::read;
use crate::api::error::{ApiError, Code};
use crate::engine::thread::Kept;
use crate::service::Service;
use crate::worker::client::{Client, Failure, Fields};
use crate::worker::{FORGET_PATH, STATUS_PATH};

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes of its answer.
const LONGEST: usize = 64 * 1024;

/// The part of a worker's status that is about prompts.
#[derive(Deserialize)]
struct Status {
    prompt_cache: Kept,
}

/// `{"model"}`; without one, all of them are meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    model: Option<String>,
}

/// `GET /admin/prompts`
pub async fn list(State(service): State<Service>) -> Json<Value> {
    let folder = service.prompts.clone();
    let on_disk = tokio::task::spawn_blocking(move || folder.usage()).await;
    let mut on_disk = match on_disk {
        Ok(Ok(usage)) => usage,
        failed => {
            tracing::warn!(?failed, "the prompts on disk cannot be counted");
            BTreeMap::new()
        }
    };
    let mut workers = service.dispatch.pool.own_workers();
    workers.sort_by(|(one, _), (other, _)| one.cmp(other));
    let asked = workers.into_iter().map(|(model, client)| async move {
        let answer = ask(&client, Method::GET, STATUS_PATH).await.ok()?;
        let status: Status = serde_json::from_slice(&answer).ok()?;
        Some((model, status.prompt_cache))
    });
    let kept = join_all(asked).await.into_iter().flatten();
    let mut models: Vec<Value> = kept
        .map(|(model, kept)| {
            let disk = on_disk.remove(&model).unwrap_or_default();
            json!({"model": model, "prompt_cache": kept, "disk": disk})
        })
        .collect();
    let gone = on_disk.into_iter();
    models.extend(gone.map(|(model, disk)| json!({"model": model, "disk": disk})));
    Json(json!({"models": models}))
}

/// `POST /admin/prompts/clear`
pub async fn clear(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let Target { model } = read(&service, &headers, body).await?;
    let snapshot = service.dispatch.registry.load();
    let only = match model {
        Some(name) => Some(resolve(&snapshot, &name, &|_| true)?.model.clone()),
        None => None,
    };
    record(&service, &caller, "forget", only.as_deref().unwrap_or("")).await?;
    let mut workers = service.dispatch.pool.own_workers();
    workers.retain(|(model, _)| only.as_ref().is_none_or(|only| only == model));
    workers.sort_by(|(one, _), (other, _)| one.cmp(other));
    let asked = workers.into_iter().map(|(model, client)| async move {
        match ask(&client, Method::POST, FORGET_PATH).await {
            Ok(_) => Ok(Some(model)),
            // It is gone, and what it kept with it.
            Err(Failure::Unreached(_) | Failure::Gone(_)) => Ok(None),
            Err(failure) => Err((model, failure)),
        }
    });
    let mut models = BTreeSet::new();
    for told in join_all(asked).await {
        match told {
            Ok(model) => models.extend(model),
            Err((model, failure)) => {
                tracing::warn!(model, ?failure, "a worker was told to forget and did not");
                let message = format!("{model} did not say that it has forgotten its prompts");
                return Err(ApiError::new(Code::InternalError, message));
            }
        }
    }
    // Last, so that nothing that a worker was just writing is left.
    let folder = service.prompts.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        let mut on_disk = folder.usage()?;
        on_disk.retain(|model, _| only.as_ref().is_none_or(|only| only == model));
        folder.clear(only.as_deref())?;
        Ok::<_, std::io::Error>(on_disk.into_keys())
    });
    match cleared.await {
        Ok(Ok(on_disk)) => models.extend(on_disk),
        failed => {
            tracing::warn!(?failed, "the prompts on disk could not be removed");
            let message = "the prompts on disk could not be removed";
            return Err(ApiError::new(Code::InternalError, message));
        }
    }
    Ok(Json(json!({"success": true, "models": models})))
}

/// What a worker answers to a question without a body.
async fn ask(client: &Client, method: Method, path: &str) -> Result<bytes::Bytes, Failure> {
    let asked = async {
        let sent = client.send(method, path, Fields::default(), Empty::new());
        let response = sent.await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            return Err(Failure::Cut(format!("it answered {status}")));
        }
        let whole = Limited::new(response.into_body(), LONGEST).collect().await;
        let whole = whole.map_err(|error| Failure::Cut(error.to_string()))?;
        Ok(whole.to_bytes())
    };
    let answered = tokio::time::timeout(PATIENCE, asked).await;
    answered.unwrap_or(Err(Failure::Timeout))
}
