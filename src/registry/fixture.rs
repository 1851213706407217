//! Snapshots for tests, from a text and a list of what is cached. On no disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::catalogue::{Catalogue, Found, Needs};
use super::{Machine, MachineMemory, NotServable, Snapshot, build};
use crate::config::problem::Problems;
use crate::config::standard::Surroundings;
use crate::config::{Config, LoadSettings, walk};
use crate::model::cache::Stranger;
use crate::model::id::ModelId;
use crate::units::ByteSize;

/// A disk of known contents.
#[derive(Clone, Default)]
pub struct Shelf(BTreeMap<String, Result<Found, NotServable>>, Vec<Stranger>);

impl Shelf {
    /// Complete snapshots of these ids (or folders, by their path).
    pub fn of(ids: &[&str]) -> Self {
        let found = |id: &&str| (id.to_string(), Ok(found(id)));
        Self(ids.iter().map(found).collect(), Vec::new())
    }

    /// One more snapshot, which is not complete.
    pub fn broken(mut self, id: &str) -> Self {
        let reason = NotServable::Snapshot {
            reason: "incomplete: model.safetensors is missing".to_owned(),
            remedy: Some(format!("hf download {id}")),
        };
        self.0.insert(id.to_owned(), Err(reason));
        self
    }

    /// Something beside the snapshots that is no model.
    pub fn stranger(mut self, path: &str) -> Self {
        self.1.push(Stranger {
            path: path.into(),
            why: "its name is not models--org--repo with a valid id".to_owned(),
        });
        self
    }

    /// One more snapshot, without a chat template.
    pub fn plain(mut self, id: &str) -> Self {
        let found = Found {
            chats: false,
            ..found(id)
        };
        self.0.insert(id.to_owned(), Ok(found));
        self
    }

    /// One more snapshot, for the scripted engine.
    pub fn scripted(mut self, id: &str) -> Self {
        let found = Found {
            scripted: true,
            ..found(id)
        };
        self.0.insert(id.to_owned(), Ok(found));
        self
    }
}

/// A snapshot of 4 GB with a window of 40k tokens at 100 kB each.
fn found(id: &str) -> Found {
    Found {
        dir: PathBuf::from("/hub").join(id),
        commit: Some("c0ffee".to_owned()),
        modified: None,
        size: ByteSize(4_000_000_000),
        context: Some(40_960),
        scripted: false,
        chats: true,
        file: None,
        needs: Needs {
            held: ByteSize(5_000_000_000),
            kv_per_token: ByteSize(100_000),
        },
    }
}

impl Catalogue for Shelf {
    fn ids(&self) -> Vec<ModelId> {
        let ids = self.0.keys();
        ids.filter_map(|id| ModelId::parse(id).ok()).collect()
    }

    fn repository(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        _: &LoadSettings,
    ) -> Result<Found, NotServable> {
        let known = self.0.get(id.as_str()).cloned();
        let found = known.unwrap_or(Err(NotServable::NotCached))?;
        Ok(Found {
            commit: revision.map(str::to_owned).or(found.commit),
            ..found
        })
    }

    fn folder(&self, dir: &Path, _: &LoadSettings) -> Result<Found, NotServable> {
        let known = self.0.get(&dir.display().to_string()).cloned();
        known.unwrap_or(Err(NotServable::NotCached))
    }

    fn strangers(&self) -> Vec<Stranger> {
        self.1.clone()
    }
}

/// What a text means, far from any home.
pub fn config(text: &str) -> Config {
    let around = Surroundings {
        folder: "/etc".into(),
        home: None,
        hub_cache: "/hub".into(),
        state: "/state".into(),
    };
    walk::config(text, None, &around).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A machine with 64 GB, 48 of them for models.
pub fn machine() -> Machine {
    Machine {
        memory: MachineMemory {
            total: ByteSize(64_000_000_000),
            auto: ByteSize(48_000_000_000),
        },
        scripted: false,
    }
}

/// The first snapshot of a text on a shelf.
pub fn snapshot(text: &str, shelf: &Shelf) -> Snapshot {
    try_snapshot(text, shelf, &machine()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The same on a given machine; it may have problems.
pub fn try_snapshot(text: &str, shelf: &Shelf, machine: &Machine) -> Result<Snapshot, Problems> {
    build::snapshot(config(text), machine, shelf, None)
}
