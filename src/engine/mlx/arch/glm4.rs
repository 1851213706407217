//! `model_type: glm4`: norms before and after each part, half of a head turns, by
//! neighbours, and gate and up are one matrix.

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::{Design, Norms};

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let mut design = Design::plain(&source.arguments()?)?;
    for rotation in &mut design.rotations {
        rotation.traditional = true;
    }
    design.projections.output_bias = false;
    design.feed_forward.joined = true;
    design.norms = Norms {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_self_attn_layernorm"),
        before_feed_forward: Some("post_attention_layernorm"),
        after_feed_forward: Some("post_mlp_layernorm"),
    };
    Ok(design)
}
