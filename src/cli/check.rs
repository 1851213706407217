//! `roundhouse check`: says what is wrong with a configuration, or what it would serve,
//! what of it fits together, and what would be different for the server that runs. It
//! changes nothing.

mod beside;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{CONFIGURATION, print_config, table, upstreams};
use crate::config::engine::Use;
use crate::config::locate::{self, LoadError};
use crate::config::lock;
use crate::config::problem::Problems;
use crate::config::{Config, walk};
use crate::platform::{self, Folders};
use crate::pool::ledger::{self, Ledger, Seen};
use crate::registry::fit::{self, Fit, Need, Room, fit};
use crate::registry::{Machine, MachineMemory, Registry, Served, Snapshot};
use crate::units::ByteSize;
use crate::worker::LoadPlan;

/// What `check` understands.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The same as FILE, as other commands take it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show every value in force and where it comes from
    #[arg(long)]
    print_config: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Also models of the engine that plays a file, which exists for tests
    #[arg(long, hide = true)]
    scripted_engine: bool,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> ExitCode {
    let ledger = ledger();
    let file = args.file.as_deref().or(args.config.as_deref());
    let (text, code) = match snapshot_with(file, args.scripted_engine) {
        Ok(snapshot) if args.print_config => {
            (print_config::report(&snapshot.config, &[], args.json), 0)
        }
        Ok(snapshot) => {
            let told = beside::ask(&snapshot.config);
            let text = match args.json {
                true => {
                    let mut report = report(&snapshot, &ledger);
                    report["server"] = json!(told);
                    format!("{report}\n")
                }
                false => {
                    shown(&snapshot, &ledger) + &beside::shown(&snapshot.config, told.as_ref())
                }
            };
            (text, 0)
        }
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

/// The snapshot of a file that permits whatever is cached.
pub fn everything(scripted: bool) -> Result<Arc<Snapshot>, LoadError> {
    let surroundings = locate::surroundings(Path::new("models.yaml"), &folders(None)?);
    let text = "allow: ['*/*']\n";
    let config = surroundings.and_then(|surroundings| walk::config(text, None, &surroundings));
    start(config.map_err(LoadError::Problems)?, scripted)
}

fn start(config: Config, scripted: bool) -> Result<Arc<Snapshot>, LoadError> {
    let registry = Registry::start(config, machine(scripted)).map_err(LoadError::Problems)?;
    Ok(registry.load())
}

/// What was learnt of models, as far as it can be read: a server tells what is
/// wrong with it. Also for `models`.
pub fn ledger() -> Ledger {
    let path = Folders::from_environment().map(|folders| folders.ledger());
    let read = path.and_then(|path| ledger::file::read(&path).ok());
    read.unwrap_or_default()
}

/// What a load would reserve now, by itself.
pub fn reserve(snapshot: &Snapshot, ledger: &Ledger, plan: &LoadPlan) -> ByteSize {
    ledger.reserve(plan, snapshot.budget)
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
fn shown(snapshot: &Snapshot, ledger: &Ledger) -> String {
    let file = snapshot.config.source.as_ref();
    let file = file.map_or_else(String::new, |file| file.display().to_string());
    let mut rows = vec![
        ["NAME", "SOURCE", "MEMORY", "SEEN", "STATE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(
        snapshot
            .served
            .values()
            .map(|served| row(served, snapshot, ledger)),
    );
    let table = match snapshot.served.is_empty() {
        true => "nothing is served: allow is empty or matches nothing in the cache\n".to_owned(),
        false => table::lines(&rows),
    };
    let upstreams = upstreams::shown(snapshot);
    let sums = sums(snapshot, ledger);
    format!("{file} is valid\n\n{table}{upstreams}\n{sums}\n")
}

/// One name: its source, what it reserves and what was seen of it, its state.
fn row(served: &Served, snapshot: &Snapshot, ledger: &Ledger) -> Vec<String> {
    let aliases: Vec<&str> = [&served.aliases, &served.wildcards]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let aliases = match aliases.as_slice() {
        [] => String::new(),
        aliases => format!(" ({})", aliases.join(", ")),
    };
    let (memory, state) = match &served.plan {
        Ok(plan) => {
            let memory = reserve(snapshot, ledger, plan);
            let state = match memory > snapshot.budget {
                true => "never fits the budget",
                false => "complete",
            };
            (memory.to_string(), format!("{state}{}", purpose(served)))
        }
        Err(reason) => ("-".to_owned(), reason.to_string()),
    };
    let line = served.plan.as_ref().ok().and_then(|plan| ledger.line(plan));
    let seen = line.map_or_else(|| "-".to_owned(), |line| seen(&line.seen()));
    let name = format!("{}{aliases}", served.name);
    vec![name, source(served), memory, seen, state]
}

/// Where a model comes from, its adapter after its base.
fn source(served: &Served) -> String {
    let weights = lock::name_of(&served.source);
    match &served.adapter {
        Some(adapter) => format!("{weights} + {}", lock::name_of(&adapter.source)),
        None => weights,
    }
}

/// What a model is for, where that is not what most are for. Also for `models`.
pub fn purpose(served: &Served) -> String {
    if served.uses.contains(&Use::Chat) {
        return String::new();
    }
    let uses: Vec<_> = served.uses.iter().copied().map(Use::as_str).collect();
    format!(", for {}", uses.join(" and "))
}

/// What was seen of a model, for people. Also for `models`.
pub fn seen(seen: &Seen) -> String {
    let peak = ByteSize(seen.peak_bytes);
    let loads = match seen.loads {
        1 => "1 load".to_owned(),
        loads => format!("{loads} loads"),
    };
    format!(
        "{peak} in {loads}, estimated {}",
        ByteSize(seen.estimate_bytes)
    )
}

/// What each load needs, by the first name that leads to it.
fn needs(snapshot: &Snapshot, ledger: &Ledger) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for served in snapshot.served.values() {
        let Ok(plan) = &served.plan else { continue };
        match known.get(plan.model.as_str()) {
            Some(&index) => needs[index].keep |= served.keep,
            None => {
                known.insert(&plan.model, needs.len());
                needs.push(Need {
                    name: served.name.clone(),
                    memory: reserve(snapshot, ledger, plan),
                    keep: served.keep,
                    never_with: Vec::new(),
                });
            }
        }
    }
    // A rival may be known by the name of another entry that shares its load.
    for served in snapshot.served.values() {
        let place = |name: &str| {
            let plan = snapshot.served.get(name)?.plan.as_ref().ok()?;
            known.get(plan.model.as_str()).copied()
        };
        if let Some(own) = place(&served.name) {
            let rivals = served.never_with.iter().filter_map(|name| place(name));
            let rivals = rivals.filter(|rival| *rival != own);
            let names: Vec<_> = rivals.map(|rival| needs[rival].name.clone()).collect();
            needs[own].never_with.extend(names);
        }
    }
    needs
}

/// What fits together.
fn fits(snapshot: &Snapshot, needs: Vec<Need>) -> Fit {
    let room = Room {
        budget: snapshot.budget,
        places: snapshot.config.pool.max_models,
    };
    fit(needs, room)
}

/// The sums against the budget, and what fits together.
fn sums(snapshot: &Snapshot, ledger: &Ledger) -> String {
    let needs = needs(snapshot, ledger);
    let all = fit::sum(&needs);
    let fits = fits(snapshot, needs);
    match all {
        ByteSize::ZERO => fits.to_string(),
        all => format!("all models together {all}, {fits}"),
    }
}

/// The report for programs.
fn report(snapshot: &Snapshot, ledger: &Ledger) -> Value {
    let needs = needs(snapshot, ledger);
    let (all, kept) = (
        fit::sum(&needs),
        fit::sum(needs.iter().filter(|need| need.keep)),
    );
    let models: Vec<_> = snapshot
        .served
        .values()
        .map(|served| model(served, snapshot, ledger))
        .collect();
    json!({
        "ok": true,
        "file": snapshot.config.source.as_ref().map(|file| file.display().to_string()),
        "budget_bytes": snapshot.budget.0,
        "all_bytes": all.0,
        "kept_bytes": kept.0,
        "fits": fits(snapshot, needs).to_json(),
        "models": models,
        "upstreams": upstreams::told(snapshot),
    })
}

fn model(served: &Served, snapshot: &Snapshot, ledger: &Ledger) -> Value {
    let plan = served.plan.as_ref();
    json!({
        "name": served.name,
        "aliases": served.aliases,
        "wildcards": served.wildcards,
        "source": lock::name_of(&served.source),
        "base": served.adapter.as_ref().map(|adapter| &adapter.base),
        "adapter": served.adapter.as_ref().map(|adapter| lock::name_of(&adapter.source)),
        "model": plan.ok().map(|plan| &plan.model),
        "kind": plan.ok().and_then(|_| served.uses.first()),
        "context": plan.ok().map(|plan| plan.context),
        "memory_bytes": plan.ok().map(|plan| reserve(snapshot, ledger, plan).0),
        "estimate_bytes": plan.ok().map(|plan| plan.memory.0),
        "ledger": plan.ok().and_then(|plan| ledger.line(plan)).map(|line| line.seen()),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::state::ready;
    use crate::registry::fixture::{self, Shelf};

    #[test]
    fn what_was_seen_stands_beside_the_estimate_and_replaces_it_by_the_rule() {
        let text = "memory: 20GB\nmodels: { a/one: { kv: 1GB }, a/two: { kv: 1GB } }\n";
        let snapshot = fixture::snapshot(text, &Shelf::of(&["a/one", "a/two"]));
        let plan = snapshot.served["a/one"].plan.clone().expect("a plan");
        let mut ledger = Ledger::default();
        for _ in 0..3 {
            ledger.loaded(&plan, &ready(4_000_000_000), Duration::from_secs(1));
            ledger.peaked(&plan, ByteSize(4_000_000_000));
            ledger.lived(&plan);
        }
        // Weights and room for caches are more than was seen, and less than estimated.
        let shown = shown(&snapshot, &ledger);
        for part in [
            "5.0 GB  4.0 GB in 3 loads, estimated 6.0 GB  complete",
            "6.0 GB  -                                    complete",
            "all models together 11.0 GB, budget 20.0 GB: both models fit together",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let report = report(&snapshot, &ledger);
        let model = &report["models"][0];
        assert_eq!(model["memory_bytes"], 5_000_000_000_u64);
        assert_eq!(model["estimate_bytes"], 6_000_000_000_u64);
        assert_eq!(model["ledger"]["trusted"], true);
        assert_eq!(report["models"][1]["ledger"], Value::Null);
        assert_eq!(report["fits"]["together"], json!([["a/one", "a/two"]]));
    }
}
