//! A decoder: the stack of layers that all architectures of chat models here have in
//! common, built to the [`Design`] of one of them. It knows no name of any.

pub mod arguments;
pub mod design;
mod experts;
mod feed_forward;
mod self_attention;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;

use self::design::{Design, Layer};
use self::experts::Mixture;
use self::feed_forward::Gated;
use self::self_attention::SelfAttention;
use super::attention::Pass;
use super::kv::CacheShape;
use super::layers::{Embedding, Linear, RmsNorm, capped, scaled};
use super::quantization::Packing;
use super::rope::{Rope, Turn};
use super::weights::Weights;
use crate::config::kv::KvFormat;
use crate::engine::EngineError;

/// A decoder with its weights.
pub struct Decoder {
    design: Design,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// Nothing if the embedding is the head.
    lm_head: Option<Linear>,
    ropes: Vec<Rope>,
    cache_shape: CacheShape,
}

/// One layer.
struct Block {
    layer: Layer,
    before_attention: Option<RmsNorm>,
    self_attn: SelfAttention,
    after_attention: Option<RmsNorm>,
    before_feed_forward: Option<RmsNorm>,
    mlp: FeedForward,
    after_feed_forward: Option<RmsNorm>,
}

enum FeedForward {
    Dense(Gated),
    Experts(Mixture),
}

impl Decoder {
    /// Takes a checkpoint's weights into a decoder of this design, whose caches are of
    /// this form.
    ///
    /// # Errors
    /// A weight is missing or has another shape, or heads are of no size that can be packed.
    pub fn load(
        weights: &mut Weights,
        design: Design,
        kv_format: KvFormat,
    ) -> Result<Self, EngineError> {
        let packing = packing(kv_format, design.heads.size)?;
        let tied = design
            .tied
            .unwrap_or_else(|| !weights.has("lm_head.weight"));
        clean_up(weights, tied);
        let layers = design.layers.iter().enumerate();
        let layers: Result<Vec<Block>, EngineError> = layers
            .map(|(i, layer)| Block::load(weights, &format!("model.layers.{i}"), &design, *layer))
            .collect();
        let (hidden, vocabulary) = (design.hidden, design.vocabulary);
        let embed_tokens = Embedding::load(weights, "model.embed_tokens", vocabulary, hidden)?;
        let lm_head = match tied {
            true => None,
            false => Some(Linear::load(weights, "lm_head", hidden, vocabulary, false)?),
        };
        let rope = |rotation: &design::Rotation| {
            Rope::new(
                rotation.turned,
                rotation.traditional,
                rotation.frequencies.clone(),
                weights.device(),
            )
        };
        Ok(Self {
            ropes: design.rotations.iter().map(rope).collect(),
            cache_shape: CacheShape {
                layers: design.layers.len(),
                heads: design.heads.key_values,
                head: design.heads.size,
                format: embed_tokens.format(),
                packing,
            },
            norm: RmsNorm::load(weights, "model.norm", hidden, design.epsilon, design.gain)?,
            layers: layers?,
            embed_tokens,
            lm_head,
            design,
        })
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.design.vocabulary as usize
    }

    /// The shape of its caches.
    pub fn cache_shape(&self) -> CacheShape {
        self.cache_shape
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

    /// Hidden states to logits `[rows, vocabulary]`. Evaluates nothing.
    pub fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        let hidden = self.norm.apply(hidden)?;
        let logits = match &self.lm_head {
            Some(head) => head.apply(&hidden)?,
            None => self.embed_tokens.as_head(&hidden)?,
        };
        let logits = scaled(&logits, self.design.logits_factor)?;
        match self.design.logits_cap {
            Some(cap) => capped(&logits, cap),
            None => Ok(logits),
        }
    }
}

/// How keys and values of heads of this size are packed, if they are to be.
fn packing(format: KvFormat, head: i32) -> Result<Option<Packing>, EngineError> {
    let Some(bits) = format.bits() else {
        return Ok(None);
    };
    let group = KvFormat::group(u64::try_from(head).unwrap_or(0)).ok_or_else(|| {
        EngineError::Unsupported(format!(
            "kv_format is {} and heads have {head} numbers, no multiple of 32",
            format.as_str()
        ))
    })?;
    Ok(Some(Packing {
        group_size: group as i32,
        bits: bits as i32,
    }))
}

/// Old checkpoints keep the frequencies of the rotation, some tied ones a second
/// copy of the embedding.
fn clean_up(weights: &mut Weights, tied: bool) {
    weights.drop_where(|name| {
        name.contains("rotary_emb.inv_freq") || (tied && name.starts_with("lm_head."))
    });
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
                FeedForward::Experts(Mixture::load(weights, &mlp, design.hidden, experts)?)
            }
            None => FeedForward::Dense(Gated::load(
                weights,
                &mlp,
                design.hidden,
                design.feed_forward,
            )?),
        };
        let names = design.norms;
        Ok(Self {
            layer,
            before_attention: norm(weights, names.before_attention)?,
            self_attn: SelfAttention::load(weights, &format!("{path}.self_attn"), design, layer)?,
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
        let seen = self.self_attn.apply(&normed, index, pass, rotation)?;
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
