//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): of each token
//! only a short vector and what turns of its key are kept.
//!
//! Keys and values are linear in the short vector, so their matrices are taken to the
//! other side of the products (ibid., "absorbed"): a query is brought to where the short
//! vectors are, and what it sees from there to values. Attention is then that of many
//! queries over one key, whose first numbers are the value too.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, matmul};

use super::design::{Design, Latent};
use crate::engine::EngineError;
use crate::engine::mlx::attention::{Pass, Scores};
use crate::engine::mlx::device_failed;
use crate::engine::mlx::layers::{Gain, Linear, RmsNorm};
use crate::engine::mlx::rope::{Rope, Turn};
use crate::engine::mlx::weights::Weights;

/// Keeps the norms of the short vectors from dividing by nothing, whatever the others have.
const EPSILON: f32 = 1e-6;

/// The attention part of one layer.
pub struct LatentAttention {
    design: Latent,
    queries: Queries,
    kv_a_proj: Linear,
    kv_a_norm: RmsNorm,
    /// From the part of a query that does not turn to a short vector,
    /// `[heads, still, rank]`.
    to_latent: Array,
    /// From a short vector to a value, `[heads, rank, value]`.
    to_value: Array,
    scores: Scores,
    o_proj: Linear,
}

enum Queries {
    Whole(Linear),
    ByRank {
        a_proj: Linear,
        norm: RmsNorm,
        b_proj: Linear,
    },
}

impl LatentAttention {
    /// The part at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        design: &Design,
        latent: Latent,
    ) -> Result<Self, EngineError> {
        let hidden = design.hidden;
        let Latent {
            heads,
            rank,
            still,
            turned,
            value,
            bias,
            ..
        } = latent;
        let norm = |weights: &mut Weights, name: &str, size: i32| {
            RmsNorm::load(
                weights,
                &format!("{path}.{name}"),
                size,
                EPSILON,
                Gain::Whole,
            )
        };
        let linear = |weights: &mut Weights, name: &str, inputs: i32, outputs: i32, bias: bool| {
            Linear::load(weights, &format!("{path}.{name}"), inputs, outputs, bias)
        };
        let of_queries = heads * (still + turned);
        let queries = match latent.query_rank {
            None => Queries::Whole(linear(weights, "q_proj", hidden, of_queries, false)?),
            Some(rank) => Queries::ByRank {
                a_proj: linear(weights, "q_a_proj", hidden, rank, bias)?,
                norm: norm(weights, "q_a_layernorm", rank)?,
                b_proj: linear(weights, "q_b_proj", rank, of_queries, false)?,
            },
        };
        let (to_latent, to_value) = absorbed(weights, path, latent)?;
        Ok(Self {
            design: latent,
            queries,
            kv_a_proj: linear(weights, "kv_a_proj_with_mqa", hidden, rank + turned, bias)?,
            kv_a_norm: norm(weights, "kv_a_layernorm", rank)?,
            to_latent,
            to_value,
            scores: Scores {
                scale: design.score_scale,
                window: None,
                cap: None,
                sinks: None,
            },
            o_proj: linear(weights, "o_proj", heads * value, hidden, bias)?,
        })
    }

    /// `x` `[rows, hidden]` through layer `layer`: `[rows, hidden]`. What turns does so by
    /// `rotation`.
    pub fn apply(
        &self,
        x: &Array,
        layer: usize,
        pass: &mut Pass,
        rotation: Option<(&Rope, &Turn)>,
    ) -> MlxResult<Array> {
        let Latent {
            heads,
            rank,
            still,
            turned,
            ..
        } = self.design;
        let turn = |x: &Array, heads: i32| {
            let x = x.reshape(&[-1, heads, turned])?;
            match rotation {
                Some((rope, turn)) => rope.apply(&x, turn),
                None => Ok(x),
            }
        };
        let queries = match &self.queries {
            Queries::Whole(proj) => proj.apply(x)?,
            Queries::ByRank {
                a_proj,
                norm,
                b_proj,
            } => b_proj.apply(&norm.apply(&a_proj.apply(x)?)?)?,
        };
        let queries = queries.reshape(&[-1, heads, still + turned])?;
        let plain = by_each_head(&queries.try_index((.., .., ..still))?, &self.to_latent)?;
        let turning = turn(&queries.try_index((.., .., still..))?, heads)?;
        let queries = concatenate(&[plain, turning], 2)?;

        let kept = self.kv_a_proj.apply(x)?;
        let latent = self.kv_a_norm.apply(&kept.try_index((.., ..rank))?)?;
        let turning = turn(&kept.try_index((.., rank..))?, 1)?;
        let keys = concatenate(&[latent.expand_dims(1)?, turning], 2)?;

        let seen = pass.attend(layer, &self.scores, &queries, &keys, None)?;
        let seen = seen.reshape(&[-1, heads, rank + turned])?;
        let values = by_each_head(&seen.try_index((.., .., ..rank))?, &self.to_value)?;
        let rows = values.dim(0);
        self.o_proj.apply(&values.reshape(&[rows, -1])?)
    }
}

/// `x` `[rows, heads, inputs]`, each head times its own of `matrices`
/// `[heads, inputs, outputs]`.
fn by_each_head(x: &Array, matrices: &Array) -> MlxResult<Array> {
    matmul(x.swap_axes(0, 1)?, matrices)?.swap_axes(0, 1)
}

/// The matrices on the other side: from `kv_b_proj`, as published, or from what mlx-lm
/// makes of it.
fn absorbed(
    weights: &mut Weights,
    path: &str,
    latent: Latent,
) -> Result<(Array, Array), EngineError> {
    let Latent {
        heads,
        rank,
        still,
        value,
        ..
    } = latent;
    let name = format!("{path}.kv_b_proj");
    if weights.has(&format!("{name}.weight")) {
        let both = weights.take_unpacked(&name, &[heads * (still + value), rank])?;
        let parts = || {
            let both = both.reshape(&[heads, still + value, rank])?;
            let to_value = both.try_index((.., still.., ..))?.swap_axes(1, 2)?;
            Ok((both.try_index((.., ..still, ..))?, to_value))
        };
        return parts().map_err(device_failed);
    }
    let to_latent = weights.take_unpacked(&format!("{path}.embed_q"), &[heads, rank, still])?;
    let to_value = weights.take_unpacked(&format!("{path}.unembed_out"), &[heads, value, rank])?;
    let turned = |array: Array| array.swap_axes(1, 2).map_err(device_failed);
    Ok((turned(to_latent)?, turned(to_value)?))
}
