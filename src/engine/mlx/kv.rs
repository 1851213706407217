//! The KV cache of one sequence: what each layer has seen, grown in steps and
//! written in place; and pieces of it that outlive the sequence. It decides nothing
//! about who may have how much.

use std::path::Path;

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, stack, zeros_dtype};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::device::Device;
use super::weights;
use crate::engine::stored::Tensor;
use crate::model::safetensors::Dtype as Stored;

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
    /// Values are kept beside the keys; otherwise the keys are the values too.
    pub values: bool,
    /// Their number format.
    pub format: Dtype,
}

impl CacheShape {
    /// Bytes for one token of one sequence: keys and values of all layers.
    pub fn bytes_per_token(&self) -> u64 {
        let bytes = if self.format == Dtype::Float32 { 4 } else { 2 };
        self.parts() as u64 * self.layers as u64 * self.heads as u64 * self.head as u64 * bytes
    }

    /// Arrays of a layer: keys and values, or one for both.
    fn parts(&self) -> i32 {
        1 + i32::from(self.values)
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

/// Keys and, where they are kept, values of one layer, each `[heads, room, head]`.
#[derive(Debug)]
struct Layer {
    parts: Vec<Array>,
}

/// Keys and values of some tokens in a row, apart from any sequence. They are never
/// written to, so clones share them.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Of each layer `[2, heads, tokens, head]`: keys, then values; `[1, …]` where
    /// the keys are the values.
    layers: Vec<Array>,
}

impl Piece {
    /// Its numbers by layer, as they are written to a file.
    pub fn tensors(&self) -> std::result::Result<Vec<Tensor>, String> {
        let layers = self.layers.iter().enumerate();
        let tensor = |(index, layer): (usize, &Array)| {
            let dtype = match layer.dtype() {
                Dtype::Float32 => Stored::F32,
                Dtype::Float16 => Stored::F16,
                Dtype::Bfloat16 => Stored::Bf16,
                other => return Err(format!("{other:?} is not written")),
            };
            let bytes = layer
                .view_dtype(Dtype::Uint8)
                .map_err(|e| e.what().to_owned())?;
            let bytes = bytes
                .try_as_slice::<u8>()
                .map_err(|e| e.to_string())?
                .to_vec();
            Ok(Tensor {
                name: layer_name(index),
                dtype,
                shape: layer.shape().iter().map(|&length| length as u64).collect(),
                bytes,
            })
        };
        layers.map(tensor).collect()
    }

    /// The piece that a file of [`Piece::tensors`] holds, for caches of this shape.
    pub fn map(
        file: &Path,
        device: Device,
        shape: CacheShape,
        tokens: usize,
    ) -> std::result::Result<Self, String> {
        let mut arrays = weights::read_now(file, device, |name| name.starts_with(LAYER))?;
        let expected = [shape.parts(), shape.heads, tokens as i32, shape.head];
        let layer = |index: usize| {
            let name = layer_name(index);
            let array = arrays
                .remove(&name)
                .ok_or_else(|| format!("{name} is missing"))?;
            match array.shape() == expected && array.dtype() == shape.format {
                true => Ok(array),
                false => Err(format!("{name} is not what this model's caches hold")),
            }
        };
        let layers = (0..shape.layers).map(layer);
        Ok(Self {
            layers: layers.collect::<std::result::Result<_, String>>()?,
        })
    }
}

/// What the names of a piece's tensors begin with.
const LAYER: &str = "layers.";

fn layer_name(index: usize) -> String {
    format!("{LAYER}{index}")
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

    /// Writes `keys` and, if they are kept, `values`, `[heads, rows, head]`, after what
    /// layer `index` holds, and answers all of it, `[heads, tokens + rows, head]`: keys
    /// and values. Layers come in order the first time.
    pub fn update(
        &mut self,
        index: usize,
        keys: &Array,
        values: Option<&Array>,
    ) -> Result<(Array, Array)> {
        let first = self.tokens;
        let end = first + keys.dim(1) as usize;
        if index == self.layers.len() {
            let parts = (0..self.shape.parts()).map(|_| self.blank(end));
            let parts = parts.collect::<Result<_>>()?;
            self.layers.push(Layer { parts });
        }
        let room = self.layers[index].parts[0].dim(1) as usize;
        if end > room {
            let more = self.blank(end - room)?;
            for part in &mut self.layers[index].parts {
                *part = concatenate(&[&*part, &more], 1)?;
            }
        }
        let layer = &mut self.layers[index];
        let mut all = Vec::with_capacity(layer.parts.len());
        for (part, rows) in layer.parts.iter_mut().zip([keys].into_iter().chain(values)) {
            write(part, first, end, rows)?;
            all.push(part.try_index((.., ..end as i32, ..))?);
        }
        let keys = all.swap_remove(0);
        let values = all.pop().unwrap_or_else(|| keys.clone());
        Ok((keys, values))
    }

    /// The arrays that hold it, to be evaluated with a pass.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|layer| &layer.parts)
    }

    /// Zeros for at least `rows`.
    fn blank(&self, rows: usize) -> Result<Array> {
        self.zeros(rows.div_ceil(STEP) * STEP)
    }

    fn zeros(&self, rows: usize) -> Result<Array> {
        let shape = [self.shape.heads, rows as i32, self.shape.head];
        zeros_dtype(&shape, self.shape.format)
    }

    /// Takes apart what it holds from token `from` on, into pieces of these `lengths`.
    /// Layer by layer, so that no more than one is there twice. Evaluates.
    pub fn evaluate_pieces(self, from: usize, lengths: &[usize]) -> Result<Vec<Piece>> {
        let empty = || Piece {
            layers: Vec::with_capacity(self.shape.layers),
        };
        let mut pieces: Vec<Piece> = lengths.iter().map(|_| empty()).collect();
        for Layer { parts } in self.layers {
            let mut begin = from as i32;
            for (piece, length) in pieces.iter_mut().zip(lengths) {
                let end = begin + *length as i32;
                let rows = |array: &Array| array.try_index((.., begin..end, ..));
                // Always an array of its own: a part would hold on to the whole.
                let rows = parts.iter().map(rows).collect::<Result<Vec<Array>>>()?;
                piece.layers.push(stack(&rows, 0)?);
                begin = end;
            }
            eval(pieces.iter().filter_map(|piece| piece.layers.last()))?;
        }
        Ok(pieces)
    }

    /// A cache that holds the first tokens of each of `pieces`, as many as beside it.
    /// Layer by layer, so that no more than one is there twice if nobody else holds the
    /// pieces. Evaluates.
    pub fn evaluate_joined(shape: CacheShape, mut pieces: Vec<(Piece, usize)>) -> Result<Self> {
        let mut cache = Self::new(shape);
        let tokens: usize = pieces.iter().map(|(_, tokens)| tokens).sum();
        // There is room for a row more, so the result is never one of the pieces.
        let room = (tokens / STEP + 1) * STEP;
        for (piece, _) in &mut pieces {
            piece.layers.reverse();
        }
        for _ in 0..shape.layers {
            let parts: Vec<(Array, i32)> = pieces
                .iter_mut()
                .filter_map(|(piece, tokens)| Some((piece.layers.pop()?, *tokens as i32)))
                .collect();
            let joined = |which: i32| {
                let rows = parts
                    .iter()
                    .map(|(part, tokens)| part.try_index((which, .., ..*tokens, ..)));
                let mut rows = rows.collect::<Result<Vec<Array>>>()?;
                rows.push(cache.zeros(room - tokens)?);
                concatenate(&rows, 1)
            };
            let parts = (0..shape.parts()).map(joined);
            let parts = parts.collect::<Result<Vec<Array>>>()?;
            eval(&parts)?;
            cache.layers.push(Layer { parts });
        }
        cache.advance(tokens);
        Ok(cache)
    }
}

/// The old array is given up, so that MLX writes into its buffer.
fn write(array: &mut Array, first: usize, end: usize, rows: &Array) -> Result<()> {
    array.try_index_mut((.., first as i32..end as i32, ..), rows)
}
