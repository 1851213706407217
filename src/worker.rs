//! One worker process per model: its command line and first words (here), how
//! the router starts, reaches and ends it (`process`, `client`), and what runs
//! inside it (`serve`). The pool decides when; this part only does.

pub mod client;
pub mod process;
pub mod serve;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Compute;
use crate::units::ByteSize;

/// The header with the per-spawn secret, on every request to a worker.
pub const SECRET_HEADER: &str = "x-roundhouse-secret";

/// The trailer with the usage of an answer: `prompt=12 completion=34 finish=stop`.
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

/// The command line of `roundhouse worker`. The per-spawn secret is not on it:
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
    /// The number format of activations.
    #[arg(long, default_value = "auto")]
    pub compute: Compute,
    /// Make one token before saying that the model is ready.
    #[arg(long)]
    pub warmup: bool,
}

/// The first line on a worker's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum FirstWord {
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
    /// `cpu`, `metal` or `cuda`.
    pub device: String,
    /// The number format that `auto` became.
    pub compute: String,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Milliseconds from the start of the process to this line.
    pub load_ms: u64,
    /// Where they went.
    #[serde(default)]
    pub phases: LoadPhases,
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
    /// Which engine runs it.
    pub engine: EngineKind,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Most sequences at once.
    pub parallel: u32,
    /// Room for KV caches.
    pub kv: ByteSize,
    /// Number format of activations.
    pub compute: Compute,
    /// Whether it makes one token before it is ready.
    pub warmup: bool,
    /// What is reserved before the process is started: weights, transient and `kv`.
    pub memory: ByteSize,
    /// Whether `memory` is an estimate; else it is the owner's word, and what is
    /// learnt of the model never lowers it.
    pub estimated: bool,
}
