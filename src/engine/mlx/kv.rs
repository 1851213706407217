//! The KV cache of one sequence: what each layer has seen, grown in steps and
//! written in place. It decides nothing about who may have how much.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, zeros_dtype};
use mlx_rs::{Array, Dtype};

/// Rows by which a cache grows.
const STEP: usize = 256;

/// The shape of the caches of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers that keep keys and values.
    pub layers: usize,
    /// Heads of keys and values in each layer.
    pub heads: i32,
    /// Numbers in each head.
    pub head: i32,
    /// Their number format.
    pub format: Dtype,
}

impl CacheShape {
    /// Bytes for one token of one sequence: keys and values of all layers.
    pub fn bytes_per_token(&self) -> u64 {
        let bytes = if self.format == Dtype::Float32 { 4 } else { 2 };
        2 * self.layers as u64 * self.heads as u64 * self.head as u64 * bytes
    }
}

/// The cache of one sequence.
#[derive(Debug)]
pub struct Cache {
    shape: CacheShape,
    layers: Vec<Layer>,
    /// Tokens taken in.
    tokens: usize,
}

/// Keys and values of one layer, each `[heads, room, head]`.
#[derive(Debug)]
struct Layer {
    keys: Array,
    values: Array,
}

impl Cache {
    /// An empty cache.
    pub fn new(shape: CacheShape) -> Self {
        Self {
            shape,
            layers: Vec::with_capacity(shape.layers),
            tokens: 0,
        }
    }

    /// Tokens it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Says that the rows written to all layers are taken in.
    pub fn advance(&mut self, rows: usize) {
        self.tokens += rows;
    }

    /// Writes `keys` and `values`, `[heads, rows, head]`, after what layer `index`
    /// holds, and answers all of it: `[heads, tokens + rows, head]`. Layers come
    /// in order the first time.
    pub fn update(&mut self, index: usize, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let end = self.tokens + keys.dim(1) as usize;
        if index == self.layers.len() {
            self.layers.push(Layer {
                keys: self.blank(end)?,
                values: self.blank(end)?,
            });
        }
        let first = self.tokens;
        if end > self.layers[index].keys.dim(1) as usize {
            let more = self.blank(end - self.layers[index].keys.dim(1) as usize)?;
            let layer = &mut self.layers[index];
            layer.keys = concatenate(&[&layer.keys, &more], 1)?;
            layer.values = concatenate(&[&layer.values, &more], 1)?;
        }
        let layer = &mut self.layers[index];
        write(&mut layer.keys, first, end, keys)?;
        write(&mut layer.values, first, end, values)?;
        let end = end as i32;
        Ok((
            layer.keys.try_index((.., ..end, ..))?,
            layer.values.try_index((.., ..end, ..))?,
        ))
    }

    /// The arrays that hold it, to be evaluated with a pass.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers
            .iter()
            .flat_map(|layer| [&layer.keys, &layer.values])
    }

    /// Zeros for at least `rows`.
    fn blank(&self, rows: usize) -> Result<Array> {
        let room = rows.div_ceil(STEP) * STEP;
        zeros_dtype(
            &[self.shape.heads, room as i32, self.shape.head],
            self.shape.format,
        )
    }
}

/// The old array is given up, so that MLX writes into its buffer.
fn write(array: &mut Array, first: usize, end: usize, rows: &Array) -> Result<()> {
    array.try_index_mut((.., first as i32..end as i32, ..), rows)
}
