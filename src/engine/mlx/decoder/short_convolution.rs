//! A gated short convolution in the place of attention (LFM2, arXiv 2511.23404, section 2):
//! each number of a token is gated, mixed with those of the few tokens before it, and
//! gated again. Which tokens those are, `attention` knows.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, split_equal};

use super::design::Convolution;
use crate::engine::EngineError;
use crate::engine::mlx::attention::Pass;
use crate::engine::mlx::layers::Linear;
use crate::engine::mlx::weights::Weights;

/// The convolution of one layer.
pub struct ShortConvolution {
    in_proj: Linear,
    /// The factors, those of the oldest token first: `[taps, hidden]`.
    factors: Array,
    bias: Option<Array>,
    out_proj: Linear,
}

impl ShortConvolution {
    /// The part at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        hidden: i32,
        design: Convolution,
    ) -> Result<Self, EngineError> {
        let Convolution { taps, bias } = design;
        let name = format!("{path}.conv.weight");
        // As published a channel's factors stand last; mlx-lm writes the channels of a
        // group last, of which there is one.
        let shape = match weights.has_shape(&name, &[hidden, 1, taps]) {
            true => [hidden, 1, taps],
            false => [hidden, taps, 1],
        };
        let factors = weights.take_changed(&name, &shape, |factors| {
            factors.reshape(&[hidden, taps])?.swap_axes(0, 1)
        })?;
        let bias_of_it = match bias {
            true => Some(weights.take(&format!("{path}.conv.bias"), &[hidden])?),
            false => None,
        };
        let mut linear = |name: &str, outputs: i32| {
            Linear::load(weights, &format!("{path}.{name}"), hidden, outputs, bias)
        };
        Ok(Self {
            in_proj: linear("in_proj", 3 * hidden)?,
            out_proj: linear("out_proj", hidden)?,
            bias: bias_of_it,
            factors,
        })
    }

    /// `x` `[rows, hidden]` through layer `layer`: `[rows, hidden]`.
    pub fn apply(&self, x: &Array, layer: usize, pass: &mut Pass) -> MlxResult<Array> {
        let parts = split_equal(&self.in_proj.apply(x)?, 3, -1)?;
        let gated = parts[0].multiply(&parts[2])?;
        let before = self.factors.dim(0) - 1;
        let seen = pass.with_those_before(layer, &gated, before)?;
        let mixed: MlxResult<Vec<Array>> = seen.iter().map(|seen| self.mixed(seen)).collect();
        let mixed = concatenate(&mixed?, 0)?;
        self.out_proj.apply(&parts[1].multiply(mixed)?)
    }

    /// `seen` `[taps - 1 + rows, hidden]` to `[rows, hidden]`.
    fn mixed(&self, seen: &Array) -> MlxResult<Array> {
        let taps = self.factors.dim(0);
        let rows = seen.dim(0) - (taps - 1);
        let tap = |tap: i32| {
            let rows = seen.try_index((tap..tap + rows, ..))?;
            rows.multiply(self.factors.try_index((tap, ..))?)
        };
        let mut sum = tap(0)?;
        for index in 1..taps {
            sum = sum.add(tap(index)?)?;
        }
        match &self.bias {
            Some(bias) => sum.add(bias),
            None => Ok(sum),
        }
    }
}
