//! What `models.yaml` means: values that are complete and checked, nothing that
//! still has a default. How it was typed is the business of `config/file.rs`
//! (text to a tree with places) and `config/walk.rs` (tree to this, all problems at once).

pub mod draft;
pub mod edit;
pub mod engine;
pub mod file;
pub mod keys;
pub mod kv;
pub mod locate;
pub mod lock;
pub mod network;
pub mod origins;
pub mod pattern;
pub mod problem;
pub mod request;
pub mod schema;
pub mod standard;
pub mod suggest;
pub mod upstream;
pub mod walk;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use self::kv::KvFormat;
pub use self::pattern::Pattern;
use crate::model::id::{ModelId, Name};
use crate::units::ByteSize;

/// The whole configuration, in force as one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it was read from; nothing for a configuration made in memory.
    pub source: Option<PathBuf>,
    /// The drop-ins that were read with it, in their order.
    pub drop_ins: Vec<PathBuf>,
    /// SHA-256 of the texts it was read from, that of the lock file among them; nothing
    /// for one made in memory.
    pub digest: Option<[u8; 32]>,
    /// What `models.lock` beside the file says; nothing where there is none.
    pub lock: Option<lock::Lock>,
    /// `memory`: the budget for everything loaded.
    pub memory: Budget,
    /// `server.*`
    pub server: Server,
    /// `cache`: the hub cache folders, in the order they are searched.
    pub cache: Vec<PathBuf>,
    /// `pool.*`
    pub pool: Pool,
    /// `allow`: cached ids that may be served with default settings.
    pub allow: Vec<Pattern>,
    /// `deny`: cached ids that may not, whatever `allow` says.
    pub deny: Vec<Pattern>,
    /// `default`: what a request without `model` means.
    pub default: Option<Name>,
    /// `engines`: those that are not ours, in the order of the file.
    pub engines: IndexMap<String, Arc<engine::Engine>>,
    /// `upstreams`: services elsewhere, in the order of the file.
    pub upstreams: IndexMap<String, Arc<upstream::Upstream>>,
    /// `models`: the entries, in the order of the file.
    pub models: Vec<Entry>,
    /// `keys_file`: where hashes of keys are kept.
    pub keys_file: PathBuf,
    /// `audit`: where management effects are written down.
    pub audit: PathBuf,
    /// `log`: the filter of the log, as tracing reads it.
    pub log: String,
    /// `request_log`: where a line for each request goes; nothing means nowhere.
    pub request_log: Option<PathBuf>,
}

/// `memory`: a size, or what the device, machine or cgroup allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Decided at start from the machine.
    Auto,
    /// A fixed number of bytes.
    Size(ByteSize),
    /// A share of the machine's memory, 0 to 1.
    Share(f64),
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    /// As it is written in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `server.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `server.listen`: where inference is served.
    pub listen: Vec<Listen>,
    /// `server.management`: where management is served.
    pub management: Vec<Listen>,
    /// `server.allowed_hosts`: values of Host that pass besides localhost and own addresses.
    pub allowed_hosts: Vec<String>,
    /// `server.allowed_origins`: values of Origin that pass.
    pub allowed_origins: Vec<String>,
    /// `server.trusted_proxies`: whose word about the caller's address is taken.
    pub trusted_proxies: Vec<network::Network>,
    /// `server.tls`: what TCP listeners show; nothing means clear text.
    pub tls: Option<Tls>,
    /// `server.socket_mode`: who may use Unix sockets of `listen` and `management`.
    pub socket_mode: u32,
    /// `server.drain`: how long running answers may take after a stop signal.
    pub drain: Duration,
    /// `server.heartbeat_after`: when a stream's headers go out without a first byte.
    pub heartbeat_after: Duration,
    /// `server.heartbeat_every`: the distance of heartbeats.
    pub heartbeat_every: Duration,
    /// `server.heartbeat`: what heartbeats look like.
    pub heartbeat: Heartbeat,
    /// `server.limits.*`
    pub limits: Limits,
}

/// `server.tls`: a certificate and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, then those that lead to a root.
    pub cert: PathBuf,
    /// The private key; others may not read it.
    pub key: PathBuf,
}

/// `server.limits.*`: sizes, counts and times a request must keep to.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Largest request body, bytes.
    pub body: ByteSize,
    /// Most bytes that the bodies of all running requests take together.
    pub bodies: ByteSize,
    /// How long the head of a request may take.
    pub header_time: Duration,
    /// How long the body of a request may stand still.
    pub body_idle: Duration,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// How long a load may come no further; all of it, where the engine does not tell.
    pub load_time: Duration,
    /// How long an engine may take to its first byte once it has the request.
    pub first_token: Duration,
    /// How long an engine may be silent between bytes.
    pub between_tokens: Duration,
    /// How long a client may refuse to take a byte.
    pub write_stall: Duration,
    /// Connections at once, for each listener.
    pub connections: usize,
    /// Requests without a key from one address in a minute; nothing means no limit.
    pub address_rate: Option<NonZeroU32>,
    /// Missing or wrong keys from one address in a minute that are answered as such.
    pub wrong_keys: NonZeroU32,
    /// How much may stand in a body.
    pub counts: Counts,
}

/// The part of `server.limits.*` that counts what stands in a request's body.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// JSON values altogether.
    pub values: usize,
    /// Messages.
    pub messages: usize,
    /// Images and other parts that are no text, over all messages.
    pub images: usize,
    /// Largest of them, decoded.
    pub image_size: ByteSize,
    /// Tools.
    pub tools: usize,
    /// Earlier calls of tools, over all messages.
    pub tool_calls: usize,
    /// Texts of a request for embeddings.
    pub inputs: usize,
    /// Stop strings.
    pub stops: usize,
    /// Answers to one prompt (`n`).
    pub choices: usize,
    /// Answers over all prompts.
    pub answers: usize,
}

/// `pool.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// `pool.max_models`; nothing means unlimited.
    pub max_models: Option<usize>,
    /// `pool.idle_unload`; nothing means never.
    pub idle_unload: Option<Duration>,
    /// `pool.switch_after`: when the oldest waiter's model is next.
    pub switch_after: Duration,
    /// `pool.min_residency`: how long an idle model is kept although others wait.
    pub min_residency: MinResidency,
    /// `pool.queue`: waiting requests per model.
    pub queue: usize,
    /// `pool.queue_per_caller`: those of one caller among them; nothing means seven
    /// eighths of `pool.queue`.
    pub queue_per_caller: Option<usize>,
    /// `pool.queue_timeout`: the longest wait.
    pub queue_timeout: Duration,
    /// `pool.contention`: what becomes of a request that only busy models could
    /// make room for.
    pub contention: Contention,
    /// `pool.autoload`: whether requests load models.
    pub autoload: bool,
    /// `pool.prefetch`: whether files of the model that probably comes next are read ahead.
    pub prefetch: bool,
    /// `pool.lease_ceiling`: the longest residency lease.
    pub lease_ceiling: Duration,
    /// `pool.prompts_on_disk`: most bytes of prompts on disk; nothing means none.
    pub prompts_on_disk: Option<ByteSize>,
    /// `pool.prompts_on_disk_per_model`: those of one model among them.
    pub prompts_on_disk_per_model: ByteSize,
}

impl Pool {
    /// `pool.queue_per_caller`, as it is or as it follows from `pool.queue`.
    pub fn places_per_caller(&self) -> usize {
        let usual = self.queue - self.queue / 8;
        self.queue_per_caller.unwrap_or(usual)
    }
}

/// How long an idle model is kept although requests for others wait for its room;
/// never longer than `pool.switch_after` allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinResidency {
    /// For the moments in which it is used again, if that is known to save a swap.
    #[default]
    Auto,
    /// For so long since it was ready.
    For(Duration),
}

/// What becomes of a request for whose model only busy ones could make room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contention {
    /// It waits; after `switch_after` the busy ones are drained.
    #[default]
    Wait,
    /// It is refused at once.
    Fail,
    /// It waits; after `switch_after` the busy ones are taken away from those who
    /// use them, who hear an error.
    Preempt,
}

/// What fills the silence of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heartbeat {
    /// Comments, which clients pass over.
    #[default]
    Comment,
    /// Events without text, for clients that count nothing else as a sign of life.
    EmptyDelta,
    /// Nothing; the headers wait for the engine's first event, however long.
    Off,
}

impl Heartbeat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Comment, Self::EmptyDelta, Self::Off];

    /// The word in files and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Comment => "comment",
            Self::EmptyDelta => "empty_delta",
            Self::Off => "off",
        }
    }
}

/// One entry of `models`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key: the served name.
    pub name: Name,
    /// Where the weights come from; with an adapter, those of its base.
    pub source: Source,
    /// Load settings, with an adapter those of its base; entries with equal source and
    /// settings share one load.
    pub load: LoadSettings,
    /// `base` and `adapter`: what stands beside the weights.
    pub adapter: Option<Adapted>,
    /// `keep: always`: loaded at start, never a victim.
    pub keep: bool,
    /// `preload`: loaded at start.
    pub preload: bool,
    /// `warmup`: its engine makes one token before it is ready.
    pub warmup: bool,
    /// `warm_prompts`: system prompts that its engine reads before it is ready, for
    /// whoever may use it.
    pub warm_prompts: Vec<String>,
    /// `idle_unload`; the outer nothing means the pool's, the inner never.
    pub idle_unload: Option<Option<Duration>>,
    /// `aliases`: other names, exact or with a `*`.
    pub aliases: Vec<Alias>,
    /// `request`: what becomes of the fields of its requests.
    pub request: request::Rules,
    /// `variants`: names after a colon, with what they put into a request.
    pub variants: IndexMap<String, request::Parameters>,
    /// `tags`: words to filter lists by.
    pub tags: Vec<String>,
    /// `never_with`: entries that are never in memory beside it.
    pub never_with: Vec<Name>,
    /// `fallback`: the name of an upstream that answers where this machine cannot.
    pub fallback: Option<Name>,
    /// `spill_after`: how long a request may wait here before that answers instead.
    pub spill_after: Option<Duration>,
    /// Line of the key in the file, from 1.
    pub line: usize,
}

/// Another name of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name, or the pattern that names match.
    pub name: AliasName,
    /// `background`: any permitted model of the kind may answer, if it is up.
    pub background: bool,
}

/// What an entry says of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// `base`: an entry, or a repository with default settings.
    pub base: Name,
    /// `adapter`, with `revision`: where its matrices come from.
    pub source: Source,
}

impl Entry {
    /// What is its own of where it comes from: the adapter, or else the weights.
    pub fn own(&self) -> &Source {
        match &self.adapter {
            Some(adapted) => &adapted.source,
            None => &self.source,
        }
    }

    /// Its key and its exact aliases.
    pub fn exact_names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().filter_map(|alias| alias.name.exact());
        std::iter::once(&self.name).chain(aliases).map(Name::as_str)
    }

    /// Whether the name is one of its names, a colon, and one of its variants.
    fn has_variant(&self, name: &str) -> bool {
        let Some((base, variant)) = name.rsplit_once(':') else {
            return false;
        };
        self.variants.contains_key(variant) && self.exact_names().any(|own| own == base)
    }
}

/// What an alias answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasName {
    /// This name.
    Exact(Name),
    /// Every name that matches and that nothing else has.
    Wildcard(Pattern),
}

impl AliasName {
    /// As it is written in the file.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) => name.as_str(),
            Self::Wildcard(pattern) => pattern.as_str(),
        }
    }

    /// The name, if it is one.
    pub fn exact(&self) -> Option<&Name> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Wildcard(_) => None,
        }
    }

    /// The pattern, if it is one.
    pub fn wildcard(&self) -> Option<&Pattern> {
        match self {
            Self::Exact(_) => None,
            Self::Wildcard(pattern) => Some(pattern),
        }
    }
}

/// Where an entry's weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A repository in the cache, at `revision` (a branch, tag or commit) or at what `main` is.
    Repository {
        /// Which one.
        id: ModelId,
        /// The branch, tag or commit.
        revision: Option<String>,
    },
    /// A folder outside the cache.
    Path(PathBuf),
}

/// The settings that decide how a model is loaded (class N).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoadSettings {
    /// `engine`: one of the file; nothing means the embedded one.
    pub engine: Option<Arc<engine::Engine>>,
    /// `file`: which file of the snapshot is the one with the weights.
    pub file: Option<String>,
    /// `context`: tokens; nothing means what the checkpoint says.
    pub context: Option<u32>,
    /// `parallel`: sequences at once; nothing means the engine's default.
    pub parallel: Option<u32>,
    /// `kv`: room for caches; nothing means the default rule.
    pub kv: Option<Amount>,
    /// `compute`: the number format of activations.
    pub compute: Compute,
    /// `kv_format`: in which form keys and values are kept.
    pub kv_format: KvFormat,
    /// `draft`: who guesses the next tokens of its answers.
    pub draft: Option<draft::Draft>,
    /// `memory`: the reservation instead of the estimate.
    pub memory: Option<Amount>,
    /// `trust_remote_code`: whether a snapshot that asks for code of its own is served
    /// all the same. Its code is not run.
    pub trust_remote_code: bool,
}

/// A size, or a share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// A fixed number of bytes.
    Size(ByteSize),
    /// A share, in thousandths of a percent, so that it can be compared and hashed.
    Share(u32),
}

impl Amount {
    /// `40%`; at most 100.
    pub fn of_percent(percent: f64) -> Self {
        Self::Share((percent * 1000.0).round() as u32)
    }

    /// The share, 0 to 1; a size is no share.
    pub fn share(self) -> f64 {
        match self {
            Self::Size(_) => 0.0,
            Self::Share(share) => f64::from(share) / 100_000.0,
        }
    }

    /// The bytes it is of this whole.
    pub fn of(self, whole: ByteSize) -> ByteSize {
        match self {
            Self::Size(size) => size,
            Self::Share(_) => ByteSize((whole.0 as f64 * self.share()) as u64),
        }
    }
}

/// `compute`: the number format in which the engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// float32 on a CPU, the checkpoint's own elsewhere.
    #[default]
    Auto,
    /// `float32`
    Float32,
    /// `float16`
    Float16,
    /// `bfloat16`
    Bfloat16,
}

impl Config {
    /// Whether `allow` permits the id and `deny` does not.
    pub fn permits(&self, id: &str) -> bool {
        self.allow.iter().any(|pattern| pattern.matches(id))
            && !self.deny.iter().any(|pattern| pattern.matches(id))
    }
}

impl Compute {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Float32, Self::Float16, Self::Bfloat16];

    /// The word in `models.yaml` and on the worker's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Compute::Auto => "auto",
            Compute::Float32 => "float32",
            Compute::Float16 => "float16",
            Compute::Bfloat16 => "bfloat16",
        }
    }
}

impl std::str::FromStr for Compute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|compute| compute.as_str() == text)
            .ok_or_else(|| format!("expected auto, float32, float16 or bfloat16, found \"{text}\""))
    }
}
