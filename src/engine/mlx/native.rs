//! The FFI edge: what MLX lacks on a CPU, from the C++ in `native/`. Products
//! over quantised and half-width weights that compute in float32, and weights
//! mapped from a file instead of copied. Linux only, and only for arrays on the
//! CPU device; what is faster where is decided by the caller.
#![expect(unsafe_code, reason = "calls the C++ library beside this file")]

pub mod chain;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use mlx_sys::mlx_array;

use super::attention::Scores;
use super::quantization::Packing;

/// Rows up to which each gives in every operation here what it gives alone: one fewer than
/// `kLeastStanding` in `native/product.cpp`.
pub const ROWS_ALIKE: usize = 13;

/// Why a native function failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NativeError {
    /// Shapes or number formats that do not fit, or a library that is missing.
    #[error("{0}")]
    Failed(String),
    /// A file that cannot be mapped.
    #[error("cannot map {path}: {reason}")]
    Map {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
}

// Declared as in `native/kernels.h`.
unsafe extern "C" {
    fn roundhouse_last_error() -> *const c_char;
    fn roundhouse_prepare(threads: c_int) -> c_int;
    #[cfg(test)]
    fn roundhouse_use_instructions(instructions: c_int) -> c_int;
    fn roundhouse_quantized_matmul(
        result: *mut mlx_array,
        x: mlx_array,
        packed: mlx_array,
        scales: mlx_array,
        biases: mlx_array,
        group_size: c_int,
        bits: c_int,
    ) -> c_int;
    fn roundhouse_dense_matmul(result: *mut mlx_array, x: mlx_array, w: mlx_array) -> c_int;
    fn roundhouse_packed_rows(
        result: *mut mlx_array,
        indices: mlx_array,
        packed: mlx_array,
        scales: mlx_array,
        biases: mlx_array,
        group_size: c_int,
        bits: c_int,
    ) -> c_int;
    fn roundhouse_dense_rows(result: *mut mlx_array, indices: mlx_array, w: mlx_array) -> c_int;
    fn roundhouse_rms_norm(
        result: *mut mlx_array,
        x: mlx_array,
        weight: mlx_array,
        epsilon: f32,
    ) -> c_int;
    fn roundhouse_swiglu(result: *mut mlx_array, gate: mlx_array, up: mlx_array) -> c_int;
    fn roundhouse_rotate(
        result: *mut mlx_array,
        x: mlx_array,
        cosines: mlx_array,
        sines: mlx_array,
        neighbours: c_int,
    ) -> c_int;
    fn roundhouse_attention(
        result: *mut mlx_array,
        queries: mlx_array,
        keys: mlx_array,
        values: mlx_array,
        scale: f32,
        window: c_int,
        cap: f32,
        sinks: *const mlx_array,
    ) -> c_int;
    fn roundhouse_packed_attention(
        result: *mut mlx_array,
        queries: mlx_array,
        held: *const mlx_array,
        group_size: c_int,
        bits: c_int,
        scale: f32,
        window: c_int,
        cap: f32,
        sinks: *const mlx_array,
    ) -> c_int;
    fn roundhouse_rows_taken(
        result: *mut mlx_array,
        kinds: *const mlx_array,
        count: usize,
        first: c_int,
        last: c_int,
    ) -> c_int;
    fn roundhouse_rows_joined(
        result: *mut mlx_array,
        pieces: *const mlx_array,
        rows: *const c_int,
        count: usize,
        kind: c_int,
        room: c_int,
    ) -> c_int;
    fn roundhouse_map_open(path: *const c_char) -> *mut c_void;
    fn roundhouse_map_length(map: *const c_void) -> usize;
    fn roundhouse_map_array(
        result: *mut mlx_array,
        map: *const c_void,
        offset: usize,
        shape: *const c_int,
        dimensions: usize,
        dtype: mlx_sys::mlx_dtype,
    ) -> c_int;
    fn roundhouse_map_close(map: *mut c_void);
}

fn last_error() -> String {
    // SAFETY: the pointer is never null and stays valid until the next failure in
    // this thread; the text is copied before that.
    let message = unsafe { CStr::from_ptr(roundhouse_last_error()) };
    message.to_string_lossy().into_owned()
}

/// Calls `make` with a place for its result.
fn array_of(make: impl FnOnce(*mut mlx_array) -> c_int) -> Result<Array, NativeError> {
    let mut result = mlx_array {
        ctx: std::ptr::null_mut(),
    };
    if make(&raw mut result) != 0 {
        return Err(NativeError::Failed(last_error()));
    }
    // SAFETY: on success `result` is a new handle that nobody else owns.
    Ok(unsafe { Array::from_ptr(result) })
}

/// Makes products use `threads` cores, in all models of this process, and loads
/// the library they need, so that its absence is an error here and not later.
pub fn prepare(threads: usize) -> Result<(), NativeError> {
    let threads = c_int::try_from(threads).unwrap_or(c_int::MAX).max(1);
    // SAFETY: no arguments to keep valid.
    match unsafe { roundhouse_prepare(threads) } {
        0 => Ok(()),
        _ => Err(NativeError::Failed(last_error())),
    }
}

/// Held by a test that compares numbers to the last bit, and by one that chooses
/// instructions while it writes: the choice is one for all threads.
#[cfg(test)]
pub static INSTRUCTIONS: std::sync::RwLock<()> = std::sync::RwLock::new(());

/// Makes products use one instruction set: 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512 with
/// VNNI. False where the processor lacks it.
#[cfg(test)]
fn use_instructions(instructions: c_int) -> bool {
    // SAFETY: no arguments to keep valid; any choice gives right products.
    unsafe { roundhouse_use_instructions(instructions) == 0 }
}

/// `x · transpose(w)` for `x` of shape `[…, K]` in float32 and `w` of shape
/// `[N, K]` in MLX's affine quantisation: `packed` as uint32 `[N, K·bits/32]`,
/// `scales` and `biases` `[N, K/group_size]` in float32, float16 or bfloat16.
/// Group sizes are 32, 64, 128; bits are 2, 3, 4, 6, 8. Gives float32 `[…, N]`,
/// evaluated with the graph like any operation of MLX.
pub fn quantized_matmul(
    x: &Array,
    packed: &Array,
    scales: &Array,
    biases: &Array,
    group_size: i32,
    bits: i32,
) -> Result<Array, NativeError> {
    // SAFETY: the handles are borrowed from live arrays; the callee makes its own.
    array_of(|result| unsafe {
        roundhouse_quantized_matmul(
            result,
            x.as_ptr(),
            packed.as_ptr(),
            scales.as_ptr(),
            biases.as_ptr(),
            group_size,
            bits,
        )
    })
}

/// `x · transpose(w)` for `x` of shape `[…, K]` in float32 and `w` of shape
/// `[N, K]` in float32, float16 or bfloat16. Gives float32 `[…, N]`.
pub fn dense_matmul(x: &Array, w: &Array) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe { roundhouse_dense_matmul(result, x.as_ptr(), w.as_ptr()) })
}

/// The rows `indices` `[R]` in uint32 of a matrix packed as in [`quantized_matmul`]:
/// float32 `[R, K]`. One that is not there is an error when it is evaluated.
pub fn packed_rows(
    indices: &Array,
    packed: &Array,
    scales: &Array,
    biases: &Array,
    group_size: i32,
    bits: i32,
) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe {
        roundhouse_packed_rows(
            result,
            indices.as_ptr(),
            packed.as_ptr(),
            scales.as_ptr(),
            biases.as_ptr(),
            group_size,
            bits,
        )
    })
}

/// The rows `indices` `[R]` in uint32 of `w` `[N, K]` in float32, float16 or bfloat16:
/// float32 `[R, K]`. One that is not there is an error when it is evaluated.
pub fn dense_rows(indices: &Array, w: &Array) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe { roundhouse_dense_rows(result, indices.as_ptr(), w.as_ptr()) })
}

/// `x` `[…, K]` in float32, each row divided by its root mean square, times
/// `weight` `[K]` (arXiv 1910.07467). The weight may be float32, float16 or bfloat16.
pub fn rms_norm(x: &Array, weight: &Array, epsilon: f32) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe { roundhouse_rms_norm(result, x.as_ptr(), weight.as_ptr(), epsilon) })
}

/// `silu(gate) * up` (arXiv 2002.05202), both float32 of one shape.
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe { roundhouse_swiglu(result, gate.as_ptr(), up.as_ptr()) })
}

/// `x` `[rows, heads, size]` in float32 with the pairs of each head turned by the
/// angles whose `cosines` and `sines` are `[rows, 1, turned / 2]` (arXiv
/// 2104.09864). Pairs are neighbours, or else the halves of the first `turned`
/// numbers; what is behind stays as it is.
pub fn rotate(
    x: &Array,
    cosines: &Array,
    sines: &Array,
    neighbours: bool,
) -> Result<Array, NativeError> {
    // SAFETY: as in `quantized_matmul`.
    array_of(|result| unsafe {
        roundhouse_rotate(
            result,
            x.as_ptr(),
            cosines.as_ptr(),
            sines.as_ptr(),
            c_int::from(neighbours),
        )
    })
}

/// Attention of the last rows of one sequence, each over itself and what is before
/// it: `queries` `[rows, heads, size]`, `keys` and `values`
/// `[key heads, tokens, size]`, all float32. Gives `[rows, heads · size]`. Keys and
/// values are read in place also when they are the first tokens of a larger array.
pub fn attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scores: &Scores,
) -> Result<Array, NativeError> {
    let sinks = scores.sinks.as_ref().map(Array::as_ptr);
    let sinks = sinks.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as in `quantized_matmul`; `sinks` is null or a handle that lives
    // across the call.
    array_of(|result| unsafe {
        roundhouse_attention(
            result,
            queries.as_ptr(),
            keys.as_ptr(),
            values.as_ptr(),
            scores.scale,
            window_of(scores),
            scores.cap.unwrap_or(0.0),
            sinks,
        )
    })
}

/// The same over packed keys and values: each `[words, scales, biases]` in MLX's affine
/// quantisation along the size of a head, words as uint32 `[key heads, tokens,
/// size · bits / 32]`, scales and biases as float32 `[key heads, tokens, size / group_size]`.
/// Bits are 4 or 8. They are unpacked a few hundred rows at a time.
pub fn packed_attention(
    queries: &Array,
    keys: &[Array; 3],
    values: &[Array; 3],
    packing: Packing,
    scores: &Scores,
) -> Result<Array, NativeError> {
    let held: Vec<mlx_array> = keys.iter().chain(values).map(Array::as_ptr).collect();
    let sinks = scores.sinks.as_ref().map(Array::as_ptr);
    let sinks = sinks.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: as in `attention`; `held` are six handles, as the callee reads.
    array_of(|result| unsafe {
        roundhouse_packed_attention(
            result,
            queries.as_ptr(),
            held.as_ptr(),
            packing.group_size,
            packing.bits,
            scores.scale,
            window_of(scores),
            scores.cap.unwrap_or(0.0),
            sinks,
        )
    })
}

/// The window as the library has it: 0 is none.
fn window_of(scores: &Scores) -> c_int {
    c_int::try_from(scores.window.unwrap_or(0)).unwrap_or(c_int::MAX)
}

/// The `rows` of each of `kinds` `[heads, room, width]`, of one shape and number format:
/// `[kinds, heads, rows, width]`. Evaluates: what goes in, and the copy.
pub fn evaluate_rows(kinds: &[&Array], rows: Range<i32>) -> Result<Array, NativeError> {
    let kinds: Vec<mlx_array> = kinds.iter().map(|kind| kind.as_ptr()).collect();
    // SAFETY: as in `quantized_matmul`; `kinds` are as many handles as are counted.
    array_of(|result| unsafe {
        roundhouse_rows_taken(result, kinds.as_ptr(), kinds.len(), rows.start, rows.end)
    })
}

/// The first rows of each of `pieces` `[kinds, heads, rows, width]`, as many as beside it,
/// of its array number `kind`, one piece after the other and zeros behind them:
/// `[heads, room, width]`. There is at least one piece. Evaluates: what goes in, and the copy.
pub fn evaluate_joined(
    pieces: &[(&Array, i32)],
    kind: i32,
    room: i32,
) -> Result<Array, NativeError> {
    let (count, rows) = (pieces.len(), pieces.iter().map(|(_, rows)| *rows));
    let rows: Vec<c_int> = rows.collect();
    let pieces: Vec<mlx_array> = pieces.iter().map(|(piece, _)| piece.as_ptr()).collect();
    // SAFETY: as in `quantized_matmul`; of both lists there are as many as are counted.
    array_of(|result| unsafe {
        roundhouse_rows_joined(result, pieces.as_ptr(), rows.as_ptr(), count, kind, room)
    })
}

/// A file in memory from which arrays are made without copying. The arrays keep
/// it mapped, also after this value is gone. The file must not be shortened
/// meanwhile.
#[derive(Debug)]
pub struct MappedFile {
    map: *mut c_void,
}

// SAFETY: the mapping is only read, and its count of users is atomic.
unsafe impl Send for MappedFile {}

impl MappedFile {
    /// Maps the whole of the file at `path`.
    pub fn open(path: &Path) -> Result<Self, NativeError> {
        let failed = |reason: String| NativeError::Map {
            path: path.display().to_string(),
            reason,
        };
        let text = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| failed("its name holds a zero byte".into()))?;
        // SAFETY: `text` ends in a zero byte and lives across the call.
        let map = unsafe { roundhouse_map_open(text.as_ptr()) };
        if map.is_null() {
            return Err(failed(last_error()));
        }
        Ok(Self { map })
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        // SAFETY: `map` is live until `drop`.
        unsafe { roundhouse_map_length(self.map) as u64 }
    }

    /// The array of `shape` whose numbers begin `offset` bytes into the file, one
    /// after the other. Not copied, except where `offset` is no multiple of the
    /// size of a number.
    pub fn array(&self, offset: u64, shape: &[i32], dtype: Dtype) -> Result<Array, NativeError> {
        let offset = usize::try_from(offset)
            .map_err(|_| NativeError::Failed("the offset is beyond this machine".into()))?;
        if shape.iter().any(|&length| length < 0) {
            return Err(NativeError::Failed("a length is negative".into()));
        }
        // SAFETY: `map` is live until `drop`; `shape` is read during the call only.
        array_of(|result| unsafe {
            roundhouse_map_array(
                result,
                self.map,
                offset,
                shape.as_ptr(),
                shape.len(),
                dtype as mlx_sys::mlx_dtype,
            )
        })
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: made by `roundhouse_map_open`, closed once. Arrays hold the
        // memory themselves.
        unsafe { roundhouse_map_close(self.map) };
    }
}

#[cfg(test)]
mod tests;
