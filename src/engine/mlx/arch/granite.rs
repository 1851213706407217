//! `model_type: granite`: Llama with factors on embeddings, scores, what layers add, and
//! logits.

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::own;
use crate::engine::mlx::decoder::design::Design;

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    embedding_multiplier: f32,
    attention_multiplier: f32,
    residual_multiplier: f32,
    /// Logits are divided by it.
    logits_scaling: f32,
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let own: Arguments = own(source.config)?;
    if own.logits_scaling <= 0.0 {
        let reason = "\"logits_scaling\" is not a positive number";
        return Err(bad_file("config.json", reason));
    }
    let mut design = Design::plain(&source.arguments()?)?;
    design.embedding_factor = own.embedding_multiplier;
    design.score_scale = own.attention_multiplier;
    design.residual_factor = own.residual_multiplier;
    design.logits_factor = 1.0 / own.logits_scaling;
    Ok(design)
}
