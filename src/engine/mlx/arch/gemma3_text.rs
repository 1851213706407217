//! `model_type: gemma3_text`: as Gemma 2 without caps, with norms on each head of
//! queries and keys, and with five layers of a short window, which turn by a base of
//! their own, to one that sees everything (arXiv 2503.19786).

use serde::Deserialize;
use serde_json::Map;

use super::{Source, gemma2};
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::own;
use crate::engine::mlx::decoder::design::{Activation, Design, QueryKeyNorm, Rotation};
use crate::engine::mlx::layers::Gain;

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    #[serde(default = "local_base")]
    rope_local_base_freq: f64,
    #[serde(default = "head_squared")]
    query_pre_attn_scalar: f32,
    /// Of so many layers the last sees everything, where there is no `layer_types`.
    #[serde(default = "six")]
    sliding_window_pattern: usize,
    /// Newer configurations hold a mapping for each kind of layer here.
    rope_parameters: Option<serde_json::Value>,
}

fn local_base() -> f64 {
    10_000.0
}

fn head_squared() -> f32 {
    256.0
}

fn six() -> usize {
    6
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?.with_base(1_000_000.0);
    let own: Arguments = own(source.config)?;
    if own.sliding_window_pattern == 0 {
        return Err(bad_file("config.json", "\"sliding_window_pattern\" is 0"));
    }
    if own.rope_parameters.is_some() {
        return Err(EngineError::Unsupported(
            "\"rope_parameters\" is not supported here, only \"rope_theta\", \
             \"rope_local_base_freq\" and \"rope_scaling\" are"
                .to_owned(),
        ));
    }
    let mut design = Design::plain(&args)?;
    design.rotations.push(Rotation {
        turned: args.turned(),
        traditional: false,
        frequencies: args.frequencies_by(own.rope_local_base_freq, Map::new())?,
    });
    for (index, layer) in design.layers.iter_mut().enumerate() {
        let by_pattern = !(index + 1).is_multiple_of(own.sliding_window_pattern);
        layer.window = args.window(index, by_pattern)?;
        layer.rotation = Some(usize::from(layer.window.is_some()));
    }
    design.norms = gemma2::NORMS;
    design.gain = Gain::FromOne;
    design.query_key_norm = QueryKeyNorm::Head;
    design.feed_forward.activation = Activation::GeluByTanh;
    design.score_scale = own.query_pre_attn_scalar.powf(-0.5);
    design.embedding_factor = as_bfloat16((args.hidden_size as f32).sqrt());
    Ok(design)
}

/// The nearest number in bfloat16, the format in which the factor was trained with.
fn as_bfloat16(number: f32) -> f32 {
    let bits = number.to_bits();
    let half = 0x7fff + (bits >> 16 & 1);
    f32::from_bits((bits + half) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_the_nearest_of_the_narrower_format() {
        // 8 bits of precision: between 32 and 64 numbers are a quarter apart.
        for (number, expected) in [
            (1152f32.sqrt(), 34.0),
            (33.9, 34.0),
            (33.6, 33.5),
            (33.625, 33.5),
            (33.875, 34.0),
            (16.0, 16.0),
        ] {
            assert_eq!(as_bfloat16(number), expected, "{number}");
        }
    }
}
