//! What the metadata of a llama-architecture GGUF says of the network, and the
//! `config.json` made of it. Keys of the metadata: ggml's `docs/gguf.md`; keys
//! of the configuration: `LlamaConfig` in transformers.

use serde_json::{Map, Value, json};

use super::ImportError;
use crate::model::gguf::{Header, Tensor};

/// The measures of the network.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) hidden: u64,
    pub(super) intermediate: u64,
    pub(super) layers: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) vocabulary: u64,
    pub(super) context: u64,
    pub(super) tied: bool,
    attention_bias: bool,
    mlp_bias: bool,
    pub(super) rope_theta: f64,
    pub(super) rope_scaling: Value,
    norm_epsilon: f64,
}

impl Shape {
    /// Reads the measures and refuses what the llama architecture here has no word for.
    pub(super) fn read(header: &Header) -> Result<Self, ImportError> {
        let metadata = &header.metadata;
        match metadata.text("general.architecture")? {
            Some("llama") => {}
            other => {
                return Err(ImportError::Architecture(
                    other.unwrap_or("none").to_owned(),
                ));
            }
        }
        if metadata.unsigned("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(ImportError::Architecture("llama with experts".to_owned()));
        }
        let hidden = required(header, "llama.embedding_length")?;
        let heads = required(header, "llama.attention.head_count")?;
        let kv_heads = metadata
            .unsigned("llama.attention.head_count_kv")?
            .unwrap_or(heads);
        let head_dim = match metadata.unsigned("llama.attention.key_length")? {
            Some(length) => length,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        if kv_heads == 0 || heads % kv_heads != 0 || head_dim == 0 || head_dim % 2 != 0 {
            let text = format!("{heads} heads, {kv_heads} kv heads of {head_dim} numbers");
            return Err(ImportError::Inconsistent(text));
        }
        let rope_theta = metadata.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let shape = Self {
            hidden,
            intermediate: required(header, "llama.feed_forward_length")?,
            layers: required(header, "llama.block_count")?,
            heads,
            kv_heads,
            head_dim,
            vocabulary: rows(tensor(header, "token_embd.weight")?),
            context: required(header, "llama.context_length")?,
            tied: header.tensor("output.weight").is_none(),
            attention_bias: header.tensor("blk.0.attn_q.bias").is_some(),
            mlp_bias: header.tensor("blk.0.ffn_up.bias").is_some(),
            rope_theta,
            rope_scaling: super::rope::scaling(metadata)?,
            norm_epsilon: metadata
                .float("llama.attention.layer_norm_rms_epsilon")?
                .unwrap_or(1e-5),
        };
        shape.check_rope_dimension(header)?;
        Ok(shape)
    }

    /// The shape that a tensor of the snapshot has to have; nothing if none of this name belongs there.
    pub(super) fn of(&self, name: &str) -> Option<Vec<u64>> {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (stem, ending) = name.rsplit_once('.')?;
        let (rows, columns) = match stem {
            "model.embed_tokens" | "lm_head" => (self.vocabulary, self.hidden),
            "model.norm" => return Some(vec![self.hidden]),
            _ => {
                let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
                if layer.parse::<u64>().ok()? >= self.layers {
                    return None;
                }
                match part {
                    "self_attn.q_proj" => (queries, self.hidden),
                    "self_attn.k_proj" | "self_attn.v_proj" => (keys, self.hidden),
                    "self_attn.o_proj" => (self.hidden, queries),
                    "mlp.gate_proj" | "mlp.up_proj" => (self.intermediate, self.hidden),
                    "mlp.down_proj" => (self.hidden, self.intermediate),
                    _ => return Some(vec![self.hidden]),
                }
            }
        };
        match ending {
            "bias" => Some(vec![rows]),
            _ => Some(vec![rows, columns]),
        }
    }

    /// The names that a complete network has to have.
    pub(super) fn required_names(&self) -> Vec<String> {
        let layer_parts = [
            "input_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "post_attention_layernorm",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ];
        let mut names = vec!["model.embed_tokens.weight".to_owned()];
        for layer in 0..self.layers {
            names.extend(layer_parts.map(|part| format!("model.layers.{layer}.{part}.weight")));
        }
        names.push("model.norm.weight".to_owned());
        if !self.tied {
            names.push("lm_head.weight".to_owned());
        }
        names
    }

    /// `config.json` without what the number format adds.
    pub(super) fn config(&self) -> Map<String, Value> {
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.context,
            "mlp_bias": self.mlp_bias,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": self.norm_epsilon,
            "rope_scaling": self.rope_scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "use_cache": true,
            "vocab_size": self.vocabulary,
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// A rope over part of a head is another architecture.
    fn check_rope_dimension(&self, header: &Header) -> Result<(), ImportError> {
        match header.metadata.unsigned("llama.rope.dimension_count")? {
            Some(found) if found != self.head_dim => Err(ImportError::Inconsistent(format!(
                "rope over {found} of {} numbers of a head",
                self.head_dim
            ))),
            _ => Ok(()),
        }
    }
}

/// A number of the metadata that has to be there and above zero.
fn required(header: &Header, key: &'static str) -> Result<u64, ImportError> {
    match header.metadata.unsigned(key)? {
        // Nothing that is measured in a network comes near 2³²; products of three stay in u64 checks.
        Some(number) if (1..=1 << 24).contains(&number) => Ok(number),
        Some(number) => Err(ImportError::Inconsistent(format!("{key} is {number}"))),
        None => Err(ImportError::MissingMetadata(key)),
    }
}

/// A tensor that has to be there.
fn tensor<'a>(header: &'a Header, name: &str) -> Result<&'a Tensor, ImportError> {
    header
        .tensor(name)
        .ok_or_else(|| ImportError::MissingTensor(name.to_owned()))
}

/// The slowest dimension.
fn rows(tensor: &Tensor) -> u64 {
    tensor.shape.first().copied().unwrap_or(0)
}
