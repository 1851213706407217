//! What the pins of `models.lock` mean: which snapshot a source is served from, and
//! why not where the cache differs. Reads nothing itself: what is on the disk is told
//! by a [`Catalogue`].
//!
//! A pin chooses the commit: where a download has moved a branch on, the pinned
//! snapshot is served as long as it is there and as it was. What has no pin is not
//! served once there is a lock file: on a machine that several people use, whoever may
//! write into the cache could otherwise add models under a pattern of `allow`.

use std::collections::{BTreeMap, HashSet};

use super::NotServable;
use super::catalogue::{Catalogue, Found, Role};
use crate::config::draft::Draft;
use crate::config::lock::{self, Lock, Pin};
use crate::config::{Config, LoadSettings, Source};

/// Most files that a message names.
const NAMED: usize = 3;

/// Digits of a commit in messages.
const DIGITS: usize = 12;

/// How a snapshot differs from what may be served. Messages begin with a word for
/// programs, as those of snapshots do, and name no path outside the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Nobody has accepted it yet.
    #[error("not_pinned: models.lock has no pin for it")]
    NotPinned,
    /// The pinned commit is not to be had, and another one is.
    #[error(
        "changed_snapshot: models.lock pins commit {}, which is not cached whole; the cache has {}",
        short(.pinned), short(.cached)
    )]
    Commit {
        /// In the lock file.
        pinned: String,
        /// What is there.
        cached: String,
    },
    /// Other files, or files of other lengths.
    #[error("changed_snapshot: {}", list(.0))]
    Files(Vec<String>),
}

/// Why a source is not served by the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It would have to be accepted.
    Differs(Difference),
    /// There is nothing to accept.
    NotServable(NotServable),
}

impl From<NotServable> for Held {
    fn from(reason: NotServable) -> Self {
        Self::NotServable(reason)
    }
}

/// The snapshot that may be served from a source, by the lock.
pub fn pinned(
    config: &Config,
    lock: &Lock,
    source: &Source,
    role: &Role,
    catalogue: &dyn Catalogue,
) -> Result<Found, NotServable> {
    judge(lock, source, role, catalogue).map_err(|held| match held {
        Held::NotServable(reason) => reason,
        Held::Differs(difference) => NotServable::Snapshot {
            reason: difference.to_string(),
            remedy: Some(format!("roundhouse lock --accept {}", word(config, source))),
        },
    })
}

/// The same for whoever wants to know which of the two it is.
pub fn judge(
    lock: &Lock,
    source: &Source,
    role: &Role,
    catalogue: &dyn Catalogue,
) -> Result<Found, Held> {
    let Some(pin) = lock.pin(source) else {
        // What could not be served anyway says so.
        latest(source, role, catalogue)?;
        return Err(Held::Differs(Difference::NotPinned));
    };
    let found = match &pin.commit {
        Some(commit) => at(commit, source, role, catalogue)?,
        None => latest(source, role, catalogue)?,
    };
    match between(&pin.files, &catalogue.files(&found)?) {
        differences if differences.is_empty() => Ok(found),
        differences => Err(Held::Differs(Difference::Files(differences))),
    }
}

/// The snapshot of a pinned commit. Where it is not to be had whole and another one
/// is, that is what differs.
fn at(
    commit: &str,
    source: &Source,
    role: &Role,
    catalogue: &dyn Catalogue,
) -> Result<Found, Held> {
    let Source::Repository { id, .. } = source else {
        return Ok(latest(source, role, catalogue)?);
    };
    let found = catalogue.repository(id, Some(commit), role);
    // A branch could have a commit's name.
    let is_other = |found: &Found| found.commit.as_deref() != Some(commit);
    let other = match &found {
        Ok(found) if !is_other(found) => None,
        Ok(other) => Some(other.clone()),
        Err(_) => latest(source, role, catalogue).ok().filter(is_other),
    };
    match other.and_then(|other| other.commit) {
        Some(cached) => Err(Held::Differs(Difference::Commit {
            pinned: commit.to_owned(),
            cached,
        })),
        None => Ok(found?),
    }
}

/// The snapshot that a source has without any pin.
pub fn latest(
    source: &Source,
    role: &Role,
    catalogue: &dyn Catalogue,
) -> Result<Found, NotServable> {
    match source {
        Source::Repository { id, revision } => catalogue.repository(id, revision.as_deref(), role),
        Source::Path(dir) => catalogue.folder(dir, role),
    }
}

/// The pin of what a source has now.
pub fn of(found: &Found, source: &Source, catalogue: &dyn Catalogue) -> Result<Pin, NotServable> {
    let commit = match source {
        Source::Repository { .. } => found.commit.clone(),
        Source::Path(_) => None,
    };
    Ok(Pin {
        commit,
        files: catalogue.files(found)?,
    })
}

/// What is different between files and files, each in words.
pub fn between(pinned: &BTreeMap<String, u64>, cached: &BTreeMap<String, u64>) -> Vec<String> {
    let of_pinned = pinned
        .iter()
        .filter_map(|(file, length)| match cached.get(file) {
            Some(now) if now == length => None,
            Some(now) => Some(format!(
                "{file} has {now} bytes and was pinned with {length}"
            )),
            None => Some(format!("{file} is missing")),
        });
    let new = cached.keys().filter(|file| !pinned.contains_key(*file));
    of_pinned
        .chain(new.map(|file| format!("{file} is new")))
        .collect()
}

/// The beginning of a commit.
pub fn short(commit: &str) -> &str {
    commit.get(..DIGITS).unwrap_or(commit)
}

/// Every source that a configuration may serve from, in the order of the file, each
/// entry's adapter after its base, then the cached ids that it permits, then those of drafts.
pub fn sources(config: &Config, catalogue: &dyn Catalogue) -> Vec<(Source, Role)> {
    let entries = config.models.iter().flat_map(|entry| {
        let model = (entry.source.clone(), Role::Model(entry.load.clone()));
        let adapter = entry.adapter.as_ref();
        let adapter = adapter.map(|adapted| (adapted.source.clone(), Role::Adapter));
        [Some(model), adapter]
    });
    let entries = entries.flatten();
    let permitted = catalogue.ids().into_iter().filter_map(|id| {
        let source = Source::Repository {
            id: id.clone(),
            revision: None,
        };
        config
            .permits(id.as_str())
            .then(|| (source, Role::Model(LoadSettings::default())))
    });
    let drafts = config
        .models
        .iter()
        .filter_map(|entry| match &entry.load.draft {
            Some(Draft::Model(name)) => {
                let (source, load) = config.draft_source(name)?;
                Some((source, Role::Model(load)))
            }
            _ => None,
        });
    let mut known = HashSet::new();
    let all = entries.chain(permitted).chain(drafts);
    all.filter(|(source, _)| known.insert(source.clone()))
        .collect()
}

/// What `--accept` understands as this source and no other, in one word of a shell.
fn word(config: &Config, source: &Source) -> String {
    let entry = config.models.iter().find(|entry| entry.own() == source);
    match (source, entry) {
        (Source::Path(_), Some(entry)) => entry.name.to_string(),
        _ => lock::name_of(source),
    }
}

/// Differences for a message: the first few, then how many more.
fn list(differences: &[String]) -> String {
    let shown = differences.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let shown = shown.join(", ");
    match differences.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
