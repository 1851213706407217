//! The attention part of a layer: projections, norms of queries and keys, rotation.
//! What sees what is decided in `attention`.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::TryIndexOp;

use super::design::{Design, Layer, QueryKeyNorm};
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
    pub fn apply(
        &self,
        x: &Array,
        layer: usize,
        pass: &mut Pass,
        rotation: Option<(&Rope, &Turn)>,
    ) -> MlxResult<Array> {
        let Heads {
            queries,
            key_values,
            size,
        } = self.heads;
        let (mut q, mut k, v) = self.projections.apply(x, self.heads)?;
        if let Norms::Whole { q_norm, k_norm } = &self.norms {
            (q, k) = (q_norm.apply(&q)?, k_norm.apply(&k)?);
        }
        q = q.reshape(&[-1, queries, size])?;
        k = k.reshape(&[-1, key_values, size])?;
        let v = v.reshape(&[-1, key_values, size])?;
        if let Norms::Head { q_norm, k_norm } = &self.norms {
            (q, k) = (q_norm.apply(&q)?, k_norm.apply(&k)?);
        }
        if let Some((rope, turn)) = rotation {
            (q, k) = (rope.apply(&q, turn)?, rope.apply(&k, turn)?);
        }
        let seen = pass.attend(layer, &self.scores, &q, &k, Some(&v))?;
        self.o_proj.apply(&seen)
    }
}

impl Projections {
    /// Queries, keys and values, each `[rows, heads · size]`.
    fn apply(&self, x: &Array, heads: Heads) -> MlxResult<(Array, Array, Array)> {
        match self {
            Self::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => Ok((q_proj.apply(x)?, k_proj.apply(x)?, v_proj.apply(x)?)),
            Self::Joined(qkv_proj) => {
                let all = qkv_proj.apply(x)?;
                let keys = heads.queries * heads.size;
                let values = keys + heads.key_values * heads.size;
                Ok((
                    all.try_index((.., ..keys))?,
                    all.try_index((.., keys..values))?,
                    all.try_index((.., values..))?,
                ))
            }
        }
    }
}
