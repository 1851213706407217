//! `model_type: llama`, and `mistral` checkpoints that look at the whole sequence.
//!
//! Structure as in Touvron et al. (arXiv 2302.13971) with grouped queries
//! (arXiv 2305.13245); names of settings and weights as in Hugging Face
//! transformers, defaults as in mlx-lm.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Architecture, Checkpoint};
use crate::engine::EngineError;
use crate::engine::mlx::attention::{Heads, Pass};
use crate::engine::mlx::bad_file;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::kv::CacheShape;
use crate::engine::mlx::layers::{Embedding, Linear, RmsNorm};
use crate::engine::mlx::rope::{Rope, Scaling, Turn};
use crate::engine::mlx::weights::Weights;

/// What `config.json` says.
#[derive(Debug, Deserialize)]
struct Arguments {
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    head_dim: Option<i32>,
    max_position_embeddings: Option<u32>,
    num_key_value_heads: Option<i32>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_traditional: bool,
    rope_scaling: Option<Map<String, Value>>,
    /// Where newer checkpoints keep what was in `rope_theta` and `rope_scaling`.
    rope_parameters: Option<Map<String, Value>>,
    tie_word_embeddings: Option<bool>,
    layer_types: Option<Vec<String>>,
    sliding_window: Option<u32>,
}

impl Arguments {
    fn read(config: &Map<String, Value>, context: Option<u32>) -> Result<Self, EngineError> {
        let arguments: Self = serde_json::from_value(Value::Object(config.clone()))
            .map_err(|error| bad_file("config.json", error))?;
        arguments.check(context)?;
        Ok(arguments)
    }

    fn check(&self, context: Option<u32>) -> Result<(), EngineError> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.key_value_heads()),
            ("vocab_size", self.vocab_size),
            ("head_dim", self.head()),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size <= 0) {
            let reason = format!("\"{name}\" is {size}, expected a positive number");
            return Err(bad_file("config.json", reason));
        }
        if self.num_attention_heads % self.key_value_heads() != 0 || self.head() % 2 != 0 {
            return Err(bad_file(
                "config.json",
                format!(
                    "{} heads do not share {} key-value heads, or a head of {} is odd",
                    self.num_attention_heads,
                    self.key_value_heads(),
                    self.head()
                ),
            ));
        }
        let sliding = |kind: &String| kind != "full_attention";
        if self.layer_types.iter().flatten().any(sliding) {
            return Err(EngineError::Unsupported(
                "layers with a sliding window are not supported".to_owned(),
            ));
        }
        match self.sliding_window {
            Some(window) if window < self.context(context) && self.layer_types.is_none() => {
                Err(EngineError::Unsupported(format!(
                    "a sliding window of {window} tokens is not supported; \
                     set `context` to at most {window}"
                )))
            }
            _ => Ok(()),
        }
    }

    fn key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head(&self) -> i32 {
        self.head_dim
            .unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1))
    }

    fn heads(&self) -> Heads {
        Heads {
            queries: self.num_attention_heads,
            key_values: self.key_value_heads(),
            size: self.head(),
        }
    }

    fn context(&self, set: Option<u32>) -> u32 {
        set.or(self.max_position_embeddings).unwrap_or(2048)
    }

    fn scaling(&self, context: Option<u32>) -> Scaling {
        let parameters = self.rope_parameters.clone().unwrap_or_default();
        let base = self
            .rope_theta
            .or_else(|| parameters.get("rope_theta")?.as_f64())
            .unwrap_or(10_000.0);
        Scaling {
            base,
            settings: self.rope_scaling.clone().unwrap_or(parameters),
            positions: self.max_position_embeddings.unwrap_or(2048),
            context: self.context(context),
        }
    }
}

struct Attention {
    heads: Heads,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
}

impl Attention {
    fn load(weights: &mut Weights, path: &str, args: &Arguments) -> Result<Self, EngineError> {
        let (hidden, heads) = (args.hidden_size, args.heads());
        let mut linear = |name: &str, inputs: i32, outputs: i32| {
            let path = format!("{path}.{name}");
            Linear::load(weights, &path, inputs, outputs, args.attention_bias)
        };
        Ok(Self {
            heads,
            q_proj: linear("q_proj", hidden, heads.queries * heads.size)?,
            k_proj: linear("k_proj", hidden, heads.key_values * heads.size)?,
            v_proj: linear("v_proj", hidden, heads.key_values * heads.size)?,
            o_proj: linear("o_proj", heads.queries * heads.size, hidden)?,
        })
    }

    fn forward(
        &self,
        x: &Array,
        layer: usize,
        pass: &mut Pass,
        rope: &Rope,
        turn: &Turn,
    ) -> MlxResult<Array> {
        let Heads {
            queries,
            key_values,
            size,
        } = self.heads;
        let q = self.q_proj.apply(x)?.reshape(&[-1, queries, size])?;
        let k = self.k_proj.apply(x)?.reshape(&[-1, key_values, size])?;
        let v = self.v_proj.apply(x)?.reshape(&[-1, key_values, size])?;
        let (q, k) = (rope.apply(&q, turn)?, rope.apply(&k, turn)?);
        let seen = pass.attend(layer, self.heads, &q, &k, &v)?;
        self.o_proj.apply(&seen)
    }
}

struct Mlp {
    device: Device,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn load(weights: &mut Weights, path: &str, args: &Arguments) -> Result<Self, EngineError> {
        let (hidden, inner) = (args.hidden_size, args.intermediate_size);
        let device = weights.device();
        let mut linear = |name: &str, inputs: i32, outputs: i32| {
            let path = format!("{path}.{name}");
            Linear::load(weights, &path, inputs, outputs, args.mlp_bias)
        };
        Ok(Self {
            device,
            gate_proj: linear("gate_proj", hidden, inner)?,
            up_proj: linear("up_proj", hidden, inner)?,
            down_proj: linear("down_proj", inner, hidden)?,
        })
    }

    fn forward(&self, x: &Array) -> MlxResult<Array> {
        let (gate, up) = (self.gate_proj.apply(x)?, self.up_proj.apply(x)?);
        let inner = self.device.swiglu(&gate, &up)?;
        self.down_proj.apply(&inner)
    }
}

struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Block {
    fn load(weights: &mut Weights, path: &str, args: &Arguments) -> Result<Self, EngineError> {
        let norm = |weights: &mut Weights, name: &str| {
            let path = format!("{path}.{name}");
            RmsNorm::load(weights, &path, args.hidden_size, args.rms_norm_eps)
        };
        Ok(Self {
            input_layernorm: norm(weights, "input_layernorm")?,
            self_attn: Attention::load(weights, &format!("{path}.self_attn"), args)?,
            post_attention_layernorm: norm(weights, "post_attention_layernorm")?,
            mlp: Mlp::load(weights, &format!("{path}.mlp"), args)?,
        })
    }
}

struct Model {
    vocabulary: i32,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// Nothing if the embedding is the head.
    lm_head: Option<Linear>,
    rope: Rope,
    cache_shape: CacheShape,
}

/// Takes a checkpoint's weights into a network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn Architecture>, EngineError> {
    let Checkpoint {
        config,
        weights,
        context,
    } = checkpoint;
    let args = Arguments::read(config, context)?;
    let tied = args
        .tie_word_embeddings
        .unwrap_or_else(|| !weights.has("lm_head.weight"));
    clean_up(weights, tied);
    let (hidden, vocabulary) = (args.hidden_size, args.vocab_size);
    let frequencies = args
        .scaling(context)
        .frequencies(args.head())
        .map_err(EngineError::Unsupported)?;
    let layers: Result<Vec<Block>, EngineError> = (0..args.num_hidden_layers)
        .map(|i| Block::load(weights, &format!("model.layers.{i}"), &args))
        .collect();
    let embed_tokens = Embedding::load(weights, "model.embed_tokens", vocabulary, hidden)?;
    let lm_head = if tied {
        None
    } else {
        Some(Linear::load(weights, "lm_head", hidden, vocabulary, false)?)
    };
    let cache_shape = CacheShape {
        layers: args.num_hidden_layers,
        heads: args.key_value_heads(),
        head: args.head(),
        format: embed_tokens.format(),
    };
    Ok(Box::new(Model {
        vocabulary,
        embed_tokens,
        layers: layers?,
        norm: RmsNorm::load(weights, "model.norm", hidden, args.rms_norm_eps)?,
        lm_head,
        rope: Rope::new(
            args.head(),
            args.rope_traditional,
            frequencies,
            weights.device(),
        ),
        cache_shape,
    }))
}

/// Old checkpoints keep the frequencies of the rotation, some tied ones a second
/// copy of the embedding.
fn clean_up(weights: &mut Weights, tied: bool) {
    weights.drop_where(|name| {
        name.contains("rotary_emb.inv_freq") || (tied && name.starts_with("lm_head."))
    });
}

impl Architecture for Model {
    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn cache_shape(&self) -> CacheShape {
        self.cache_shape
    }

    fn hidden(&self, tokens: &Array, pass: &mut Pass) -> MlxResult<Array> {
        let turn = pass.turn(&self.rope);
        let mut x = self.embed_tokens.vectors(tokens)?;
        for (index, block) in self.layers.iter().enumerate() {
            let normed = block.input_layernorm.apply(&x)?;
            let seen = block
                .self_attn
                .forward(&normed, index, pass, &self.rope, &turn)?;
            x = x.add(seen)?;
            let normed = block.post_attention_layernorm.apply(&x)?;
            x = x.add(block.mlp.forward(&normed)?)?;
        }
        Ok(x)
    }

    fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        let hidden = self.norm.apply(hidden)?;
        match &self.lm_head {
            Some(head) => head.apply(&hidden),
            None => self.embed_tokens.as_head(&hidden),
        }
    }
}
