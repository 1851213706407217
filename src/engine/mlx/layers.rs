//! Linear layers (dense and quantised), embeddings, norms: what every
//! architecture is made of. Shapes of weights are those of the checkpoint.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::{dequantize, matmul, quantized_matmul, sigmoid};
use mlx_rs::{Array, Dtype, fast};

use super::device::Device;
use super::quantization::Packing;
use super::weights::Weights;
use crate::engine::EngineError;

/// A matrix `[outputs, inputs]`, dense or quantised.
enum Matrix {
    Dense(Array),
    Quantized {
        packed: Array,
        scales: Array,
        biases: Array,
        packing: Packing,
    },
}

impl Matrix {
    fn load(
        weights: &mut Weights,
        path: &str,
        outputs: i32,
        inputs: i32,
    ) -> Result<Self, EngineError> {
        let Some(packing) = weights.packing(path)? else {
            let dense = weights.take(&format!("{path}.weight"), &[outputs, inputs])?;
            return Ok(Self::Dense(dense));
        };
        let words = packing.words(path, inputs)?;
        let groups = inputs / packing.group_size;
        Ok(Self::Quantized {
            packed: weights.take(&format!("{path}.weight"), &[outputs, words])?,
            scales: weights.take(&format!("{path}.scales"), &[outputs, groups])?,
            biases: weights.take(&format!("{path}.biases"), &[outputs, groups])?,
            packing,
        })
    }

    /// `x` `[…, inputs]` times the transposed matrix.
    fn product(&self, x: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(dense) => matmul(x, dense.t()),
            Self::Quantized {
                packed,
                scales,
                biases,
                packing,
            } => quantized_matmul(
                x,
                packed,
                scales,
                biases,
                true,
                packing.group_size,
                packing.bits,
            ),
        }
    }

    /// Rows of it, unpacked.
    fn rows(&self, indices: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(dense) => dense.take_axis(indices, 0),
            Self::Quantized {
                packed,
                scales,
                biases,
                packing,
            } => dequantize(
                packed.take_axis(indices, 0)?,
                scales.take_axis(indices, 0)?,
                &biases.take_axis(indices, 0)?,
                packing.group_size,
                packing.bits,
            ),
        }
    }
}

/// A linear layer.
pub struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// The layer at `path`; `bias` says whether the architecture has one there.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        inputs: i32,
        outputs: i32,
        bias: bool,
    ) -> Result<Self, EngineError> {
        let matrix = Matrix::load(weights, path, outputs, inputs)?;
        let bias = if bias {
            Some(weights.take(&format!("{path}.bias"), &[outputs])?)
        } else {
            None
        };
        Ok(Self { matrix, bias })
    }

    /// `x` `[…, inputs]` to `[…, outputs]`.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        let product = self.matrix.product(x)?;
        match &self.bias {
            Some(bias) => product.add(bias),
            None => Ok(product),
        }
    }
}

/// A table of vectors, one for each token; also the output head of models that tie it.
pub struct Embedding {
    matrix: Matrix,
    device: Device,
}

impl Embedding {
    /// The table at `path`, and the number format of its vectors, which is that
    /// of the whole network.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        vocabulary: i32,
        hidden: i32,
    ) -> Result<(Self, Dtype), EngineError> {
        let matrix = Matrix::load(weights, path, vocabulary, hidden)?;
        let device = weights.device();
        let format = device.format(match &matrix {
            Matrix::Dense(dense) => dense.dtype(),
            Matrix::Quantized { scales, .. } => scales.dtype(),
        });
        Ok((Self { matrix, device }, format))
    }

    /// The vectors of `tokens` `[rows]`: `[rows, hidden]`.
    pub fn vectors(&self, tokens: &Array) -> MlxResult<Array> {
        self.device.convert(self.matrix.rows(tokens)?)
    }

    /// `x` `[…, hidden]` to `[…, vocabulary]`.
    pub fn as_head(&self, x: &Array) -> MlxResult<Array> {
        self.matrix.product(x)
    }
}

/// Root mean square norm (arXiv 1910.07467).
pub struct RmsNorm {
    weight: Array,
    epsilon: f32,
}

impl RmsNorm {
    /// The norm at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        size: i32,
        epsilon: f32,
    ) -> Result<Self, EngineError> {
        let weight = weights.take(&format!("{path}.weight"), &[size])?;
        Ok(Self { weight, epsilon })
    }

    /// `x` `[…, size]`, each row brought to the same length.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        fast::rms_norm(x, Some(&self.weight), self.epsilon)
    }
}

/// `silu(gate) * up` (arXiv 2002.05202).
pub fn swiglu(gate: &Array, up: &Array) -> MlxResult<Array> {
    gate.multiply(sigmoid(gate)?)?.multiply(up)
}
