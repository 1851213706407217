//! `--print-config` of `check` and `serve`: what is in force and where each value
//! comes from. Secrets are not in the configuration; of keys that the environment
//! gives it is said that they are there.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::table;
use crate::access::keys::given;
use crate::admin::settings;
use crate::config::origins::{self, InForce, Origin};
use crate::config::{Config, locate};

/// Stands for a secret.
const MASK: &str = "***";

/// The values in force. `flags` are the keys that the command line decided, with
/// the options that did.
pub fn report(config: &Config, flags: &[(&'static str, &'static str)], as_json: bool) -> String {
    let file = config.source.as_deref().unwrap_or(Path::new(""));
    let text = locate::text(file).unwrap_or_default();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut over = BTreeMap::new();
    let caches = ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"];
    if let Some(name) = caches.into_iter().find(|name| is_set(name)) {
        over.insert("cache", Origin::Environment(name));
    }
    if is_set("XDG_STATE_HOME") {
        for key in ["keys_file", "audit"] {
            over.insert(key, Origin::Environment("XDG_STATE_HOME"));
        }
    }
    for (key, flag) in flags {
        over.insert(*key, Origin::Flag(flag));
    }
    let shown = settings::shown(config);
    let mut values = origins::in_force(&shown, &file.display().to_string(), &text, &over);
    values.extend(secrets(is_set));
    match as_json {
        true => format!("{}\n", programs(&values)),
        false => people(&values),
    }
}

/// The keys that the environment gives, without what they are.
fn secrets(is_set: impl Fn(&str) -> bool) -> Vec<InForce> {
    let variables = given::VARIABLES
        .into_iter()
        .flat_map(|(class, direct, file)| [(class, direct), (class, file)]);
    let set = variables.filter(|(_, name)| is_set(name));
    set.map(|(class, name)| InForce {
        key: format!("{} key", class.as_str()),
        value: json!(MASK),
        origin: Origin::Environment(name),
    })
    .collect()
}

/// A table.
fn people(values: &[InForce]) -> String {
    let head = ["KEY", "VALUE", "FROM"].map(str::to_owned).to_vec();
    let rows = values.iter().map(|value| {
        let shown = match &value.value {
            Value::String(text) => text.clone(),
            Value::Null => "none".to_owned(),
            other => other.to_string(),
        };
        vec![value.key.clone(), shown, value.origin.to_string()]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    table::lines(&rows)
}

/// `{"KEY": {"value", "from"}}`
fn programs(values: &[InForce]) -> Value {
    let values = values.iter().map(|value| {
        let shown = json!({"value": value.value, "from": value.origin.to_string()});
        (value.key.clone(), shown)
    });
    Value::Object(values.collect())
}
