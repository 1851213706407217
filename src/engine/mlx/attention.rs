//! Attention over the caches of one or several sequences.

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{
    arange, broadcast_to, concatenate, matmul, quantized_matmul, select, softmax_axis,
    split_at_indices, tanh, zeros_dtype,
};

use super::device::Device;
use super::kv::{Cache, Rows};
#[cfg(target_os = "linux")]
use super::native::chain::Sequence;
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

/// Rows of a pass up to which a layer is one node where operations are our own. With more
/// of them what MLX does for a node is nothing beside what the node computes.
#[cfg(target_os = "linux")]
const FEW_ROWS: usize = 64;

/// One pass over the network: the sequences, and how many rows each brings.
/// Arrays have the rows of all sequences one after the other.
pub struct Pass<'a> {
    sequences: Sequences<'a>,
    /// Of each.
    rows: Vec<usize>,
    device: Device,
}

/// The sequences of a pass.
enum Sequences<'a> {
    /// They go on after what these hold.
    Cached(Vec<&'a mut Cache>),
    /// They begin and end with the pass: of them nothing is kept.
    Whole,
}

impl<'a> Pass<'a> {
    /// A pass that brings to each of `caches` as many `rows`.
    pub fn new(caches: Vec<&'a mut Cache>, rows: Vec<usize>, device: Device) -> Self {
        Self {
            sequences: Sequences::Cached(caches),
            rows,
            device,
        }
    }

    /// A pass over `count` whole sequences of `rows` each.
    pub fn without_caches(count: usize, rows: usize, device: Device) -> Self {
        Self {
            sequences: Sequences::Whole,
            rows: vec![rows; count],
            device,
        }
    }

    /// The turn of its rows.
    pub fn turn(&self, rope: &Rope) -> Turn {
        let before = |i: usize| match &self.sequences {
            Sequences::Cached(caches) => caches[i].tokens(),
            Sequences::Whole => 0,
        };
        let sequences = self.rows.iter().enumerate();
        rope.turn(sequences.map(|(i, rows)| (before(i), *rows)))
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
        let count = self.rows.len();
        if count == 1 {
            return self.attend_one(0, layer, scores, queries, keys, values);
        }
        let parts = |array: &Array| self.parts(array);
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
            Sequences::Whole => {
                let values = values.unwrap_or_else(|| keys.clone());
                (Rows::Plain(keys), Rows::Plain(values))
            }
        };
        if let Some(result) = self.device.attention(queries, &keys, &values, scores) {
            return result;
        }
        attend_with_mlx(queries, &keys, &values, scores)
    }

    /// The device that it is for.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether layer `layer`, which attends to keys and values, may be one node.
    #[cfg(target_os = "linux")]
    pub fn is_chained(&self, layer: usize) -> bool {
        let Sequences::Cached(caches) = &self.sequences else {
            return false;
        };
        let fits = |cache: &&mut Cache| cache.adapter().is_none() && cache.is_plain(layer);
        let few = self.rows.iter().sum::<usize>() <= FEW_ROWS;
        few && self.device.is_chained() && caches.iter().all(fits)
    }

    /// The rows of each sequence, and its keys and values of layer `layer` with room for
    /// them.
    #[cfg(target_os = "linux")]
    pub fn rooms(&mut self, layer: usize) -> Result<Vec<Sequence>> {
        let Sequences::Cached(caches) = &mut self.sequences else {
            return Err(Exception::custom("sequences without caches"));
        };
        let room = |(cache, rows): (&mut &mut Cache, &usize)| {
            Ok(Sequence {
                rows: *rows,
                before: cache.tokens(),
                caches: cache.room(layer, *rows)?,
            })
        };
        caches.iter_mut().zip(&self.rows).map(room).collect()
    }

    /// The keys and values of [`Pass::rooms`], one after the other, as they have become.
    #[cfg(target_os = "linux")]
    pub fn put_rooms(&mut self, layer: usize, arrays: Vec<Array>) {
        let Sequences::Cached(caches) = &mut self.sequences else {
            return;
        };
        let mut arrays = arrays.into_iter();
        for cache in caches {
            if let (Some(keys), Some(values)) = (arrays.next(), arrays.next()) {
                cache.put_room(layer, [keys, values]);
            }
        }
    }

    /// What each sequence sees of `x` `[rows, size]` in layer `layer`: its own rows behind
    /// the `before` last that came before them, or zeros where there were none.
    pub fn with_those_before(
        &mut self,
        layer: usize,
        x: &Array,
        before: i32,
    ) -> Result<Vec<Array>> {
        let parts = self.parts(x)?;
        let seen = |(sequence, own): (usize, &Array)| {
            let rows = own.expand_dims(0)?;
            let all = match &mut self.sequences {
                Sequences::Cached(caches) => match caches[sequence].update(layer, &rows, None)? {
                    (Rows::Plain(all), _) => all.squeeze_axes(&[0])?,
                    (Rows::Packed(..), _) => {
                        return Err(Exception::custom("such rows are never packed"));
                    }
                },
                Sequences::Whole => own.clone(),
            };
            let from = all.dim(0) - own.dim(0) - before;
            if from >= 0 {
                return all.try_index((from.., ..));
            }
            let none = zeros_dtype(&[-from, all.dim(1)], all.dtype())?;
            concatenate(&[none, all], 0)
        };
        parts.iter().enumerate().map(seen).collect()
    }

    /// The rows of each sequence.
    fn parts(&self, array: &Array) -> Result<Vec<Array>> {
        let ends = self.rows.iter().scan(0, |end, rows| {
            *end += *rows as i32;
            Some(*end)
        });
        let between: Vec<i32> = ends.take(self.rows.len() - 1).collect();
        split_at_indices(array, &between, 0)
    }

    /// Says that all layers have their rows.
    pub fn finish(self) {
        if let Sequences::Cached(caches) = self.sequences {
            for (cache, rows) in caches.into_iter().zip(self.rows) {
                cache.advance(rows);
            }
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
            Self::Packed([words, scales, biases], packing) => {
                let Packing {
                    group_size, bits, ..
                } = packing;
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
