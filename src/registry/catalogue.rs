//! What the registry asks of the disk: which ids are cached, and what is known
//! of a snapshot. The answers come from `model`; tests give their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::NotServable;
use crate::config::LoadSettings;
use crate::config::engine::Use;
use crate::model::cache::Stranger;
use crate::model::id::ModelId;
use crate::units::ByteSize;

/// A complete snapshot on disk and what it will need.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The snapshot folder.
    pub dir: PathBuf,
    /// Its commit, where it is one of a cache.
    pub commit: Option<String>,
    /// When it was last changed.
    pub modified: Option<SystemTime>,
    /// Bytes of weights on disk.
    pub size: ByteSize,
    /// Most tokens of a sequence, if the checkpoint says.
    pub context: Option<u32>,
    /// Whether it is a play for the scripted engine.
    pub scripted: bool,
    /// What it may be asked.
    pub uses: Vec<Use>,
    /// Whether it has a chat template.
    pub chats: bool,
    /// The one file that its engine asks for, if it is not ours and asks for one.
    pub file: Option<PathBuf>,
    /// What it needs, by number format.
    pub needs: Needs,
    /// Of an adapter, what tells it from every other; see
    /// [`AdapterManifest`](crate::model::manifest::adapter::AdapterManifest).
    pub mark: u128,
}

/// What a source is to serve as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// As a model, loaded so.
    Model(LoadSettings),
    /// As an adapter for a model. It has no use, no context and no caches of its own.
    Adapter,
}

/// Bytes a model needs besides the room for caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Weights as the device holds them, with the transient term.
    pub held: ByteSize,
    /// KV cache of one token of one sequence.
    pub kv_per_token: ByteSize,
}

/// The disk, as far as the registry is concerned.
pub trait Catalogue {
    /// The ids that are cached in any state, sorted.
    fn ids(&self) -> Vec<ModelId>;

    /// What is known of a cached repository at a revision, in this role.
    fn repository(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        role: &Role,
    ) -> Result<Found, NotServable>;

    /// What is known of a folder outside the cache, in this role.
    fn folder(&self, dir: &Path, role: &Role) -> Result<Found, NotServable>;

    /// The files of a snapshot with their lengths in bytes, links followed. Hidden ones
    /// are left out: no engine reads them.
    fn files(&self, found: &Found) -> Result<BTreeMap<String, u64>, NotServable>;

    /// Why one snapshot cannot guess the tokens of a `model`; nothing if it can.
    fn stranger_to(&self, model: &Found, draft: &Found) -> Option<String>;

    /// What lies in the cache folders and is no model that could be served.
    fn strangers(&self) -> Vec<Stranger>;
}
