//! `GET /v1/models` and `GET /v1/models/{org}/{repo}`: what may be asked for,
//! with the state of each. Listing never loads and never waits for a load.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::error::{ApiError, Code};
use crate::access::Caller;
use crate::model::id::Name;
use crate::pool::{ModelState, View};
use crate::registry::{Leads, Remote, Snapshot};
use crate::route::{self, Listed};
use crate::service::Service;

/// The tags of a query: `?tag=code&tag=large`.
pub fn tags(uri: &Uri) -> Vec<&str> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.strip_prefix("tag=")).collect()
}

/// The list: all of it, or what has the tags of the query.
pub async fn list(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Extension(snapshot): Extension<Arc<Snapshot>>,
    uri: Uri,
) -> Json<Value> {
    let tags = tags(&uri);
    let view = service.dispatch.pool.view();
    let data: Vec<_> = route::list(&snapshot, &|name| caller.scope.permits(name))
        .iter()
        .filter(|listed| match &listed.behind {
            Leads::Model(served) => served.has_tags(&tags),
            Leads::Upstream(_) => tags.is_empty(),
        })
        .map(|listed| object(listed, &view))
        .collect();
    Json(json!({"object": "list", "data": data}))
}

/// One model; its id may hold a slash, plain or as `%2F`.
pub async fn one(
    State(service): State<Service>,
    Extension(caller): Extension<Caller>,
    Extension(snapshot): Extension<Arc<Snapshot>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let invalid = |message: String| ApiError::new(Code::InvalidModelId, message).param("model");
    let Path(id) = id.map_err(|_| invalid("the path is not UTF-8".to_owned()))?;
    let name = Name::parse(id.trim_end_matches('/')).map_err(|error| invalid(error.to_string()))?;
    let view = service.dispatch.pool.view();
    let listed = route::list(&snapshot, &|name| caller.scope.permits(name));
    listed
        .iter()
        .find(|listed| listed.id == name.as_str())
        .map(|listed| Json(object(listed, &view)))
        .ok_or_else(|| {
            let message = format!("the model \"{name}\" does not exist here");
            ApiError::new(Code::ModelNotFound, message).param("model")
        })
}

/// A model in OpenAI's shape, with what agents need besides: the window and the state.
fn object(listed: &Listed, view: &View) -> Value {
    let served = match &listed.behind {
        Leads::Model(served) => served,
        Leads::Upstream(remote) => return object_of_upstream(&listed.id, remote),
    };
    let plan = served.plan.as_ref().ok();
    let known = plan.and_then(|plan| view.model(&plan.model));
    let state = known.map_or(ModelState::Unloaded, |model| model.state);
    let mut status = json!({"value": state});
    if let (Some(known), ModelState::Loading | ModelState::Waiting) = (known, state) {
        let eta = view.eta(&known.model, Instant::now());
        status["loaded_percent"] = json!(known.progress.map(|progress| progress.percent()));
        status["eta_ms"] = json!(eta.map(|eta| eta.as_millis() as u64));
    }
    let created = served.modified.map_or(0, seconds);
    let owner = listed
        .id
        .split_once('/')
        .map_or("roundhouse", |(organisation, _)| organisation);
    let mut object = json!({
        "id": listed.id,
        "object": "model",
        "created": created,
        "owned_by": owner,
        "state": state,
        "status": status,
        "kind": plan.and_then(|_| served.uses.first()),
        "cached": plan.is_some(),
        "context_length": plan.map(|plan| plan.context),
        "max_model_len": plan.map(|plan| plan.context),
        "aliases": served.aliases,
        "tags": served.tags,
    });
    if let Some(adapter) = &served.adapter {
        object["parent"] = json!(adapter.base);
    }
    if let Some(name) = &listed.alias_of {
        object["alias_of"] = json!(name);
    }
    object
}

/// A name that an upstream answers. There is nothing to load, so it is always ready.
fn object_of_upstream(id: &str, remote: &Remote) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": 0,
        "owned_by": remote.upstreams()[0],
        "state": ModelState::Ready,
        "status": {"value": ModelState::Ready},
        "kind": remote.kinds().first(),
        "cached": false,
        "context_length": null,
        "max_model_len": null,
        "aliases": [],
        "tags": [],
        "upstream": remote.upstreams()[0],
        "upstreams": remote.upstreams(),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
