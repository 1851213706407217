//! A decoder that makes vectors: its stack of layers without a head, as embedding models
//! are that began as chat models (E5-Mistral, arXiv 2401.00368; Qwen3 Embedding, arXiv
//! 2506.05176); or that says how well texts fit, with two rows of its head. How a text's vector is made of those of its tokens is the snapshot's
//! recipe, not decided here.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::matmul;
use mlx_rs::{Array, Dtype};

use super::arguments::own;
use super::design::Design;
use super::stack::Stack;
use super::{ROOT, is_of_head};
use crate::engine::EngineError;
use crate::engine::mlx::arch::{Checkpoint, EncoderArchitecture};
use crate::engine::mlx::attention::Pass;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::device_failed;
use crate::engine::mlx::layers::{Embedding, capped, scaled};
use crate::engine::mlx::weights::Weights;
use crate::model::sentence::Verdict;

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
    /// What makes the logits of yes and no, `[hidden, 1 or 2]`; nothing if vectors are made.
    verdict: Option<Array>,
    positions: usize,
    device: Device,
}

impl TokenVectors {
    /// Takes a checkpoint's weights. Their names may be without what comes before
    /// the stack's in a whole decoder, and a head that no verdict needs is left out.
    ///
    /// # Errors
    /// Tokens see what comes after them; a weight is missing or has another shape; a
    /// verdict is by a token that is not in the vocabulary.
    pub fn load(checkpoint: Checkpoint, design: Design) -> Result<Self, EngineError> {
        let sight: Sight = own(checkpoint.config)?;
        if sight.is_causal == Some(false) || sight.use_bidirectional_attention == Some(true) {
            let reason = "a decoder whose tokens see those after them is not supported";
            return Err(EngineError::Unsupported(reason.to_owned()));
        }
        let positions = design.positions as usize;
        let weights = checkpoint.weights;
        weights.call(design.names);
        let tied = design
            .tied
            .unwrap_or_else(|| !weights.has("lm_head.weight"));
        let (vocabulary, hidden) = (design.vocabulary, design.hidden);
        let said_by = match checkpoint.verdict {
            Some(Verdict::Tokens { yes, no }) => Some((yes, no)),
            Some(Verdict::Head(_)) => {
                let reason = "a decoder with a head that scores pairs is not supported";
                return Err(EngineError::Unsupported(reason.to_owned()));
            }
            None => None,
        };
        let head = match said_by {
            Some(_) if !tied => Some(Embedding::load(weights, "lm_head", vocabulary, hidden)?),
            _ => None,
        };
        weights.drop_where(is_of_head);
        let root = match weights.has("norm.weight") {
            true => "",
            false => ROOT,
        };
        let stack = Stack::load(weights, root, design, None)?;
        let head = head.as_ref().unwrap_or_else(|| stack.embed_tokens());
        let verdict = match said_by {
            Some(tokens) => Some(rows_of(weights, head, vocabulary, tokens)?),
            None => None,
        };
        Ok(Self {
            device: weights.device(),
            stack,
            verdict,
            positions,
        })
    }

    /// Normed hidden states to the one number by which a text is judged, `[texts, length, 1]`.
    fn judged(&self, hidden: &Array, rows: &Array) -> MlxResult<Array> {
        let design = self.stack.design();
        let logits = scaled(&matmul(hidden, rows)?, design.logits_factor)?;
        let logits = match design.logits_cap {
            Some(cap) => capped(&logits, cap)?,
            None => logits,
        };
        let yes = logits.try_index((.., .., ..1))?;
        match logits.dim(2) {
            1 => Ok(yes),
            _ => yes.subtract(logits.try_index((.., .., 1..))?),
        }
    }
}

/// The rows of a head for yes and, if it is named, no, as columns.
fn rows_of(
    weights: &mut Weights,
    head: &Embedding,
    vocabulary: i32,
    (yes, no): (u32, Option<u32>),
) -> Result<Array, EngineError> {
    let tokens: Vec<u32> = [yes].into_iter().chain(no).collect();
    if let Some(token) = tokens.iter().find(|token| **token >= vocabulary as u32) {
        // MLX reads out of bounds without a word.
        return Err(EngineError::Unsupported(format!(
            "it judges by the token {token}, which is not in its vocabulary of {vocabulary}"
        )));
    }
    let tokens = Array::from_slice(&tokens, &[tokens.len() as i32]);
    let rows = || head.vectors(&tokens)?.swap_axes(0, 1);
    Ok(weights.keep(rows().map_err(device_failed)?))
}

impl EncoderArchitecture for TokenVectors {
    fn vocabulary(&self) -> usize {
        self.stack.design().vocabulary as usize
    }

    fn size(&self) -> usize {
        match &self.verdict {
            Some(_) => 1,
            None => self.stack.design().hidden as usize,
        }
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn format(&self) -> Dtype {
        self.stack.cache_shape().format
    }

    /// No token sees one after it, so what a text was filled up with is not seen without
    /// any mask.
    fn hidden(&self, tokens: &Array, _: Option<&Array>, _: Option<&Array>) -> MlxResult<Array> {
        let (texts, length) = (tokens.dim(0), tokens.dim(1));
        let mut pass = Pass::without_caches(texts as usize, length as usize, self.device);
        let hidden = self
            .stack
            .hidden(&tokens.reshape(&[-1])?, &mut pass, None)?;
        let hidden = self.stack.normed(&hidden)?;
        let hidden = hidden.reshape(&[texts, length, self.stack.design().hidden])?;
        match &self.verdict {
            Some(rows) => self.judged(&hidden, rows),
            None => Ok(hidden),
        }
    }
}
