//! The feed-forward part with experts: a router gives each token a share of every
//! expert, and the few with the largest shares are computed.
//!
//! The experts of a layer are one array, as mlx-lm writes them; where Hugging Face has
//! each by itself they are put together at load.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{argpartition_axis, gather_mm, sigmoid, softmax_axis, sort_axis};

use super::design::{Experts, FeedForward, Groups, Shares};
use super::feed_forward::{Gated, gated};
use super::operations::Nodes;
use crate::engine::EngineError;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::layers::{Linear, scaled};
use crate::engine::mlx::packed::Packed;
use crate::engine::mlx::weights::Weights;

/// The feed-forward part with experts of one layer.
pub struct Mixture {
    device: Device,
    design: Experts,
    router: Linear,
    /// What is added to choose by, `[experts]`.
    correction: Option<Array>,
    shared: Option<Gated>,
    gate_proj: Layer,
    up_proj: Layer,
    down_proj: Layer,
}

/// A linear layer of each expert.
struct Layer {
    matrices: Matrices,
    /// `[experts, outputs]`
    bias: Option<Array>,
}

/// A matrix of each expert, `[experts, outputs, inputs]`.
enum Matrices {
    Dense(Array),
    Packed(Packed),
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
        let router_path = format!("{path}.{}", design.names.router);
        let router = Linear::load(weights, &router_path, hidden, design.count, design.bias)?;
        let correction = match design.shares {
            Shares::Apart { .. } => {
                let name = format!("{router_path}.e_score_correction_bias");
                Some(weights.take(&name, &[design.count])?)
            }
            Shares::OfAll | Shares::OfChosen => None,
        };
        let shared = match design.shared {
            Some(inner) => {
                let design = FeedForward {
                    inner,
                    joined: false,
                    bias: design.bias,
                    activation: design.activation,
                };
                let path = format!("{path}.shared_experts");
                Some(Gated::load(weights, &path, hidden, design)?)
            }
            None => None,
        };
        let mut layer = |name: &str, inputs: i32, outputs: i32| {
            Layer::load(weights, path, name, design, [outputs, inputs])
        };
        Ok(Self {
            gate_proj: layer("gate_proj", hidden, inner)?,
            up_proj: layer("up_proj", hidden, inner)?,
            down_proj: layer("down_proj", inner, hidden)?,
            router,
            correction,
            shared,
            device: weights.device(),
            design,
        })
    }

    /// `x` `[rows, hidden]` to `[rows, hidden]`.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        let (experts, shares) = self.choose(&self.router.apply(x)?)?;
        let routed = self.routed(x, &experts, &shares)?;
        match &self.shared {
            Some(shared) => routed.add(shared.apply(&mut Nodes(self.device), x)?),
            None => Ok(routed),
        }
    }

    /// From what the router says, `[rows, experts]`, to those that each row takes and
    /// how much each counts, both `[rows, chosen]`.
    fn choose(&self, said: &Array) -> MlxResult<(Array, Array)> {
        let Experts { chosen, count, .. } = self.design;
        // By which they are chosen and count.
        let scores = match self.design.shares {
            Shares::OfAll => softmax_axis(said, -1, true)?,
            Shares::OfChosen => said.clone(),
            Shares::Apart { .. } => sigmoid(said)?,
        };
        let mut order = match &self.correction {
            Some(correction) => scores.add(correction)?,
            None => scores.clone(),
        };
        if let Some(groups) = self.design.groups {
            order = of_the_best(&order, groups)?;
        }
        let order = argpartition_axis(&order, -chosen, -1)?;
        let experts = order.try_index((.., count - chosen..))?;
        let taken = scores.take_along_axis(&experts, -1)?;
        let shares = match self.design.shares {
            Shares::OfAll | Shares::Apart { whole: false } => taken,
            Shares::OfChosen => softmax_axis(taken, -1, true)?,
            Shares::Apart { whole: true } => taken.divide(taken.sum_axes(&[-1], true)?)?,
        };
        Ok((experts, scaled(&shares, self.design.factor)?))
    }

    /// What `experts` make of `x`, by their `shares`.
    fn routed(&self, x: &Array, experts: &Array, shares: &Array) -> MlxResult<Array> {
        // A matrix of one row for each expert of each token: [rows, chosen, 1, …].
        let x = x.expand_dims_axes(&[1, 2])?;
        let gate = self.gate_proj.apply(&x, experts)?;
        let up = self.up_proj.apply(&x, experts)?;
        let inner = gated(self.device, self.design.activation, &gate, &up)?;
        let each = self.down_proj.apply(&inner, experts)?.squeeze_axes(&[2])?;
        each.multiply(shares.expand_dims(-1)?)?
            .sum_axes(&[1], false)
    }
}

/// `scores` `[rows, experts]` with nothing for those outside the best groups.
fn of_the_best(scores: &Array, groups: Groups) -> MlxResult<Array> {
    let left_out = groups.count - groups.chosen;
    if left_out == 0 {
        return Ok(scores.clone());
    }
    let (rows, experts) = (scores.dim(0), scores.dim(1));
    let each = experts / groups.count;
    let by_group = scores.reshape(&[rows, groups.count, each])?;
    let order = sort_axis(&by_group, -1)?;
    let best = order.try_index((.., .., each - groups.judged_by..))?;
    let order = argpartition_axis(best.sum_axes(&[-1], true)?, left_out, 1)?;
    let worst = order.try_index((.., ..left_out, ..))?;
    let nothing = Array::from_f32(0.0).as_dtype(scores.dtype())?;
    by_group
        .put_along_axis(&worst, &nothing, 1)?
        .reshape(&[rows, experts])
}

impl Layer {
    fn load(
        weights: &mut Weights,
        path: &str,
        name: &str,
        design: Experts,
        [outputs, inputs]: [i32; 2],
    ) -> Result<Self, EngineError> {
        let count = design.count;
        let together = format!("{path}.{}.{name}", design.names.together);
        // What is put together here, unless it is already.
        let apart = design.names.apart;
        let apart = apart.filter(|_| !weights.has(&format!("{together}.weight")));
        let part = |apart: &str, expert: i32| format!("{path}.{apart}.{expert}.{name}");
        let first = apart.map_or_else(|| together.clone(), |apart| part(apart, 0));
        let packing = weights.packing(&first)?;
        let mut take = |kind: &str, shape: &[i32]| match apart {
            Some(apart) => {
                let names = (0..count).map(|expert| format!("{}.{kind}", part(apart, expert)));
                weights.take_together(names, shape)
            }
            None => weights.take(&format!("{together}.{kind}"), &[&[count], shape].concat()),
        };
        let matrices = match packing {
            None => Matrices::Dense(take("weight", &[outputs, inputs])?),
            Some(packing) => {
                let take = |kind: &str, columns: i32| take(kind, &[outputs, columns]);
                Matrices::Packed(Packed::load(packing, &first, inputs, take)?)
            }
        };
        let bias = match design.bias {
            true => Some(take("bias", &[outputs])?),
            false => None,
        };
        Ok(Self { matrices, bias })
    }

    /// `x` `[rows, chosen or 1, 1, inputs]` through the layers of `experts`
    /// `[rows, chosen]`: `[rows, chosen, 1, outputs]`.
    fn apply(&self, x: &Array, experts: &Array) -> MlxResult<Array> {
        let product = self.matrices.product(x, experts)?;
        match &self.bias {
            Some(bias) => product.add(bias.take_axis(experts, 0)?.expand_dims(2)?),
            None => Ok(product),
        }
    }
}

impl Matrices {
    /// `x` times the matrices of `experts`, shapes as in [`Layer::apply`].
    fn product(&self, x: &Array, experts: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(dense) => gather_mm(x, dense.swap_axes(1, 2)?, None, experts, false),
            Self::Packed(packed) => packed.product_with(x, experts),
        }
    }
}
