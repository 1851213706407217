//! `roundhouse lock`: pins the snapshots that the configuration serves in
//! `models.lock`, says what has changed since, and accepts what it is told to accept.
//! What a pin means is decided in `registry/pins.rs`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::change::{self, Failure};
use super::{CONFIGURATION, failed, table};
use crate::config::lock::{Lock, name_of};
use crate::config::problem::Text;
use crate::config::{Config, Source, locate};
use crate::platform::Folders;
use crate::registry::catalogue::Role;
use crate::registry::disk::Disk;
use crate::registry::pins::{self, Difference, Held};

/// What `lock` understands.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Accept what is cached now: for these models, or for all
    #[arg(long, value_name = "NAME", num_args = 0..)]
    accept: Option<Vec<String>>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. Who only looks hears 1 if something waits to be accepted, so that
/// scripts can ask.
pub fn run(args: &LockArgs) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    let done = locate::find(args.config.as_deref(), &folders)
        .map_err(Failure::from)
        .and_then(|file| lock(&file, &folders, args.accept.as_deref()));
    match done {
        Ok(report) => {
            let waits = args.accept.is_none() && report.waits();
            super::print(&report.told(args.json), u8::from(waits))
        }
        Err(error @ Failure::Load(_)) => failed(CONFIGURATION, error),
        Err(error) => failed(1, error),
    }
}

/// What was done, and how every snapshot stands now.
#[derive(Debug, Serialize)]
struct Report {
    /// The lock file.
    file: PathBuf,
    /// Whether it was written.
    written: bool,
    /// The pins that are new, others or gone.
    accepted: Vec<String>,
    snapshots: Vec<Standing>,
}

/// How a snapshot stands.
#[derive(Debug, Serialize)]
struct Standing {
    /// Its name in the lock file.
    snapshot: String,
    state: State,
    /// The commit that is pinned.
    commit: Option<String>,
    /// Another one that is cached now and would be pinned by accepting it.
    newer: Option<String>,
    /// Why it is not served.
    reason: Option<String>,
}

/// What the lock makes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pinned,
    ChangedSnapshot,
    NotPinned,
    /// There is nothing whole to pin.
    NotServable,
    /// A pin of what the configuration does not serve.
    NotServed,
}

/// Makes the lock file, changes it, or only looks.
fn lock(file: &Path, folders: &Folders, accept: Option<&[String]>) -> Result<Report, Failure> {
    let config = locate::read(file, folders).map_err(locate::LoadError::Problems)?;
    let disk = Disk::scan(&config, None);
    let sources = pins::sources(&config, &disk);
    let before = config.lock.clone();
    let mut lock = before.clone().unwrap_or_default();
    match (accept, &before) {
        (Some([]), _) | (None, None) => all(&mut lock, &sources, &config, &disk),
        (Some(names), Some(_)) => {
            for name in names {
                one(&mut lock, name, &sources, &config, &disk)?;
            }
        }
        (Some([name, ..]), None) => {
            return Err(Failure::Name(format!(
                "nothing is pinned, so there is nothing to accept for {name}; \
                 `roundhouse lock` pins everything that is served"
            )));
        }
        (None, Some(_)) => {}
    }
    let written = before.as_ref() != Some(&lock);
    let path = locate::lock_file(file);
    if written {
        write(file, &path, before.as_ref(), &lock)?;
    }
    Ok(Report {
        accepted: differing(&before.unwrap_or_default(), &lock),
        snapshots: standings(&lock, &sources, &disk),
        file: path,
        written,
    })
}

type Sources = [(Source, Role)];

/// Pins whatever is whole as it is now. What is not keeps the pin it has, and pins of
/// what is not served any more go.
fn all(lock: &mut Lock, sources: &Sources, config: &Config, disk: &Disk) {
    let served: HashSet<_> = sources.iter().map(|(source, _)| name_of(source)).collect();
    let is_served = |name: &String| served.contains(name) || config.permits(name);
    lock.pins.retain(|name, _| is_served(name));
    for (source, role) in sources {
        let found = pins::latest(source, role, disk);
        if let Ok(pin) = found.and_then(|found| pins::of(&found, source, disk)) {
            lock.pins.insert(name_of(source), pin);
        }
    }
}

/// Pins what one name means as it is now.
fn one(
    lock: &mut Lock,
    name: &str,
    sources: &Sources,
    config: &Config,
    disk: &Disk,
) -> Result<(), Failure> {
    let entry = || {
        let mut entries = config.models.iter();
        let entry = entries.find(|entry| entry.exact_names().any(|own| own == name))?;
        sources.iter().find(|(source, _)| source == entry.own())
    };
    let named = sources.iter().find(|(source, _)| name_of(source) == name);
    let Some((source, role)) = named.or_else(entry) else {
        return match lock.pins.remove(name) {
            Some(_) => Ok(()),
            None => Err(Failure::Name(format!(
                "{name:?} is no model that is served and no pin; `roundhouse lock` lists both"
            ))),
        };
    };
    let found = pins::latest(source, role, disk);
    let pin = found.and_then(|found| pins::of(&found, source, disk));
    let pin = pin.map_err(|reason| {
        Failure::Name(format!(
            "{name} cannot be accepted, it is not whole: {reason}"
        ))
    })?;
    lock.pins.insert(name_of(source), pin);
    Ok(())
}

/// Puts the new lock file in place, if the old one is as it was read.
fn write(config: &Path, path: &Path, before: Option<&Lock>, lock: &Lock) -> Result<(), Failure> {
    let failure = |error| change::io_failure(path, error);
    let text = lock.text();
    let parse = |text: String| {
        Lock::parse(&Text {
            file: Some(path.to_owned()),
            text,
        })
    };
    // Too many snapshots for one file, or names that no file can hold.
    parse(text.clone()).map_err(Failure::Result)?;
    let (target, permissions) = match before {
        Some(before) => {
            let target = fs::canonicalize(path).map_err(failure)?;
            if parse(change::read(&target)?).ok().as_ref() != Some(before) {
                let file = path.display().to_string();
                return Err(Failure::Raced { file });
            }
            let permissions = fs::metadata(&target).map_err(failure)?.permissions();
            (target, permissions)
        }
        None => {
            let permissions = fs::metadata(config).map_err(failure)?.permissions();
            (path.to_owned(), permissions)
        }
    };
    change::replace(&target, &text, permissions).map_err(failure)
}

/// The pins that are in one of the two alone, or are others.
fn differing(before: &Lock, now: &Lock) -> Vec<String> {
    let names = before.pins.keys().chain(now.pins.keys());
    let mut names: Vec<_> = names
        .filter(|name| before.pins.get(*name) != now.pins.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Every source by the lock, then the pins of nothing.
fn standings(lock: &Lock, sources: &Sources, disk: &Disk) -> Vec<Standing> {
    let served = sources.iter().map(|(source, role)| {
        let commit = lock.pin(source).and_then(|pin| pin.commit.clone());
        let (state, reason) = match pins::judge(lock, source, role, disk) {
            Ok(_) => (State::Pinned, None),
            Err(Held::NotServable(reason)) => (State::NotServable, Some(reason.to_string())),
            Err(Held::Differs(difference)) => {
                let state = match difference {
                    Difference::NotPinned => State::NotPinned,
                    _ => State::ChangedSnapshot,
                };
                (state, Some(difference.to_string()))
            }
        };
        let latest = pins::latest(source, role, disk).ok();
        let latest = latest.and_then(|found| found.commit);
        Standing {
            snapshot: name_of(source),
            state,
            newer: latest.filter(|latest| commit.as_ref().is_some_and(|it| it != latest)),
            commit,
            reason,
        }
    });
    let known: HashSet<_> = sources.iter().map(|(source, _)| name_of(source)).collect();
    let others = lock.pins.iter().filter(|(name, _)| !known.contains(*name));
    let others = others.map(|(name, pin)| Standing {
        snapshot: name.clone(),
        state: State::NotServed,
        commit: pin.commit.clone(),
        newer: None,
        reason: Some("nothing in the configuration or the cache leads to it".to_owned()),
    });
    served.chain(others).collect()
}

impl Report {
    /// Whether something could be served if it were accepted.
    fn waits(&self) -> bool {
        let waits = |it: &Standing| matches!(it.state, State::ChangedSnapshot | State::NotPinned);
        self.snapshots.iter().any(waits)
    }

    fn told(&self, as_json: bool) -> String {
        if as_json {
            return format!("{}\n", json!(self));
        }
        let mut rows = vec![["SNAPSHOT", "PINNED", "STATE"].map(str::to_owned).to_vec()];
        rows.extend(self.snapshots.iter().map(Standing::row));
        let table = match self.snapshots.is_empty() {
            true => "there is nothing to pin: the configuration serves nothing\n".to_owned(),
            false => table::lines(&rows),
        };
        let file = self.file.display();
        let waits = match self.waits() {
            false => "",
            true => "\n`roundhouse lock --accept NAME` accepts what is cached now\n",
        };
        let done = match (self.written, self.accepted.as_slice()) {
            (false, _) => String::new(),
            (true, []) => format!("\nwrote {file}\n"),
            (true, accepted) => format!(
                "\naccepted {} in {file}\na running server follows by itself\n",
                accepted.join(", ")
            ),
        };
        format!("{table}{waits}{done}")
    }
}

impl Standing {
    fn row(&self) -> Vec<String> {
        let short = |commit: &String| pins::short(commit).to_owned();
        let pinned = match (&self.commit, self.state) {
            (Some(commit), _) => short(commit),
            (None, State::Pinned | State::ChangedSnapshot) => "by its files".to_owned(),
            (None, _) => "-".to_owned(),
        };
        let state = match (&self.reason, &self.newer) {
            (Some(reason), _) => format!("not served: {reason}"),
            (None, Some(newer)) => format!("as pinned; {} is cached too", short(newer)),
            (None, None) => "as pinned".to_owned(),
        };
        vec![self.snapshot.clone(), pinned, state]
    }
}
