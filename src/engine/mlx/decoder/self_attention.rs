//! The attention part of a layer: projections, norms of queries and keys, rotation.
//! What sees what is decided in `attention`.

use mlx_rs::error::Result as MlxResult;

use super::design::{Design, Layer, QueryKeyNorm};
use super::operations::Operations;
use crate::engine::EngineError;
use crate::engine::mlx::attention::{Heads, Pass, Scores};
use crate::engine::mlx::layers::{Linear, RmsNorm};
use crate::engine::mlx::rope::{Rope, Turn};
use crate::engine::mlx::weights::Weights;

/// The attention part of one layer.
pub struct SelfAttention {
    heads: Heads,
    projections: Projections,
    norms: Norms,
    scores: Scores,
    o_proj: Linear,
}

enum Projections {
    Apart {
        q_proj: Linear,
        k_proj: Linear,
        v_proj: Linear,
    },
    Joined(Linear),
}

enum Norms {
    None,
    Head { q_norm: RmsNorm, k_norm: RmsNorm },
    Whole { q_norm: RmsNorm, k_norm: RmsNorm },
}

impl SelfAttention {
    /// The part at `path`.
    pub fn load(
        weights: &mut Weights,
        path: &str,
        design: &Design,
        layer: Layer,
    ) -> Result<Self, EngineError> {
        let (hidden, heads) = (design.hidden, design.heads);
        let (queries, keys) = (heads.queries * heads.size, heads.key_values * heads.size);
        let how = design.projections;
        let mut linear = |name: &str, inputs: i32, outputs: i32, bias: bool| {
            Linear::load(weights, &format!("{path}.{name}"), inputs, outputs, bias)
        };
        let projections = match how.joined {
            true => Projections::Joined(linear("qkv_proj", hidden, queries + 2 * keys, how.bias)?),
            false => Projections::Apart {
                q_proj: linear("q_proj", hidden, queries, how.bias)?,
                k_proj: linear("k_proj", hidden, keys, how.bias)?,
                v_proj: linear("v_proj", hidden, keys, how.bias)?,
            },
        };
        let o_proj = linear("o_proj", queries, hidden, how.output_bias)?;
        let sinks = match design.sinks {
            true => Some(weights.take(&format!("{path}.sinks"), &[heads.queries])?),
            false => None,
        };
        let mut norm = |name: &str, size: i32| {
            let path = format!("{path}.{name}");
            RmsNorm::load(weights, &path, size, design.epsilon, design.gain)
        };
        let norms = match design.query_key_norm {
            QueryKeyNorm::None => Norms::None,
            QueryKeyNorm::Head => Norms::Head {
                q_norm: norm("q_norm", heads.size)?,
                k_norm: norm("k_norm", heads.size)?,
            },
            QueryKeyNorm::Whole => Norms::Whole {
                q_norm: norm("q_norm", queries)?,
                k_norm: norm("k_norm", keys)?,
            },
        };
        Ok(Self {
            heads,
            projections,
            norms,
            scores: Scores {
                scale: design.score_scale,
                window: layer.window,
                cap: design.score_cap,
                sinks,
            },
            o_proj,
        })
    }

    /// `x` `[rows, hidden]` through layer `layer`: `[rows, hidden]`. Heads turn by
    /// `rotation`, if there is one.
    pub fn apply<O: Operations>(
        &self,
        with: &mut O,
        x: &O::Numbers,
        layer: usize,
        pass: &mut Pass,
        rotation: Option<(&Rope, &Turn)>,
    ) -> MlxResult<O::Numbers> {
        let Heads {
            queries,
            key_values,
            size,
        } = self.heads;
        let (mut q, mut k, v) = self.projections.apply(with, x, self.heads)?;
        if let Norms::Whole { q_norm, k_norm } = &self.norms {
            (q, k) = (with.norm(q_norm, &q)?, with.norm(k_norm, &k)?);
        }
        q = with.heads(&q, queries, size)?;
        k = with.heads(&k, key_values, size)?;
        let v = with.heads(&v, key_values, size)?;
        if let Norms::Head { q_norm, k_norm } = &self.norms {
            (q, k) = (with.norm(q_norm, &q)?, with.norm(k_norm, &k)?);
        }
        if let Some((rope, turn)) = rotation {
            q = with.turned(rope, turn, &q)?;
            k = with.turned(rope, turn, &k)?;
        }
        let seen = with.attended(pass, layer, &self.scores, [&q, &k, &v])?;
        with.linear(&self.o_proj, &seen)
    }

    /// Whether a chain can have it.
    #[cfg(target_os = "linux")]
    pub fn is_own(&self) -> bool {
        let projections = match &self.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => q_proj.is_own() && k_proj.is_own() && v_proj.is_own(),
            Projections::Joined(qkv_proj) => qkv_proj.is_own(),
        };
        projections && self.o_proj.is_own()
    }
}

impl Projections {
    /// Queries, keys and values, each `[rows, heads · size]`.
    fn apply<O: Operations>(
        &self,
        with: &mut O,
        x: &O::Numbers,
        heads: Heads,
    ) -> MlxResult<(O::Numbers, O::Numbers, O::Numbers)> {
        match self {
            Self::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => Ok((
                with.linear(q_proj, x)?,
                with.linear(k_proj, x)?,
                with.linear(v_proj, x)?,
            )),
            Self::Joined(qkv_proj) => {
                let all = with.linear(qkv_proj, x)?;
                let keys = heads.queries * heads.size;
                let values = keys + heads.key_values * heads.size;
                let end = 2 * values - keys;
                Ok((
                    with.columns(&all, 0..keys)?,
                    with.columns(&all, keys..values)?,
                    with.columns(&all, values..end)?,
                ))
            }
        }
    }
}
