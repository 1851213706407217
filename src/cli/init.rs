//! `roundhouse init`: a first configuration from what is cached, sized to this
//! machine. It never writes over a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{CONFIGURATION, change, check, failed};
use crate::config::locate::{self, LoadError};
use crate::config::{schema, walk};
use crate::platform::{self, Folders};
use crate::registry::{NotServable, Snapshot};
use crate::units::ByteSize;

/// The schema's file beside the configuration, for editors.
const SCHEMA: &str = "models.schema.json";

/// Least room for caches that makes sense, bytes.
const LEAST_KV: u64 = 100_000_000;

/// What `init` understands.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to write it, instead of the configuration folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also models of the engine that plays a file, which exists for tests
    #[arg(long, hide = true)]
    scripted_engine: bool,
}

/// Runs the command.
pub fn run(args: &InitArgs) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    let file = match locate::find(args.config.as_deref(), &folders) {
        Ok(file) if fs::symlink_metadata(&file).is_ok() => {
            let reason = format!(
                "there is a configuration already: {}; nothing was written \
                 (`roundhouse allow ID` adds a model to it)",
                file.display()
            );
            return failed(1, reason);
        }
        // Named, and not there yet.
        Ok(file) => file,
        Err(_) => folders.config.join(locate::FILE_NAME),
    };
    let snapshot = match check::everything(args.scripted_engine) {
        Ok(snapshot) => snapshot,
        Err(error) => return failed(CONFIGURATION, error),
    };
    let written = text(&snapshot, platform::machine_memory().unwrap_or_default());
    match write(&file, &written, &folders) {
        Ok(()) => super::print(&told(&file, &snapshot), 0),
        Err(error) => failed(1, format!("{}: {error}", file.display())),
    }
}

/// Writes both files; the configuration is checked before it is there.
fn write(file: &Path, text: &str, folders: &Folders) -> io::Result<()> {
    let valid = locate::surroundings(file, folders)
        .and_then(|around| walk::config(text, Some(file), &around))
        .map_err(LoadError::Problems);
    valid.map_err(io::Error::other)?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let schema = format!("{:#}\n", schema::schema());
    match change::write_new(&file.with_file_name(SCHEMA), &schema, None) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    change::write_new(file, text, None)
}

/// What was done, and what comes next.
fn told(file: &Path, snapshot: &Snapshot) -> String {
    let fitting = snapshot.served.values().filter(|served| {
        let plan = served.plan.as_ref();
        plan.is_ok_and(|plan| size(snapshot, plan.memory, plan.kv) != Size::Never)
    });
    let next = match fitting.count() {
        0 => "nothing in the cache can be served yet; `hf download ORG/NAME` brings a model, \
              and `roundhouse allow ORG/NAME` permits it"
            .to_owned(),
        1 => "it permits the one model that is cached and fits".to_owned(),
        count => format!("it permits the {count} models that are cached and fit"),
    };
    format!(
        "wrote {}\n{next}\n`roundhouse check` shows what it means, `roundhouse serve` begins\n",
        file.display()
    )
}

/// How a model fits the budget.
#[derive(Debug, PartialEq, Eq)]
enum Size {
    /// As it is.
    Fits,
    /// With this room for caches.
    With(ByteSize),
    /// Its weights are too large.
    Never,
}

/// What is left for caches beside the weights, in steps that read well.
fn size(snapshot: &Snapshot, memory: ByteSize, kv: ByteSize) -> Size {
    if memory <= snapshot.budget {
        return Size::Fits;
    }
    let weights = memory.saturating_sub(kv);
    let left = snapshot.budget.saturating_sub(weights).0 / LEAST_KV * LEAST_KV;
    match left >= LEAST_KV {
        true => Size::With(ByteSize(left)),
        false => Size::Never,
    }
}

/// The file.
fn text(snapshot: &Snapshot, total: ByteSize) -> String {
    let mut allowed = String::new();
    let mut entries = String::new();
    let mut left_out = String::new();
    for served in snapshot.served.values() {
        let name = &served.name;
        match served
            .plan
            .as_ref()
            .map(|plan| (plan, size(snapshot, plan.memory, plan.kv)))
        {
            Ok((plan, Size::Fits)) => {
                allowed += &format!("  - {name}  # {}\n", plan.memory);
            }
            Ok((plan, Size::With(kv))) => {
                let weights = plan.memory.saturating_sub(plan.kv);
                let kv = kv.0 / 1_000_000;
                entries += &format!(
                    "  {name}:\n    # What is left beside {weights} of weights: shorter texts, or fewer at once.\n    kv: {kv}MB\n"
                );
            }
            Ok((plan, Size::Never)) => {
                left_out += &format!("#   {name}: needs {}\n", plan.memory);
            }
            Err(reason) => left_out += &format!("#   {name}: {}\n", why(reason)),
        }
    }
    let budget = snapshot.budget;
    let mut text = format!(
        "# yaml-language-server: $schema={SCHEMA}\n\
         #\n\
         # What Roundhouse may serve, from what was in the cache. An editor with a YAML\n\
         # language server explains each key; `roundhouse check` checks the file.\n\
         \n\
         # This machine has {total} of memory; models may take {budget} of it together.\n\
         memory: auto\n\
         \n\
         # Cached models, with the memory that each takes when it is loaded. \"ORG/*\"\n\
         # permits whatever comes from ORG.\n"
    );
    text += &match allowed.is_empty() {
        true => "allow: []\n".to_owned(),
        false => format!("allow:\n{allowed}"),
    };
    if !entries.is_empty() {
        text += &format!("\n# Models that fit with settings of their own.\nmodels:\n{entries}");
    }
    if !left_out.is_empty() {
        text += &format!("\n# Cached, and not permitted here:\n{left_out}");
    }
    text
}

/// A reason on one line.
fn why(reason: &NotServable) -> String {
    reason.to_string().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{self, Shelf};

    #[test]
    fn what_fits_is_allowed_and_what_does_not_is_named() {
        let shelf = Shelf::of(&["a/one", "b/two"]);
        let read = |memory: &str| {
            let yaml = format!("memory: {memory}\nallow: ['*/*']\n");
            let snapshot = fixture::snapshot(&yaml, &shelf);
            text(&snapshot, ByteSize(64_000_000_000))
        };
        let roomy = read("48GB");
        assert!(
            roomy.contains("allow:\n  - a/one  # ") && roomy.contains("\n  - b/two  # "),
            "{roomy}"
        );
        assert!(!roomy.contains("\nmodels:"), "{roomy}");
        let tight = read("6GB");
        assert!(
            tight.contains("allow: []\n")
                && tight.contains("\n  a/one:\n")
                && tight.contains("\n    kv: 1000MB\n"),
            "{tight}"
        );
        let none = read("1GB");
        assert!(
            none.contains("allow: []\n") && none.contains("#   a/one: needs "),
            "{none}"
        );
    }
}
