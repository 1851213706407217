//! `GET /admin/explain`: why a name means its model, where that stands, what would be
//! done for a request that came now and when it would be answered. Asking changes
//! nothing.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Value, json};

use super::requests;
use crate::api::error::{ApiError, Code};
use crate::config::lock::name_of;
use crate::pool::Terms;
use crate::pool::forecast::Forecast;
use crate::registry::Snapshot;
use crate::route::{self, Decision};
use crate::service::Service;

/// The answer: of `?model=`, a name as requests say it, or of `?request=`, the id of
/// one that waits or is answered.
pub async fn explain(State(service): State<Service>, uri: Uri) -> Result<Json<Value>, ApiError> {
    let query = uri.query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        ["model", "request"]
            .contains(&name)
            .then(|| (name, unescaped(value)))
    });
    match asked {
        Some(("model", name)) => Ok(Json(of_model(&service, Some(&name)).await)),
        Some((_, id)) => of_request(&service, &id).await.map(Json),
        None => {
            let message = "expected ?model=NAME or ?request=ID";
            Err(ApiError::new(Code::InvalidValue, message).param("model"))
        }
    }
}

/// What a name means in a snapshot, and by which rule. Also for the command line,
/// where no server runs.
pub fn resolved(snapshot: &Snapshot, name: Option<&str>) -> Value {
    let mut told = json!({
        "name": name,
        "path": route::path::path(snapshot, name),
    });
    let decision = route::decide(snapshot, name, &|_| true);
    let suggestions = route::suggestions(snapshot, &decision, &|_| true);
    match decision {
        Decision::Serve {
            served,
            plan,
            why,
            variant,
        } => {
            told["served"] = json!(true);
            told["route"] = json!(why);
            told["model"] = json!(plan.model);
            told["served_as"] = json!(served.name);
            told["variant"] = json!(variant);
            if let Some(adapter) = &served.adapter {
                told["base"] = json!(adapter.base);
                told["adapter"] = json!(name_of(&adapter.source));
            }
            let fallback = served.fallback.as_ref();
            told["fallback"] = json!(fallback.map(|fallback| &fallback.name));
            told["estimate"] = json!({
                "files_bytes": served.size.0,
                "kv_bytes": plan.kv.0,
                "adapters_bytes": plan.adapters.0,
                "load_bytes": plan.memory.0,
                "context": plan.context,
                "parallel": plan.parallel,
            });
        }
        Decision::Away { remote, name, why } => {
            told["served"] = json!(true);
            told["route"] = json!(why);
            let first = &remote.targets[0];
            told["model"] = json!(first.model(&name));
            told["upstream"] = json!(first.upstream.name);
            told["upstreams"] = json!(remote.upstreams());
        }
        Decision::Invalid(error) => {
            told["served"] = json!(false);
            told["reason"] = json!(error.to_string());
        }
        Decision::Unknown { .. } => {
            told["served"] = json!(false);
            told["reason"] = json!("nothing here has this name");
            told["suggestions"] = json!(suggestions);
        }
        Decision::NotServable { reason, .. } => {
            told["served"] = json!(false);
            told["reason"] = json!(reason.to_string());
            told["mend"] = json!(reason.remedy());
            told["suggestions"] = json!(suggestions);
        }
    }
    told
}

async fn of_model(service: &Service, name: Option<&str>) -> Value {
    let snapshot = service.dispatch.registry.load();
    let mut told = resolved(&snapshot, name);
    if let Decision::Serve { plan, .. } = route::decide(&snapshot, name, &|_| true) {
        let forecast = service.dispatch.pool.forecast(&plan, Terms::default());
        told["now"] = forecast.await.as_ref().map_or(Value::Null, now);
    }
    told
}

/// A request is explained by its name and by how far it is.
async fn of_request(service: &Service, id: &str) -> Result<Value, ApiError> {
    let found = service.dispatch.live.of(id);
    let running = found.first().ok_or_else(|| requests::nobody(id))?;
    let name = running.asker.name.as_str();
    let mut told = of_model(service, Some(name).filter(|name| !name.is_empty())).await;
    let view = service.dispatch.pool.view();
    told["request"] = requests::shown(running, &view, Instant::now());
    Ok(told)
}

/// Where the model stands, and what would be done for a request that came now.
fn now(forecast: &Forecast) -> Value {
    let milliseconds = |time: std::time::Duration| time.as_millis() as u64;
    let victims = forecast
        .victims
        .iter()
        .map(|victim| json!({"model": victim.model, "bytes": victim.bytes.0, "busy": victim.busy}));
    json!({
        "state": forecast.state,
        "loaded_percent": forecast.progress.map(|progress| progress.percent()),
        "course": forecast.course,
        "refusal": forecast.refusal,
        "need_bytes": forecast.need.0,
        "observed_bytes": Some(forecast.observed.0).filter(|bytes| *bytes > 0),
        "budget_bytes": forecast.budget.0,
        "reserved_bytes": forecast.reserved.0,
        "evicts": victims.collect::<Vec<_>>(),
        "before": forecast.before,
        "load_ms": forecast.load_time.map(milliseconds),
        "eta_ms": forecast.eta.map(milliseconds),
    })
}

/// The text behind `%2F` and its like; what is not UTF-8 then is no name anyway.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| (*tail.get(at)? as char).to_digit(16);
        match (first, digit(0).zip(digit(1))) {
            (b'%', Some((high, low))) => {
                // Two hexadecimal digits are one byte.
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{Shelf, snapshot};

    #[test]
    fn a_name_is_explained_without_a_server() {
        let text = "models: { a/b: { aliases: [small] }, a/gone: {} }";
        let snapshot = snapshot(text, &Shelf::of(&["a/b"]));
        let small = resolved(&snapshot, Some("small"));
        assert_eq!(small["model"], "a/b");
        assert_eq!(small["route"], "alias");
        assert_eq!(small["path"][1]["found"], true);
        assert!(small["estimate"]["load_bytes"].as_u64() > small["estimate"]["kv_bytes"].as_u64());
        let gone = resolved(&snapshot, Some("a/gone"));
        assert_eq!(gone["served"], false);
        let typo = resolved(&snapshot, Some("smal"));
        assert_eq!(typo["suggestions"][0], "small");
    }

    #[test]
    fn a_query_is_read_as_it_was_meant() {
        let check = |value: &str, expected: &str| assert_eq!(unescaped(value), expected);
        check("a/b", "a/b");
        check("a%2Fb%3athinking", "a/b:thinking");
        check("100%", "100%");
        check("%f", "%f");
        check("%zz", "%zz");
    }
}
