//! Which device computes, in which number format, and by which products: one
//! decision, here.
//!
//! On a CPU half formats are emulated (a quantised product with float16
//! activations takes about forty times as long as with float32), so it computes
//! in float32 whatever the checkpoint says. A GPU takes the checkpoint's own.
//! On Linux the operations of a CPU are our own (`native`): several times as fast
//! as MLX's, which has no vector instructions there; each is one node of the
//! graph, or those of a whole layer are one, and products read weights of any
//! format where they lie.

use std::ops::Range;

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, matmul, sigmoid, stack, zeros_dtype};
use mlx_rs::{Array, Device as MlxDevice, DeviceType, Dtype, fast};

use super::attention::Scores;
use super::kv::Rows;
#[cfg(target_os = "linux")]
use super::native;
use super::packed::Packed;
#[cfg(target_os = "linux")]
use super::quantization::Packing;
use crate::config::Compute;

/// Bytes of freed buffers that MLX may keep for its next arrays. A decode step
/// reuses a few megabytes; a prefill chunk a few hundred, which are not to stay.
const BUFFER_CACHE_BYTES: usize = 128 << 20;

/// A device and the number format of its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    kind: Kind,
    /// Nothing means: as each checkpoint has it.
    compute: Option<Dtype>,
    /// Operations are our own instead of MLX's.
    own: bool,
    /// Those of a layer may be one node of the graph.
    chained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cpu,
    Metal,
    Cuda,
}

impl Device {
    /// The device MLX was built for, made ready: GPU if it has one.
    pub fn prepare(compute: Compute) -> Result<Self> {
        let kind = match MlxDevice::try_default()?.get_type()? {
            DeviceType::Cpu => Kind::Cpu,
            DeviceType::Gpu if cfg!(target_os = "macos") => Kind::Metal,
            DeviceType::Gpu => Kind::Cuda,
        };
        mlx_rs::memory::set_cache_limit(BUFFER_CACHE_BYTES)?;
        let device = Self::decide(kind, compute);
        #[cfg(target_os = "linux")]
        if device.is_own() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            native::prepare(cores).map_err(failed)?;
        }
        Ok(device)
    }

    fn decide(kind: Kind, compute: Compute) -> Self {
        let compute = match (compute, kind) {
            (Compute::Auto, Kind::Cpu) | (Compute::Float32, _) => Some(Dtype::Float32),
            (Compute::Auto, Kind::Metal | Kind::Cuda) => None,
            (Compute::Float16, _) => Some(Dtype::Float16),
            (Compute::Bfloat16, _) => Some(Dtype::Bfloat16),
        };
        let own = cfg!(target_os = "linux") && kind == Kind::Cpu && compute == Some(Dtype::Float32);
        Self {
            kind,
            compute,
            own,
            chained: own,
        }
    }

    /// This device with MLX's operations, the ones that a GPU takes.
    #[cfg(test)]
    pub fn without_own(self) -> Self {
        Self {
            own: false,
            chained: false,
            ..self
        }
    }

    /// This device with each operation a node of its own, as where rows are many.
    #[cfg(test)]
    pub fn without_chains(self) -> Self {
        Self {
            chained: false,
            ..self
        }
    }

    /// The number format for weights that come in `found`.
    pub fn format(&self, found: Dtype) -> Dtype {
        self.compute.unwrap_or(found)
    }

    /// `array` in the number format of the device. Packed words and exponents are no numbers
    /// and stay.
    pub fn convert(&self, array: Array) -> Result<Array> {
        let format = self.format(array.dtype());
        let is_number = !matches!(array.dtype(), Dtype::Uint32 | Dtype::Uint8);
        if array.dtype() == format || !is_number {
            return Ok(array);
        }
        array.as_dtype(format)
    }

    /// Whether operations are our own. Their weights may come in any format.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Whether the operations of a layer may be one node.
    pub fn is_chained(&self) -> bool {
        self.chained
    }

    /// `x` `[…, inputs]` times the transpose of `matrix` `[outputs, inputs]`.
    pub fn product(&self, x: &Array, matrix: &Array) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::dense_matmul(x, matrix).map_err(failed);
        }
        matmul(x, matrix.t())
    }

    /// `x` `[…, inputs]` times the transpose of a packed matrix.
    pub fn packed_product(&self, x: &Array, packed: &Packed) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if let Some(biases) = packed.biases.as_ref().filter(|_| self.is_own()) {
            let Packing {
                group_size, bits, ..
            } = packed.packing;
            let (words, scales) = (&packed.words, &packed.scales);
            return native::quantized_matmul(x, words, scales, biases, group_size, bits)
                .map_err(failed);
        }
        packed.product(x)
    }

    /// The rows `indices` `[rows]` of `matrix` `[outputs, inputs]`, in the number format of
    /// the device.
    pub fn rows(&self, indices: &Array, matrix: &Array) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::dense_rows(indices, matrix).map_err(failed);
        }
        self.convert(matrix.take_axis(indices, 0)?)
    }

    /// The rows `indices` `[rows]` of a packed matrix, unpacked.
    pub fn packed_rows(&self, indices: &Array, packed: &Packed) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if let Some(biases) = packed.biases.as_ref().filter(|_| self.is_own()) {
            let Packing {
                group_size, bits, ..
            } = packed.packing;
            let (words, scales) = (&packed.words, &packed.scales);
            return native::packed_rows(indices, words, scales, biases, group_size, bits)
                .map_err(failed);
        }
        packed.rows(indices)?.unpacked(*self)
    }

    /// Each row of `x` `[…, size]` by its root mean square, times `weight` `[size]`.
    pub fn rms_norm(&self, x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::rms_norm(x, weight, epsilon).map_err(failed);
        }
        fast::rms_norm(x, Some(weight), epsilon)
    }

    /// `silu(gate) * up` (arXiv 2002.05202).
    pub fn swiglu(&self, gate: &Array, up: &Array) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::swiglu(gate, up).map_err(failed);
        }
        gate.multiply(sigmoid(gate)?)?.multiply(up)
    }

    /// Rotation by tables, where operations are our own. Shapes as in
    /// `Rope::apply` and `Turn::Tables`.
    pub fn rotate(
        &self,
        x: &Array,
        cosines: &Array,
        sines: &Array,
        neighbours: bool,
    ) -> Result<Array> {
        #[cfg(target_os = "linux")]
        return native::rotate(x, cosines, sines, neighbours).map_err(failed);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (x, cosines, sines, neighbours);
            Err(mlx_rs::error::Exception::custom("no own operations here"))
        }
    }

    /// Attention of the last rows of one sequence, or nothing where MLX's is
    /// used: queries `[rows, heads, size]` over keys and values
    /// `[key heads, tokens, size]`.
    pub fn attention(
        &self,
        queries: &Array,
        keys: &Rows,
        values: &Rows,
        scores: &Scores,
    ) -> Option<Result<Array>> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            let result = match (keys, values) {
                (Rows::Plain(keys), Rows::Plain(values)) => {
                    native::attention(queries, keys, values, scores)
                }
                (Rows::Packed(keys, packing), Rows::Packed(values, _)) => {
                    native::packed_attention(queries, keys, values, *packing, scores)
                }
                // One cache keeps both in one form.
                _ => return None,
            };
            return Some(result.map_err(failed));
        }
        let _ = (queries, keys, values, scores);
        None
    }

    /// The `rows` of each of `kinds` `[heads, room, width]` as an array of their own,
    /// `[kinds, heads, rows, width]`; a slice would hold on to the whole. Evaluates.
    pub fn evaluate_rows(&self, kinds: &[&Array], rows: Range<i32>) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::evaluate_rows(kinds, rows).map_err(failed);
        }
        let part = |kind: &&Array| kind.try_index((.., rows.clone(), ..));
        let parts = kinds.iter().map(part).collect::<Result<Vec<Array>>>()?;
        let taken = stack(&parts, 0)?;
        taken.eval()?;
        Ok(taken)
    }

    /// The first rows of each of `pieces` `[kinds, heads, rows, width]`, as many as beside
    /// it, of its array number `kind`, one after the other and zeros behind them:
    /// `[heads, room, width]`, never one of the pieces. Evaluates.
    pub fn evaluate_joined(&self, pieces: &[(&Array, i32)], kind: i32, room: i32) -> Result<Array> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return native::evaluate_joined(pieces, kind, room).map_err(failed);
        }
        let part = |(piece, rows): &(&Array, i32)| piece.try_index((kind, .., ..*rows, ..));
        let mut parts = pieces.iter().map(part).collect::<Result<Vec<Array>>>()?;
        let rows: i32 = pieces.iter().map(|(_, rows)| rows).sum();
        if let Some((piece, _)) = pieces.first() {
            let rest = [piece.dim(1), room - rows, piece.dim(3)];
            parts.push(zeros_dtype(&rest, piece.dtype())?);
        }
        let joined = concatenate(&parts, 1)?;
        joined.eval()?;
        Ok(joined)
    }

    /// As [`crate::engine::Network::rows_alike`]: so many are multiplied row by row.
    pub fn rows_alike(&self) -> Option<usize> {
        #[cfg(target_os = "linux")]
        if self.is_own() {
            return Some(native::ROWS_ALIKE);
        }
        None
    }

    /// `cpu`, `metal` or `cuda`.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Cpu => "cpu",
            Kind::Metal => "metal",
            Kind::Cuda => "cuda",
        }
    }
}

/// The word for a number format, as `models.yaml` and `config.json` spell it.
pub fn format_name(format: Dtype) -> &'static str {
    match format {
        Dtype::Float16 => "float16",
        Dtype::Bfloat16 => "bfloat16",
        _ => "float32",
    }
}

#[cfg(target_os = "linux")]
fn failed(error: native::NativeError) -> mlx_rs::error::Exception {
    mlx_rs::error::Exception::custom(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_device_and_setting() {
        use Dtype::{Bfloat16, Float16, Float32};
        for (kind, compute, found, expected) in [
            (Kind::Cpu, Compute::Auto, Bfloat16, Float32),
            (Kind::Cpu, Compute::Float16, Float32, Float16),
            (Kind::Metal, Compute::Auto, Bfloat16, Bfloat16),
            (Kind::Cuda, Compute::Auto, Float16, Float16),
            (Kind::Metal, Compute::Float32, Float16, Float32),
            (Kind::Cuda, Compute::Bfloat16, Float32, Bfloat16),
        ] {
            let device = Device::decide(kind, compute);
            assert_eq!(device.format(found), expected, "{kind:?} {compute:?}");
        }
    }
}
