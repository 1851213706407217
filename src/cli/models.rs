//! `roundhouse models`: what is cached and allowed, and why the rest is not served.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CONFIGURATION, check, table};
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
    let all = models.len();
    if !args.why {
        models.retain(|model| !model.served_as.is_empty());
    }
    let text = match args.json {
        true => format!("{}\n", serde_json::json!({ "models": models })),
        false => shown(&models, all),
    };
    super::print(&text, 0)
}

/// The table, and a word on what it leaves out.
fn shown(models: &[Explained], all: usize) -> String {
    let mut rows = vec![
        ["MODEL", "SIZE", "STATE", "MEND"]
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

fn row(model: &Explained) -> Vec<String> {
    let size = model
        .bytes
        .map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string());
    let others = model.served_as.iter().filter(|name| **name != model.id);
    let others: Vec<&str> = others.map(String::as_str).collect();
    let state = match (&model.reason, others.as_slice()) {
        (Some(reason), _) => format!("not served: {reason}"),
        (None, []) => "served".to_owned(),
        (None, others) => format!("served, also as {}", others.join(", ")),
    };
    let mend = model.mend.clone().unwrap_or_default();
    vec![model.id.clone(), size, state, mend]
}
