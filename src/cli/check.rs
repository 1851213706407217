//! `roundhouse check`: says what is wrong with a configuration, or what it would serve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{CONFIGURATION, table};
use crate::config::locate::{self, LoadError};
use crate::config::problem::Problems;
use crate::config::{Config, Source, walk};
use crate::platform::{self, Folders};
use crate::registry::{Machine, MachineMemory, Registry, Served, Snapshot};
use crate::units::ByteSize;

/// What `check` understands.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> ExitCode {
    let (text, code) = match snapshot(args.config.as_deref()) {
        Ok(snapshot) if args.json => (format!("{}\n", report(&snapshot)), 0),
        Ok(snapshot) => (shown(&snapshot), 0),
        Err(error) if args.json => (format!("{}\n", refusal(&error)), CONFIGURATION),
        Err(error) => return super::failed(CONFIGURATION, error),
    };
    super::print(&text, code)
}

/// The snapshot a server would begin with. Also for `models`.
pub fn snapshot(flag: Option<&Path>) -> Result<Arc<Snapshot>, LoadError> {
    snapshot_with(flag, false)
}

/// The same, if asked with models of the engine that plays a file.
pub fn snapshot_with(flag: Option<&Path>, scripted: bool) -> Result<Arc<Snapshot>, LoadError> {
    start(locate::load(flag, &folders(flag)?)?, scripted)
}

/// The snapshot of an empty file: what holds without a word.
pub fn standard() -> Result<Arc<Snapshot>, LoadError> {
    let surroundings = locate::surroundings(Path::new("models.yaml"), &folders(None)?);
    let config = surroundings.and_then(|surroundings| walk::config("", None, &surroundings));
    start(config.map_err(LoadError::Problems)?, false)
}

fn start(config: Config, scripted: bool) -> Result<Arc<Snapshot>, LoadError> {
    let registry = Registry::start(config, machine(scripted)).map_err(LoadError::Problems)?;
    Ok(registry.load())
}

/// The user's folders.
fn folders(flag: Option<&Path>) -> Result<Folders, LoadError> {
    Folders::from_environment().ok_or_else(|| {
        let message = "there is no home folder; set HOME";
        LoadError::Problems(Problems::whole(flag, message))
    })
}

/// This machine. Where the system does not tell its memory, `memory: auto` is a problem.
fn machine(scripted: bool) -> Machine {
    Machine {
        memory: MachineMemory {
            total: platform::machine_memory().unwrap_or_default(),
            auto: platform::automatic_budget().unwrap_or_default(),
        },
        scripted,
    }
}

/// The report for people.
fn shown(snapshot: &Snapshot) -> String {
    let file = snapshot.config.source.as_ref();
    let file = file.map_or_else(String::new, |file| file.display().to_string());
    let mut rows = vec![
        ["NAME", "SOURCE", "MEMORY", "STATE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(
        snapshot
            .served
            .values()
            .map(|served| row(served, snapshot.budget)),
    );
    let table = match snapshot.served.is_empty() {
        true => "nothing is served: allow is empty or matches nothing in the cache\n".to_owned(),
        false => table::lines(&rows),
    };
    format!("{file} is valid\n\n{table}\n{}\n", sums(snapshot))
}

/// One name: its source, its need, its state.
fn row(served: &Served, budget: ByteSize) -> Vec<String> {
    let aliases = match served.aliases.as_slice() {
        [] => String::new(),
        aliases => format!(" ({})", aliases.join(", ")),
    };
    let (memory, state) = match &served.plan {
        Ok(plan) if plan.memory > budget => {
            (plan.memory.to_string(), "never fits the budget".to_owned())
        }
        Ok(plan) => (plan.memory.to_string(), "complete".to_owned()),
        Err(reason) => ("-".to_owned(), reason.to_string()),
    };
    let name = format!("{}{aliases}", served.name);
    vec![name, source(&served.source), memory, state]
}

/// Where weights come from, in a word.
fn source(source: &Source) -> String {
    match source {
        Source::Repository { id, revision: None } => id.to_string(),
        Source::Repository {
            id,
            revision: Some(revision),
        } => format!("{id}@{revision}"),
        Source::Path(path) => path.display().to_string(),
    }
}

/// The needs of the different loads, all and those that are always kept.
fn needs(snapshot: &Snapshot) -> (ByteSize, ByteSize) {
    let mut loads: BTreeMap<&str, (ByteSize, bool)> = BTreeMap::new();
    for served in snapshot.served.values() {
        if let Ok(plan) = &served.plan {
            let load = loads.entry(&plan.model).or_insert((plan.memory, false));
            load.1 |= served.keep;
        }
    }
    let sum = |kept_only: bool| {
        let loads = loads.values().filter(|(_, kept)| *kept || !kept_only);
        loads.fold(ByteSize::ZERO, |sum, (memory, _)| {
            sum.saturating_add(*memory)
        })
    };
    (sum(false), sum(true))
}

/// The sums against the budget.
fn sums(snapshot: &Snapshot) -> String {
    let budget = snapshot.budget;
    let (all, kept) = needs(snapshot);
    if all == ByteSize::ZERO {
        return format!("budget {budget}");
    }
    let fits = match all <= budget {
        true => "they can all be loaded at once",
        false => "they take turns",
    };
    let kept = match kept {
        ByteSize::ZERO => String::new(),
        kept if kept > budget => format!("\nkept always: {kept}, which is more than the budget"),
        kept => format!("\nkept always: {kept}"),
    };
    format!("budget {budget}, all models together {all}: {fits}{kept}")
}

/// The report for programs.
fn report(snapshot: &Snapshot) -> Value {
    let (all, kept) = needs(snapshot);
    let models: Vec<_> = snapshot
        .served
        .values()
        .map(|served| model(served))
        .collect();
    json!({
        "ok": true,
        "file": snapshot.config.source.as_ref().map(|file| file.display().to_string()),
        "budget_bytes": snapshot.budget.0,
        "all_bytes": all.0,
        "kept_bytes": kept.0,
        "models": models,
    })
}

fn model(served: &Served) -> Value {
    let plan = served.plan.as_ref();
    json!({
        "name": served.name,
        "aliases": served.aliases,
        "source": source(&served.source),
        "model": plan.ok().map(|plan| &plan.model),
        "context": plan.ok().map(|plan| plan.context),
        "memory_bytes": plan.ok().map(|plan| plan.memory.0),
        "reason": plan.err().map(ToString::to_string),
    })
}

/// The problems for programs.
fn refusal(error: &LoadError) -> Value {
    match error {
        LoadError::Problems(problems) => {
            let mut value = problems.to_json();
            value["ok"] = json!(false);
            value
        }
        LoadError::NotFound { .. } => json!({
            "ok": false,
            "file": null,
            "problems": [{"line": null, "column": null, "message": error.to_string(), "help": null}],
        }),
    }
}
