//! `roundhouse simulate`: plays a trace to the pool and to simpler policies, and
//! prints what each made of it. Starts no server and loads nothing.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{CONFIGURATION, check, failed, table};
use crate::config::locate::LoadError;
use crate::pool::{Resident, Settings};
use crate::registry::Snapshot;
use crate::service::{pool_settings, residents};
use crate::simulate::recorded::Pace;
use crate::simulate::report::Outcome;
use crate::simulate::trace::{self, LARGEST, Trace, TraceError};
use crate::simulate::{self, Rule};
use crate::units::ByteSize;

/// What `simulate` understands.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// A trace, or a request log as the server writes it
    trace: PathBuf,
    /// Whom to play it to: all three without a word
    #[arg(long, value_enum)]
    policy: Vec<Rule>,
    /// The memory there is, instead of what trace or configuration say
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<ByteSize>,
    /// The configuration whose pool settings hold; a request log takes its models
    /// from it too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Each request of a request log comes as long after its caller's former answer as it
    /// did when it was recorded, instead of at the time it came
    #[arg(long)]
    as_answered: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Also serve models of the engine that plays a file, which exists for tests
    #[arg(long, hide = true)]
    scripted_engine: bool,
}

/// Why nothing was played.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{}: {error}", .path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{}: larger than {}, which is the most that is read", .0.display(), ByteSize(LARGEST))]
    TooLarge(PathBuf),
    #[error("{}: {error}", .path.display())]
    Trace { path: PathBuf, error: TraceError },
    #[error("{0}")]
    Configuration(#[from] LoadError),
    #[error(
        "the trace uses {0}, and the configuration does not say how large it is: \
         give the one it was recorded with by --config"
    )]
    UnknownModel(String),
}

/// Runs the command.
pub fn run(args: &SimulateArgs) -> ExitCode {
    match play(args) {
        Ok((trace, settings, outcomes)) => {
            let text = match args.json {
                true => as_json(&trace, &settings, &outcomes),
                false => as_table(&trace, &settings, &outcomes),
            };
            super::print(&text, 0)
        }
        Err(fault @ Fault::Configuration(_)) => failed(CONFIGURATION, fault),
        Err(fault) => failed(1, fault),
    }
}

fn play(args: &SimulateArgs) -> Result<(Trace, Settings, Vec<Outcome>), Fault> {
    let mut trace = read(args)?;
    let snapshot = match (&args.config, trace.is_recorded) {
        (None, false) => check::standard()?,
        (file, _) => check::snapshot_with(file.as_deref(), args.scripted_engine)?,
    };
    let mut settings = pool_settings(&snapshot);
    // What a trace was made for holds unless a configuration was asked for.
    if args.config.is_none() && !trace.is_recorded {
        settings.budget = trace.budget.unwrap_or(settings.budget);
        settings.max_models = trace.max_models.or(settings.max_models);
    }
    settings.budget = args.budget.unwrap_or(settings.budget);
    let residents = match_models(&mut trace, &snapshot)?;
    let rules = match args.policy.as_slice() {
        [] => &Rule::ALL,
        some => some,
    };
    let start = Instant::now();
    let run = |rule: &Rule| simulate::run(&trace, *rule, &settings, &residents, start);
    let outcomes = rules.iter().map(run).collect();
    Ok((trace, settings, outcomes))
}

/// Reads the trace, of a bounded size.
fn read(args: &SimulateArgs) -> Result<Trace, Fault> {
    let path = &args.trace;
    let unreadable = |error| Fault::Unreadable {
        path: path.clone(),
        error,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    let mut file = file.take(LARGEST + 1);
    file.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        return Err(Fault::TooLarge(path.clone()));
    }
    let pace = match args.as_answered {
        true => Pace::AsAnswered,
        false => Pace::AsRecorded,
    };
    trace::parse(&text, pace).map_err(|error| Fault::Trace {
        path: path.clone(),
        error,
    })
}

/// What the pool is told of the models of a trace, in their order. Those of a
/// recording are the configuration's, with its sizes.
fn match_models(trace: &mut Trace, snapshot: &Arc<Snapshot>) -> Result<Vec<Resident>, Fault> {
    if !trace.is_recorded {
        let idle_unload = snapshot.config.pool.idle_unload;
        let of = |model| simulate::resident(model, idle_unload);
        return Ok(trace.models.iter().map(of).collect());
    }
    let known = residents(snapshot);
    let models = trace.models.iter_mut().map(|model| {
        let found = known.iter().find(|r| r.plan.model == model.name);
        let found = found.ok_or_else(|| Fault::UnknownModel(model.name.clone()))?;
        model.memory = found.plan.memory;
        model.parallel = found.plan.parallel.max(1) as usize;
        Ok(found.clone())
    });
    models.collect()
}

fn as_json(trace: &Trace, settings: &Settings, outcomes: &[Outcome]) -> String {
    let outcomes: Vec<_> = outcomes.iter().map(Outcome::to_json).collect();
    let report = json!({
        "budget_bytes": settings.budget.0,
        "models": trace.models.len(),
        "agents": trace.agents.len(),
        "skipped_lines": trace.skipped,
        "policies": outcomes,
    });
    format!("{report}\n")
}

fn as_table(trace: &Trace, settings: &Settings, outcomes: &[Outcome]) -> String {
    let skipped = match trace.skipped {
        0 => String::new(),
        lines => format!("; {lines} lines tell of no use of a model"),
    };
    let head = format!(
        "budget {}, {} models, {} agents{skipped}\n\n",
        settings.budget,
        trace.models.len(),
        trace.agents.len()
    );
    let mut rows = vec![Outcome::HEADS.map(str::to_owned).to_vec()];
    rows.extend(outcomes.iter().map(Outcome::row));
    head + &table::lines(&rows)
}

fn size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).map_err(|error| error.to_string())
}
