//! The dense feed-forward part of a layer: a gate, and what goes through it.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::nn::gelu_approximate;
use mlx_rs::ops::indexing::TryIndexOp;

use super::design::{Activation, FeedForward};
use crate::engine::EngineError;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::layers::Linear;
use crate::engine::mlx::weights::Weights;

/// The dense feed-forward part of one layer.
pub struct Gated {
    device: Device,
    inner: i32,
    activation: Activation,
    gate_up: GateUp,
    down_proj: Linear,
}

enum GateUp {
    Apart { gate_proj: Linear, up_proj: Linear },
    Joined(Linear),
}

impl Gated {
    /// The part at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        hidden: i32,
        design: FeedForward,
    ) -> Result<Self, EngineError> {
        let device = weights.device();
        let inner = design.inner;
        let mut linear = |name: &str, inputs: i32, outputs: i32| {
            Linear::load(
                weights,
                &format!("{path}.{name}"),
                inputs,
                outputs,
                design.bias,
            )
        };
        let gate_up = match design.joined {
            true => GateUp::Joined(linear("gate_up_proj", hidden, 2 * inner)?),
            false => GateUp::Apart {
                gate_proj: linear("gate_proj", hidden, inner)?,
                up_proj: linear("up_proj", hidden, inner)?,
            },
        };
        Ok(Self {
            device,
            inner,
            activation: design.activation,
            gate_up,
            down_proj: linear("down_proj", inner, hidden)?,
        })
    }

    /// `x` `[rows, hidden]` to `[rows, hidden]`.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        let (gate, up) = match &self.gate_up {
            GateUp::Apart { gate_proj, up_proj } => (gate_proj.apply(x)?, up_proj.apply(x)?),
            GateUp::Joined(both) => {
                let both = both.apply(x)?;
                let inner = self.inner;
                (
                    both.try_index((.., ..inner))?,
                    both.try_index((.., inner..))?,
                )
            }
        };
        self.down_proj
            .apply(&gated(self.device, self.activation, &gate, &up)?)
    }
}

/// `activation(gate) · up`, of one shape.
pub fn gated(device: Device, activation: Activation, gate: &Array, up: &Array) -> MlxResult<Array> {
    match activation {
        Activation::Swish => device.swiglu(gate, up),
        Activation::GeluByTanh => gelu_approximate(gate)?.multiply(up),
    }
}
