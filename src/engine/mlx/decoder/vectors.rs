//! A decoder that makes vectors: its stack of layers without a head, as embedding models
//! are that began as chat models (E5-Mistral, arXiv 2401.00368; Qwen3 Embedding, arXiv
//! 2506.05176). How a text's vector is made of those of its tokens is the snapshot's
//! recipe, not decided here.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::{Array, Dtype};

use super::arguments::{Arguments, own};
use super::design::Design;
use super::stack::Stack;
use super::{ROOT, is_of_head};
use crate::engine::EngineError;
use crate::engine::mlx::arch::{Checkpoint, EncoderArchitecture};
use crate::engine::mlx::attention::Pass;
use crate::engine::mlx::device::Device;

/// Keys by which a decoder's tokens see those after them too, which none here does:
/// gte-Qwen2's and EmbeddingGemma's.
#[derive(serde::Deserialize)]
struct Sight {
    is_causal: Option<bool>,
    use_bidirectional_attention: Option<bool>,
}

/// The network.
pub struct TokenVectors {
    stack: Stack,
    positions: usize,
    device: Device,
}

impl TokenVectors {
    /// Takes a checkpoint's weights. Their names may be without what comes before
    /// the stack's in a whole decoder, and a head is left out.
    ///
    /// # Errors
    /// Tokens see what comes after them; a weight is missing or has another shape.
    pub fn load(checkpoint: Checkpoint, design: Design) -> Result<Self, EngineError> {
        let sight: Sight = own(checkpoint.config)?;
        if sight.is_causal == Some(false) || sight.use_bidirectional_attention == Some(true) {
            let reason = "a decoder whose tokens see those after them is not supported";
            return Err(EngineError::Unsupported(reason.to_owned()));
        }
        let arguments = Arguments::read(checkpoint.config, checkpoint.context)?;
        let weights = checkpoint.weights;
        weights.drop_where(is_of_head);
        let root = match weights.has("norm.weight") {
            true => "",
            false => ROOT,
        };
        Ok(Self {
            device: weights.device(),
            stack: Stack::load(weights, root, design, None)?,
            positions: arguments.positions() as usize,
        })
    }
}

impl EncoderArchitecture for TokenVectors {
    fn vocabulary(&self) -> usize {
        self.stack.design().vocabulary as usize
    }

    fn size(&self) -> usize {
        self.stack.design().hidden as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn format(&self) -> Dtype {
        self.stack.cache_shape().format
    }

    /// No token sees one after it, so what a text was filled up with is not seen without
    /// any mask.
    fn hidden(&self, tokens: &Array, _: Option<&Array>) -> MlxResult<Array> {
        let (texts, length) = (tokens.dim(0), tokens.dim(1));
        let mut pass = Pass::without_caches(texts as usize, length as usize, self.device);
        let hidden = self.stack.hidden(&tokens.reshape(&[-1])?, &mut pass)?;
        let hidden = self.stack.normed(&hidden)?;
        hidden.reshape(&[texts, length, self.stack.design().hidden])
    }
}
