//! Snapshots for tests, from a text and a list of what is cached. On no disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::catalogue::{Catalogue, Found, Needs, Role};
use super::{Machine, MachineMemory, NotServable, Snapshot, build};
use crate::config::problem::Problems;
use crate::config::standard::Surroundings;
use crate::config::{Config, walk};
use crate::model::cache::Stranger;
use crate::model::id::ModelId;
use crate::model::kind::Kind;
use crate::units::ByteSize;

/// A disk of known contents.
#[derive(Clone, Default)]
pub struct Shelf {
    found: BTreeMap<String, Result<Found, NotServable>>,
    strangers: Vec<Stranger>,
    /// Ids of which there is one commit and no other.
    only: Vec<String>,
}

impl Shelf {
    /// Complete snapshots of these ids (or folders, by their path).
    pub fn of(ids: &[&str]) -> Self {
        let found = |id: &&str| (id.to_string(), Ok(found(id)));
        Self {
            found: ids.iter().map(found).collect(),
            ..Self::default()
        }
    }

    /// One more snapshot, which is not complete.
    pub fn broken(mut self, id: &str) -> Self {
        let reason = NotServable::Snapshot {
            reason: "incomplete: model.safetensors is missing".to_owned(),
            remedy: Some(format!("hf download {id}")),
        };
        self.found.insert(id.to_owned(), Err(reason));
        self
    }

    /// Something beside the snapshots that is no model.
    pub fn stranger(mut self, path: &str) -> Self {
        self.strangers.push(Stranger {
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
        self.found.insert(id.to_owned(), Ok(found));
        self
    }

    /// The only commit of a snapshot that is there.
    pub fn only(mut self, id: &str, commit: &str) -> Self {
        if let Some(Ok(found)) = self.found.get_mut(id) {
            found.commit = Some(commit.to_owned());
        }
        self.only.push(id.to_owned());
        self
    }

    /// One more snapshot, for the scripted engine.
    pub fn scripted(mut self, id: &str) -> Self {
        let found = Found {
            scripted: true,
            ..found(id)
        };
        self.found.insert(id.to_owned(), Ok(found));
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
        uses: Kind::Chat.uses().to_vec(),
        scripted: false,
        chats: true,
        file: None,
        needs: Needs {
            held: ByteSize(5_000_000_000),
            kv_per_token: ByteSize(100_000),
        },
        mark: 0,
    }
}

/// What lies there, if it can be that: on this shelf adapters have names that end so.
fn in_role(role: &Role, found: Found) -> Result<Found, NotServable> {
    match (role, found.dir.to_string_lossy().ends_with("-adapter")) {
        (Role::Model(_), false) => Ok(found),
        (Role::Adapter, true) => Ok(Found {
            context: None,
            uses: Vec::new(),
            chats: false,
            needs: Needs {
                held: ByteSize(20_000_000),
                kv_per_token: ByteSize::ZERO,
            },
            mark: 1,
            ..found
        }),
        _ => Err(NotServable::Snapshot {
            reason: "incomplete: adapter_config.json is missing".to_owned(),
            remedy: None,
        }),
    }
}

impl Catalogue for Shelf {
    fn ids(&self) -> Vec<ModelId> {
        let ids = self.found.keys();
        ids.filter_map(|id| ModelId::parse(id).ok()).collect()
    }

    fn repository(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        role: &Role,
    ) -> Result<Found, NotServable> {
        let known = self.found.get(id.as_str()).cloned();
        let found = known.unwrap_or(Err(NotServable::NotCached))?;
        let is_other = revision.is_some_and(|revision| found.commit.as_deref() != Some(revision));
        if is_other && self.only.iter().any(|only| only == id.as_str()) {
            return Err(NotServable::Settings("no such commit".to_owned()));
        }
        let found = Found {
            commit: revision.map(str::to_owned).or(found.commit),
            ..found
        };
        in_role(role, found)
    }

    fn folder(&self, dir: &Path, role: &Role) -> Result<Found, NotServable> {
        let known = self.found.get(&dir.display().to_string()).cloned();
        in_role(role, known.unwrap_or(Err(NotServable::NotCached))?)
    }

    fn files(&self, found: &Found) -> Result<BTreeMap<String, u64>, NotServable> {
        Ok([("weights".to_owned(), found.size.0)].into())
    }

    fn stranger_to(&self, model: &Found, draft: &Found) -> Option<String> {
        // Whatever is called so.
        let other = |found: &Found| found.dir.ends_with("other");
        (other(model) != other(draft)).then(|| "other tokens".to_owned())
    }

    fn strangers(&self) -> Vec<Stranger> {
        self.strangers.clone()
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
