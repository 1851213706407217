//! Attention over the caches of one or several sequences.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::{concatenate, split_equal};

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

/// One pass over the network: the sequences, and how many rows each brings.
/// Arrays have the rows of all sequences one after the other.
pub struct Pass<'a> {
    caches: Vec<&'a mut Cache>,
    rows: usize,
    device: Device,
}

impl<'a> Pass<'a> {
    /// A pass that brings `rows` to each of `caches`.
    pub fn new(caches: Vec<&'a mut Cache>, rows: usize, device: Device) -> Self {
        Self {
            caches,
            rows,
            device,
        }
    }

    /// The turn of its rows.
    pub fn turn(&self, rope: &Rope) -> Turn {
        let offsets: Vec<usize> = self.caches.iter().map(|cache| cache.tokens()).collect();
        rope.turn(&offsets, self.rows)
    }

    /// Attention of layer `layer`: `queries`, `keys` and `values` are
    /// `[rows, heads, size]` and already turned; the result is `[rows, heads · size]`.
    pub fn attend(
        &mut self,
        layer: usize,
        heads: Heads,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array> {
        let count = self.caches.len();
        if count == 1 {
            return self.attend_one(0, layer, heads, queries, keys, values);
        }
        let parts = |array: &Array| split_equal(array, count as i32, 0);
        let (queries, keys, values) = (parts(queries)?, parts(keys)?, parts(values)?);
        let results: Result<Vec<Array>> = (0..count)
            .map(|i| self.attend_one(i, layer, heads, &queries[i], &keys[i], &values[i]))
            .collect();
        concatenate(&results?, 0)
    }

    fn attend_one(
        &mut self,
        sequence: usize,
        layer: usize,
        heads: Heads,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array> {
        let by_head = |array: &Array| array.swap_axes(0, 1);
        let (keys, values) =
            self.caches[sequence].update(layer, &by_head(keys)?, &by_head(values)?)?;
        let scale = (heads.size as f32).powf(-0.5);
        if let Some(result) = self.device.attention(queries, &keys, &values, scale) {
            return result;
        }
        let mask = (self.rows > 1).then_some(ScaledDotProductAttentionMask::Causal);
        let result = scaled_dot_product_attention(
            by_head(queries)?.expand_dims(0)?,
            keys.expand_dims(0)?,
            values.expand_dims(0)?,
            scale,
            mask,
            None,
        )?;
        by_head(&result.squeeze_axes(&[0])?)?.reshape(&[-1, heads.queries * heads.size])
    }

    /// Says that all layers have their rows.
    pub fn finish(self) {
        for cache in self.caches {
            cache.advance(self.rows);
        }
    }
}
