//! `/admin/keys`: lists, makes and revokes keys. No answer holds a hash, and the
//! text of a key is in one answer only, the one that made it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{id_in_path, record};
use crate::access::Caller;
use crate::access::keys::{Key, KeyClass, KeyError, KeyRing, Scope};
use crate::api::body::read;
use crate::api::error::{ApiError, Code};
use crate::service::Service;

/// What is asked for: `{"class", "name", "scope": {…}}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    class: KeyClass,
    name: Option<String>,
    #[serde(default)]
    scope: Scope,
}

/// `GET /admin/keys`
pub async fn list(State(service): State<Service>) -> Json<Value> {
    let keys = service.entrance.keys.load();
    let keys: Vec<_> = keys.iter().map(told).collect();
    Json(json!({"keys": keys}))
}

/// `POST /admin/keys`
pub async fn make(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let wanted: Wanted = read(&service, &headers, body).await?;
    let target = wanted.name.clone().unwrap_or_default();
    record(&service, &caller, "keys.make", &target).await?;
    let (key, text) = on(&service, move |ring| {
        ring.change(|keys| keys.make(wanted.class, wanted.name.as_deref(), wanted.scope))
    })
    .await?;
    let mut answer = told(&key);
    answer["key"] = json!(text.expose());
    Ok(Json(answer))
}

/// `DELETE /admin/keys/{id}`; the id or the name. Requests that were let in with
/// the key go on.
pub async fn revoke(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = id_in_path(id)?;
    let shown: String = id.chars().take(100).collect();
    record(&service, &caller, "keys.revoke", &shown).await?;
    let key = on(&service, move |ring| ring.revoke(&id)).await?;
    Ok(Json(json!({"success": true, "id": key.id})))
}

/// What is told of a key: everything but the hash, and where it comes from.
fn told(key: &Key) -> Value {
    let mut told = key.told();
    told["from"] = json!(if key.given { "environment" } else { "file" });
    told
}

/// Does something with the keys off the runtime's threads; the file is locked and
/// synced meanwhile.
async fn on<T: Send + 'static>(
    service: &Service,
    act: impl FnOnce(&KeyRing) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, ApiError> {
    let ring: Arc<KeyRing> = service.entrance.keys.clone();
    match tokio::task::spawn_blocking(move || act(&ring)).await {
        Ok(done) => done.map_err(refused),
        Err(_) => Err(ApiError::new(
            Code::InternalError,
            "the keys were not changed",
        )),
    }
}

/// Why keys were not changed. What the disk says is for the log alone.
fn refused(error: KeyError) -> ApiError {
    let message = error.to_string();
    match error {
        KeyError::Name(_) => ApiError::new(Code::InvalidValue, message).param("name"),
        KeyError::Misplaced(field) => {
            ApiError::new(Code::InvalidValue, message).param(format!("scope.{field}"))
        }
        KeyError::NameTaken(_) | KeyError::Given(_) | KeyError::Several(_) => {
            ApiError::new(Code::Conflict, message)
        }
        KeyError::Unknown(_) => ApiError::new(Code::NotFound, message),
        error => {
            let error = error.to_string();
            tracing::error!(error, "the keys file could not be changed");
            ApiError::new(
                Code::InternalError,
                "the keys file could not be changed; the log says why",
            )
        }
    }
}
