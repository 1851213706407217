//! `model_type: deepseek_v2`: latent attention, experts that all tokens take beside those
//! that are chosen from a few groups (arXiv 2405.04434).

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::{Arguments, own, positive};
use crate::engine::mlx::decoder::design::{
    Activation, Design, ExpertNames, Experts, Groups, Latent, Layer, Shares,
};

/// Keys that only this architecture and its heir read.
#[derive(Deserialize)]
pub(super) struct Own {
    q_lora_rank: Option<i32>,
    kv_lora_rank: i32,
    qk_rope_head_dim: i32,
    qk_nope_head_dim: i32,
    v_head_dim: i32,
    n_routed_experts: Option<i32>,
    n_shared_experts: Option<i32>,
    num_experts_per_tok: Option<i32>,
    moe_intermediate_size: Option<i32>,
    #[serde(default = "one")]
    moe_layer_freq: usize,
    #[serde(default)]
    first_k_dense_replace: usize,
    #[serde(default = "whole")]
    routed_scaling_factor: f32,
    topk_method: Option<String>,
    n_group: Option<i32>,
    topk_group: Option<i32>,
    pub(super) norm_topk_prob: Option<bool>,
    pub(super) scoring_func: Option<String>,
}

fn one() -> usize {
    1
}

fn whole() -> f32 {
    1.0
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let own: Own = own(source.config)?;
    let judged_by = match own.topk_method.as_deref() {
        None | Some("greedy" | "gready") => None,
        Some("group_limited_greedy") => Some(1),
        Some(other) => return Err(unsupported("topk_method", other)),
    };
    plain(source, &own, Shares::OfAll, judged_by)
}

/// The design with experts that count by these shares. `judged_by` is of
/// [`Groups`]; nothing means that they are chosen from all.
pub(super) fn plain(
    source: &Source,
    own: &Own,
    shares: Shares,
    judged_by: Option<i32>,
) -> Result<Design, EngineError> {
    positive(&[
        ("kv_lora_rank", own.kv_lora_rank),
        ("qk_rope_head_dim", own.qk_rope_head_dim),
        ("qk_nope_head_dim", own.qk_nope_head_dim),
        ("v_head_dim", own.v_head_dim),
        ("q_lora_rank", own.q_lora_rank.unwrap_or(1)),
    ])?;
    if own.qk_rope_head_dim % 2 != 0 {
        return Err(bad_file("config.json", "\"qk_rope_head_dim\" is odd"));
    }
    let args = source.arguments()?.with_turned(own.qk_rope_head_dim);
    let latent = Latent {
        heads: args.num_attention_heads,
        query_rank: own.q_lora_rank,
        rank: own.kv_lora_rank,
        still: own.qk_nope_head_dim,
        turned: own.qk_rope_head_dim,
        value: own.v_head_dim,
        bias: args.attention_bias,
    };
    let mut design = Design::plain(&args)?;
    design.heads = latent.seen_heads();
    design.latent = Some(latent);
    design.rotations[0].traditional = true;
    design.score_scale = score_scale(&args, latent.still + latent.turned);
    design.experts = experts(own, shares, judged_by)?;
    let has_experts = |index: usize| {
        index >= own.first_k_dense_replace && index.is_multiple_of(own.moe_layer_freq.max(1))
    };
    for (index, layer) in design.layers.iter_mut().enumerate() {
        *layer = Layer {
            experts: design.experts.is_some() && has_experts(index),
            ..*layer
        };
    }
    Ok(design)
}

/// Of queries and keys as long as they would be if they were not short vectors, and
/// sharper the further the rotation is stretched.
fn score_scale(args: &Arguments, size: i32) -> f32 {
    let plain = (size as f32).powf(-0.5);
    let factor = args.scaling_number("factor").unwrap_or(1.0);
    let weight = args.scaling_number("mscale_all_dim").unwrap_or(0.0);
    if factor <= 1.0 {
        return plain;
    }
    let sharper = 0.1 * weight * factor.ln() + 1.0;
    plain * (sharper * sharper) as f32
}

fn experts(
    own: &Own,
    shares: Shares,
    judged_by: Option<i32>,
) -> Result<Option<Experts>, EngineError> {
    let Some(count) = own.n_routed_experts else {
        return Ok(None);
    };
    let chosen = own.num_experts_per_tok.unwrap_or(0);
    let inner = own.moe_intermediate_size.unwrap_or(0);
    let shared = own.n_shared_experts.filter(|count| *count > 0);
    let groups = judged_by.map(|judged_by| Groups {
        count: own.n_group.unwrap_or(1),
        chosen: own.topk_group.unwrap_or(1),
        judged_by,
    });
    let groups = groups.filter(|groups| groups.count != 1);
    positive(&[
        ("n_routed_experts", count),
        ("num_experts_per_tok", chosen),
        ("moe_intermediate_size", inner),
    ])?;
    let choice = match groups {
        Some(groups) => {
            positive(&[("n_group", groups.count), ("topk_group", groups.chosen)])?;
            let each = count / groups.count;
            let fits = count % groups.count == 0
                && groups.chosen <= groups.count
                && groups.judged_by <= each;
            if fits { each * groups.chosen } else { 0 }
        }
        None => count,
    };
    if chosen > choice {
        let reason = "\"num_experts_per_tok\" is more than \"n_routed_experts\", \"n_group\" and \
                      \"topk_group\" leave to choose from";
        return Err(bad_file("config.json", reason));
    }
    Ok(Some(Experts {
        count,
        chosen,
        inner,
        shares,
        factor: own.routed_scaling_factor,
        groups,
        shared: shared.map(|count| count * inner),
        activation: Activation::Swish,
        bias: false,
        names: ExpertNames {
            router: "gate",
            together: "switch_mlp",
            apart: Some("experts"),
        },
    }))
}

pub(super) fn unsupported(key: &str, found: &str) -> EngineError {
    EngineError::Unsupported(format!("\"{key}\" is \"{found}\", which is not supported"))
}
