//! `model_type: gemma2`: norms before and after each part, their weights counted from 1,
//! scores and logits bent to stay within a cap, a window in every other layer (arXiv
//! 2408.00118).
//!
//! mlx-lm leaves the windows out; up to their length, 4,096 tokens in the checkpoints
//! there are, both compute the same.

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::arguments::own;
use crate::engine::mlx::decoder::design::Design;
use crate::engine::mlx::decoder::design::{Activation, Norms};
use crate::engine::mlx::layers::Gain;

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    #[serde(default = "fifty")]
    attn_logit_softcapping: Option<f32>,
    #[serde(default = "thirty")]
    final_logit_softcapping: Option<f32>,
    #[serde(default = "gross")]
    query_pre_attn_scalar: f32,
}

#[expect(clippy::unnecessary_wraps, reason = "null means that there is no cap")]
fn fifty() -> Option<f32> {
    Some(50.0)
}

#[expect(clippy::unnecessary_wraps, reason = "null means that there is no cap")]
fn thirty() -> Option<f32> {
    Some(30.0)
}

fn gross() -> f32 {
    144.0
}

/// The norms of a layer in the Gemma family.
pub(super) const NORMS: Norms = Norms {
    before_attention: Some("input_layernorm"),
    after_attention: Some("post_attention_layernorm"),
    before_feed_forward: Some("pre_feedforward_layernorm"),
    after_feed_forward: Some("post_feedforward_layernorm"),
};

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?;
    let own: Arguments = own(source.config)?;
    let mut design = Design::plain(&args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        let every_other = args.sliding_window.is_some() && index % 2 == 0;
        layer.window = args.window(index, every_other)?;
    }
    design.norms = NORMS;
    design.gain = Gain::FromOne;
    design.feed_forward.activation = Activation::GeluByTanh;
    design.score_scale = own.query_pre_attn_scalar.powf(-0.5);
    design.score_cap = own.attn_logit_softcapping;
    design.logits_cap = own.final_logit_softcapping;
    design.embedding_factor = (args.hidden_size as f32).sqrt();
    Ok(design)
}
