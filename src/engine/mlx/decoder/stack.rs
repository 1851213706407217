//! The stack of layers of a decoder: tokens to what stands for them after the last
//! layer. What is made of that, logits or vectors, is not decided here.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

#[cfg(target_os = "linux")]
use super::chained::{Chained, is_chained};
use super::design::{self, Design, Layer};
use super::experts::Mixture;
use super::feed_forward::Gated;
use super::latent_attention::LatentAttention;
use super::operations::{Nodes, Operations};
use super::self_attention::SelfAttention;
use super::short_convolution::ShortConvolution;
use crate::engine::EngineError;
use crate::engine::mlx::attention::Pass;
use crate::engine::mlx::kv::{CacheShape, LayerShape};
use crate::engine::mlx::layers::{Embedding, RmsNorm, scaled};
use crate::engine::mlx::quantization::Packing;
use crate::engine::mlx::rope::{Rope, Turn};
use crate::engine::mlx::weights::Weights;

/// Layers with their weights, and the table of tokens below them.
pub struct Stack {
    design: Design,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    ropes: Vec<Rope>,
    cache_shape: CacheShape,
}

/// One layer.
struct Block {
    layer: Layer,
    before_attention: Option<RmsNorm>,
    self_attn: Attention,
    after_attention: Option<RmsNorm>,
    before_feed_forward: Option<RmsNorm>,
    mlp: FeedForward,
    after_feed_forward: Option<RmsNorm>,
}

/// What a layer is applied with, besides its weights.
#[derive(Clone, Copy)]
struct Applied<'a> {
    /// Which layer it is.
    index: usize,
    rotation: Option<(&'a Rope, &'a Turn)>,
    /// What is added to a row counts times this.
    factor: f32,
    /// The rows that go beyond its attention; nothing if all do.
    wanted: Option<&'a Array>,
}

enum Attention {
    Plain(SelfAttention),
    Latent(LatentAttention),
    Convolution(ShortConvolution),
}

enum FeedForward {
    Dense(Box<Gated>),
    Experts(Box<Mixture>),
}

impl Stack {
    /// Takes the weights whose names begin with `root`; `packing` is that of its caches.
    ///
    /// # Errors
    /// A weight is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        root: &str,
        design: Design,
        packing: Option<Packing>,
    ) -> Result<Self, EngineError> {
        // Old checkpoints keep the frequencies of the rotation.
        weights.drop_where(|name| name.contains("rotary_emb.inv_freq"));
        if design.drafts {
            let beyond = format!("{root}layers.{}.", design.layers.len());
            weights.drop_where(|name| name.starts_with(&beyond));
        }
        let layers = design.layers.iter().enumerate();
        let layers: Result<Vec<Block>, EngineError> = layers
            .map(|(i, layer)| Block::load(weights, &format!("{root}layers.{i}"), &design, *layer))
            .collect();
        let (hidden, vocabulary) = (design.hidden, design.vocabulary);
        let embed_tokens =
            Embedding::load(weights, &format!("{root}embed_tokens"), vocabulary, hidden)?;
        let rope = |rotation: &design::Rotation| {
            Rope::new(
                rotation.turned,
                rotation.traditional,
                rotation.frequencies.clone(),
                weights.device(),
            )
        };
        let kept = |layer: &Layer| match layer.convolves {
            // What a convolution looks back at: of the last few tokens would be enough, and
            // of all lets a cache be cut anywhere.
            true => LayerShape {
                heads: 1,
                head: hidden,
                values: false,
                packing: None,
            },
            false => LayerShape {
                heads: design.heads.key_values,
                head: design.heads.size,
                values: design.latent.is_none(),
                packing,
            },
        };
        let ropes = design.rotations.iter().map(rope).collect();
        let norm = format!("{root}norm");
        Ok(Self {
            ropes,
            cache_shape: CacheShape {
                layers: design.layers.iter().map(kept).collect(),
                format: embed_tokens.format(),
            },
            norm: RmsNorm::load(weights, &norm, hidden, design.epsilon, design.gain)?,
            layers: layers?,
            embed_tokens,
            design,
        })
    }

    /// What it was built to.
    pub fn design(&self) -> &Design {
        &self.design
    }

    /// The vectors of tokens.
    pub fn embed_tokens(&self) -> &Embedding {
        &self.embed_tokens
    }

    /// The shape of its caches.
    pub fn cache_shape(&self) -> &CacheShape {
        &self.cache_shape
    }

    /// `tokens` `[rows]` through all layers: hidden states `[rows, hidden]`, or of those rows
    /// only that `wanted` `[count]` names: the others are no further than the attention of
    /// the last layer. Evaluates nothing.
    pub fn hidden(
        &self,
        tokens: &Array,
        pass: &mut Pass,
        wanted: Option<&Array>,
    ) -> MlxResult<Array> {
        let turns: Vec<Turn> = self.ropes.iter().map(|rope| pass.turn(rope)).collect();
        let x = self.embed_tokens.vectors(tokens)?;
        let mut x = scaled(&x, self.design.embedding_factor)?;
        for (index, block) in self.layers.iter().enumerate() {
            let rotation = block.layer.rotation;
            let rotation = rotation.map(|which| (&self.ropes[which], &turns[which]));
            let applied = Applied {
                index,
                rotation,
                factor: self.design.residual_factor,
                wanted: wanted.filter(|_| index + 1 == self.layers.len()),
            };
            x = block.apply(&x, pass, applied)?;
        }
        Ok(x)
    }

    /// Hidden states through the last norm. Evaluates nothing.
    pub fn normed(&self, hidden: &Array) -> MlxResult<Array> {
        self.norm.apply(hidden)
    }
}

impl Block {
    fn load(
        weights: &mut Weights,
        path: &str,
        design: &Design,
        layer: Layer,
    ) -> Result<Self, EngineError> {
        let norm = |weights: &mut Weights, name: Option<&str>| -> Result<_, EngineError> {
            let Some(name) = name else { return Ok(None) };
            let path = format!("{path}.{name}");
            let norm = RmsNorm::load(weights, &path, design.hidden, design.epsilon, design.gain);
            norm.map(Some)
        };
        let mlp = format!("{path}.mlp");
        let mlp = match design.experts.filter(|_| layer.experts) {
            Some(experts) => {
                let mixture = Mixture::load(weights, &mlp, design.hidden, experts)?;
                FeedForward::Experts(Box::new(mixture))
            }
            None => {
                let gated = Gated::load(weights, &mlp, design.hidden, design.feed_forward)?;
                FeedForward::Dense(Box::new(gated))
            }
        };
        let attention = format!("{path}.self_attn");
        let self_attn = match (
            design.convolution.filter(|_| layer.convolves),
            design.latent,
        ) {
            (Some(convolution), _) => {
                let path = format!("{path}.conv");
                let hidden = design.hidden;
                let convolution = ShortConvolution::load(weights, &path, hidden, convolution)?;
                Attention::Convolution(convolution)
            }
            (None, Some(latent)) => {
                Attention::Latent(LatentAttention::load(weights, &attention, design, latent)?)
            }
            (None, None) => {
                Attention::Plain(SelfAttention::load(weights, &attention, design, layer)?)
            }
        };
        let names = design.norms;
        Ok(Self {
            layer,
            before_attention: norm(weights, names.before_attention)?,
            self_attn,
            after_attention: norm(weights, names.after_attention)?,
            before_feed_forward: norm(weights, names.before_feed_forward)?,
            mlp,
            after_feed_forward: norm(weights, names.after_feed_forward)?,
        })
    }

    /// `x` `[rows, hidden]` to `[rows, hidden]`, or to the `wanted` rows of that.
    fn apply(&self, x: &Array, pass: &mut Pass, applied: Applied<'_>) -> MlxResult<Array> {
        let Applied {
            index,
            rotation,
            factor,
            wanted,
        } = applied;
        #[cfg(target_os = "linux")]
        if let Some(attention) = self.chained(pass, index) {
            return self.apply_chained(attention, x, pass, applied);
        }
        let with = &mut Nodes(pass.device());
        let x = self.around_attention(with, x, factor, |with, x| match &self.self_attn {
            Attention::Plain(attention) => attention.apply(with, x, index, pass, rotation),
            Attention::Latent(attention) => attention.apply(x, index, pass, rotation),
            Attention::Convolution(convolution) => convolution.apply(x, index, pass),
        })?;
        self.feed_forward(with, &taken(x, wanted)?, factor)
    }

    /// The second half of the layer, with nodes.
    fn feed_forward(&self, with: &mut Nodes, x: &Array, factor: f32) -> MlxResult<Array> {
        self.around_feed_forward(with, x, factor, |with, x| match &self.mlp {
            FeedForward::Dense(gated) => gated.apply(with, x),
            FeedForward::Experts(mixture) => mixture.apply(x),
        })
    }

    /// The attention that a chain begins with, where there is one.
    #[cfg(target_os = "linux")]
    fn chained(&self, pass: &Pass, index: usize) -> Option<&SelfAttention> {
        match &self.self_attn {
            Attention::Plain(attention) if attention.is_own() && pass.is_chained(index) => {
                Some(attention)
            }
            _ => None,
        }
    }

    /// The layer in one chain, or its first half where the second has no place in one.
    #[cfg(target_os = "linux")]
    fn apply_chained(
        &self,
        attention: &SelfAttention,
        x: &Array,
        pass: &mut Pass,
        applied: Applied<'_>,
    ) -> MlxResult<Array> {
        let Applied {
            index,
            rotation,
            factor,
            wanted,
        } = applied;
        let (mut chain, x) = Chained::begin(x)?;
        let mut x = self.around_attention(&mut chain, &x, factor, |with, x| {
            attention.apply(with, x, index, pass, rotation)
        })?;
        let gated = match &self.mlp {
            FeedForward::Dense(gated) if gated.is_own() && is_chained(gated.activation()) => gated,
            _ => {
                let x = taken(chain.finish(pass, x)?, wanted)?;
                return self.feed_forward(&mut Nodes(pass.device()), &x, factor);
            }
        };
        if wanted.is_some() {
            let rows = taken(chain.finish(pass, x)?, wanted)?;
            (chain, x) = Chained::begin(&rows)?;
        }
        let apply = |with: &mut Chained, x: &_| gated.apply(with, x);
        let x = self.around_feed_forward(&mut chain, &x, factor, apply)?;
        chain.finish(pass, x)
    }

    fn around_attention<O: Operations>(
        &self,
        with: &mut O,
        x: &O::Numbers,
        factor: f32,
        part: impl FnOnce(&mut O, &O::Numbers) -> MlxResult<O::Numbers>,
    ) -> MlxResult<O::Numbers> {
        let norms = [&self.before_attention, &self.after_attention];
        around(with, norms, x, factor, part)
    }

    fn around_feed_forward<O: Operations>(
        &self,
        with: &mut O,
        x: &O::Numbers,
        factor: f32,
        part: impl FnOnce(&mut O, &O::Numbers) -> MlxResult<O::Numbers>,
    ) -> MlxResult<O::Numbers> {
        let norms = [&self.before_feed_forward, &self.after_feed_forward];
        around(with, norms, x, factor, part)
    }
}

/// The `wanted` rows, or all.
fn taken(x: Array, wanted: Option<&Array>) -> MlxResult<Array> {
    match wanted {
        Some(rows) => x.take_axis(rows, 0),
        None => Ok(x),
    }
}

/// `x`, and what `part` makes of it between its norms, times a factor.
fn around<O: Operations>(
    with: &mut O,
    [before, after]: [&Option<RmsNorm>; 2],
    x: &O::Numbers,
    factor: f32,
    part: impl FnOnce(&mut O, &O::Numbers) -> MlxResult<O::Numbers>,
) -> MlxResult<O::Numbers> {
    let normed = normed(with, before, x)?;
    let made = part(with, &normed)?;
    let made = self::normed(with, after, &made)?;
    let made = with.scaled(&made, factor)?;
    with.sum(x, &made)
}

fn normed<O: Operations>(
    with: &mut O,
    norm: &Option<RmsNorm>,
    x: &O::Numbers,
) -> MlxResult<O::Numbers> {
    match norm {
        Some(norm) => with.norm(norm, x),
        None => Ok(x.clone()),
    }
}
