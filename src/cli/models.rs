//! `roundhouse models`: what is cached and allowed, and why the rest is not served.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use serde_json::json;

use super::{CONFIGURATION, check, table, upstreams};
use crate::config::engine::Use;
use crate::pool::ledger::{Ledger, Seen};
use crate::registry::Snapshot;
use crate::registry::why::{Explained, explain};
use crate::units::ByteSize;

/// What `models` understands.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also what is cached or listed and not served, with the reason and what mends it
    #[arg(long)]
    why: bool,
    /// Only entries with this tag; with all of them if given more than once
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ModelsArgs) -> ExitCode {
    let snapshot = match check::snapshot(args.config.as_deref()) {
        Ok(snapshot) => snapshot,
        Err(error) => return super::failed(CONFIGURATION, error),
    };
    let mut models = explain(&snapshot);
    models.retain(|model| args.tag.iter().all(|tag| model.tags.contains(tag)));
    let all = models.len();
    if !args.why {
        models.retain(|model| !model.served_as.is_empty());
    }
    let ledger = check::ledger();
    let told: Vec<_> = models
        .into_iter()
        .map(|model| Told::of(model, &snapshot, &ledger))
        .collect();
    let text = match args.json {
        true => {
            let upstreams = upstreams::told(&snapshot);
            format!("{}\n", json!({"models": told, "upstreams": upstreams}))
        }
        false => shown(&told, all) + &upstreams::shown(&snapshot),
    };
    super::print(&text, 0)
}

/// A model, and the memory of its next load.
#[derive(Debug, serde::Serialize)]
struct Told {
    #[serde(flatten)]
    model: Explained,
    /// What it is for, where it can be loaded.
    kind: Option<Use>,
    /// What a load would reserve, where it can be loaded.
    memory_bytes: Option<u64>,
    /// What was seen of it.
    ledger: Option<Seen>,
}

impl Told {
    fn of(model: Explained, snapshot: &Snapshot, ledger: &Ledger) -> Self {
        let served = model.served_as.first();
        let served = served.and_then(|name| snapshot.served.get(name));
        let plan = served.and_then(|served| served.plan.as_ref().ok());
        let line = plan.and_then(|plan| ledger.line(plan));
        Self {
            kind: served.and_then(|served| served.uses.first().copied()),
            memory_bytes: plan.map(|plan| check::reserve(snapshot, ledger, plan).0),
            ledger: line.map(|line| line.seen()),
            model,
        }
    }
}

/// The table, and a word on what it leaves out.
fn shown(models: &[Told], all: usize) -> String {
    let mut rows = vec![
        ["MODEL", "SIZE", "MEMORY", "SEEN", "STATE", "MEND"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(models.iter().map(row));
    let table = match models.is_empty() {
        true => "no model is cached and allowed\n".to_owned(),
        false => table::lines(&rows),
    };
    match all - models.len() {
        0 => table,
        hidden => format!("{table}\n{hidden} more not served; --why says why\n"),
    }
}

fn row(told: &Told) -> Vec<String> {
    let nothing = || "-".to_owned();
    let shown = |bytes: Option<u64>| bytes.map_or_else(nothing, |b| ByteSize(b).to_string());
    let model = &told.model;
    let (size, memory) = (shown(model.bytes), shown(told.memory_bytes));
    let seen = told.ledger.as_ref().map_or_else(nothing, check::seen);
    let others = model.served_as.iter().filter(|name| **name != model.id);
    let others: Vec<&str> = others.map(String::as_str).collect();
    let state = match (&model.reason, others.as_slice()) {
        (Some(reason), _) => format!("not served: {reason}"),
        (None, []) => "served".to_owned(),
        (None, others) => format!("served, also as {}", others.join(", ")),
    };
    let state = match told.kind {
        Some(Use::Embeddings) => format!("{state}; for embeddings"),
        Some(Use::Rerank) => format!("{state}; for ranking"),
        _ => state,
    };
    let state = match model.tags.as_slice() {
        [] => state,
        tags => format!("{state}; tagged {}", tags.join(", ")),
    };
    let mend = model.mend.clone().unwrap_or_default();
    vec![model.id.clone(), size, memory, seen, state, mend]
}
