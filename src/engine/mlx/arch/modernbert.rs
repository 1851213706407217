//! `model_type: modernbert`: an encoder whose heads turn, with a window in most layers
//! (arXiv 2412.13663).
//!
//! Names of settings, their defaults and names of weights as in Hugging Face transformers.
//! What comes after the last norm (heads for other tasks) is left out, but for the head
//! that scores pairs, `ModernBertForSequenceClassification` with one label.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::{abs, arange, split_equal};
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Checkpoint, EncoderArchitecture};
use crate::engine::EngineError;
use crate::engine::mlx::attention::attend_both_ways;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::classifier::{Activation, Classifier, Reads};
use crate::engine::mlx::decoder::arguments::{own, positive};
use crate::engine::mlx::layers::{Embedding, Gelu, LayerNorm, Linear};
use crate::engine::mlx::rope::{Rope, Scaling, Turn};
use crate::engine::mlx::weights::Weights;

/// What `config.json` says.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Arguments {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    vocab_size: i32,
    max_position_embeddings: i32,
    norm_eps: f32,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    hidden_activation: Gelu,
    classifier_pooling: Pooled,
    classifier_bias: bool,
    classifier_activation: Gelu,
    local_attention: i32,
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<String>>,
    global_rope_theta: Option<f64>,
    local_rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// What newer checkpoints have instead, for each kind of layer.
    rope_parameters: Option<Map<String, Value>>,
}

/// What a head reads, as `classifier_pooling` calls it.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Pooled {
    #[serde(rename = "cls")]
    First,
    #[serde(rename = "mean")]
    Mean,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 22,
            intermediate_size: 1152,
            num_attention_heads: 12,
            vocab_size: 50_368,
            max_position_embeddings: 8192,
            norm_eps: 1e-5,
            norm_bias: false,
            attention_bias: false,
            mlp_bias: false,
            hidden_activation: Gelu::Whole,
            classifier_pooling: Pooled::First,
            classifier_bias: false,
            classifier_activation: Gelu::Whole,
            local_attention: 128,
            global_attn_every_n_layers: 3,
            layer_types: None,
            global_rope_theta: None,
            local_rope_theta: None,
            rope_scaling: None,
            rope_parameters: None,
        }
    }
}

/// How far the tokens of a layer see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// The whole text.
    Full,
    /// So many tokens to either side as half of `local_attention`.
    Near,
}

impl Sight {
    const ALL: [Self; 2] = [Self::Full, Self::Near];

    /// What `layer_types` and `rope_parameters` call it.
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Near => "sliding_attention",
        }
    }
}

impl Arguments {
    fn read(config: &Map<String, Value>) -> Result<Self, EngineError> {
        let arguments: Self = own(config)?;
        positive(&[
            ("hidden_size", arguments.hidden_size),
            ("intermediate_size", arguments.intermediate_size),
            ("num_attention_heads", arguments.num_attention_heads),
            ("vocab_size", arguments.vocab_size),
            ("max_position_embeddings", arguments.max_position_embeddings),
            ("local_attention", arguments.local_attention),
        ])?;
        let (hidden, heads) = (arguments.hidden_size, arguments.num_attention_heads);
        let bad = |reason: &str| Err(bad_file("config.json", reason));
        if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
            return bad("\"hidden_size\" is no even multiple of \"num_attention_heads\"");
        }
        if arguments.global_attn_every_n_layers == 0 {
            return bad("\"global_attn_every_n_layers\" is 0");
        }
        let layers = arguments.num_hidden_layers;
        match &arguments.layer_types {
            Some(types) if types.len() != layers => bad("\"layer_types\" is not of all layers"),
            _ => Ok(arguments),
        }
    }

    /// How far layer `index` sees.
    fn sight(&self, index: usize) -> Result<Sight, EngineError> {
        let Some(types) = &self.layer_types else {
            return Ok(match index % self.global_attn_every_n_layers {
                0 => Sight::Full,
                _ => Sight::Near,
            });
        };
        let kind = types[index].as_str();
        let found = Sight::ALL.into_iter().find(|sight| sight.name() == kind);
        found.ok_or_else(|| {
            EngineError::Unsupported(format!("layers of the kind \"{kind}\" are not supported"))
        })
    }

    /// How the heads of such layers turn.
    fn rope(&self, sight: Sight, weights: &Weights) -> Result<Rope, EngineError> {
        let settings = self.rope_parameters.as_ref();
        let settings = settings.and_then(|all| all.get(sight.name())?.as_object().cloned());
        let settings = settings.or_else(|| self.rope_scaling.clone());
        let settings = settings.unwrap_or_default();
        let (older, usual) = match sight {
            Sight::Full => (self.global_rope_theta, 160_000.0),
            Sight::Near => (self.local_rope_theta, 10_000.0),
        };
        let positions = self.max_position_embeddings.unsigned_abs();
        let base = settings.get("rope_theta").and_then(Value::as_f64);
        let scaling = Scaling {
            base: base.or(older).unwrap_or(usual),
            settings,
            positions,
            context: positions,
        };
        let size = self.hidden_size / self.num_attention_heads;
        let frequencies = scaling
            .frequencies(size)
            .map_err(EngineError::Unsupported)?;
        Ok(Rope::new(size, false, frequencies, weights.device()))
    }
}

/// The network.
struct ModernBert {
    arguments: Arguments,
    tokens: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    full: Rope,
    near: Rope,
    classifier: Option<Classifier>,
}

struct Layer {
    sight: Sight,
    /// The first layer has none: the table's own norm is before it.
    attention_norm: Option<LayerNorm>,
    /// Queries, keys and values.
    projections: Linear,
    attended: Linear,
    feed_forward_norm: LayerNorm,
    /// What goes through the unit, and what that is multiplied with.
    up: Linear,
    down: Linear,
}

/// Loads the network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn EncoderArchitecture>, EngineError> {
    let arguments = Arguments::read(checkpoint.config)?;
    let weights = checkpoint.weights;
    // A bare encoder, or one that was made for another task.
    let root = match weights.has("final_norm.weight") {
        true => "",
        false => "model.",
    };
    let scores = checkpoint.verdict.is_some();
    weights.drop_where(|name| {
        if scores && (name.starts_with("head.") || name.starts_with("classifier.")) {
            return false;
        }
        let rest = name.strip_prefix(root);
        let is_part = |part: &&str| rest.is_some_and(|rest| rest.starts_with(*part));
        !["embeddings.", "layers.", "final_norm."]
            .iter()
            .any(is_part)
    });
    let hidden = arguments.hidden_size;
    let tokens = format!("{root}embeddings.tok_embeddings");
    let tokens = Embedding::load(weights, &tokens, arguments.vocab_size, hidden)?;
    let norm = arguments.norm(weights, &format!("{root}embeddings.norm"))?;
    let layers = (0..arguments.num_hidden_layers)
        .map(|index| Layer::load(weights, &arguments, &format!("{root}layers.{index}"), index))
        .collect::<Result<_, _>>()?;
    let classifier = match scores {
        true => Some(arguments.classifier(weights)?),
        false => None,
    };
    Ok(Box::new(ModernBert {
        classifier,
        tokens,
        norm,
        layers,
        final_norm: arguments.norm(weights, &format!("{root}final_norm"))?,
        full: arguments.rope(Sight::Full, weights)?,
        near: arguments.rope(Sight::Near, weights)?,
        arguments,
    }))
}

impl Arguments {
    fn norm(&self, weights: &mut Weights, path: &str) -> Result<LayerNorm, EngineError> {
        LayerNorm::load(
            weights,
            path,
            self.hidden_size,
            self.norm_eps,
            self.norm_bias,
        )
    }
}

impl Arguments {
    /// The head that scores pairs.
    fn classifier(&self, weights: &mut Weights) -> Result<Classifier, EngineError> {
        let (hidden, bias) = (self.hidden_size, self.classifier_bias);
        Ok(Classifier {
            reads: match self.classifier_pooling {
                Pooled::First => Reads::First,
                Pooled::Mean => Reads::Mean,
            },
            dense: Linear::load(weights, "head.dense", hidden, hidden, bias)?,
            activation: Activation::Gelu(self.classifier_activation),
            norm: Some(self.norm(weights, "head.norm")?),
            score: Linear::load(weights, "classifier", hidden, 1, true)?,
        })
    }
}

impl Layer {
    fn load(
        weights: &mut Weights,
        arguments: &Arguments,
        path: &str,
        index: usize,
    ) -> Result<Self, EngineError> {
        let (hidden, inner) = (arguments.hidden_size, arguments.intermediate_size);
        let attention_norm = match index {
            0 => None,
            _ => Some(arguments.norm(weights, &format!("{path}.attn_norm"))?),
        };
        let feed_forward_norm = arguments.norm(weights, &format!("{path}.mlp_norm"))?;
        let mut linear = |name: &str, inputs: i32, outputs: i32, bias: bool| {
            Linear::load(weights, &format!("{path}.{name}"), inputs, outputs, bias)
        };
        let (attention_bias, mlp_bias) = (arguments.attention_bias, arguments.mlp_bias);
        Ok(Self {
            sight: arguments.sight(index)?,
            attention_norm,
            projections: linear("attn.Wqkv", hidden, 3 * hidden, attention_bias)?,
            attended: linear("attn.Wo", hidden, hidden, attention_bias)?,
            feed_forward_norm,
            up: linear("mlp.Wi", hidden, 2 * inner, mlp_bias)?,
            down: linear("mlp.Wo", inner, hidden, mlp_bias)?,
        })
    }

    /// `x` `[texts, tokens, hidden]`; `mask` as in [`attend_both_ways`].
    fn apply(
        &self,
        x: &Array,
        mask: Option<&Array>,
        (rope, turn): (&Rope, &Turn),
        arguments: &Arguments,
    ) -> MlxResult<Array> {
        let (texts, tokens, hidden) = (x.dim(0), x.dim(1), x.dim(2));
        let heads = arguments.num_attention_heads;
        let size = hidden / heads;
        let normed = match &self.attention_norm {
            Some(norm) => norm.apply(x)?,
            None => x.clone(),
        };
        let all = self.projections.apply(&normed)?;
        let parts = split_equal(&all.reshape(&[texts * tokens, 3 * heads, size])?, 3, 1)?;
        let by_text = |array: &Array| array.reshape(&[texts, tokens, heads, size]);
        let seen = attend_both_ways(
            &by_text(&rope.apply(&parts[0], turn)?)?,
            &by_text(&rope.apply(&parts[1], turn)?)?,
            &by_text(&parts[2])?,
            mask,
        )?;
        let x = x.add(self.attended.apply(&seen)?)?;
        let parts = split_equal(&self.up.apply(&self.feed_forward_norm.apply(&x)?)?, 2, -1)?;
        let inner = arguments
            .hidden_activation
            .apply(&parts[0])?
            .multiply(&parts[1])?;
        x.add(self.down.apply(&inner)?)
    }
}

impl ModernBert {
    /// Of texts of `length` tokens, which see each other in layers that see but what is
    /// near; `mask` as in [`EncoderArchitecture::hidden`]. Nothing if all do.
    fn near_mask(&self, length: i32, mask: Option<&Array>) -> MlxResult<Option<Array>> {
        let reach = self.arguments.local_attention / 2;
        if length <= reach + 1 {
            return Ok(mask.cloned());
        }
        let places = arange::<_, i32>(0, length, None)?;
        let apart = abs(places.expand_dims(0)?.subtract(places.expand_dims(1)?)?)?;
        let near = apart.le(Array::from_int(reach))?;
        match mask {
            // What a text was filled up with sees itself: the shares of nothing at all
            // are no numbers.
            Some(mask) => {
                let itself = apart.eq(Array::from_int(0))?;
                near.logical_and(mask.logical_or(itself)?).map(Some)
            }
            None => Ok(Some(near)),
        }
    }
}

impl EncoderArchitecture for ModernBert {
    fn vocabulary(&self) -> usize {
        self.arguments.vocab_size as usize
    }

    fn size(&self) -> usize {
        self.arguments.hidden_size as usize
    }

    fn positions(&self) -> usize {
        self.arguments.max_position_embeddings as usize
    }

    fn format(&self) -> Dtype {
        self.tokens.format()
    }

    fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }

    fn hidden(&self, tokens: &Array, _: Option<&Array>, mask: Option<&Array>) -> MlxResult<Array> {
        let (texts, length) = (tokens.dim(0), tokens.dim(1));
        let each = std::iter::repeat_n((0, length as usize), texts as usize);
        let turn = |rope: &Rope| rope.turn(each.clone());
        let (full, near) = (turn(&self.full), turn(&self.near));
        let near_mask = self.near_mask(length, mask)?;
        let x = self.tokens.vectors(&tokens.reshape(&[-1])?)?;
        let x = x.reshape(&[texts, length, self.arguments.hidden_size])?;
        let mut x = self.norm.apply(&x)?;
        for layer in &self.layers {
            let (mask, rotation) = match layer.sight {
                Sight::Full => (mask, (&self.full, &full)),
                Sight::Near => (near_mask.as_ref(), (&self.near, &near)),
            };
            x = layer.apply(&x, mask, rotation, &self.arguments)?;
        }
        self.final_norm.apply(&x)
    }
}
