//! The FFI edge: packed matrices, and what MLX does with them in the forms that mlx-rs
//! does not name. How weights get here and which products are our own is not decided here.
#![expect(unsafe_code, reason = "calls mlx-c, of whose modes mlx-rs knows one")]

use std::ffi::c_int;

use mlx_rs::error::{Exception, Result as MlxResult};
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{mlx_array, mlx_optional_dtype, mlx_optional_int};

use super::device::Device;
use super::quantization::{Mode, Packing};
use crate::engine::EngineError;

/// A matrix `[outputs, inputs]`, or several `[count, outputs, inputs]`, packed along the
/// inputs.
pub struct Packed {
    /// uint32 `[…, inputs · bits / 32]`.
    pub words: Array,
    /// `[…, inputs / group_size]`: numbers, or exponents as uint8.
    pub scales: Array,
    /// As many numbers, where the form has them.
    pub biases: Option<Array>,
    /// The form.
    pub packing: Packing,
}

impl Packed {
    /// The one at `path` in a checkpoint; `take` takes an array of a kind by its columns.
    ///
    /// # Errors
    /// Rows do not divide into groups, or what `take` says.
    pub fn load(
        packing: Packing,
        path: &str,
        inputs: i32,
        mut take: impl FnMut(&str, i32) -> Result<Array, EngineError>,
    ) -> Result<Self, EngineError> {
        let groups = inputs / packing.group_size;
        Ok(Self {
            words: take("weight", packing.words(path, inputs)?)?,
            scales: take("scales", groups)?,
            biases: match packing.mode {
                Mode::Affine => Some(take("biases", groups)?),
                Mode::Mxfp4 => None,
            },
            packing,
        })
    }

    /// The number format that a network of such matrices computes in.
    pub fn format(&self, device: Device) -> Dtype {
        device.format(match self.packing.mode {
            Mode::Affine => self.scales.dtype(),
            // Exponents say nothing of it; MLX unpacks to this.
            Mode::Mxfp4 => Dtype::Bfloat16,
        })
    }

    /// `x` `[…, inputs]` times the transposed matrix.
    pub fn product(&self, x: &Array) -> MlxResult<Array> {
        let (group_size, bits) = self.sizes();
        // SAFETY: all handles live across the call, which keeps what it needs.
        array_of("quantized_matmul", |result| unsafe {
            mlx_sys::mlx_quantized_matmul(
                result,
                x.as_ptr(),
                self.words.as_ptr(),
                self.scales.as_ptr(),
                self.biases(),
                true,
                group_size,
                bits,
                self.packing.mode.name().as_ptr(),
                Stream::thread_local_or_default().as_ptr(),
            )
        })
    }

    /// `x` `[…, 1, inputs]` times the transposes of those of several matrices that `which`
    /// names.
    pub fn product_with(&self, x: &Array, which: &Array) -> MlxResult<Array> {
        let (group_size, bits) = self.sizes();
        // SAFETY: as in `product`.
        array_of("gather_qmm", |result| unsafe {
            mlx_sys::mlx_gather_qmm(
                result,
                x.as_ptr(),
                self.words.as_ptr(),
                self.scales.as_ptr(),
                self.biases(),
                none(),
                which.as_ptr(),
                true,
                group_size,
                bits,
                self.packing.mode.name().as_ptr(),
                false,
                Stream::thread_local_or_default().as_ptr(),
            )
        })
    }

    /// The rows `indices` of a matrix, still packed.
    pub fn rows(&self, indices: &Array) -> MlxResult<Self> {
        let rows = |array: &Array| array.take_axis(indices, 0);
        Ok(Self {
            words: rows(&self.words)?,
            scales: rows(&self.scales)?,
            biases: self.biases.as_ref().map(rows).transpose()?,
            packing: self.packing,
        })
    }

    /// All of it, unpacked, in the number format of the device.
    pub fn unpacked(&self, device: Device) -> MlxResult<Array> {
        let scales = device.convert(self.scales.clone())?;
        let biases = self.biases.clone().map(|biases| device.convert(biases));
        let biases = biases.transpose()?;
        let (group_size, bits) = self.sizes();
        let as_they_are = mlx_optional_dtype {
            value: mlx_sys::mlx_dtype__MLX_FLOAT32,
            has_value: false,
        };
        // SAFETY: as in `product`.
        let whole = array_of("dequantize", |result| unsafe {
            mlx_sys::mlx_dequantize(
                result,
                self.words.as_ptr(),
                scales.as_ptr(),
                biases.as_ref().map_or_else(none, Array::as_ptr),
                group_size,
                bits,
                self.packing.mode.name().as_ptr(),
                none(),
                as_they_are,
                Stream::thread_local_or_default().as_ptr(),
            )
        })?;
        device.convert(whole)
    }

    fn sizes(&self) -> (mlx_optional_int, mlx_optional_int) {
        let said = |value: i32| mlx_optional_int {
            value,
            has_value: true,
        };
        (said(self.packing.group_size), said(self.packing.bits))
    }

    fn biases(&self) -> mlx_array {
        self.biases.as_ref().map_or_else(none, Array::as_ptr)
    }
}

/// The handle of no array.
fn none() -> mlx_array {
    mlx_array {
        ctx: std::ptr::null_mut(),
    }
}

fn array_of(what: &str, make: impl FnOnce(*mut mlx_array) -> c_int) -> MlxResult<Array> {
    let mut result = none();
    if make(&raw mut result) != 0 {
        return Err(Exception::custom(format!("MLX's {what} failed")));
    }
    // SAFETY: on success `result` is a new handle that nobody else owns.
    Ok(unsafe { Array::from_ptr(result) })
}
