//! `model_type: qwen3_moe`: Qwen 3 with experts in most layers (arXiv 2505.09388).

use serde::Deserialize;

use super::{Source, qwen2};
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::{own, positive};
use crate::engine::mlx::decoder::design::{
    Activation, Design, ExpertNames, Experts, QueryKeyNorm, Shares,
};

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
    /// Of so many layers the last has experts.
    decoder_sparse_step: usize,
    /// These have none all the same.
    mlp_only_layers: Vec<usize>,
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?.with_base(1_000_000.0);
    let own: Arguments = own(source.config)?;
    positive(&[
        ("num_experts", own.num_experts),
        ("num_experts_per_tok", own.num_experts_per_tok),
        ("moe_intermediate_size", own.moe_intermediate_size),
    ])?;
    if own.num_experts_per_tok > own.num_experts || own.decoder_sparse_step == 0 {
        let reason = "\"num_experts_per_tok\" is above \"num_experts\", or \
                      \"decoder_sparse_step\" is 0";
        return Err(bad_file("config.json", reason));
    }
    let mut design = qwen2::plain(source, &args)?;
    design.query_key_norm = QueryKeyNorm::Head;
    design.experts = Some(Experts {
        count: own.num_experts,
        chosen: own.num_experts_per_tok,
        inner: own.moe_intermediate_size,
        shares: match own.norm_topk_prob {
            true => Shares::OfChosen,
            false => Shares::OfAll,
        },
        factor: 1.0,
        groups: None,
        shared: None,
        activation: Activation::Swish,
        bias: false,
        names: ExpertNames {
            router: "gate",
            together: "switch_mlp",
            apart: Some("experts"),
        },
    });
    for (index, layer) in design.layers.iter_mut().enumerate() {
        layer.experts = (index + 1).is_multiple_of(own.decoder_sparse_step)
            && !own.mlp_only_layers.contains(&index);
    }
    Ok(design)
}
