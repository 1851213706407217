//! The management API: status, models, reload, load and unload. It knows HTTP
//! and decides nothing; each effect is written to the audit before it happens.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{Access, Caller, Door, Refusal};
use crate::api::body::read;
use crate::api::error::{ApiError, Code};
use crate::api::front::Port;
use crate::api::table::{self, Route};
use crate::api::{leases, openapi};
use crate::pool::{Asker, UnloadError, UnloadMode};
use crate::records::entry::Entry;
use crate::records::redact;
use crate::registry::Snapshot;
use crate::route::{self, Decision, Permit};
use crate::server::App;
use crate::service::Service;
use crate::service::reload::ReloadError;
use crate::worker::LoadPlan;

mod check;
pub mod events;
pub mod explain;
mod keys;
pub mod metrics;
mod prompts;
pub mod requests;
pub mod settings;
pub mod status;
pub mod swaps;

/// Every route of the management port and of the control socket.
pub fn routes() -> Vec<Route> {
    use Access::Management;
    vec![
        Route::new(Management, "/openapi.json").get(openapi::management::description),
        Route::new(Management, "/admin/status").get(status::status),
        Route::new(Management, "/admin/models").get(status::models),
        Route::new(Management, "/admin/queue").get(requests::queue),
        Route::new(Management, "/admin/requests").get(requests::list),
        Route::new(Management, "/admin/requests/{id}").delete(requests::cancel),
        Route::new(Management, "/admin/swaps").get(swaps::swaps),
        Route::new(Management, "/admin/events").get(events::events),
        Route::new(Management, "/admin/explain").get(explain::explain),
        Route::new(Management, "/admin/config").get(settings::config),
        Route::new(Management, "/metrics").get(metrics::metrics),
        Route::new(Management, "/admin/reload").post(reload),
        Route::new(Management, "/admin/check").post(check::check),
        Route::new(Management, "/admin/models/load").post(load),
        Route::new(Management, "/admin/models/unload").post(unload),
        Route::new(Management, "/admin/models/release").post(release),
        Route::new(Management, "/admin/prompts").get(prompts::list),
        Route::new(Management, "/admin/prompts/clear").post(prompts::clear),
        Route::new(Management, "/admin/leases")
            .post(leases::hold_any)
            .delete(leases::let_go_any),
        Route::new(Management, "/admin/keys")
            .get(keys::list)
            .post(keys::make),
        Route::new(Management, "/admin/keys/{id}").delete(keys::revoke),
    ]
}

/// The management port and the control socket.
pub fn app(service: Service) -> App {
    table::app(routes(), service, Port::Management)
}

/// `{"model", "mode"}`; anything else in it is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    model: String,
    mode: Option<UnloadMode>,
}

/// `POST /admin/reload`
async fn reload(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    record(&service, &caller, "reload", "").await?;
    let reloaded = service.reload.reload().await;
    let change = reloaded.map_err(|error| not_reloaded(&service, &error))?;
    Ok(Json(json!({
        "generation": service.dispatch.registry.load().generation,
        "change": change.to_string(),
        "details": change.details(),
    })))
}

/// Why there is no other configuration, in the words of the API.
fn not_reloaded(service: &Service, error: &ReloadError) -> ApiError {
    match error {
        ReloadError::Stopping => ApiError::new(Code::ShuttingDown, "the server is shutting down"),
        ReloadError::Panicked => ApiError::new(Code::InternalError, error.to_string()),
        ReloadError::Problems(_) | ReloadError::Keys(_) => {
            let folder = service.dispatch.registry.load().config.source.clone();
            let folder = folder.as_deref().and_then(std::path::Path::parent);
            let message = without_folder(&error.to_string(), folder);
            ApiError::new(Code::InvalidValue, message)
        }
    }
}

/// What is wrong with the configuration, by the file's name alone: where it lies
/// is nothing that a key should learn.
fn without_folder(message: &str, folder: Option<&std::path::Path>) -> String {
    match folder {
        Some(folder) => message.replace(&format!("{}/", folder.display()), ""),
        None => message.to_owned(),
    }
}

/// `POST /admin/models/load`: the same path and checks as a request's own load.
async fn load(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Extension(entry): Extension<Entry>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let target: Target = read(&service, &headers, body).await?;
    if target.mode.is_some() {
        return Err(ApiError::new(Code::InvalidValue, "a load has no mode").param("mode"));
    }
    let snapshot = service.dispatch.registry.load();
    let model = resolve(&snapshot, &target.model, &|_| true)?.model.clone();
    record(&service, &caller, "load", &model).await?;
    let asker = Asker::new(entry.request_id(), &caller.id, &target.model);
    let pool = service.dispatch.pool.asked_by(asker.into());
    pool.load(&model).await.map_err(crate::dispatch::refused)?;
    Ok(Json(json!({"success": true, "model": model})))
}

/// `POST /admin/models/unload`
async fn unload(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let target: Target = read(&service, &headers, body).await?;
    let snapshot = service.dispatch.registry.load();
    let model = resolve(&snapshot, &target.model, &|_| true)?.model.clone();
    let mode = target.mode.unwrap_or(UnloadMode::Idle);
    record(&service, &caller, "unload", &model).await?;
    match service.dispatch.pool.unload(&model, mode).await {
        Ok(()) => Ok(Json(json!({"success": true, "model": model}))),
        Err(error) => Err(not_unloaded(&error)),
    }
}

/// Why nothing was unloaded, in the words of the API.
fn not_unloaded(error: &UnloadError) -> ApiError {
    let message = error.to_string();
    match error {
        UnloadError::ShuttingDown => ApiError::new(Code::ShuttingDown, message),
        UnloadError::Lost => ApiError::new(Code::InternalError, message),
        UnloadError::NotLoaded { .. } | UnloadError::Busy { .. } | UnloadError::Held { .. } => {
            ApiError::new(Code::Conflict, message).param("model")
        }
    }
}

/// `POST /admin/models/release`: everything idle goes.
async fn release(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    record(&service, &caller, "release", "").await?;
    let released = service.dispatch.pool.release().await;
    let models = released.map_err(|error| not_unloaded(&error))?;
    Ok(Json(json!({"success": true, "models": models})))
}

/// What a name means to somebody who may use some models.
pub fn resolve(snapshot: &Snapshot, name: &str, permit: Permit) -> Result<Arc<LoadPlan>, ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message).param("model"));
    match route::decide(snapshot, Some(name), permit) {
        Decision::Serve { plan, .. } => Ok(plan),
        Decision::Away { remote, name, .. } => refuse(
            Code::InvalidValue,
            format!(
                "\"{name}\" is answered by {}; there is nothing to load",
                remote.words()
            ),
        ),
        Decision::Invalid(error) => refuse(Code::InvalidModelId, error.to_string()),
        Decision::Unknown { name } => refuse(
            Code::ModelNotFound,
            format!("the model \"{name}\" does not exist here"),
        ),
        Decision::NotServable { name, reason } => refuse(
            Code::ModelNotFound,
            format!("the model \"{name}\" cannot be served: {reason}"),
        ),
    }
}

/// What stands in a path where an id does.
fn id_in_path(id: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    match id {
        Ok(Path(id)) => Ok(id),
        Err(_) => Err(ApiError::new(Code::InvalidValue, "the path is not UTF-8").param("id")),
    }
}

/// Writes the line of an effect that is about to happen.
pub async fn record(
    service: &Service,
    caller: &Caller,
    action: &str,
    target: &str,
) -> Result<(), ApiError> {
    let written = service.audit.allowed(caller, action, target).await;
    written.map_err(|error| unwritten(service, error))
}

/// What the audit calls a request that is refused: its method, and its path. One of
/// many refused for their rate goes by its route, since names made up for the parts
/// of a path would make kinds of their own.
pub fn refused_action(route: &str, request: &Request, refusal: &Refusal) -> String {
    let method = redact::method(request.method().as_str());
    match refusal.error.code {
        Code::RateLimitExceeded => format!("{method} {route}"),
        _ => format!("{method} {}", redact::path(request.uri().path())),
    }
}

/// Writes down a management call that was refused: a line for it, or one for many
/// where its rate was the reason.
pub async fn record_refusal(
    service: &Service,
    door: &Door,
    action: &str,
    refusal: &Refusal,
) -> Result<(), ApiError> {
    let caller = Caller::keyless(refusal.key.as_deref().unwrap_or("unknown"), door);
    let written = match refusal.error.code {
        Code::RateLimitExceeded => service.audit.too_many(&caller, action).await,
        code => service.audit.refused(&caller, action, code.facts().0).await,
    };
    written.map_err(|error| unwritten(service, error))
}

/// What cannot be written down does not happen.
fn unwritten(service: &Service, error: std::io::Error) -> ApiError {
    tracing::error!(?error, "the audit could not be written");
    service.records.counters.audit_failed();
    ApiError::new(
        Code::InternalError,
        "the audit could not be written, so nothing was done",
    )
}

/// Seconds from `now` back to `then`, for people.
fn seconds_since(then: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(then).as_secs_f64() * 1000.0).round() / 1000.0
}
