//! The operations of a layer as one node of MLX's graph, for steps of few rows: there
//! MLX's own work on a node takes about as long as what the node computes.

use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result as MlxResult};

use super::design::Activation;
use super::operations::Operations;
use crate::engine::mlx::attention::{Pass, Scores};
use crate::engine::mlx::layers::{Linear, RmsNorm};
use crate::engine::mlx::native::NativeError;
use crate::engine::mlx::native::chain::{Chain, Numbers};
use crate::engine::mlx::rope::{Rope, Turn};

/// Operations in a chain.
pub struct Chained {
    chain: Chain,
    /// Whose caches are written to.
    layer: Option<usize>,
}

/// Numbers of a chain as so many heads.
#[derive(Clone, Copy)]
pub struct Rows {
    numbers: Numbers,
    heads: i32,
    /// Of a head; 0 where rows are no heads.
    size: i32,
}

impl Rows {
    fn plain(numbers: Numbers) -> Self {
        Self {
            numbers,
            heads: 1,
            size: 0,
        }
    }
}

impl Chained {
    /// A chain that begins with `x` `[rows, width]`.
    pub fn begin(x: &Array) -> MlxResult<(Self, Rows)> {
        let (chain, numbers) = Chain::open(x).map_err(failed)?;
        Ok((Self { chain, layer: None }, Rows::plain(numbers)))
    }

    /// `rows` as an array `[rows, width]`; the caches of `pass` are as they are then.
    pub fn finish(self, pass: &mut Pass, rows: Rows) -> MlxResult<Array> {
        let (result, caches) = self.chain.finish(rows.numbers).map_err(failed)?;
        if let Some(layer) = self.layer {
            pass.put_rooms(layer, caches);
        }
        Ok(result)
    }
}

impl Operations for Chained {
    type Numbers = Rows;

    fn linear(&mut self, linear: &Linear, x: &Rows) -> MlxResult<Rows> {
        let numbers = linear.chained(&mut self.chain, x.numbers);
        numbers.map(Rows::plain).map_err(failed)
    }

    fn norm(&mut self, norm: &RmsNorm, x: &Rows) -> MlxResult<Rows> {
        let numbers = norm.chained(&mut self.chain, x.numbers).map_err(failed)?;
        Ok(Rows { numbers, ..*x })
    }

    fn heads(&mut self, x: &Rows, heads: i32, size: i32) -> MlxResult<Rows> {
        let numbers = x.numbers;
        Ok(Rows {
            numbers,
            heads,
            size,
        })
    }

    fn columns(&mut self, x: &Rows, which: Range<i32>) -> MlxResult<Rows> {
        let numbers = self.chain.columns(x.numbers, [which.start, which.end]);
        numbers.map(Rows::plain).map_err(failed)
    }

    fn turned(&mut self, rope: &Rope, turn: &Turn, x: &Rows) -> MlxResult<Rows> {
        let Turn::Tables(cosines, sines) = turn else {
            return Err(Exception::custom("a chain turns by tables"));
        };
        let neighbours = rope.is_traditional();
        let numbers = self
            .chain
            .rotate(x.numbers, x.heads, [cosines, sines], neighbours)
            .map_err(failed)?;
        Ok(Rows { numbers, ..*x })
    }

    fn attended(
        &mut self,
        pass: &mut Pass,
        layer: usize,
        scores: &Scores,
        made: [&Rows; 3],
    ) -> MlxResult<Rows> {
        let sequences = pass.rooms(layer)?;
        self.layer = Some(layer);
        let size = made[0].size;
        let made = made.map(|rows| rows.numbers);
        let numbers = self.chain.attention(made, size, scores, &sequences);
        numbers.map(Rows::plain).map_err(failed)
    }

    fn gated(&mut self, activation: Activation, gate: &Rows, up: &Rows) -> MlxResult<Rows> {
        if !is_chained(activation) {
            return Err(Exception::custom("a gate that no chain has"));
        }
        let numbers = self.chain.swiglu(gate.numbers, up.numbers);
        numbers.map(Rows::plain).map_err(failed)
    }

    fn scaled(&mut self, x: &Rows, factor: f32) -> MlxResult<Rows> {
        if factor == 1.0 {
            return Ok(*x);
        }
        let numbers = self.chain.scaled(x.numbers, factor);
        numbers.map(Rows::plain).map_err(failed)
    }

    fn sum(&mut self, left: &Rows, right: &Rows) -> MlxResult<Rows> {
        let numbers = self.chain.sum(left.numbers, right.numbers);
        numbers.map(Rows::plain).map_err(failed)
    }
}

/// Whether a chain has this gate.
pub fn is_chained(activation: Activation) -> bool {
    activation == Activation::Swish
}

fn failed(error: NativeError) -> Exception {
    Exception::custom(error.to_string())
}
