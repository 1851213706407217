//! The embedded engine: one thread that owns the model and steps it, and the
//! text machines around it. What a network is, is the [`Network`] trait; MLX is
//! named only in `engine/mlx`, and `engine/scripted` plays a file instead.

pub mod adapter;
pub mod constraint;
#[cfg(feature = "mlx")]
pub mod detokenizer;
pub mod encoder;
pub mod guide;
#[cfg(feature = "mlx")]
pub mod mlx;
pub mod parts;
pub mod prefix;
pub mod progress;
pub mod sampling;
pub mod scheduler;
pub mod scripted;
pub mod speculation;
pub mod stop;
pub mod stored;
#[cfg(feature = "mlx")]
pub mod template;
pub mod thread;
#[cfg(feature = "mlx")]
pub mod tokenizer;

use std::path::Path;
use std::time::Duration;

use self::adapter::Chosen;
use self::stored::Tensor;
use crate::model::kind::{Architectures, Kind};

/// The architectures the embedded engine runs. A plain list, so that the router
/// knows it without MLX.
pub fn supported_architectures() -> Architectures {
    &[
        ("llama", Kind::Chat),
        ("mistral", Kind::Chat),
        ("qwen2", Kind::Chat),
        ("qwen3", Kind::Chat),
        ("qwen3_moe", Kind::Chat),
        ("gemma2", Kind::Chat),
        ("gemma3_text", Kind::Chat),
        ("phi3", Kind::Chat),
        ("smollm3", Kind::Chat),
        ("granite", Kind::Chat),
        ("olmo2", Kind::Chat),
        ("glm4", Kind::Chat),
        ("gpt_oss", Kind::Chat),
        ("deepseek_v2", Kind::Chat),
        ("deepseek_v3", Kind::Chat),
        ("lfm2", Kind::Chat),
        ("bert", Kind::Embeddings),
        ("xlm-roberta", Kind::Embeddings),
        ("modernbert", Kind::Embeddings),
    ]
}

/// A model on its device, with the sequences it is working on. It lives on the
/// engine thread and never leaves it.
pub trait Network {
    /// The KV cache of one sequence. Clones are cheap: they share what they hold until one
    /// of them is written to.
    type Cache: Clone;

    /// What a cache holds of some tokens in a row, apart from any sequence. Cheap to
    /// clone: clones share what they hold.
    type Piece: Clone;

    /// Tokens in the vocabulary: the length of a row of logits.
    fn vocabulary(&self) -> usize;

    /// An empty cache.
    fn new_cache(&self) -> Self::Cache;

    /// Has the sequence of `cache` run with an adapter from here on, which is read unless
    /// it is held already. Evaluates.
    ///
    /// # Errors
    /// It cannot be read, or does not belong to this network.
    fn adapt(&mut self, _cache: &mut Self::Cache, _adapter: &Chosen) -> Result<(), EngineError> {
        Err(EngineError::Unsupported(
            "this network takes no adapters".to_owned(),
        ))
    }

    /// Takes in, in one pass, tokens of several sequences after what their caches hold,
    /// at least one of each. Answers in the same order the logits after the last of each
    /// where they are wanted. Evaluates.
    fn prefill_batch(
        &mut self,
        batch: &mut [Reading<'_, Self::Cache>],
    ) -> Result<Vec<Option<Vec<f32>>>, EngineError>;

    /// The same with `tokens` of one sequence, or none.
    fn prefill(
        &mut self,
        cache: &mut Self::Cache,
        tokens: &[u32],
        want_logits: bool,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let reading = Reading {
            cache,
            tokens,
            want_logits,
        };
        Ok(self.prefill_batch(&mut [reading])?.pop().flatten())
    }

    /// Takes in `tokens` like [`Network::prefill`] and answers the logits after each
    /// of them, in order: for prompts that are echoed with their log-probabilities.
    /// Evaluates.
    fn logits_of_all(
        &mut self,
        cache: &mut Self::Cache,
        tokens: &[u32],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut rows = Vec::with_capacity(tokens.len());
        for token in tokens {
            rows.extend(self.prefill(cache, &[*token], true)?);
        }
        Ok(rows)
    }

    /// One step of several sequences at once: the next tokens of each in, one as a rule,
    /// the logits after every one of them out, in the same order. Evaluates.
    fn decode(
        &mut self,
        batch: &mut [(&mut Self::Cache, &[u32])],
    ) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Whether [`Network::trim`] can be asked for. A cache that keeps no more than a window,
    /// or one state for all tokens, cannot go back.
    fn is_trimmable(&self) -> bool {
        true
    }

    /// Forgets all but the first `tokens` of what `cache` holds, if those are fewer.
    fn trim(&self, cache: &mut Self::Cache, tokens: usize);

    /// Tokens that `cache` holds.
    fn tokens_in(&self, cache: &Self::Cache) -> usize;

    /// Rows of a step up to which each gives to the last bit what it gives in a step of its
    /// own; nothing if that cannot be said of any number.
    fn rows_alike(&self) -> Option<usize> {
        None
    }

    /// Tokens that `cache` has memory for.
    fn room_in(&self, cache: &Self::Cache) -> usize;

    /// Takes apart what `cache` holds from its token `from` on, into pieces of these
    /// `lengths`. The cache is used up as this goes on, so that little is there
    /// twice. Evaluates.
    fn evaluate_pieces(
        &mut self,
        cache: Self::Cache,
        from: usize,
        lengths: &[usize],
    ) -> Result<Vec<Self::Piece>, EngineError>;

    /// A cache that holds these `pieces` one after the other, of each its first
    /// tokens, as many as beside it. Evaluates.
    fn evaluate_cache(
        &mut self,
        pieces: Vec<(Self::Piece, usize)>,
    ) -> Result<Self::Cache, EngineError>;

    /// What the numbers of pieces depend on, as far as the network knows: their number
    /// format, their shape, the device that they were worked out on. Nothing if pieces
    /// cannot be written to files.
    fn stored_form(&self) -> Option<String> {
        None
    }

    /// The numbers of a piece, to be written to a file.
    fn tensors_of(&self, _piece: &Self::Piece) -> Result<Vec<Tensor>, EngineError> {
        Err(not_stored())
    }

    /// The piece of `tokens` tokens whose numbers lie in a safetensors file, mapped
    /// rather than read where the device can.
    fn map_piece(&self, _file: &Path, _tokens: usize) -> Result<Self::Piece, EngineError> {
        Err(not_stored())
    }

    /// Bytes of weights held in the form this device needs.
    fn bytes_held(&self) -> u64;

    /// Bytes of KV cache for one token of one sequence.
    fn kv_bytes_per_token(&self) -> u64;

    /// `cpu`, `metal` or `cuda`, and the number format it computes in.
    fn device(&self) -> (&'static str, &'static str);

    /// How long the parts of its load took.
    fn load_times(&self) -> LoadTimes;
}

/// Tokens of one sequence that are taken in at once.
#[derive(Debug)]
pub struct Reading<'p, C> {
    /// The sequence's cache.
    pub cache: &'p mut C,
    /// The tokens.
    pub tokens: &'p [u32],
    /// Whether the logits after the last of them are wanted.
    pub want_logits: bool,
}

fn not_stored() -> EngineError {
    EngineError::Unsupported("what this network keeps is not written to files".to_owned())
}

/// How long the parts of a network's load took, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// Making the device ready.
    pub device: Duration,
    /// Reading headers, mapping files, building layers.
    pub map: Duration,
    /// The first evaluation: weights in the form that the device needs.
    pub evaluate: Duration,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model was done, or a stop string was met.
    Stop,
    /// `max_tokens`, the context or the room for caches was used up.
    Length,
    /// The model was done, and calls tools.
    ToolCalls,
}

impl Finish {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
        }
    }
}

/// Why the engine could not load or go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The snapshot is not what this engine can run.
    #[error("{0}")]
    Unsupported(String),
    /// A file of the snapshot is missing or broken.
    #[error("{file}: {reason}")]
    BadFile {
        /// The file inside the snapshot.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// There was not enough memory.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The answer cannot be kept within its grammar.
    #[error(transparent)]
    Guide(#[from] guide::GuideError),
}

impl EngineError {
    /// Whether memory ran out. Devices tell it in words alone: those that MLX's
    /// allocators for the CPU, Metal and CUDA use.
    pub fn is_out_of_memory(&self) -> bool {
        const WORDS: [&str; 4] = [
            "Unable to allocate",
            "maximum allowed buffer size",
            "out of memory",
            "Insufficient Memory",
        ];
        match self {
            Self::OutOfMemory(_) => true,
            Self::Device(said) => WORDS.iter().any(|words| said.contains(words)),
            Self::Unsupported(_) | Self::BadFile { .. } | Self::Guide(_) => false,
        }
    }
}
