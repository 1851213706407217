//! The head of an encoder that scores a pair of texts: one vector of the text's, a dense
//! layer, and from that the one number. What encoders differ in is told by their files.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{select, sum_axes, tanh};
use mlx_rs::{Array, Dtype};

use super::layers::{Gelu, LayerNorm, Linear};

/// The head.
pub struct Classifier {
    /// Which vector of a text it reads.
    pub reads: Reads,
    /// From that vector to one as long.
    pub dense: Linear,
    /// What each number of that goes through.
    pub activation: Activation,
    /// What comes after it, if anything.
    pub norm: Option<LayerNorm>,
    /// From there to the score.
    pub score: Linear,
}

/// Which vector of a text a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// That of the first token.
    First,
    /// The mean of all.
    Mean,
}

/// What numbers go through inside a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The hyperbolic tangent.
    Tanh,
    /// The Gaussian error linear unit.
    Gelu(Gelu),
}

impl Classifier {
    /// The scores `[texts, 1]` of texts whose tokens have these vectors, `[texts, tokens,
    /// hidden]`; `mask` as in [`super::arch::EncoderArchitecture::hidden`].
    pub fn apply(&self, hidden: &Array, mask: Option<&Array>) -> MlxResult<Array> {
        let read = match self.reads {
            Reads::First => hidden.try_index((.., 0, ..))?,
            Reads::Mean => mean(hidden, mask)?,
        };
        let inner = self.dense.apply(&read)?;
        let inner = match self.activation {
            Activation::Tanh => tanh(&inner)?,
            Activation::Gelu(gelu) => gelu.apply(&inner)?,
        };
        let inner = match &self.norm {
            Some(norm) => norm.apply(&inner)?,
            None => inner,
        };
        self.score.apply(&inner)
    }
}

/// The mean of the vectors of a text's own tokens, `[texts, hidden]`.
fn mean(hidden: &Array, mask: Option<&Array>) -> MlxResult<Array> {
    let (texts, tokens, format) = (hidden.dim(0), hidden.dim(1), hidden.dtype());
    let Some(mask) = mask else {
        return hidden.mean_axes(&[1], false);
    };
    let mask = mask.reshape(&[texts, tokens, 1])?;
    // What a text was filled up with may be no number.
    let nothing = Array::from_f32(0.0).as_dtype(format)?;
    let own = select(&mask, hidden, nothing)?;
    let count = sum_axes(mask.as_dtype(Dtype::Float32)?, &[1], false)?.as_dtype(format)?;
    sum_axes(own, &[1], false)?.divide(count)
}
