//! `POST|DELETE /v1/leases` and `POST|DELETE /admin/leases`: residency leases. An
//! agent run holds a model for a while, and others see until when. On the
//! inference port this takes the scope `pool`, and a caller gives back only what
//! is its own; management gives back any.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::read;
use super::error::{ApiError, Code};
use crate::access::Caller;
use crate::admin::{record, resolve};
use crate::pool::{HoldError, Lease, Terms};
use crate::service::Service;

/// What stands before the number in an id.
const PREFIX: &str = "lease-";

/// `{"model", "seconds"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    model: String,
    seconds: Option<u64>,
}

/// `{"id"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    id: String,
}

/// `POST /v1/leases`
pub async fn hold(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    check_scope(&caller)?;
    let wanted: Wanted = read(&service, &headers, body).await?;
    let snapshot = service.dispatch.registry.load();
    let plan = resolve(&snapshot, &wanted.model, &|name| caller.scope.permits(name))?;
    record(&service, &caller, "leases.hold", &plan.model).await?;
    let terms = Terms {
        priority: caller.scope.priority(None),
        ..Terms::default()
    };
    let lease = service.dispatch.pool.acquire(&plan, terms).await;
    let lease = lease.map_err(crate::dispatch::refused)?;
    answer(&service, &caller, &lease, wanted.seconds).await
}

/// `POST /admin/leases`
pub async fn hold_any(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let wanted: Wanted = read(&service, &headers, body).await?;
    let snapshot = service.dispatch.registry.load();
    let plan = resolve(&snapshot, &wanted.model, &|_| true)?;
    record(&service, &caller, "leases.hold", &plan.model).await?;
    let lease = service.dispatch.pool.load(&plan.model).await;
    let lease = lease.map_err(crate::dispatch::refused)?;
    answer(&service, &caller, &lease, wanted.seconds).await
}

/// `DELETE /v1/leases`
pub async fn let_go(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    check_scope(&caller)?;
    give_back(&service, &caller, Some(&caller.id), &headers, body).await
}

/// `DELETE /admin/leases`
pub async fn let_go_any(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    give_back(&service, &caller, None, &headers, body).await
}

/// The id of a residency lease.
pub fn id(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// Holds the model of a lease for as long as is asked for and allowed.
async fn answer(
    service: &Service,
    caller: &Caller,
    lease: &Lease,
    seconds: Option<u64>,
) -> Result<Json<Value>, ApiError> {
    let ceiling = service.dispatch.registry.load().config.pool.lease_ceiling;
    if seconds == Some(0) {
        let message = "seconds: expected a whole number from 1, found 0";
        return Err(ApiError::new(Code::InvalidValue, message).param("seconds"));
    }
    let asked = seconds.map(Duration::from_secs);
    let time = asked.map_or(ceiling, |asked| asked.min(ceiling));
    let held = service.dispatch.pool.hold(lease, &caller.id, time).await;
    let number = held.map_err(|error| not_held(&error))?;
    Ok(Json(json!({
        "id": id(number),
        "model": lease.plan().model,
        "seconds": time.as_secs_f64(),
        "limited": asked.is_some_and(|asked| asked > ceiling),
    })))
}

async fn give_back(
    service: &Service,
    caller: &Caller,
    holder: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let given: Given = read(service, headers, body).await?;
    let number = given.id.strip_prefix(PREFIX);
    let number = number.and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| not_held(&HoldError::Unknown))?;
    record(service, caller, "leases.let_go", &id(number)).await?;
    let gone = service.dispatch.pool.let_go(number, holder).await;
    let model = gone.map_err(|error| not_held(&error))?;
    Ok(Json(json!({"success": true, "model": model})))
}

fn check_scope(caller: &Caller) -> Result<(), ApiError> {
    match caller.scope.pool {
        true => Ok(()),
        false => Err(ApiError::new(
            Code::InsufficientScope,
            "this path asks for a key with the scope pool",
        )),
    }
}

/// Why a model is not held, in the words of the API.
fn not_held(error: &HoldError) -> ApiError {
    let code = match error {
        HoldError::Leaving => Code::Overloaded,
        HoldError::Awaited { .. } | HoldError::TooMany { .. } => Code::Conflict,
        HoldError::Unknown => Code::NotFound,
        HoldError::Lost => Code::InternalError,
        HoldError::ShuttingDown => Code::ShuttingDown,
    };
    ApiError::new(code, error.to_string())
}
