//! The upstreams of a snapshot, for people and for programs.

use serde_json::{Value, json};

use super::table;
use crate::config::upstream::Upstream;
use crate::registry::Snapshot;

/// A table of them; nothing where there is none.
pub fn shown(snapshot: &Snapshot) -> String {
    let upstreams = &snapshot.config.upstreams;
    if upstreams.is_empty() {
        return String::new();
    }
    let mut rows = vec![["UPSTREAM", "URL", "ANSWERS"].map(str::to_owned).to_vec()];
    rows.extend(upstreams.values().map(|upstream| {
        let names = names(upstream).join(", ");
        vec![upstream.name.clone(), upstream.url.to_string(), names]
    }));
    format!("\n{}", table::lines(&rows))
}

/// The same as JSON.
pub fn told(snapshot: &Snapshot) -> Vec<Value> {
    let upstreams = snapshot.config.upstreams.values();
    let told = upstreams.map(|upstream| {
        json!({
            "name": upstream.name,
            "url": upstream.url.to_string(),
            "models": names(upstream),
            "kinds": upstream.kinds,
        })
    });
    told.collect()
}

fn names(upstream: &Upstream) -> Vec<&str> {
    let names = upstream.models.iter();
    names.map(|remote| remote.name.as_str()).collect()
}
