//! The dense feed-forward part of a layer: a gate, and what goes through it.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::nn::gelu_approximate;
use mlx_rs::ops::{maximum, minimum, sigmoid};

use super::design::{Activation, FeedForward};
use super::operations::Operations;
use crate::engine::EngineError;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::layers::{Linear, scaled};
use crate::engine::mlx::weights::Weights;

/// The dense feed-forward part of one layer.
pub struct Gated {
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
            inner,
            activation: design.activation,
            gate_up,
            down_proj: linear("down_proj", inner, hidden)?,
        })
    }

    /// `x` `[rows, hidden]` to `[rows, hidden]`.
    pub fn apply<O: Operations>(&self, with: &mut O, x: &O::Numbers) -> MlxResult<O::Numbers> {
        let (gate, up) = match &self.gate_up {
            GateUp::Apart { gate_proj, up_proj } => {
                (with.linear(gate_proj, x)?, with.linear(up_proj, x)?)
            }
            GateUp::Joined(both) => {
                let both = with.linear(both, x)?;
                let inner = self.inner;
                (
                    with.columns(&both, 0..inner)?,
                    with.columns(&both, inner..2 * inner)?,
                )
            }
        };
        let open = with.gated(self.activation, &gate, &up)?;
        with.linear(&self.down_proj, &open)
    }

    /// Whether a chain can have it, if it has the gate.
    #[cfg(target_os = "linux")]
    pub fn is_own(&self) -> bool {
        let gate_up = match &self.gate_up {
            GateUp::Apart { gate_proj, up_proj } => gate_proj.is_own() && up_proj.is_own(),
            GateUp::Joined(both) => both.is_own(),
        };
        gate_up && self.down_proj.is_own()
    }

    /// What the gate goes through.
    #[cfg(target_os = "linux")]
    pub fn activation(&self) -> Activation {
        self.activation
    }
}

/// `activation(gate) · up`, of one shape.
pub fn gated(device: Device, activation: Activation, gate: &Array, up: &Array) -> MlxResult<Array> {
    match activation {
        Activation::Swish => device.swiglu(gate, up),
        Activation::GeluByTanh => gelu_approximate(gate)?.multiply(up),
        Activation::Clamped => {
            let number = |number: f32| Array::from_f32(number).as_dtype(gate.dtype());
            let gate = minimum(gate, number(7.0)?)?;
            let up = maximum(minimum(up, number(7.0)?)?, number(-7.0)?)?;
            let open = gate.multiply(sigmoid(scaled(&gate, 1.702)?)?)?;
            open.multiply(up.add(number(1.0)?)?)
        }
    }
}
