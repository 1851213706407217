//! `model_type: olmo2`: norms on what comes out of each part instead of what goes in, and
//! on all heads of queries and of keys together (arXiv 2501.00656).

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::{Design, Norms, QueryKeyNorm};

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let mut design = Design::plain(&source.arguments()?)?;
    design.query_key_norm = QueryKeyNorm::Whole;
    design.norms = Norms {
        before_attention: None,
        after_attention: Some("post_attention_layernorm"),
        before_feed_forward: None,
        after_feed_forward: Some("post_feedforward_layernorm"),
    };
    Ok(design)
}
