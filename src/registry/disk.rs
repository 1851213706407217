//! The true [`Catalogue`]: the cache folders, looked through once per snapshot
//! (where nothing has changed since the last one, not again), and folders outside
//! of them, looked at when an entry names one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::NotServable;
use super::build::USUAL_CONTEXT;
use super::catalogue::{Catalogue, Found, Needs, Role};
use crate::config::engine::{Engine, Placeholder, Use};
use crate::config::{Config, LoadSettings};
use crate::engine::supported_architectures;
use crate::model::cache::{CacheIndex, Stranger};
use crate::model::estimate::{DeviceRule, estimate, of_engine};
use crate::model::id::ModelId;
use crate::model::kind::Kind;
use crate::model::manifest::adapter::{self, AdapterManifest};
use crate::model::manifest::foreign::{self, Given, Wanted};
use crate::model::manifest::{self, Manifest, Reason, Rules};
use crate::model::vocabulary;
use crate::units::ByteSize;

/// What is on the disk, as of one scan.
#[derive(Debug)]
pub struct Disk {
    index: Arc<CacheIndex>,
}

impl Disk {
    /// Looks through the cache folders of a configuration. What an earlier index
    /// knows and what has not changed since is taken from there.
    pub fn scan(config: &Config, before: Option<&CacheIndex>) -> Self {
        let index = match before {
            Some(before) => before.scan_again(&config.cache),
            None => CacheIndex::scan(&config.cache, rules(false)),
        };
        Self {
            index: Arc::new(index),
        }
    }

    /// The index behind it.
    pub fn index(&self) -> &Arc<CacheIndex> {
        &self.index
    }
}

/// What snapshots are held against.
fn rules(trust_remote_code: bool) -> Rules {
    Rules {
        architectures: supported_architectures(),
        trust_remote_code,
    }
}

impl Catalogue for Disk {
    fn ids(&self) -> Vec<ModelId> {
        self.index.models().map(|model| model.id.clone()).collect()
    }

    fn repository(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        role: &Role,
    ) -> Result<Found, NotServable> {
        let load = match role {
            Role::Model(load) => load,
            Role::Adapter => {
                let adapter = self.index.adapter(id, revision);
                let adapter = adapter.ok_or(NotServable::NotCached)?;
                let adapter = adapter.map_err(|reason| with_remedy(&reason, id, revision))?;
                return Ok(found_adapter(adapter));
            }
        };
        let Some(model) = self.index.get(id) else {
            return Err(NotServable::NotCached);
        };
        if let Some(engine) = &load.engine {
            let given = self.index.given(id, revision, wanted(engine, load));
            let given = given.unwrap_or(Err(Reason::NoSnapshot));
            let given = given.map_err(|reason| with_remedy(&reason, id, revision))?;
            return Ok(found_for(engine, given));
        }
        let manifest = self
            .index
            .snapshot(id, revision, &rules(load.trust_remote_code))
            .unwrap_or(Err(Reason::NoSnapshot))
            .map_err(|reason| with_remedy(&reason, id, revision))?;
        Ok(found(manifest, Some(model.size), load))
    }

    fn folder(&self, dir: &Path, role: &Role) -> Result<Found, NotServable> {
        let refused = |reason| {
            let reason = match reason {
                Reason::NoSnapshot => "its folder does not exist".to_owned(),
                reason => reason.to_string(),
            };
            NotServable::Snapshot {
                reason,
                remedy: None,
            }
        };
        let load = match role {
            Role::Model(load) => load,
            Role::Adapter => {
                let adapter = adapter::inspect_folder(dir).map_err(refused)?;
                return Ok(found_adapter(adapter));
            }
        };
        if let Some(engine) = &load.engine {
            let given = foreign::inspect_folder(dir, wanted(engine, load)).map_err(refused)?;
            return Ok(found_for(engine, given));
        }
        let rules = rules(load.trust_remote_code);
        let manifest = manifest::inspect_folder(dir, &rules).map_err(refused)?;
        Ok(found(manifest, None, load))
    }

    fn files(&self, found: &Found) -> Result<BTreeMap<String, u64>, NotServable> {
        manifest::lengths(&found.dir).map_err(|reason| NotServable::Snapshot {
            reason: reason.to_string(),
            remedy: None,
        })
    }

    fn stranger_to(&self, model: &Found, draft: &Found) -> Option<String> {
        let same = vocabulary::same(&model.dir, &draft.dir);
        same.err().map(|difference| difference.to_string())
    }

    fn strangers(&self) -> Vec<Stranger> {
        self.index.strangers.clone()
    }
}

/// The reason, and what a person can do about it.
fn with_remedy(reason: &Reason, id: &ModelId, revision: Option<&str>) -> NotServable {
    NotServable::Snapshot {
        reason: reason.to_string(),
        remedy: reason.remedy(id, revision),
    }
}

/// What the command of an engine takes of a snapshot.
fn wanted<'l>(engine: &Engine, load: &'l LoadSettings) -> Wanted<'l> {
    if engine.uses(Placeholder::File) {
        return Wanted::File(load.file.as_deref());
    }
    match engine.uses(Placeholder::Path) {
        true => Wanted::Folder,
        false => Wanted::Nothing,
    }
}

/// What the registry wants to know of a snapshot for an engine that is not ours.
fn found_for(engine: &Engine, given: Given) -> Found {
    let weights = ByteSize(given.weight_bytes);
    Found {
        size: weights,
        context: given.context,
        scripted: false,
        uses: engine.kinds.clone(),
        chats: engine.kinds.contains(&Use::Chat),
        needs: Needs {
            held: of_engine(weights),
            kv_per_token: ByteSize::ZERO,
        },
        file: given.file,
        dir: given.dir,
        commit: given.commit,
        modified: given.modified,
        mark: 0,
    }
}

/// What the registry wants to know of an adapter.
fn found_adapter(adapter: AdapterManifest) -> Found {
    Found {
        size: ByteSize(adapter.size),
        context: None,
        scripted: false,
        uses: Vec::new(),
        chats: false,
        file: None,
        needs: Needs {
            held: ByteSize(adapter.bytes_held),
            kv_per_token: ByteSize::ZERO,
        },
        dir: adapter.dir,
        commit: adapter.commit,
        modified: adapter.modified,
        mark: adapter.mark,
    }
}

/// What the registry wants to know of a manifest.
fn found(manifest: Manifest, on_disk: Option<u64>, load: &LoadSettings) -> Found {
    let longest = manifest.context.unwrap_or(USUAL_CONTEXT);
    let need = estimate(
        &manifest,
        longest,
        DeviceRule::here(load.compute).keeping(load.kv_format),
    );
    Found {
        size: ByteSize(on_disk.unwrap_or(manifest.weight_bytes)),
        context: manifest.context,
        scripted: manifest.scripted,
        uses: manifest.kind.uses().to_vec(),
        chats: manifest.kind == Kind::Chat && (manifest.has_chat_template || manifest.scripted),
        file: None,
        needs: Needs {
            held: need.held(),
            kv_per_token: need.kv_per_token,
        },
        dir: manifest.dir,
        commit: manifest.commit,
        modified: manifest.modified,
        mark: 0,
    }
}
