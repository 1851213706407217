//! `GET /admin/status` and `GET /admin/models`: the service at one moment.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Value, json};

use super::seconds_since;
use crate::api::{self, leases};
use crate::platform::{self, pressure};
use crate::pool::{ModelView, View};
use crate::registry::{Snapshot, why};
use crate::service::Service;

/// One call that tells how the service stands.
pub async fn status(State(service): State<Service>) -> Json<Value> {
    let now = Instant::now();
    let view = service.dispatch.pool.view();
    let snapshot = service.dispatch.registry.load();
    let models: Vec<_> = view
        .models
        .iter()
        .map(|model| model_status(&view, model, now))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "uptime_seconds": seconds_since(service.started, now),
        "ready": service.is_ready(),
        "configuration": {
            "file": snapshot.config.source,
            "generation": snapshot.generation,
            "last_reload_failure": service.reload.last_failure(),
        },
        "memory": {
            "budget_bytes": view.budget.0,
            "reserved_bytes": view.reserved.0,
            "footprint_bytes": view.footprint().0,
            "machine_bytes": platform::machine_memory().map(|memory| memory.0),
            "pressure": pressure(),
        },
        "requests": {
            "waiting": view.waiting(),
            "running": view.models.iter().map(ModelView::leases).sum::<u64>(),
        },
        "counters": {
            "loads": view.counters.loads,
            "load_failures": view.counters.load_failures,
            "swaps": view.counters.swaps,
            "rollbacks": view.counters.rollbacks,
            "unloads": view.counters.unloads.iter()
                .map(|(reason, count)| (reason.as_str().to_owned(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
        },
        "models": models,
    }))
}

/// The models the pool knows: all of them, or those with the tags of the query; with
/// `why=1` also whatever is cached or listed, with the reason why it is not served and
/// what mends it.
pub async fn models(State(service): State<Service>, uri: Uri) -> Json<Value> {
    let now = Instant::now();
    let view = service.dispatch.pool.view();
    let snapshot = service.dispatch.registry.load();
    let (tags, asked) = (tags(&snapshot), api::models::tags(&uri));
    let models: Vec<_> = view
        .models
        .iter()
        .map(|model| {
            (
                model,
                tags.get(model.model.as_str()).cloned().unwrap_or_default(),
            )
        })
        .filter(|(_, tags)| asked.iter().all(|tag| tags.contains(tag)))
        .map(|(model, tags)| {
            let mut told = model_status(&view, model, now);
            told["tags"] = json!(tags);
            told
        })
        .collect();
    let mut told = json!({"models": models});
    let mut pairs = uri.query().unwrap_or_default().split('&');
    if pairs.any(|pair| pair == "why=1") {
        told["why"] = json!(why::explain(&snapshot));
    }
    Json(told)
}

/// The tags of each load: those of every name that leads to it.
fn tags(snapshot: &Snapshot) -> HashMap<&str, BTreeSet<&str>> {
    let mut tags: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for served in snapshot.served.values() {
        if let Ok(plan) = &served.plan {
            let own = served.tags.iter().map(String::as_str);
            tags.entry(&plan.model).or_default().extend(own);
        }
    }
    tags
}

/// How short memory is.
fn pressure() -> Value {
    let pressure = pressure::now();
    json!({
        "level": pressure.level,
        "free_bytes": pressure.free.map(|bytes| bytes.0),
        "stalled_percent": pressure.stalls,
    })
}

fn model_status(view: &View, model: &ModelView, now: Instant) -> Value {
    let ready = model.ready.as_deref();
    json!({
        "model": model.model,
        "state": model.state,
        "loaded_percent": model.progress.map(|progress| progress.percent()),
        "eta_ms": view.eta(&model.model, now).map(|eta| eta.as_millis() as u64),
        "keep": model.keep,
        "engine": model.plan.engine.name(),
        "commit": model.plan.commit,
        "context": model.plan.context,
        "parallel": model.plan.parallel,
        "need_bytes": model.need.0,
        "reserved_bytes": model.reserved.0,
        "footprint_bytes": model.footprint.map(|bytes| bytes.0),
        "ledger": model.seen,
        "held_bytes": ready.map(|ready| ready.bytes_held),
        "resident_bytes": model.pid.and_then(platform::resident_family).map(|bytes| bytes.0),
        "device": ready.map(|ready| ready.device.as_str()),
        "compute": ready.map(|ready| ready.compute.as_str()),
        "process": model.pid,
        "standby_process": model.standby,
        "leases": model.leases(),
        "waiting": model.waiting,
        "idle_seconds": model.idle_since().map(|since| seconds_since(since, now)),
        "residency_leases": model.held.iter().map(|held| json!({
            "id": leases::id(held.hold),
            "holder": held.holder,
            "seconds_left": seconds_since(now, held.until),
        })).collect::<Vec<_>>(),
        "held_up_seconds": model.held_up_until.map(|until| seconds_since(now, until)),
        "unload_in_seconds": model.unload_at().map(|at| seconds_since(now, at)),
        "load_milliseconds": model.load_times.iter().map(|time| time.as_millis() as u64).collect::<Vec<_>>(),
        "load_phases": ready.map(|ready| json!({
            "process": ready.load_ms,
            "device": ready.phases.device_ms,
            "map": ready.phases.map_ms,
            "evaluate": ready.phases.evaluate_ms,
            "texts": ready.phases.text_ms,
            "ahead": ready.phases.ahead_ms,
            "standby": ready.phases.standby_ms,
        })),
        "last_failure": model.last_failure.as_ref().map(|failure| json!({
            "reason": failure.reason,
            "seconds_ago": seconds_since(failure.at, now),
            "retry_in_seconds": seconds_since(now, failure.retry_at),
            "in_a_row": failure.in_a_row,
        })),
    })
}
