//! One worker process per model: its command line and first words (here), how
//! the router starts, reaches and ends it (`process`, `client`), and what runs
//! inside it (`serve`). The pool decides when; this part only does.

pub mod client;
pub mod process;
pub mod serve;
pub mod supervise;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Compute;
use crate::config::engine::Engine;
use crate::config::kv::KvFormat;
use crate::engine::progress::Progress;
use crate::engine::speculation::Draft;
use crate::units::ByteSize;

/// The header with the per-spawn secret, on every request to a worker.
pub const SECRET_HEADER: HeaderName = HeaderName::from_static("x-roundhouse-secret");

/// The header with a mark of who asks, 32 hexadecimal digits: whose prompts the request
/// may go on from, and for whom its own is kept. Without it neither is done.
pub const CALLER_HEADER: HeaderName = HeaderName::from_static("x-roundhouse-caller");

/// The header with the adapter that the request is for, as
/// [`Chosen`](crate::engine::adapter::Chosen) writes it. Without it it is for the model
/// as it is.
pub const ADAPTER_HEADER: HeaderName = HeaderName::from_static("x-roundhouse-adapter");

/// The path at which a worker of our own tells how it stands.
pub const STATUS_PATH: &str = "/status";

/// The path at which it forgets what it keeps of prompts.
pub const FORGET_PATH: &str = "/forget";

/// The line on standard input that asks a worker with a folder for prompts to write there
/// what it keeps, and to end: this and how many milliseconds there are for both.
pub const LEAVE: &str = "leave";

/// The line on standard input that tells a worker that stands by to load.
pub const LOAD: &str = "load";

/// The trailer with the usage of an answer: `prompt=12 completion=34 finish=stop`, and
/// `cached=8` after the prompt if so much of it was in the prompt cache, `accepted=5
/// rejected=2` after the completion if so many of its tokens were guessed right and wrong.
pub const USAGE_TRAILER: &str = "x-roundhouse-usage";

/// Which engine a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The embedded MLX engine.
    Mlx,
    /// The engine that plays a file: for tests, behind an explicit flag only.
    Scripted,
}

/// What `roundhouse worker` is to be.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct WorkerRole {
    /// Run an engine that is not ours, as the first line of standard input says.
    #[arg(long, exclusive = true)]
    pub supervise: bool,
    /// Become this program, a list of texts as JSON, and end with whoever started it.
    #[arg(long, exclusive = true, value_name = "JSON")]
    pub become_engine: Option<String>,
    /// Run an engine of our own.
    #[command(flatten)]
    pub own: Option<WorkerArgs>,
}

/// The command line of a worker of our own. The per-spawn secret is not on it:
/// it is the first line of standard input.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct WorkerArgs {
    /// The Unix socket to listen on.
    #[arg(long)]
    pub socket: PathBuf,
    /// The snapshot folder.
    #[arg(long)]
    pub model_dir: PathBuf,
    /// The engine to run.
    #[arg(long, value_enum, default_value = "mlx")]
    pub engine: EngineKind,
    /// Most tokens of one sequence, prompt and answer together.
    #[arg(long)]
    pub context: u32,
    /// Most sequences at once.
    #[arg(long)]
    pub parallel: u32,
    /// Bytes for KV caches.
    #[arg(long)]
    pub kv: u64,
    /// In which form keys and values are kept.
    #[arg(long, default_value = "auto")]
    pub kv_format: KvFormat,
    /// The number format of activations.
    #[arg(long, default_value = "auto")]
    pub compute: Compute,
    /// Bytes for adapters that no sequence runs with.
    #[arg(long, default_value_t = 0)]
    pub adapters: u64,
    /// The snapshot folder of a smaller model that guesses next tokens.
    #[arg(long)]
    pub draft_dir: Option<PathBuf>,
    /// Next tokens are guessed out of the text so far.
    #[arg(long, conflicts_with = "draft_dir")]
    pub draft_prompt: bool,
    /// Wait for a line of standard input that says so before loading.
    #[arg(long)]
    pub standby: bool,
    /// Make one token before saying that the model is ready.
    #[arg(long)]
    pub warmup: bool,
    /// Read the prompts that stand on the second line of standard input, an array of texts
    /// as JSON, before saying that the model is ready.
    #[arg(long)]
    pub warm_prompts: bool,
    /// The folder for prompts of this model, which lies in that for all models.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Most bytes of prompts on disk of one model.
    #[arg(long, default_value_t = 0)]
    pub prompts_each: u64,
    /// Most bytes of prompts on disk of all models.
    #[arg(long, default_value_t = 0)]
    pub prompts_all: u64,
}

/// Runs the role.
pub fn run(role: &WorkerRole) -> ExitCode {
    match role {
        WorkerRole {
            supervise: true, ..
        } => supervise::run(),
        WorkerRole {
            become_engine: Some(command),
            ..
        } => supervise::become_engine(command),
        WorkerRole {
            own: Some(args), ..
        } => serve::run(args),
        _ => {
            eprintln!("roundhouse: a worker is started by the server");
            ExitCode::from(2)
        }
    }
}

/// A line on a worker's standard output: as many as it likes of how far its load
/// is, then one that says what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Word {
    /// The load is so far.
    Loading(Progress),
    /// The model is loaded and the socket listens.
    Ready(Ready),
    /// It could not be loaded; the process ends.
    Failed {
        /// What a person should know; no path outside the snapshot.
        reason: String,
        /// Whether memory ran out.
        #[serde(default)]
        out_of_memory: bool,
    },
}

/// What a worker says of itself when it is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Version of the executable; another than the router's is refused.
    pub version: String,
    /// Bytes the engine holds now: weights in the form this device needs.
    pub bytes_held: u64,
    /// `cpu`, `metal` or `cuda`; of an engine that is not ours, `unknown`.
    pub device: String,
    /// The number format that `auto` became.
    pub compute: String,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Milliseconds from the start of the process to this line, without those in which it
    /// did nothing but stand by.
    pub load_ms: u64,
    /// Where they went.
    #[serde(default)]
    pub phases: LoadPhases,
    /// The port of 127.0.0.1 where it is reached; nothing if it is by its socket.
    #[serde(default)]
    pub port: Option<u16>,
}

/// The parts of a load, in milliseconds. The texts are read beside the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadPhases {
    /// Making the device ready.
    pub device_ms: f64,
    /// Reading headers, mapping files, building layers.
    pub map_ms: f64,
    /// The first evaluation: weights in the form that the device needs.
    pub evaluate_ms: f64,
    /// Tokenizer, chat template and generation settings.
    pub text_ms: f64,
    /// How much of all this was over when the process was told to load: it was done beside
    /// the end of another model.
    #[serde(default)]
    pub ahead_ms: f64,
    /// How long the process then stood by; part of no other figure.
    #[serde(default)]
    pub standby_ms: f64,
}

/// How a worker is to end: asked first, killed when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// How long it has.
    pub grace: Duration,
    /// Whether it may use that to write down what it keeps of prompts: nobody wants it
    /// gone at once, and it can be trusted.
    pub may_write: bool,
}

impl Leave {
    /// It has so long, and nothing is written.
    pub fn within(grace: Duration) -> Self {
        Self {
            grace,
            may_write: false,
        }
    }
}

/// How the pool wants a model brought up. Equal plans are one load.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoadPlan {
    /// The resolved id: the repository, or the entry's name for a folder or for
    /// a second set of load settings. The pool's key.
    pub model: String,
    /// The snapshot folder.
    pub dir: PathBuf,
    /// The commit of the snapshot, where there is one.
    pub commit: Option<String>,
    /// What runs it.
    pub engine: PlannedEngine,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Most sequences at once.
    pub parallel: u32,
    /// Room for KV caches.
    pub kv: ByteSize,
    /// In which form keys and values are kept.
    pub kv_format: KvFormat,
    /// Number format of activations.
    pub compute: Compute,
    /// Room for the adapters of the entries that share the load.
    pub adapters: ByteSize,
    /// What guesses next tokens.
    pub draft: Draft<PathBuf>,
    /// Whether it makes one token before it is ready.
    pub warmup: bool,
    /// System prompts that it reads before it is ready.
    pub warm_prompts: Arc<[String]>,
    /// Bytes of the weights on disk.
    pub weights: ByteSize,
    /// What is reserved before the load begins: weights, transient, `kv` and adapters.
    pub memory: ByteSize,
    /// Whether `memory` is an estimate; else it is the owner's word, and what is
    /// learnt of the model never lowers it.
    pub estimated: bool,
    /// What its process takes before it loads; nothing if it may not be started ahead of
    /// its load.
    pub standby: Option<ByteSize>,
}

/// What runs a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PlannedEngine {
    /// A worker of our own.
    Own(EngineKind),
    /// An engine of the file, under a supervising worker.
    Spawned(Arc<Spawned>),
}

/// An engine of the file with what there is to fill in for one model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spawned {
    /// What the file says of it.
    pub engine: Arc<Engine>,
    /// The one file with the weights, if it is asked for.
    pub file: Option<PathBuf>,
    /// What it calls the model: stands in the place of `model` in what it is asked.
    pub model: String,
    /// What the file says of it, in a few digits: told once, for it is a long text.
    pub digest: String,
}

impl Spawned {
    /// An engine of the file for one model.
    pub fn new(engine: Arc<Engine>, file: Option<PathBuf>, model: String) -> Self {
        let digest = Sha256::digest(format!("{engine:?}"));
        let digits = digest[..4].iter().map(|byte| format!("{byte:02x}"));
        Self {
            digest: digits.collect(),
            engine,
            file,
            model,
        }
    }
}

impl From<EngineKind> for PlannedEngine {
    fn from(kind: EngineKind) -> Self {
        Self::Own(kind)
    }
}

impl EngineKind {
    /// What a process of this kind takes before it loads: libraries, tokenizer, template and
    /// what a device needs to be ready. Generous: what it really holds is seen, and counts if
    /// it is more.
    pub fn standby(self) -> ByteSize {
        ByteSize(match self {
            Self::Mlx => 256 << 20,
            Self::Scripted => 32 << 20,
        })
    }

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mlx => "mlx",
            Self::Scripted => "scripted",
        }
    }
}

impl PlannedEngine {
    /// What its process takes before it loads, if it can wait with that.
    pub fn standby(&self) -> Option<ByteSize> {
        match self {
            Self::Own(kind) => Some(kind.standby()),
            Self::Spawned(_) => None,
        }
    }

    /// The word for it: that of the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Own(kind) => kind.as_str(),
            Self::Spawned(spawned) => &spawned.engine.name,
        }
    }

    /// What it calls the model, if that is not what the request says.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Own(_) => None,
            Self::Spawned(spawned) => Some(&spawned.model),
        }
    }
}
