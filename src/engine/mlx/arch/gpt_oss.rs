//! `model_type: gpt_oss`: experts with biases in every layer, a sink for each head of
//! queries, a short window in every other layer (OpenAI, arXiv 2508.10925).
//!
//! Weights as mlx-lm writes them, dense or in affine quantisation; the mxfp4 form in which
//! they were published is refused by its name.

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::{own, positive};
use crate::engine::mlx::decoder::design::{Activation, Design, ExpertNames, Experts, Shares};

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    num_local_experts: i32,
    num_experts_per_tok: i32,
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?.with_base(150_000.0);
    let own: Arguments = own(source.config)?;
    positive(&[
        ("num_local_experts", own.num_local_experts),
        ("num_experts_per_tok", own.num_experts_per_tok),
    ])?;
    if own.num_experts_per_tok > own.num_local_experts {
        let reason = "\"num_experts_per_tok\" is above \"num_local_experts\"";
        return Err(bad_file("config.json", reason));
    }
    let mut design = Design::plain(&args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        layer.window = args.window(index, index % 2 == 0)?;
        layer.experts = true;
    }
    design.projections.bias = true;
    design.projections.output_bias = true;
    design.sinks = true;
    design.experts = Some(Experts {
        count: own.num_local_experts,
        chosen: own.num_experts_per_tok,
        inner: args.intermediate_size,
        shares: Shares::OfChosen,
        factor: 1.0,
        groups: None,
        shared: None,
        activation: Activation::Clamped,
        bias: true,
        names: ExpertNames {
            router: "router",
            together: "experts",
            apart: None,
        },
    });
    Ok(design)
}
