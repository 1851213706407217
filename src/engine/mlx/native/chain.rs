//! The FFI edge: several operations on the same few rows as one node of MLX's graph.
//! Which operations those are is decided by the caller.

use std::ffi::{c_int, c_void};

use mlx_rs::Array;
use mlx_sys::mlx_array;

use super::{NativeError, array_of, last_error, window_of};
use crate::engine::mlx::attention::Scores;
use crate::engine::mlx::packed::Packed;

// Declared as in `native/kernels.h`.
unsafe extern "C" {
    fn roundhouse_chain_open(x: mlx_array) -> *mut c_void;
    fn roundhouse_chain_packed_product(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        words: mlx_array,
        scales: mlx_array,
        biases: mlx_array,
        group_size: c_int,
        bits: c_int,
    ) -> c_int;
    fn roundhouse_chain_dense_product(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        w: mlx_array,
    ) -> c_int;
    fn roundhouse_chain_shift(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        bias: mlx_array,
    ) -> c_int;
    fn roundhouse_chain_sum(chain: *mut c_void, to: *mut c_int, left: c_int, right: c_int)
    -> c_int;
    fn roundhouse_chain_scaled(chain: *mut c_void, to: *mut c_int, x: c_int, factor: f32) -> c_int;
    fn roundhouse_chain_columns(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        first: c_int,
        last: c_int,
    ) -> c_int;
    fn roundhouse_chain_rms_norm(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        weight: mlx_array,
        epsilon: f32,
    ) -> c_int;
    fn roundhouse_chain_swiglu(chain: *mut c_void, to: *mut c_int, gate: c_int, up: c_int)
    -> c_int;
    fn roundhouse_chain_rotate(
        chain: *mut c_void,
        to: *mut c_int,
        x: c_int,
        heads: c_int,
        cosines: mlx_array,
        sines: mlx_array,
        neighbours: c_int,
    ) -> c_int;
    fn roundhouse_chain_attention(
        chain: *mut c_void,
        to: *mut c_int,
        queries: c_int,
        keys: c_int,
        values: c_int,
        size: c_int,
        scale: f32,
        window: c_int,
        cap: f32,
        sinks: *const mlx_array,
        sequences: c_int,
        rows: *const c_int,
        before: *const c_int,
        caches: *const mlx_array,
    ) -> c_int;
    fn roundhouse_chain_finish(
        chain: *mut c_void,
        numbers: c_int,
        result: *mut mlx_array,
        caches: *mut mlx_array,
    ) -> c_int;
    fn roundhouse_chain_close(chain: *mut c_void);
}

/// Operations that become one node, in the order in which they run. Weights have to be
/// evaluated before; x and caches need not be.
#[derive(Debug)]
pub struct Chain {
    chain: *mut c_void,
    /// Caches that it writes to.
    caches: usize,
}

/// Numbers inside a chain, `[rows, width]`: what goes in, or what an operation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers(c_int);

/// What of the rows of a chain is one sequence's.
#[derive(Debug)]
pub struct Sequence {
    /// Its rows.
    pub rows: usize,
    /// Tokens that it has had before them.
    pub before: usize,
    /// Keys and values, each `[key heads, room, size]` in float32.
    pub caches: [Array; 2],
}

impl Chain {
    /// One that begins with `x` `[rows, width]` in float32.
    pub fn open(x: &Array) -> Result<(Self, Numbers), NativeError> {
        // SAFETY: the handle is borrowed from a live array; the callee makes its own.
        let chain = unsafe { roundhouse_chain_open(x.as_ptr()) };
        if chain.is_null() {
            return Err(NativeError::Failed(last_error()));
        }
        Ok((Self { chain, caches: 0 }, Numbers(0)))
    }

    /// The numbers that `make` adds to the chain that it is given.
    fn add(
        &mut self,
        make: impl FnOnce(*mut c_void, *mut c_int) -> c_int,
    ) -> Result<Numbers, NativeError> {
        let mut place = 0;
        match make(self.chain, &raw mut place) {
            0 => Ok(Numbers(place)),
            _ => Err(NativeError::Failed(last_error())),
        }
    }

    /// As [`super::quantized_matmul`]; the form has biases.
    pub fn packed_product(
        &mut self,
        x: Numbers,
        packed: &Packed,
        biases: &Array,
    ) -> Result<Numbers, NativeError> {
        let Packed { words, scales, .. } = packed;
        let form = packed.packing;
        // SAFETY: the chain is live until `drop`; handles as in `open`.
        self.add(|chain, to| unsafe {
            roundhouse_chain_packed_product(
                chain,
                to,
                x.0,
                words.as_ptr(),
                scales.as_ptr(),
                biases.as_ptr(),
                form.group_size,
                form.bits,
            )
        })
    }

    /// As [`super::dense_matmul`].
    pub fn dense_product(&mut self, x: Numbers, w: &Array) -> Result<Numbers, NativeError> {
        // SAFETY: as in `packed_product`.
        self.add(|chain, to| unsafe { roundhouse_chain_dense_product(chain, to, x.0, w.as_ptr()) })
    }

    /// `bias` `[width]` in float32 added to each row.
    pub fn shift(&mut self, x: Numbers, bias: &Array) -> Result<Numbers, NativeError> {
        // SAFETY: as in `packed_product`.
        self.add(|chain, to| unsafe { roundhouse_chain_shift(chain, to, x.0, bias.as_ptr()) })
    }

    /// The sum of two of one width.
    pub fn sum(&mut self, left: Numbers, right: Numbers) -> Result<Numbers, NativeError> {
        // SAFETY: the chain is live until `drop`.
        self.add(|chain, to| unsafe { roundhouse_chain_sum(chain, to, left.0, right.0) })
    }

    /// Each number times `factor`.
    pub fn scaled(&mut self, x: Numbers, factor: f32) -> Result<Numbers, NativeError> {
        // SAFETY: the chain is live until `drop`.
        self.add(|chain, to| unsafe { roundhouse_chain_scaled(chain, to, x.0, factor) })
    }

    /// Columns `first` to before `last` of each row.
    pub fn columns(&mut self, x: Numbers, [first, last]: [i32; 2]) -> Result<Numbers, NativeError> {
        // SAFETY: the chain is live until `drop`.
        self.add(|chain, to| unsafe { roundhouse_chain_columns(chain, to, x.0, first, last) })
    }

    /// As [`super::rms_norm`], of each run of a row that is as long as the weight.
    pub fn rms_norm(
        &mut self,
        x: Numbers,
        weight: &Array,
        epsilon: f32,
    ) -> Result<Numbers, NativeError> {
        // SAFETY: as in `packed_product`.
        self.add(|chain, to| unsafe {
            roundhouse_chain_rms_norm(chain, to, x.0, weight.as_ptr(), epsilon)
        })
    }

    /// As [`super::swiglu`].
    pub fn swiglu(&mut self, gate: Numbers, up: Numbers) -> Result<Numbers, NativeError> {
        // SAFETY: the chain is live until `drop`.
        self.add(|chain, to| unsafe { roundhouse_chain_swiglu(chain, to, gate.0, up.0) })
    }

    /// As [`super::rotate`], of rows that are `heads` side by side.
    pub fn rotate(
        &mut self,
        x: Numbers,
        heads: i32,
        [cosines, sines]: [&Array; 2],
        neighbours: bool,
    ) -> Result<Numbers, NativeError> {
        // SAFETY: as in `packed_product`.
        self.add(|chain, to| unsafe {
            roundhouse_chain_rotate(
                chain,
                to,
                x.0,
                heads,
                cosines.as_ptr(),
                sines.as_ptr(),
                c_int::from(neighbours),
            )
        })
    }

    /// As [`super::attention`], of heads of `size` side by side, of one sequence after
    /// the other; keys and values are written to its caches behind those before.
    pub fn attention(
        &mut self,
        [queries, keys, values]: [Numbers; 3],
        size: i32,
        scores: &Scores,
        sequences: &[Sequence],
    ) -> Result<Numbers, NativeError> {
        let count = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
        let rows: Vec<c_int> = sequences.iter().map(|one| count(one.rows)).collect();
        let before: Vec<c_int> = sequences.iter().map(|one| count(one.before)).collect();
        let caches = sequences.iter().flat_map(|one| &one.caches);
        let caches: Vec<mlx_array> = caches.map(Array::as_ptr).collect();
        let sinks = scores.sinks.as_ref().map(Array::as_ptr);
        let sinks = sinks.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: as in `packed_product`; `rows` and `before` are as long as it is said
        // that there are sequences, `caches` twice as long; `sinks` is null or a handle
        // that lives across the call.
        let seen = self.add(|chain, to| unsafe {
            roundhouse_chain_attention(
                chain,
                to,
                queries.0,
                keys.0,
                values.0,
                size,
                scores.scale,
                window_of(scores),
                scores.cap.unwrap_or(0.0),
                sinks,
                count(sequences.len()),
                rows.as_ptr(),
                before.as_ptr(),
                caches.as_ptr(),
            )
        })?;
        self.caches += caches.len();
        Ok(seen)
    }

    /// The node: `numbers` `[rows, width]`, and the caches that were written to, in the
    /// order in which they came. One of which nobody else has a handle when the node is
    /// evaluated is written in place.
    pub fn finish(self, numbers: Numbers) -> Result<(Array, Vec<Array>), NativeError> {
        let none = mlx_array {
            ctx: std::ptr::null_mut(),
        };
        let mut caches = vec![none; self.caches];
        // SAFETY: the chain is live until `drop`; there is a place for each of its caches.
        let result = array_of(|result| unsafe {
            roundhouse_chain_finish(self.chain, numbers.0, result, caches.as_mut_ptr())
        })?;
        // SAFETY: on success these are new handles that nobody else owns.
        let caches = caches
            .into_iter()
            .map(|cache| unsafe { Array::from_ptr(cache) });
        Ok((result, caches.collect()))
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // SAFETY: made by `roundhouse_chain_open`, closed once. What became a node lives
        // on by itself.
        unsafe { roundhouse_chain_close(self.chain) };
    }
}

#[cfg(test)]
mod tests;
