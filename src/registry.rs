//! The snapshot that a request sees, and its replacement as a whole: prepare
//! (which may fail and changes nothing), publish (which cannot fail), and the
//! difference for whoever has to act on it. What a name means is decided in
//! `route`; how a snapshot is put together is in `registry/build.rs`.

pub mod build;
pub mod catalogue;
pub mod change;
pub mod disk;
pub mod fit;
pub mod pins;
pub mod remote;
pub mod why;
pub mod wildcards;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use indexmap::IndexMap;

use crate::config::engine::Use;
use crate::config::problem::Problems;
use crate::config::request::Rules;
use crate::config::{Adapted, Config, Source};
use crate::engine::adapter::Chosen;
use crate::model::cache::{CacheIndex, Stranger};
use crate::model::id::Name;
use crate::units::ByteSize;
use crate::worker::LoadPlan;

use catalogue::Found;
pub use change::Change;
pub use remote::{Fallback, Leads, Remote};
use wildcards::Wildcards;

/// One whole world: the configuration and what it makes of the cache. A request
/// loads it once and keeps it.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the snapshots of this process, from 1.
    pub generation: u64,
    /// The configuration it was made from.
    pub config: Arc<Config>,
    /// `memory`, resolved: the budget in bytes.
    pub budget: ByteSize,
    /// What may be asked for, by name: the entries in the order of the file,
    /// then the cached ids that `allow` permits, sorted.
    pub served: IndexMap<String, Arc<Served>>,
    /// Exact aliases, in the order of the file.
    pub aliases: IndexMap<String, Arc<Served>>,
    /// Exact names that upstreams answer, in the order of the file.
    pub remotes: IndexMap<String, Arc<Remote>>,
    /// Aliases and names of upstreams with a `*`.
    pub wildcards: Wildcards,
    /// The exact ones by which any permitted model of the kind may answer.
    pub background: HashSet<String>,
    /// Every id in the cache, sorted, permitted or not: the bytes of its weights,
    /// or why it could not be served.
    pub cached: IndexMap<String, Result<ByteSize, NotServable>>,
    /// What else lies in the cache folders and why it is no model.
    pub strangers: Vec<Stranger>,
}

/// A name that may be asked for, and what stands behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The served name: the entry's key, or the id.
    pub name: String,
    /// Whether it has an entry of its own in `models`.
    pub entry: bool,
    /// Where its weights come from.
    pub source: Source,
    /// What stands beside them.
    pub adapter: Option<Arc<Adapter>>,
    /// How the pool brings it up, or why it cannot be served now.
    pub plan: Result<Arc<LoadPlan>, NotServable>,
    /// `keep: always`.
    pub keep: bool,
    /// `preload`, or implied by `keep`.
    pub preload: bool,
    /// When it is unloaded after its last use; nothing means never.
    pub idle_unload: Option<Duration>,
    /// Its exact aliases.
    pub aliases: Vec<String>,
    /// Its aliases with a `*`.
    pub wildcards: Vec<String>,
    /// What becomes of the fields of its requests.
    pub request: Arc<Rules>,
    /// Words to filter lists by.
    pub tags: Vec<String>,
    /// `never_with`: the names of entries that are never in memory beside it.
    pub never_with: Vec<String>,
    /// What answers where this machine cannot.
    pub fallback: Option<Fallback>,
    /// How long a request may wait here before that answers instead.
    pub spill_after: Option<Duration>,
    /// Its variants, each with what becomes of the fields of its requests.
    pub variants: IndexMap<String, Arc<Rules>>,
    /// When its snapshot was last changed, for `created` in listings.
    pub modified: Option<SystemTime>,
    /// Bytes of its weights on disk, where known.
    pub size: ByteSize,
    /// What it may be asked; nothing if it cannot be served.
    pub uses: Vec<Use>,
    /// Whether it can be asked in messages: its snapshot has a chat template.
    pub chats: bool,
}

/// An adapter that can be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// `base`, as the entry names it.
    pub base: String,
    /// Where it comes from.
    pub source: Source,
    /// Its commit, where it is one of a cache.
    pub commit: Option<String>,
    /// Bytes of its numbers on disk.
    pub size: ByteSize,
    /// What the engine is told.
    pub chosen: Chosen,
}

impl Adapter {
    fn new(adapted: &Adapted, found: &Found) -> Self {
        Self {
            base: adapted.base.to_string(),
            source: adapted.source.clone(),
            commit: found.commit.clone(),
            size: found.size,
            chosen: Chosen {
                mark: found.mark,
                dir: found.dir.clone(),
            },
        }
    }
}

/// Why a permitted name cannot be served now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotServable {
    /// No cache folder has it.
    #[error("it is not cached")]
    NotCached,
    /// Its snapshot is not whole, or not what an engine can run.
    #[error("{reason}")]
    Snapshot {
        /// Names files of the snapshot and no path outside it: clients read it.
        reason: String,
        /// The command or the edit that mends it, for the owner.
        remedy: Option<String>,
    },
    /// The entry asks for what the snapshot cannot give.
    #[error("{0}")]
    Settings(String),
}

impl NotServable {
    /// The command or the edit that mends the snapshot, where there is one.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Snapshot { remedy, .. } => remedy.as_deref(),
            Self::NotCached | Self::Settings(_) => None,
        }
    }
}

/// What a snapshot depends on besides the configuration and the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// What `memory: auto` and shares are taken of, and what `auto` becomes.
    pub memory: MachineMemory,
    /// Whether models for the scripted engine are served. Tests only.
    pub scripted: bool,
}

/// Memory of the machine, as `platform` found it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineMemory {
    /// All of it, bytes: what `40%` is taken of.
    pub total: ByteSize,
    /// What `auto` becomes.
    pub auto: ByteSize,
}

/// The one place that holds the snapshot in force.
#[derive(Debug)]
pub struct Registry {
    current: ArcSwap<Snapshot>,
    /// The cache as it was last seen, so that only changes are looked at.
    seen: ArcSwap<CacheIndex>,
    machine: Machine,
}

impl Registry {
    /// Prepares the first snapshot and puts it in force.
    pub fn start(config: Config, machine: Machine) -> Result<Self, Problems> {
        let disk = disk::Disk::scan(&config, None);
        let snapshot = build::snapshot(config, &machine, &disk, None)?;
        Ok(Self {
            current: ArcSwap::from_pointee(snapshot),
            seen: ArcSwap::new(Arc::clone(disk.index())),
            machine,
        })
    }

    /// The snapshot in force. Once per request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes the next snapshot from a configuration and the cache as it is now.
    /// Reads the cache folders, so it belongs on a thread that may block.
    pub fn prepare(&self, config: Config) -> Result<Snapshot, Problems> {
        let disk = disk::Disk::scan(&config, Some(&self.seen.load()));
        self.seen.store(Arc::clone(disk.index()));
        build::snapshot(config, &self.machine, &disk, Some(&self.current.load()))
    }

    /// What the next snapshot would be with this configuration. Unlike [`Self::prepare`]
    /// it leaves no trace.
    pub fn consider(&self, config: Config) -> Result<Change, Problems> {
        let disk = disk::Disk::scan(&config, Some(&self.seen.load()));
        let current = self.load();
        let next = build::snapshot(config, &self.machine, &disk, Some(&current))?;
        Ok(Change::between(&current, &next))
    }

    /// Puts a prepared snapshot in force and says what is different.
    pub fn publish(&self, snapshot: Snapshot) -> Change {
        let next = Arc::new(snapshot);
        let before = self.current.swap(Arc::clone(&next));
        Change::between(&before, &next)
    }
}

impl Served {
    /// What becomes of the fields of a request, by a variant or without.
    pub fn rules(&self, variant: Option<&str>) -> &Arc<Rules> {
        let variant = variant.and_then(|variant| self.variants.get(variant));
        variant.unwrap_or(&self.request)
    }

    /// Whether it has all of these tags.
    pub fn has_tags(&self, tags: &[impl AsRef<str>]) -> bool {
        tags.iter()
            .all(|tag| self.tags.iter().any(|own| own == tag.as_ref()))
    }

    /// The names of its variants: after its own name and after each exact alias.
    pub fn variant_names(&self) -> impl Iterator<Item = String> {
        let bases = std::iter::once(&self.name).chain(&self.aliases);
        let names = bases.flat_map(|base| {
            let variants = self.variants.keys();
            variants.map(move |variant| format!("{base}:{variant}"))
        });
        // After a long alias there is no room for one.
        names.filter(|name| Name::parse(name).is_ok())
    }
}

impl Snapshot {
    /// Whether a request would find no difference between the two. When a folder was
    /// touched last is none.
    pub fn is_like(&self, other: &Self) -> bool {
        let alike = |one: &Served, other: &Served| {
            let touched = Served {
                modified: one.modified,
                ..other.clone()
            };
            *one == touched
        };
        let known = |(name, one): (&String, &Arc<Served>)| {
            let other = other.served.get(name);
            other.is_some_and(|other| alike(one, other))
        };
        self.config == other.config
            && self.budget == other.budget
            && self.served.len() == other.served.len()
            && self.served.iter().all(known)
            && self.cached == other.cached
    }

    /// The plan that is in force under a pool key, if any name still leads to it.
    pub fn plan(&self, model: &str) -> Option<&Arc<LoadPlan>> {
        self.served
            .values()
            .filter_map(|served| served.plan.as_ref().ok())
            .find(|plan| plan.model == model)
    }

    /// The folders that were searched.
    pub fn cache_folders(&self) -> &[PathBuf] {
        &self.config.cache
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
