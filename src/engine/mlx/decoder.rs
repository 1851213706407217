//! A decoder: the stack of layers that all architectures of chat models here have in
//! common, built to the [`Design`] of one of them, and its head. It knows no name of any.

pub mod arguments;
#[cfg(target_os = "linux")]
mod chained;
pub mod design;
mod experts;
mod feed_forward;
mod latent_attention;
mod operations;
mod self_attention;
mod short_convolution;
mod stack;
pub mod vectors;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use self::design::Design;
use self::stack::Stack;
use super::attention::Pass;
use super::kv::CacheShape;
use super::layers::{Linear, capped, scaled};
use super::quantization::{Mode, Packing};
use super::weights::Weights;
use crate::config::kv::KvFormat;
use crate::engine::EngineError;

/// What the names of weights below the head begin with.
const ROOT: &str = "model.";

/// A decoder with its weights.
pub struct Decoder {
    stack: Stack,
    /// Nothing if the embedding is the head.
    lm_head: Option<Linear>,
}

impl Decoder {
    /// Takes a checkpoint's weights into a decoder of this design, whose caches are of
    /// this form.
    ///
    /// # Errors
    /// A weight is missing or has another shape, or heads are of no size that can be packed.
    pub fn load(
        weights: &mut Weights,
        design: Design,
        kv_format: KvFormat,
    ) -> Result<Self, EngineError> {
        weights.call(design.names);
        let packing = packing(kv_format, design.heads.size)?;
        let tied = design
            .tied
            .unwrap_or_else(|| !weights.has("lm_head.weight"));
        let (hidden, vocabulary) = (design.hidden, design.vocabulary);
        let lm_head = match tied {
            true => {
                // Some checkpoints keep a second copy of the embedding.
                weights.drop_where(is_of_head);
                None
            }
            false => Some(Linear::load(weights, "lm_head", hidden, vocabulary, false)?),
        };
        let stack = Stack::load(weights, ROOT, design, packing)?;
        Ok(Self { stack, lm_head })
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.stack.design().vocabulary as usize
    }

    /// The shape of its caches.
    pub fn cache_shape(&self) -> &CacheShape {
        self.stack.cache_shape()
    }

    /// `tokens` `[rows]` through all layers: hidden states `[rows, hidden]`, or of those rows
    /// only that `wanted` `[count]` names. Evaluates nothing.
    pub fn hidden(
        &self,
        tokens: &Array,
        pass: &mut Pass,
        wanted: Option<&Array>,
    ) -> MlxResult<Array> {
        self.stack.hidden(tokens, pass, wanted)
    }

    /// Hidden states to logits `[rows, vocabulary]`. Evaluates nothing.
    pub fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        let hidden = self.stack.normed(hidden)?;
        let logits = match &self.lm_head {
            Some(head) => head.apply(&hidden)?,
            None => self.stack.embed_tokens().as_head(&hidden)?,
        };
        let design = self.stack.design();
        let logits = scaled(&logits, design.logits_factor)?;
        match design.logits_cap {
            Some(cap) => capped(&logits, cap),
            None => Ok(logits),
        }
    }
}

/// Whether a weight is the head's.
fn is_of_head(name: &str) -> bool {
    name.starts_with("lm_head.")
}

/// How keys and values of heads of this size are packed, if they are to be.
fn packing(format: KvFormat, head: i32) -> Result<Option<Packing>, EngineError> {
    let Some(bits) = format.bits() else {
        return Ok(None);
    };
    let group = KvFormat::group(u64::try_from(head).unwrap_or(0)).ok_or_else(|| {
        EngineError::Unsupported(format!(
            "kv_format is {} and heads have {head} numbers, no multiple of 32",
            format.as_str()
        ))
    })?;
    Ok(Some(Packing {
        group_size: group as i32,
        bits: bits as i32,
        mode: Mode::Affine,
    }))
}
