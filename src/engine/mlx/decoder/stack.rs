//! The stack of layers of a decoder: tokens to what stands for them after the last
//! layer. What is made of that, logits or vectors, is not decided here.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use super::design::{self, Design, Layer};
use super::experts::Mixture;
use super::feed_forward::Gated;
use super::latent_attention::LatentAttention;
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

    /// `tokens` `[rows]` through all layers: hidden states `[rows, hidden]`. Evaluates nothing.
    pub fn hidden(&self, tokens: &Array, pass: &mut Pass) -> MlxResult<Array> {
        let turns: Vec<Turn> = self.ropes.iter().map(|rope| pass.turn(rope)).collect();
        let x = self.embed_tokens.vectors(tokens)?;
        let mut x = scaled(&x, self.design.embedding_factor)?;
        for (index, block) in self.layers.iter().enumerate() {
            let rotation = block.layer.rotation;
            let rotation = rotation.map(|which| (&self.ropes[which], &turns[which]));
            x = block.apply(&x, index, pass, rotation, self.design.residual_factor)?;
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

    /// `x` `[rows, hidden]` to `[rows, hidden]`.
    fn apply(
        &self,
        x: &Array,
        index: usize,
        pass: &mut Pass,
        rotation: Option<(&Rope, &Turn)>,
        factor: f32,
    ) -> MlxResult<Array> {
        let normed = normed(&self.before_attention, x)?;
        let seen = match &self.self_attn {
            Attention::Plain(attention) => attention.apply(&normed, index, pass, rotation)?,
            Attention::Latent(attention) => attention.apply(&normed, index, pass, rotation)?,
            Attention::Convolution(convolution) => convolution.apply(&normed, index, pass)?,
        };
        let seen = self::normed(&self.after_attention, &seen)?;
        let x = x.add(scaled(&seen, factor)?)?;
        let normed = self::normed(&self.before_feed_forward, &x)?;
        let made = match &self.mlp {
            FeedForward::Dense(gated) => gated.apply(&normed)?,
            FeedForward::Experts(mixture) => mixture.apply(&normed)?,
        };
        let made = self::normed(&self.after_feed_forward, &made)?;
        x.add(scaled(&made, factor)?)
    }
}

fn normed(norm: &Option<RmsNorm>, x: &Array) -> MlxResult<Array> {
    match norm {
        Some(norm) => norm.apply(x),
        None => Ok(x.clone()),
    }
}
