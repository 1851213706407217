//! `model_type: olmo2`: norms on what comes out of each part instead of what goes in, and
//! on all heads of queries and of keys together (arXiv 2501.00656).

use super::{Architecture, Checkpoint, decoder};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::{Design, Norms, QueryKeyNorm};

/// Takes a checkpoint's weights into a network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn Architecture>, EngineError> {
    let mut design = Design::plain(&checkpoint.arguments()?)?;
    design.query_key_norm = QueryKeyNorm::Whole;
    design.norms = Norms {
        before_attention: None,
        after_attention: Some("post_attention_layernorm"),
        before_feed_forward: None,
        after_feed_forward: Some("post_feedforward_layernorm"),
    };
    decoder(checkpoint, design)
}
