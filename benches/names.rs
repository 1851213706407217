//! What names cost: `roundhouse check` on a file with 1,000 models and 10,000 aliases,
//! half of them with a `*`, the resolution of one name in it, and what may have been meant by
//! one that leads nowhere. Prints the table of
//! docs/BENCHMARKS.md.
//!
//! A plain program and no test: what it measures depends on the machine, and it
//! judges nobody.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on may stop")]

use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use roundhouse::config::standard::Surroundings;
use roundhouse::config::{Config, walk};
use roundhouse::registry::{Machine, MachineMemory, Registry, Snapshot};
use roundhouse::route::{Decision, decide, suggestions};
use roundhouse::units::ByteSize;

/// Models of the file; each is cached.
const MODELS: usize = 1_000;

/// Exact aliases of each model, and aliases with a `*`.
const EACH: usize = 5;

/// What each figure is the median of.
const ROUNDS: usize = 9;

/// Resolutions of one round.
const TIMES: u32 = 20_000;

/// The commit of every snapshot.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is wanted.
const CHECK: Duration = Duration::from_millis(200);
const RESOLUTION: Duration = Duration::from_micros(2);
const SUGGESTIONS: Duration = Duration::from_millis(1);

fn main() {
    let home = tempfile::tempdir().unwrap();
    let text = file();
    std::fs::write(home.path().join("models.yaml"), &text).unwrap();
    for model in 0..MODELS {
        cache(&home.path().join("hub"), &format!("org/model-{model:04}"));
    }
    cache(&home.path().join("hub"), "org/allowed");
    println!(
        "{} bytes, {MODELS} models, {} aliases\n",
        text.len(),
        MODELS * 2 * EACH
    );
    println!("| what | median |");
    println!("|---|---|");
    let around = around(home.path());
    let read = || walk::config(&text, None, &around).unwrap();
    tell("reading and checking the file", 1, CHECK, || {
        drop(black_box(read()))
    });
    let run = || assert!(check(home.path()), "the file is not valid");
    tell("`roundhouse check`, the whole command", 1, CHECK, run);
    let snapshot = snapshot(read());
    for (what, name, has) in [
        ("an entry", "org/model-0500", true),
        ("an alias", "alias-0500-3", true),
        ("an id that `allow` permits", "org/allowed", true),
        (
            "a wildcard that ends with its `*`",
            "family-0500-0-20251001",
            true,
        ),
        (
            "a wildcard that begins with it",
            "some-model-of-mine-tuned-0500-2",
            true,
        ),
        (
            "a wildcard with one on both sides",
            "anything/m0500-3-8bit",
            true,
        ),
        ("no model", "familiy-0500-0-20251001", false),
    ] {
        let decided = decide(&snapshot, Some(name), &|_| true);
        assert_eq!(
            matches!(decided, Decision::Unknown { .. }),
            !has,
            "{name}: {decided:?}"
        );
        let resolve = || {
            drop(black_box(decide(&snapshot, Some(black_box(name)), &|_| {
                true
            })))
        };
        tell(&format!("resolution: {what}"), TIMES, RESOLUTION, resolve);
    }
    for (what, name) in [
        ("one slip in one of 6,001 names", "family-0500-00-20251001"),
        ("one slip in an alias", "alias-05000-3"),
        ("like none of 6,001 names", "something-else-altogether"),
    ] {
        let unknown = decide(&snapshot, Some(name), &|_| true);
        let suggest = || drop(black_box(suggestions(&snapshot, &unknown, &|_| true)));
        tell(&format!("suggestions: {what}"), 20, SUGGESTIONS, suggest);
    }
}

/// The file: of the aliases with a `*` each of three shapes has its part.
fn file() -> String {
    let mut text = String::from("allow: ['org/*']\nmodels:\n");
    for model in 0..MODELS {
        writeln!(text, "  org/model-{model:04}:\n    aliases:").unwrap();
        for alias in 0..EACH {
            writeln!(text, "      - alias-{model:04}-{alias}").unwrap();
            match alias {
                0 | 1 => writeln!(text, "      - family-{model:04}-{alias}-*"),
                2 => writeln!(text, "      - '*-tuned-{model:04}-{alias}'"),
                _ => writeln!(text, "      - '*/m{model:04}-{alias}-*'"),
            }
            .unwrap();
        }
    }
    text
}

/// Lays a small snapshot into a cache folder.
fn cache(hub: &Path, id: &str) {
    let repository = hub.join(format!("models--{}", id.replace('/', "--")));
    let snapshot = repository.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    std::fs::write(
        snapshot.join("config.json"),
        r#"{"model_type": "scripted"}"#,
    )
    .unwrap();
    std::fs::write(snapshot.join("scripted.json"), "{}").unwrap();
}

/// Runs the command in a home; answers whether the file is valid.
fn check(home: &Path) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_roundhouse"))
        .args(["check", "--config", "models.yaml"])
        .env_clear()
        .env("HOME", home)
        .env("HF_HUB_CACHE", home.join("hub"))
        .current_dir(home)
        .output();
    output.unwrap().status.success()
}

fn around(home: &Path) -> Surroundings {
    Surroundings {
        folder: home.to_owned(),
        home: Some(home.to_owned()),
        hub_cache: home.join("hub"),
        state: PathBuf::from("/nonexistent"),
    }
}

fn snapshot(config: Config) -> std::sync::Arc<Snapshot> {
    let machine = Machine {
        memory: MachineMemory {
            total: ByteSize(64_000_000_000),
            auto: ByteSize(48_000_000_000),
        },
        scripted: true,
    };
    Registry::start(config, machine).unwrap().load()
}

/// Measures something that is done so often in each round, and prints its row.
fn tell(what: &str, times: u32, target: Duration, work: impl Fn()) {
    let round = || {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        start.elapsed() / times
    };
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort();
    let median = rounds[ROUNDS / 2];
    let holds = if median < target { "below" } else { "above" };
    println!("| {what} | {median:.2?}, {holds} {target:?} |");
}
