//! The feed-forward part with experts: a router gives each token a share of every
//! expert, and the few with the largest shares are computed.
//!
//! Weights as mlx-lm writes them (`switch_mlp`, the experts of a layer in one array) or
//! as they come from Hugging Face (`experts.N`, each by itself), which are put together
//! at load.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{argpartition_axis, gather_mm, gather_qmm, softmax_axis};

use super::design::{Activation, Experts};
use super::feed_forward::gated;
use crate::engine::EngineError;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::layers::Linear;
use crate::engine::mlx::quantization::Packing;
use crate::engine::mlx::weights::Weights;

/// The feed-forward part with experts of one layer.
pub struct Mixture {
    device: Device,
    design: Experts,
    gate: Linear,
    gate_proj: Matrices,
    up_proj: Matrices,
    down_proj: Matrices,
}

/// A matrix of each expert, `[experts, outputs, inputs]`.
enum Matrices {
    Dense(Array),
    Packed {
        packed: Array,
        scales: Array,
        biases: Array,
        packing: Packing,
    },
}

impl Mixture {
    /// The part at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        hidden: i32,
        design: Experts,
    ) -> Result<Self, EngineError> {
        let inner = design.inner;
        let gate = format!("{path}.gate");
        let gate = Linear::load(weights, &gate, hidden, design.count, false)?;
        let mut matrices = |name: &str, inputs: i32, outputs: i32| {
            Matrices::load(weights, path, name, [design.count, outputs, inputs])
        };
        Ok(Self {
            gate_proj: matrices("gate_proj", hidden, inner)?,
            up_proj: matrices("up_proj", hidden, inner)?,
            down_proj: matrices("down_proj", inner, hidden)?,
            gate,
            device: weights.device(),
            design,
        })
    }

    /// `x` `[rows, hidden]` to `[rows, hidden]`.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        let chosen = self.design.chosen;
        let all = softmax_axis(self.gate.apply(x)?, -1, true)?;
        let order = argpartition_axis(&all, -chosen, -1)?;
        let experts = order.try_index((.., self.design.count - chosen..))?;
        let mut shares = all.take_along_axis(&experts, -1)?;
        if self.design.normalised {
            shares = shares.divide(shares.sum_axes(&[-1], true)?)?;
        }
        // A matrix of one row for each expert of each token: [rows, chosen, 1, …].
        let x = x.expand_dims_axes(&[1, 2])?;
        let gate = self.gate_proj.product(&x, &experts)?;
        let up = self.up_proj.product(&x, &experts)?;
        let inner = gated(self.device, Activation::Swish, &gate, &up)?;
        let each = self
            .down_proj
            .product(&inner, &experts)?
            .squeeze_axes(&[2])?;
        each.multiply(shares.expand_dims(-1)?)?
            .sum_axes(&[1], false)
    }
}

impl Matrices {
    fn load(
        weights: &mut Weights,
        path: &str,
        name: &str,
        [count, outputs, inputs]: [i32; 3],
    ) -> Result<Self, EngineError> {
        let together = format!("{path}.switch_mlp.{name}");
        let apart = |expert: i32| format!("{path}.experts.{expert}.{name}");
        let is_together = weights.has(&format!("{together}.weight"));
        let first = if is_together { &together } else { &apart(0) };
        let packing = weights.packing(first)?;
        let mut take = |kind: &str, columns: i32| {
            if is_together {
                let name = format!("{together}.{kind}");
                return weights.take(&name, &[count, outputs, columns]);
            }
            let names = (0..count).map(|expert| format!("{}.{kind}", apart(expert)));
            weights.take_together(names, &[outputs, columns])
        };
        Ok(match packing {
            None => Self::Dense(take("weight", inputs)?),
            Some(packing) => {
                let words = packing.words(first, inputs)?;
                let groups = inputs / packing.group_size;
                Self::Packed {
                    packed: take("weight", words)?,
                    scales: take("scales", groups)?,
                    biases: take("biases", groups)?,
                    packing,
                }
            }
        })
    }

    /// `x` `[rows, chosen or 1, 1, inputs]` times the matrices of `experts`
    /// `[rows, chosen]`: `[rows, chosen, 1, outputs]`.
    fn product(&self, x: &Array, experts: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(dense) => gather_mm(x, dense.swap_axes(1, 2)?, None, experts, false),
            Self::Packed {
                packed,
                scales,
                biases,
                packing,
            } => gather_qmm(
                x,
                packed,
                scales,
                biases,
                None,
                experts,
                true,
                packing.group_size,
                packing.bits,
                false,
            ),
        }
    }
}
