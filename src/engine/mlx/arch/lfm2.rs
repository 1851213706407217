//! `model_type: lfm2`: few layers attend, the others are gated short convolutions, each
//! number by itself (LFM2, arXiv 2511.23404, section 2); weights have names of their own.

use serde::Deserialize;
use serde_json::json;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::{Arguments, own, positive};
use crate::engine::mlx::decoder::design::{Convolution, Design, Norms, QueryKeyNorm};

/// Keys that only this architecture has.
#[derive(Deserialize)]
struct Own {
    norm_eps: f32,
    conv_bias: bool,
    #[serde(rename = "conv_L_cache")]
    conv_taps: i32,
    block_ff_dim: Option<i32>,
    intermediate_size: Option<i32>,
    block_multiple_of: i32,
    block_ffn_dim_multiplier: Option<f64>,
    block_auto_adjust_ff_dim: bool,
    full_attn_idxs: Option<Vec<usize>>,
    layer_types: Option<Vec<String>>,
}

/// What weights are called where others have the name beside it.
const NAMES: &[(&str, &str)] = &[
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("self_attn.o_proj", "self_attn.out_proj"),
    ("q_norm", "q_layernorm"),
    ("k_norm", "k_layernorm"),
    ("norm", "embedding_norm"),
];

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let own: Own = own(source.config)?;
    positive(&[
        ("conv_L_cache", own.conv_taps),
        ("block_multiple_of", own.block_multiple_of),
    ])?;
    let mut config = source.config.clone();
    config.insert("rms_norm_eps".to_owned(), json!(own.norm_eps));
    config.insert("intermediate_size".to_owned(), json!(own.inner()?));
    // The kinds of layers that are named there are read here.
    config.remove("layer_types");
    let args = Arguments::read(&config, source.context)?.with_base(1_000_000.0);
    let mut design = Design::plain(&args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        layer.convolves = !own.attends(index)?;
    }
    design.convolution = Some(Convolution {
        taps: own.conv_taps,
        bias: own.conv_bias,
    });
    design.query_key_norm = QueryKeyNorm::Head;
    design.norms = Norms {
        before_attention: Some("operator_norm"),
        after_attention: None,
        before_feed_forward: Some("ffn_norm"),
        after_feed_forward: None,
    };
    design.names = NAMES;
    design.tied = Some(true);
    Ok(design)
}

impl Own {
    fn attends(&self, index: usize) -> Result<bool, EngineError> {
        if let Some(attending) = &self.full_attn_idxs {
            return Ok(attending.contains(&index));
        }
        let kind = self.layer_types.as_ref().and_then(|types| types.get(index));
        match kind.map(String::as_str) {
            Some("full_attention") => Ok(true),
            Some("conv") => Ok(false),
            found => Err(bad_file(
                "config.json",
                format!(
                    "\"layer_types\" has {found:?} at {index}, expected full_attention or conv"
                ),
            )),
        }
    }

    /// Numbers inside the feed-forward part: those that are said, or two thirds of that,
    /// rounded up.
    fn inner(&self) -> Result<i32, EngineError> {
        let said = self.block_ff_dim.or(self.intermediate_size);
        let said = said.ok_or_else(|| bad_file("config.json", "\"block_ff_dim\" is missing"))?;
        if !self.block_auto_adjust_ff_dim {
            return Ok(said);
        }
        let less = (2.0 * f64::from(said) / 3.0) as i32;
        let less = match self.block_ffn_dim_multiplier {
            Some(factor) => (factor * f64::from(less)) as i32,
            None => less,
        };
        let multiple = self.block_multiple_of;
        Ok(multiple.saturating_mul(less.saturating_add(multiple - 1) / multiple))
    }
}
