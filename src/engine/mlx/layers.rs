//! Linear layers (dense and quantised), embeddings, norms: what every
//! architecture is made of. Shapes of weights are those of the checkpoint.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::fast::layer_norm;
use mlx_rs::ops::{erf, tanh};
use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use super::adapter::Side;
use super::device::Device;
#[cfg(target_os = "linux")]
use super::native::{
    NativeError,
    chain::{Chain, Numbers},
};
use super::packed::Packed;
use super::weights::Weights;
use crate::engine::EngineError;

/// A matrix `[outputs, inputs]`.
struct Matrix {
    form: Form,
    device: Device,
}

enum Form {
    Dense(Array),
    Packed(Packed),
}

impl Matrix {
    fn load(
        weights: &mut Weights,
        path: &str,
        outputs: i32,
        inputs: i32,
    ) -> Result<Self, EngineError> {
        let take = |weights: &mut Weights, kind: &str, columns: i32| {
            weights.take_for_product(&format!("{path}.{kind}"), &[outputs, columns])
        };
        let form = match weights.packing(path)? {
            None => Form::Dense(take(weights, "weight", inputs)?),
            Some(packing) => {
                let take = |kind: &str, columns: i32| take(weights, kind, columns);
                Form::Packed(Packed::load(packing, path, inputs, take)?)
            }
        };
        let device = weights.device();
        Ok(Self { form, device })
    }

    /// `x` `[…, inputs]` times the transposed matrix.
    fn product(&self, x: &Array) -> MlxResult<Array> {
        match &self.form {
            Form::Dense(dense) => self.device.product(x, dense),
            Form::Packed(packed) => self.device.packed_product(x, packed),
        }
    }

    /// Whether its products are our own.
    #[cfg(target_os = "linux")]
    fn is_own(&self) -> bool {
        self.device.is_own()
            && match &self.form {
                Form::Dense(_) => true,
                Form::Packed(packed) => packed.biases.is_some(),
            }
    }

    /// The same product in a chain, where it is our own.
    #[cfg(target_os = "linux")]
    fn chained(&self, chain: &mut Chain, x: Numbers) -> Result<Numbers, NativeError> {
        match &self.form {
            Form::Dense(dense) => chain.dense_product(x, dense),
            Form::Packed(packed) => match &packed.biases {
                Some(biases) => chain.packed_product(x, packed, biases),
                None => Err(NativeError::Failed("a form that no chain has".into())),
            },
        }
    }

    /// The rows `indices` of it, unpacked, in the number format of the device.
    fn rows(&self, indices: &Array) -> MlxResult<Array> {
        match &self.form {
            Form::Dense(dense) => self.device.convert(dense.take_axis(indices, 0)?),
            Form::Packed(packed) => packed.rows(indices)?.unpacked(self.device),
        }
    }

    /// The number format of its rows.
    fn format(&self) -> Dtype {
        match &self.form {
            Form::Dense(dense) => self.device.format(dense.dtype()),
            Form::Packed(packed) => packed.format(self.device),
        }
    }
}

/// A linear layer.
pub struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
    /// Where adapters stand.
    side: Option<Side>,
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
        let side = weights.side(path, inputs, outputs);
        Ok(Self { matrix, bias, side })
    }

    /// `x` `[…, inputs]` to `[…, outputs]`.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        let mut product = self.matrix.product(x)?;
        if let Some(bias) = &self.bias {
            product = product.add(bias)?;
        }
        match &self.side {
            Some(side) => side.beside(x, product),
            None => Ok(product),
        }
    }

    /// Whether a chain can have it, as long as no adapter stands beside it.
    #[cfg(target_os = "linux")]
    pub fn is_own(&self) -> bool {
        self.matrix.is_own()
    }

    /// The same in a chain.
    #[cfg(target_os = "linux")]
    pub fn chained(&self, chain: &mut Chain, x: Numbers) -> Result<Numbers, NativeError> {
        let product = self.matrix.chained(chain, x)?;
        match &self.bias {
            Some(bias) => chain.shift(product, bias),
            None => Ok(product),
        }
    }
}

/// A table of vectors, one for each token; also the output head of models that tie it.
pub struct Embedding {
    matrix: Matrix,
}

impl Embedding {
    /// The table at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        vocabulary: i32,
        hidden: i32,
    ) -> Result<Self, EngineError> {
        let matrix = Matrix::load(weights, path, vocabulary, hidden)?;
        Ok(Self { matrix })
    }

    /// The number format of its vectors, and so of the whole network.
    pub fn format(&self) -> Dtype {
        self.matrix.format()
    }

    /// The vectors of `tokens` `[rows]`: `[rows, hidden]`.
    pub fn vectors(&self, tokens: &Array) -> MlxResult<Array> {
        self.matrix.rows(tokens)
    }

    /// `x` `[…, hidden]` to `[…, vocabulary]`.
    pub fn as_head(&self, x: &Array) -> MlxResult<Array> {
        self.matrix.product(x)
    }
}

/// `x` times `factor`, in the number format of `x`.
pub fn scaled(x: &Array, factor: f32) -> MlxResult<Array> {
    if factor == 1.0 {
        return Ok(x.clone());
    }
    x.multiply(Array::from_f32(factor).as_dtype(x.dtype())?)
}

/// `x` bent to stay between `-cap` and `cap`: `cap · tanh(x / cap)`.
pub fn capped(x: &Array, cap: f32) -> MlxResult<Array> {
    scaled(&tanh(scaled(x, 1.0 / cap)?)?, cap)
}

/// What the weight of a norm says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gain {
    /// The factor itself.
    #[default]
    Whole,
    /// How much more than 1 the factor is.
    FromOne,
}

/// Root mean square norm (arXiv 1910.07467).
pub struct RmsNorm {
    weight: Array,
    epsilon: f32,
    device: Device,
}

impl RmsNorm {
    /// The norm at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        size: i32,
        epsilon: f32,
        gain: Gain,
    ) -> Result<Self, EngineError> {
        let name = format!("{path}.weight");
        let weight = match gain {
            Gain::Whole => weights.take(&name, &[size])?,
            Gain::FromOne => weights.take_changed(&name, &[size], |weight| {
                let one = Array::from_f32(1.0).as_dtype(weight.dtype())?;
                weight.add(one)
            })?,
        };
        Ok(Self {
            weight,
            epsilon,
            device: weights.device(),
        })
    }

    /// `x` `[…, size]`, each row brought to the same length.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        self.device.rms_norm(x, &self.weight, self.epsilon)
    }

    /// The same in a chain.
    #[cfg(target_os = "linux")]
    pub fn chained(&self, chain: &mut Chain, x: Numbers) -> Result<Numbers, NativeError> {
        chain.rms_norm(x, &self.weight, self.epsilon)
    }
}

/// The Gaussian error linear unit (arXiv 1606.08415), as encoders' configurations name it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Gelu {
    /// As it is.
    #[default]
    #[serde(rename = "gelu")]
    Whole,
    /// Its approximation.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    ByTanh,
}

impl Gelu {
    /// Of each number.
    pub fn apply(self, x: &Array) -> MlxResult<Array> {
        let number = |value: f32| Array::from_f32(value).as_dtype(x.dtype());
        let part = match self {
            Gelu::Whole => erf(x.multiply(number(std::f32::consts::FRAC_1_SQRT_2)?)?)?,
            Gelu::ByTanh => {
                let cubed = x.multiply(x)?.multiply(x)?.multiply(number(0.044_715)?)?;
                let root = (2.0 / std::f32::consts::PI).sqrt();
                tanh(x.add(cubed)?.multiply(number(root)?)?)?
            }
        };
        x.multiply(number(0.5)?)?.multiply(part.add(number(1.0)?)?)
    }
}

/// Layer norm with scale and, mostly, shift (arXiv 1607.06450).
pub struct LayerNorm {
    weight: Array,
    bias: Option<Array>,
    epsilon: f32,
}

impl LayerNorm {
    /// The norm at `path`; `bias` says whether it shifts.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        size: i32,
        epsilon: f32,
        bias: bool,
    ) -> Result<Self, EngineError> {
        let mut take = |kind: &str| weights.take(&format!("{path}.{kind}"), &[size]);
        Ok(Self {
            weight: take("weight")?,
            bias: if bias { Some(take("bias")?) } else { None },
            epsilon,
        })
    }

    /// `x` `[…, size]`, each row with mean 0 and variance 1 before scale and shift.
    pub fn apply(&self, x: &Array) -> MlxResult<Array> {
        layer_norm(x, &self.weight, self.bias.as_ref(), self.epsilon)
    }
}
