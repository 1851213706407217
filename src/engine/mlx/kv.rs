//! The KV cache of one sequence: what each layer has seen, grown in steps and
//! written in place; and pieces of it that outlive the sequence. It decides nothing
//! about who may have how much.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, quantize, zeros_dtype};
use mlx_rs::{Array, Dtype};

use super::adapter::Held;
use super::device::Device;
use super::quantization::Packing;
use super::weights;
use crate::engine::stored::Tensor;
use crate::model::safetensors::Dtype as Stored;

/// Rows by which a cache grows.
const STEP: usize = 256;

/// The shape of the caches of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// The layers, first to last.
    pub layers: Arc<[LayerShape]>,
    /// The number format; of what is packed, that of scales and biases.
    pub format: Dtype,
}

/// What one layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Heads of keys and values.
    pub heads: i32,
    /// Numbers in each head.
    pub head: i32,
    /// Values are kept beside the keys; otherwise the keys are the values too, or there
    /// is something else that each token has one of.
    pub values: bool,
    /// How they are packed, if they are.
    pub packing: Option<Packing>,
}

impl CacheShape {
    /// Bytes for one token of one sequence: keys and values of all layers.
    pub fn bytes_per_token(&self) -> u64 {
        let number = if self.format == Dtype::Float32 { 4 } else { 2 };
        let bytes = |part: &Part| {
            let each = if part.dtype == Dtype::Uint32 {
                4
            } else {
                number
            };
            part.width as u64 * each
        };
        let layer = |layer: &LayerShape| {
            let row: u64 = layer.parts(self.format).iter().map(bytes).sum();
            layer.kinds() as u64 * layer.heads as u64 * row
        };
        self.layers.iter().map(layer).sum()
    }
}

impl LayerShape {
    /// Kinds of rows: keys and values, or one for both.
    fn kinds(&self) -> usize {
        1 + usize::from(self.values)
    }

    /// The arrays that rows of one kind lie in.
    fn parts(&self, format: Dtype) -> Vec<Part> {
        let part = |name, width, dtype| Part { name, width, dtype };
        match self.packing {
            None => vec![part("", self.head, format)],
            Some(Packing {
                group_size, bits, ..
            }) => vec![
                part("", self.head * bits / 32, Dtype::Uint32),
                part(".scales", self.head / group_size, format),
                part(".biases", self.head / group_size, format),
            ],
        }
    }

    /// `numbers` `[heads, rows, head]` as they are kept, an array for each part.
    fn taken_apart(&self, numbers: &Array) -> Result<Vec<Array>> {
        let Some(Packing {
            group_size, bits, ..
        }) = self.packing
        else {
            return Ok(vec![numbers.clone()]);
        };
        let (words, scales, biases) = quantize(numbers, group_size, bits)?;
        Ok(vec![words, scales, biases])
    }

    /// The reverse of [`LayerShape::taken_apart`], for rows of such a layer.
    fn rows(&self, mut parts: Vec<Array>) -> Rows {
        match (self.packing, parts.len()) {
            (Some(packing), 3) => {
                let (biases, scales, words) = (parts.remove(2), parts.remove(1), parts.remove(0));
                Rows::Packed([words, scales, biases], packing)
            }
            _ => Rows::Plain(parts.remove(0)),
        }
    }

    /// Zeros for `rows`, an array for each part.
    fn zeros(&self, format: Dtype, rows: usize) -> Result<Vec<Array>> {
        let zeros = |part: Part| zeros_dtype(&[self.heads, rows as i32, part.width], part.dtype);
        self.parts(format).into_iter().map(zeros).collect()
    }
}

/// One of the arrays that keys or values lie in, `[heads, tokens, width]`.
struct Part {
    /// Behind the name of the layer in a file.
    name: &'static str,
    width: i32,
    dtype: Dtype,
}

/// Keys or values of one sequence in one layer.
#[derive(Clone, Debug)]
pub enum Rows {
    /// `[heads, tokens, head]`.
    Plain(Array),
    /// MLX's affine quantisation along the head: words `[heads, tokens, head · bits / 32]`,
    /// scales and biases `[heads, tokens, head / group_size]`.
    Packed([Array; 3], Packing),
}

/// The cache of one sequence. Clones share its arrays; whoever writes first has new ones.
#[derive(Clone, Debug)]
pub struct Cache {
    shape: CacheShape,
    layers: Vec<Layer>,
    /// Tokens taken in.
    tokens: usize,
    /// What the sequence runs with beside the network.
    adapter: Option<Rc<Held>>,
}

/// Keys and, where they are kept, values of one layer, each in its parts,
/// `[heads, room, width]`.
#[derive(Clone, Debug)]
struct Layer {
    kinds: Vec<Vec<Array>>,
}

/// Keys and values of some tokens in a row, apart from any sequence. They are never
/// written to, so clones share them.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Of each layer its parts, `[2, heads, tokens, width]`: keys, then values; `[1, …]`
    /// where the keys are the values.
    layers: Vec<Vec<Array>>,
}

impl Piece {
    /// Its numbers by layer, as they are written to a file.
    pub fn tensors(&self, shape: &CacheShape) -> std::result::Result<Vec<Tensor>, String> {
        let format = shape.format;
        let layers = shape.layers.iter().zip(&self.layers).enumerate();
        let named = layers.flat_map(|(index, (shape, layer))| {
            let parts = shape.parts(format).into_iter();
            parts.map(move |part| layer_name(index, &part)).zip(layer)
        });
        let tensor = |(name, layer): (String, &Array)| {
            let dtype = match layer.dtype() {
                Dtype::Uint32 => Stored::U32,
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
                name,
                dtype,
                shape: layer.shape().iter().map(|&length| length as u64).collect(),
                bytes,
            })
        };
        named.map(tensor).collect()
    }

    /// The piece that a file of [`Piece::tensors`] holds, for caches of this shape.
    pub fn map(
        file: &Path,
        device: Device,
        shape: &CacheShape,
        tokens: usize,
    ) -> std::result::Result<Self, String> {
        let mut arrays = weights::read_now(file, device, |name| name.starts_with(LAYER))?;
        let mut array = |name: String, part: &Part, layer: &LayerShape| {
            let array = arrays
                .remove(&name)
                .ok_or_else(|| format!("{name} is missing"))?;
            let expected = [layer.kinds() as i32, layer.heads, tokens as i32, part.width];
            match array.shape() == expected && array.dtype() == part.dtype {
                true => Ok(array),
                false => Err(format!("{name} is not what this model's caches hold")),
            }
        };
        let layer = |(index, layer): (usize, &LayerShape)| {
            let parts = layer.parts(shape.format).into_iter();
            let parts = parts.map(|part| array(layer_name(index, &part), &part, layer));
            parts.collect::<std::result::Result<Vec<Array>, String>>()
        };
        let layers = shape.layers.iter().enumerate().map(layer);
        Ok(Self {
            layers: layers.collect::<std::result::Result<_, _>>()?,
        })
    }
}

/// What the names of a piece's tensors begin with.
const LAYER: &str = "layers.";

fn layer_name(index: usize, part: &Part) -> String {
    format!("{LAYER}{index}{}", part.name)
}

impl Cache {
    /// An empty cache.
    pub fn new(shape: CacheShape) -> Self {
        Self {
            layers: Vec::with_capacity(shape.layers.len()),
            shape,
            tokens: 0,
            adapter: None,
        }
    }

    /// Has its sequence run with an adapter from here on.
    pub fn adapt(&mut self, adapter: Rc<Held>) {
        self.adapter = Some(adapter);
    }

    /// What its sequence runs with.
    pub fn adapter(&self) -> Option<&Rc<Held>> {
        self.adapter.as_ref()
    }

    /// Tokens it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens that it has memory for: every layer grows by the same steps.
    pub fn room_in_tokens(&self) -> usize {
        let first = self.layers.first().and_then(|layer| layer.kinds.first());
        let part = first.and_then(|kind| kind.first());
        part.map_or(0, |part| part.dim(1) as usize)
    }

    /// Says that the rows written to all layers are taken in.
    pub fn advance(&mut self, rows: usize) {
        self.tokens += rows;
    }

    /// Forgets all but the first `tokens`, if those are fewer: what comes next is written
    /// over the rest.
    pub fn trim(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
    }

    /// Writes `keys` and, if they are kept, `values`, `[heads, rows, head]`, after what
    /// layer `index` holds, and answers all of it, tokens + rows of each. Layers come
    /// in order the first time.
    pub fn update(
        &mut self,
        index: usize,
        keys: &Array,
        values: Option<&Array>,
    ) -> Result<(Rows, Rows)> {
        let (first, end) = (self.tokens, self.tokens + keys.dim(1) as usize);
        let shape = self.shape.layers[index];
        self.make_room(index, end)?;
        let taken = |(kind, new): (&mut Vec<Array>, &Array)| {
            let new = shape.taken_apart(new)?;
            let mut all = Vec::with_capacity(kind.len());
            for (part, new) in kind.iter_mut().zip(&new) {
                write(part, first, end, new)?;
                all.push(part.try_index((.., ..end as i32, ..))?);
            }
            Ok::<_, mlx_rs::error::Exception>(shape.rows(all))
        };
        let kinds = self.layers[index].kinds.iter_mut();
        let mut all = kinds.zip([keys].into_iter().chain(values)).map(taken);
        match (all.next(), all.next()) {
            (Some(keys), Some(values)) => Ok((keys?, values?)),
            (Some(keys), None) => keys.map(|keys| (keys.clone(), keys)),
            (None, _) => Err(mlx_rs::error::Exception::custom("a cache without keys")),
        }
    }

    /// Has layer `index` have room for so many tokens.
    fn make_room(&mut self, index: usize, tokens: usize) -> Result<()> {
        let (shape, format) = (self.shape.layers[index], self.shape.format);
        let blank = |rows: usize| shape.zeros(format, rows.div_ceil(STEP) * STEP);
        if index == self.layers.len() {
            let kinds = (0..shape.kinds()).map(|_| blank(tokens));
            let kinds = kinds.collect::<Result<_>>()?;
            self.layers.push(Layer { kinds });
        }
        let held = self.layers[index].kinds[0][0].dim(1) as usize;
        if tokens > held {
            let more = blank(tokens - held)?;
            for kind in &mut self.layers[index].kinds {
                for (part, more) in kind.iter_mut().zip(&more) {
                    *part = concatenate(&[&*part, more], 1)?;
                }
            }
        }
        Ok(())
    }

    /// Whether keys and values of layer `index` are kept as they are, in float32.
    #[cfg(target_os = "linux")]
    pub fn is_plain(&self, index: usize) -> bool {
        let shape = self.shape.layers[index];
        shape.values && shape.packing.is_none() && self.shape.format == Dtype::Float32
    }

    /// Keys and values of a layer that is plain, `[heads, room, head]`, with room for so
    /// many `rows` more. Who writes to them puts them back.
    #[cfg(target_os = "linux")]
    pub fn room(&mut self, index: usize, rows: usize) -> Result<[Array; 2]> {
        self.make_room(index, self.tokens + rows)?;
        let kinds = &self.layers[index].kinds;
        Ok([kinds[0][0].clone(), kinds[1][0].clone()])
    }

    /// What [`Cache::room`] answered, as it has become. The old arrays are given up, so
    /// that their buffers may be written to.
    #[cfg(target_os = "linux")]
    pub fn put_room(&mut self, index: usize, [keys, values]: [Array; 2]) {
        self.layers[index].kinds = vec![vec![keys], vec![values]];
    }

    /// The arrays that hold it, to be evaluated with a pass.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers
            .iter()
            .flat_map(|layer| layer.kinds.iter().flatten())
    }

    /// Takes apart what it holds from token `from` on, into pieces of these `lengths`.
    /// Layer by layer, so that no more than one is there twice. Evaluates.
    pub fn evaluate_pieces(
        self,
        device: Device,
        from: usize,
        lengths: &[usize],
    ) -> Result<Vec<Piece>> {
        let empty = || Piece {
            layers: Vec::with_capacity(self.shape.layers.len()),
        };
        let mut pieces: Vec<Piece> = lengths.iter().map(|_| empty()).collect();
        for Layer { kinds } in self.layers {
            let mut begin = from as i32;
            for (piece, length) in pieces.iter_mut().zip(lengths) {
                let end = begin + *length as i32;
                let part = |index: usize| {
                    let kinds = kinds.iter().map(|kind| &kind[index]);
                    device.evaluate_rows(&kinds.collect::<Vec<&Array>>(), begin..end)
                };
                let parts = (0..kinds[0].len()).map(part);
                piece.layers.push(parts.collect::<Result<_>>()?);
                begin = end;
            }
        }
        Ok(pieces)
    }

    /// A cache that holds the first tokens of each of `pieces`, as many as beside it.
    /// Layer by layer, so that no more than one is there twice if nobody else holds the
    /// pieces. Evaluates.
    pub fn evaluate_joined(
        device: Device,
        shape: &CacheShape,
        mut pieces: Vec<(Piece, usize)>,
    ) -> Result<Self> {
        let mut cache = Self::new(shape.clone());
        let tokens: usize = pieces.iter().map(|(_, tokens)| tokens).sum();
        if tokens == 0 {
            return Ok(cache);
        }
        // There is room for a row more, which is written in place.
        let room = (tokens / STEP + 1) * STEP;
        for (piece, _) in &mut pieces {
            piece.layers.reverse();
        }
        for layer in shape.layers.iter() {
            let layers: Vec<(Vec<Array>, i32)> = pieces
                .iter_mut()
                .filter_map(|(piece, tokens)| Some((piece.layers.pop()?, *tokens as i32)))
                .collect();
            let joined = |kind: i32| {
                let part = |index: usize| {
                    let parts = layers
                        .iter()
                        .map(|(parts, tokens)| (&parts[index], *tokens));
                    device.evaluate_joined(&parts.collect::<Vec<_>>(), kind, room as i32)
                };
                let parts = 0..layer.parts(shape.format).len();
                parts.map(part).collect::<Result<Vec<Array>>>()
            };
            let kinds = (0..layer.kinds() as i32).map(joined);
            let kinds = kinds.collect::<Result<Vec<Vec<Array>>>>()?;
            cache.layers.push(Layer { kinds });
        }
        cache.advance(tokens);
        Ok(cache)
    }
}

/// The old array is given up, so that MLX writes into its buffer.
fn write(array: &mut Array, first: usize, end: usize, rows: &Array) -> Result<()> {
    array.try_index_mut((.., first as i32..end as i32, ..), rows)
}
