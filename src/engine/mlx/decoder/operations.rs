//! What the layers of a decoder are made of, apart from who computes it: the same few
//! lines of a layer make many nodes of MLX's graph, or one.

use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;

use super::design::Activation;
use super::feed_forward::gated;
use crate::engine::mlx::attention::{Pass, Scores};
use crate::engine::mlx::device::Device;
use crate::engine::mlx::layers::{Linear, RmsNorm, scaled};
use crate::engine::mlx::rope::{Rope, Turn};

/// The operations of a layer on the rows of a pass. Nothing is computed yet.
pub trait Operations {
    /// `[rows, width]`, or `[rows, heads, size]` after [`Operations::heads`].
    type Numbers: Clone;

    /// Rows through a linear layer.
    fn linear(&mut self, linear: &Linear, x: &Self::Numbers) -> MlxResult<Self::Numbers>;

    /// Rows, or each head, through a norm.
    fn norm(&mut self, norm: &RmsNorm, x: &Self::Numbers) -> MlxResult<Self::Numbers>;

    /// Rows as so many heads of a size.
    fn heads(&mut self, x: &Self::Numbers, heads: i32, size: i32) -> MlxResult<Self::Numbers>;

    /// Some of the columns of rows.
    fn columns(&mut self, x: &Self::Numbers, which: Range<i32>) -> MlxResult<Self::Numbers>;

    /// Heads turned.
    fn turned(&mut self, rope: &Rope, turn: &Turn, x: &Self::Numbers) -> MlxResult<Self::Numbers>;

    /// Attention of layer `layer`: queries, keys and values as heads, turned; gives
    /// `[rows, heads · size]`.
    fn attended(
        &mut self,
        pass: &mut Pass,
        layer: usize,
        scores: &Scores,
        made: [&Self::Numbers; 3],
    ) -> MlxResult<Self::Numbers>;

    /// `activation(gate) · up`.
    fn gated(
        &mut self,
        activation: Activation,
        gate: &Self::Numbers,
        up: &Self::Numbers,
    ) -> MlxResult<Self::Numbers>;

    /// Times a factor.
    fn scaled(&mut self, x: &Self::Numbers, factor: f32) -> MlxResult<Self::Numbers>;

    /// One and the other.
    fn sum(&mut self, left: &Self::Numbers, right: &Self::Numbers) -> MlxResult<Self::Numbers>;
}

/// Each operation is a node of MLX's graph, or a few.
pub struct Nodes(pub Device);

impl Operations for Nodes {
    type Numbers = Array;

    fn linear(&mut self, linear: &Linear, x: &Array) -> MlxResult<Array> {
        linear.apply(x)
    }

    fn norm(&mut self, norm: &RmsNorm, x: &Array) -> MlxResult<Array> {
        norm.apply(x)
    }

    fn heads(&mut self, x: &Array, heads: i32, size: i32) -> MlxResult<Array> {
        x.reshape(&[-1, heads, size])
    }

    fn columns(&mut self, x: &Array, which: Range<i32>) -> MlxResult<Array> {
        x.try_index((.., which))
    }

    fn turned(&mut self, rope: &Rope, turn: &Turn, x: &Array) -> MlxResult<Array> {
        rope.apply(x, turn)
    }

    fn attended(
        &mut self,
        pass: &mut Pass,
        layer: usize,
        scores: &Scores,
        [queries, keys, values]: [&Array; 3],
    ) -> MlxResult<Array> {
        pass.attend(layer, scores, queries, keys, Some(values))
    }

    fn gated(&mut self, activation: Activation, gate: &Array, up: &Array) -> MlxResult<Array> {
        gated(self.0, activation, gate, up)
    }

    fn scaled(&mut self, x: &Array, factor: f32) -> MlxResult<Array> {
        scaled(x, factor)
    }

    fn sum(&mut self, left: &Array, right: &Array) -> MlxResult<Array> {
        left.add(right)
    }
}
