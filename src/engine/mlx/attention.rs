//! Attention over the caches of one or several sequences.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{arange, concatenate, matmul, select, softmax_axis, split_equal, tanh};

use super::device::Device;
use super::kv::Cache;
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
    sequences: Sequences<'a>,
    rows: usize,
    device: Device,
}

/// The sequences of a pass.
enum Sequences<'a> {
    /// They go on after what these hold.
    Cached(Vec<&'a mut Cache>),
    /// So many that begin and end with the pass: of them nothing is kept.
    Whole(usize),
}

impl<'a> Pass<'a> {
    /// A pass that brings `rows` to each of `caches`.
    pub fn new(caches: Vec<&'a mut Cache>, rows: usize, device: Device) -> Self {
        Self {
            sequences: Sequences::Cached(caches),
            rows,
            device,
        }
    }

    /// A pass over `count` whole sequences of `rows` each.
    pub fn without_caches(count: usize, rows: usize, device: Device) -> Self {
        Self {
            sequences: Sequences::Whole(count),
            rows,
            device,
        }
    }

    /// The turn of its rows.
    pub fn turn(&self, rope: &Rope) -> Turn {
        let offsets: Vec<usize> = match &self.sequences {
            Sequences::Cached(caches) => caches.iter().map(|cache| cache.tokens()).collect(),
            Sequences::Whole(count) => vec![0; *count],
        };
        rope.turn(&offsets, self.rows)
    }

    /// Attention of layer `layer`: `queries`, `keys` and `values` are
    /// `[rows, heads, size]` and already turned; the result is `[rows, heads · size]`.
    /// Without `values` the keys are the values too.
    pub fn attend(
        &mut self,
        layer: usize,
        scores: &Scores,
        queries: &Array,
        keys: &Array,
        values: Option<&Array>,
    ) -> Result<Array> {
        let count = match &self.sequences {
            Sequences::Cached(caches) => caches.len(),
            Sequences::Whole(count) => *count,
        };
        if count == 1 {
            return self.attend_one(0, layer, scores, queries, keys, values);
        }
        let parts = |array: &Array| split_equal(array, count as i32, 0);
        let (queries, keys) = (parts(queries)?, parts(keys)?);
        let values = values.map(parts).transpose()?;
        let values = |i: usize| values.as_ref().map(|values| &values[i]);
        let results: Result<Vec<Array>> = (0..count)
            .map(|i| self.attend_one(i, layer, scores, &queries[i], &keys[i], values(i)))
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
        values: Option<&Array>,
    ) -> Result<Array> {
        let keys = by_head(keys)?;
        let values = values.map(by_head).transpose()?;
        let (keys, values) = match &mut self.sequences {
            Sequences::Cached(caches) => caches[sequence].update(layer, &keys, values.as_ref())?,
            Sequences::Whole(_) => {
                let values = values.unwrap_or_else(|| keys.clone());
                (keys, values)
            }
        };
        if let Some(result) = self.device.attention(queries, &keys, &values, scores) {
            return result;
        }
        attend_with_mlx(queries, &keys, &values, scores)
    }

    /// Says that all layers have their rows.
    pub fn finish(self) {
        if let Sequences::Cached(caches) = self.sequences {
            for cache in caches {
                cache.advance(self.rows);
            }
        }
    }
}

/// From `[rows, heads, size]` to `[heads, rows, size]`, or back.
fn by_head(array: &Array) -> Result<Array> {
    array.swap_axes(0, 1)
}

/// Attention of the last rows of one sequence by MLX's operations, the way of a GPU.
/// Shapes as in [`Device::attention`].
pub(super) fn attend_with_mlx(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scores: &Scores,
) -> Result<Array> {
    let (rows, tokens) = (queries.dim(0), keys.dim(1));
    // What even the first row does not see is left out; what is left may be all that
    // each sees but for what comes after it.
    let window = scores.window.and_then(|window| i32::try_from(window).ok());
    let window = window.filter(|window| *window < tokens);
    let seen = window.map_or(tokens, |window| tokens.min(window + rows - 1));
    let last = |array: &Array| array.try_index((.., tokens - seen.., ..));
    let (keys, values) = (last(keys)?, last(values)?);
    let cut = window.filter(|window| rows > 1 && *window < seen);
    let queries = by_head(queries)?;
    let result = match scores.cap {
        Some(cap) => {
            let mask = match rows > 1 {
                true => Some(mask(rows, seen, cut)?),
                false => None,
            };
            attend_capped(&queries, &keys, &values, scores.scale, cap, mask.as_ref())?
        }
        None => {
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
    };
    by_head(&result)?.reshape(&[rows, -1])
}

/// Attention of whole texts whose tokens see each other both ways: `queries`, `keys`
/// and `values` are `[texts, tokens, heads, size]`, `mask` says what is seen where it is
/// not all, as a form of `[texts, heads, tokens, tokens]`. Gives
/// `[texts, tokens, heads · size]`.
pub fn attend_both_ways(
    queries: &Array,
    keys: &Array,
    values: &Array,
    mask: Option<&Array>,
) -> Result<Array> {
    let by_head = |array: &Array| array.swap_axes(1, 2);
    let (texts, tokens) = (queries.dim(0), queries.dim(1));
    let scale = (queries.dim(3) as f32).powf(-0.5);
    let mask = mask.map(ScaledDotProductAttentionMask::Array);
    let (queries, keys, values) = (by_head(queries)?, by_head(keys)?, by_head(values)?);
    let seen = scaled_dot_product_attention(queries, keys, values, scale, mask, None)?;
    by_head(&seen)?.reshape(&[texts, tokens, -1])
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

/// Attention with capped scores, which MLX has no kernel for: `queries`
/// `[heads, rows, size]`, `keys` and `values` `[key heads, tokens, size]`.
fn attend_capped(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    cap: f32,
    mask: Option<&Array>,
) -> Result<Array> {
    let number = |number: f32| Array::from_f32(number).as_dtype(queries.dtype());
    let (heads, rows, size) = (queries.dim(0), queries.dim(1), queries.dim(2));
    let shared = keys.dim(0);
    let queries = queries.reshape(&[shared, heads / shared, rows, size])?;
    let (keys, values) = (keys.expand_dims(1)?, values.expand_dims(1)?);
    let scores = matmul(queries.multiply(number(scale)?)?, keys.swap_axes(2, 3)?)?;
    let mut scores = tanh(scores.divide(number(cap)?)?)?.multiply(number(cap)?)?;
    if let Some(mask) = mask {
        // Scores lie within the cap, so this is nothing beside them.
        scores = select(mask, &scores, number(-1e4 - cap)?)?;
    }
    let shares = softmax_axis(&scores, -1, true)?;
    matmul(shares, values)?.reshape(&[heads, rows, size])
}
