//! Attention over the caches of one or several sequences.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{
    arange, broadcast_to, concatenate, matmul, quantized_matmul, select, softmax_axis,
    split_at_indices, tanh,
};

use super::device::Device;
use super::kv::{Cache, Rows};
use super::quantization::Packing;
use super::rope::{Rope, Turn};

/// Heads of one attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Of queries; a multiple of `key_values`.
    pub queries: i32,
    /// Of keys and values.
    pub key_values: i32,
    /// Numbers in each.
    pub size: i32,
}

/// How the products of a query with keys become shares of their values.
#[derive(Clone, Debug)]
pub struct Scores {
    /// Factor on each product.
    pub scale: f32,
    /// Most tokens that one sees, itself among them; nothing means all before it.
    pub window: Option<u32>,
    /// A score s counts as `cap · tanh(s / cap)` (Gemma 2, arXiv 2408.00118).
    pub cap: Option<f32>,
    /// For each query head a score that takes its share and gives nothing, float32
    /// `[heads]` (attention sinks, arXiv 2309.17453, as gpt-oss learns them).
    pub sinks: Option<Array>,
}

/// One pass over the network: the sequences, and how many rows each brings.
/// Arrays have the rows of all sequences one after the other.
pub struct Pass<'a> {
    caches: Vec<&'a mut Cache>,
    /// Of each.
    rows: Vec<usize>,
    device: Device,
}

impl<'a> Pass<'a> {
    /// A pass that brings to each of `caches` as many `rows`.
    pub fn new(caches: Vec<&'a mut Cache>, rows: Vec<usize>, device: Device) -> Self {
        Self {
            caches,
            rows,
            device,
        }
    }

    /// The turn of its rows.
    pub fn turn(&self, rope: &Rope) -> Turn {
        let offsets = self.caches.iter().map(|cache| cache.tokens());
        rope.turn(offsets.zip(self.rows.iter().copied()))
    }

    /// Attention of layer `layer`: `queries`, `keys` and `values` are
    /// `[rows, heads, size]` and already turned; the result is `[rows, heads · size]`.
    pub fn attend(
        &mut self,
        layer: usize,
        scores: &Scores,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array> {
        let count = self.caches.len();
        if count == 1 {
            return self.attend_one(0, layer, scores, queries, keys, values);
        }
        let ends = self.rows.iter().scan(0, |end, rows| {
            *end += *rows as i32;
            Some(*end)
        });
        let between: Vec<i32> = ends.take(count - 1).collect();
        let parts = |array: &Array| split_at_indices(array, &between, 0);
        let (queries, keys, values) = (parts(queries)?, parts(keys)?, parts(values)?);
        let results: Result<Vec<Array>> = (0..count)
            .map(|i| self.attend_one(i, layer, scores, &queries[i], &keys[i], &values[i]))
            .collect();
        concatenate(&results?, 0)
    }

    fn attend_one(
        &mut self,
        sequence: usize,
        layer: usize,
        scores: &Scores,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array> {
        let (keys, values) =
            self.caches[sequence].update(layer, &by_head(keys)?, &by_head(values)?)?;
        if let Some(result) = self.device.attention(queries, &keys, &values, scores) {
            return result;
        }
        attend_with_mlx(queries, &keys, &values, scores)
    }

    /// Says that all layers have their rows.
    pub fn finish(self) {
        for (cache, rows) in self.caches.into_iter().zip(self.rows) {
            cache.advance(rows);
        }
    }
}

/// From `[rows, heads, size]` to `[heads, rows, size]`, or back.
fn by_head(array: &Array) -> Result<Array> {
    array.swap_axes(0, 1)
}

impl Rows {
    /// Tokens of which there are keys or values.
    fn tokens(&self) -> i32 {
        match self {
            Self::Plain(rows) | Self::Packed([rows, ..], _) => rows.dim(1),
        }
    }

    /// Those of the last `count` tokens.
    fn last(&self, count: i32) -> Result<Self> {
        let from = self.tokens() - count;
        let last = |array: &Array| array.try_index((.., from.., ..));
        Ok(match self {
            Self::Plain(rows) => Self::Plain(last(rows)?),
            Self::Packed([words, scales, biases], packing) => {
                Self::Packed([last(words)?, last(scales)?, last(biases)?], *packing)
            }
        })
    }

    /// `x` `[heads, more, rows, …]` times these, or times their transpose.
    fn product(&self, x: &Array, transpose: bool) -> Result<Array> {
        match self {
            Self::Plain(rows) => {
                let rows = rows.expand_dims(1)?;
                match transpose {
                    true => matmul(x, rows.swap_axes(2, 3)?),
                    false => matmul(x, rows),
                }
            }
            Self::Packed([words, scales, biases], Packing { group_size, bits }) => {
                let all = |array: &Array| array.expand_dims(1);
                let (words, scales, biases) = (all(words)?, all(scales)?, all(biases)?);
                quantized_matmul(x, words, scales, &biases, transpose, *group_size, *bits)
            }
        }
    }
}

/// Attention of the last rows of one sequence by MLX's operations, the way of a GPU.
/// Shapes as in [`Device::attention`].
pub(super) fn attend_with_mlx(
    queries: &Array,
    keys: &Rows,
    values: &Rows,
    scores: &Scores,
) -> Result<Array> {
    let (rows, tokens) = (queries.dim(0), keys.tokens());
    // What even the first row does not see is left out; what is left may be all that
    // each sees but for what comes after it.
    let window = scores.window.and_then(|window| i32::try_from(window).ok());
    let window = window.filter(|window| *window < tokens);
    let seen = window.map_or(tokens, |window| tokens.min(window + rows - 1));
    let (keys, values) = (keys.last(seen)?, values.last(seen)?);
    let cut = window.filter(|window| rows > 1 && *window < seen);
    let queries = by_head(queries)?;
    let result = match (&keys, &values, scores.cap) {
        (Rows::Plain(keys), Rows::Plain(values), None) => {
            let mask = match cut {
                Some(_) => Some(mask(rows, seen, cut)?),
                None => None,
            };
            let mask = match &mask {
                Some(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
                None => (rows > 1).then_some(ScaledDotProductAttentionMask::Causal),
            };
            let sinks = match &scores.sinks {
                Some(sinks) => Some(sinks.as_dtype(queries.dtype())?),
                None => None,
            };
            scaled_dot_product_attention(
                queries.expand_dims(0)?,
                keys.expand_dims(0)?,
                values.expand_dims(0)?,
                scores.scale,
                mask,
                sinks.as_ref(),
            )?
            .squeeze_axes(&[0])?
        }
        _ => {
            let mask = match rows > 1 {
                true => Some(mask(rows, seen, cut)?),
                false => None,
            };
            attend_in_steps(&queries, &keys, &values, scores, mask.as_ref())?
        }
    };
    by_head(&result)?.reshape(&[rows, -1])
}

/// Which of the last `seen` tokens each of the last `rows` sees: `[rows, seen]`.
fn mask(rows: i32, seen: i32, window: Option<i32>) -> Result<Array> {
    let of = arange::<_, i32>(seen - rows, seen, None)?.reshape(&[rows, 1])?;
    let at = arange::<_, i32>(0, seen, None)?.reshape(&[1, seen])?;
    let before = at.le(&of)?;
    match window {
        Some(window) => before.logical_and(of.lt(at.add(Array::from_int(window))?)?),
        None => Ok(before),
    }
}

/// Attention that MLX has no kernel for, with capped scores or over packed rows:
/// `queries` `[heads, rows, size]`, `keys` and `values` of fewer heads.
fn attend_in_steps(
    queries: &Array,
    keys: &Rows,
    values: &Rows,
    how: &Scores,
    mask: Option<&Array>,
) -> Result<Array> {
    let number = |number: f32| Array::from_f32(number).as_dtype(queries.dtype());
    let (heads, rows, size) = (queries.dim(0), queries.dim(1), queries.dim(2));
    let shared = match keys {
        Rows::Plain(rows) | Rows::Packed([rows, ..], _) => rows.dim(0),
    };
    let queries = queries.reshape(&[shared, heads / shared, rows, size])?;
    let mut scores = keys.product(&queries.multiply(number(how.scale)?)?, true)?;
    if let Some(cap) = how.cap {
        scores = tanh(scores.divide(number(cap)?)?)?.multiply(number(cap)?)?;
    }
    if let Some(mask) = mask {
        // Nothing beside any score, in every number format.
        scores = select(mask, &scores, number(-6e4)?)?;
    }
    if let Some(sinks) = &how.sinks {
        let sinks = sinks.as_dtype(queries.dtype())?;
        let sinks = sinks.reshape(&[shared, heads / shared, 1, 1])?;
        let sinks = broadcast_to(sinks, &[shared, heads / shared, rows, 1])?;
        scores = concatenate(&[&scores, &sinks], -1)?;
    }
    let mut shares = softmax_axis(&scores, -1, true)?;
    if how.sinks.is_some() {
        shares = shares.try_index((.., .., .., ..-1))?;
    }
    values
        .product(&shares, false)?
        .reshape(&[heads, rows, size])
}
