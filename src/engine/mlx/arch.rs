//! One file per architecture, named as checkpoints name it, and the table that
//! finds it by `model_type`.

pub mod bert;
mod deepseek_v2;
mod deepseek_v3;
mod gemma2;
mod gemma3_text;
mod glm4;
mod gpt_oss;
mod granite;
mod lfm2;
mod llama;
mod mistral;
mod modernbert;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use mlx_rs::error::Result as MlxResult;
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value};

use super::classifier::Classifier;
use super::decoder::arguments::Arguments;
use super::decoder::design::Design;
use super::decoder::vectors::TokenVectors;
use super::weights::Weights;
use crate::engine::{EngineError, supported_architectures};
use crate::model::kind::{Kind, Made};
use crate::model::sentence::Verdict;

/// An encoder of one architecture. Nothing here evaluates.
pub trait EncoderArchitecture {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;

    /// Numbers of a token's vector.
    fn size(&self) -> usize;

    /// Most tokens of a text.
    fn positions(&self) -> usize;

    /// The number format of its vectors.
    fn format(&self) -> Dtype;

    /// `tokens` `[texts, tokens]` through all layers: `[texts, tokens, size]`. `mask`
    /// `[texts, 1, 1, tokens]` says which are seen; nothing means all of them. `types`
    /// `[texts, tokens]` is 1 where a token is of the second text of a pair, else 0;
    /// nothing means no pairs.
    fn hidden(
        &self,
        tokens: &Array,
        types: Option<&Array>,
        mask: Option<&Array>,
    ) -> MlxResult<Array>;

    /// The head that scores pairs, if it was loaded with one.
    fn classifier(&self) -> Option<&Classifier> {
        None
    }
}

/// What the design of a decoder follows from.
pub struct Source<'a> {
    /// `config.json`, whole.
    pub config: &'a Map<String, Value>,
    /// Tokens in a sequence, if set.
    pub context: Option<u32>,
}

impl Source<'_> {
    /// What decoders' configurations have in common.
    fn arguments(&self) -> Result<Arguments, EngineError> {
        Arguments::read(self.config, self.context)
    }
}

type Designer = fn(&Source) -> Result<Design, EngineError>;

/// Every `model_type` of a decoder and its design.
const DECODERS: [(&str, Designer); 16] = [
    ("llama", llama::design),
    ("mistral", mistral::design),
    ("qwen2", qwen2::design),
    ("qwen3", qwen3::design),
    ("qwen3_moe", qwen3_moe::design),
    ("gemma2", gemma2::design),
    ("gemma3_text", gemma3_text::design),
    ("phi3", phi3::design),
    ("smollm3", smollm3::design),
    ("granite", granite::design),
    ("olmo2", olmo2::design),
    ("glm4", glm4::design),
    ("gpt_oss", gpt_oss::design),
    ("deepseek_v2", deepseek_v2::design),
    ("deepseek_v3", deepseek_v3::design),
    ("lfm2", lfm2::design),
];

/// What the loader of an encoder gets.
pub struct Checkpoint<'a> {
    /// `config.json`, whole.
    pub config: &'a Map<String, Value>,
    /// The weights, to be taken from.
    pub weights: &'a mut Weights,
    /// Tokens in a sequence, if set.
    pub context: Option<u32>,
    /// By what it says how well texts fit, instead of making vectors.
    pub verdict: Option<Verdict>,
}

type EncoderLoader = fn(Checkpoint) -> Result<Box<dyn EncoderArchitecture>, EngineError>;

/// Every `model_type` of an encoder and who loads it.
const ENCODERS: [(&str, EncoderLoader); 3] = [
    ("bert", bert::load),
    ("xlm-roberta", bert::load),
    ("modernbert", modernbert::load),
];

/// The design of a checkpoint's decoder.
///
/// # Errors
/// The architecture is not known, or its configuration makes no network.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    known(source.config, &DECODERS, Kind::Chat, None)?(source)
}

/// Loads a checkpoint as an encoder: one that is, or a decoder without its head.
///
/// # Errors
/// The architecture is not known, its configuration makes no network, or its weights are
/// not all there.
pub fn load_encoder(checkpoint: Checkpoint) -> Result<Box<dyn EncoderArchitecture>, EngineError> {
    let config = checkpoint.config;
    let made = match checkpoint.verdict {
        None => Made::Vectors,
        Some(Verdict::Tokens { .. }) => Made::Verdicts,
        Some(Verdict::Head(_)) => Made::Scores,
    };
    if made == Made::Scores {
        return known(config, &ENCODERS, Kind::Rerank, Some(made))?(checkpoint);
    }
    let encoder = find(&ENCODERS, model_type(config)?);
    if let Some(load) = encoder.filter(|_| made == Made::Vectors) {
        return load(checkpoint);
    }
    let source = Source {
        config,
        context: checkpoint.context,
    };
    let kind = match made {
        Made::Vectors => Kind::Embeddings,
        Made::Verdicts | Made::Scores => Kind::Rerank,
    };
    let designer = known(config, &DECODERS, kind, Some(made))?;
    let vectors = TokenVectors::load(checkpoint, designer(&source)?)?;
    Ok(Box::new(vectors))
}

fn model_type(config: &Map<String, Value>) -> Result<&str, EngineError> {
    let name = config.get("model_type").and_then(Value::as_str);
    name.ok_or_else(|| super::bad_file("config.json", "\"model_type\" is missing"))
}

fn find<L: Copy>(table: &[(&str, L)], name: &str) -> Option<L> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, loader)| *loader)
}

/// What `table` has of the checkpoint's architecture, or an error that says what
/// makes a model of this kind.
fn known<L: Copy>(
    config: &Map<String, Value>,
    table: &[(&str, L)],
    kind: Kind,
    made: Option<Made>,
) -> Result<L, EngineError> {
    let name = model_type(config)?;
    find(table, name).ok_or_else(|| {
        EngineError::Unsupported(format!(
            "the architecture \"{name}\" is not supported; supported are {}",
            kind.made_by(made, supported_architectures())
                .collect::<Vec<_>>()
                .join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_list_names_what_the_table_loads() {
        let chat = DECODERS.iter().map(|(name, _)| (*name, Kind::Chat));
        let encoders = ENCODERS.iter().map(|(name, _)| (*name, Kind::Embeddings));
        let all: Vec<_> = chat.chain(encoders).collect();
        assert_eq!(all, supported_architectures());
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let config = serde_json::json!({"model_type": "rwkv9"});
        let config = config.as_object().unwrap();
        let source = Source {
            config,
            context: None,
        };
        let error = design(&source).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("\"rwkv9\"") && message.contains("llama, mistral"),
            "{message}"
        );
    }

    /// The design of a small model with these changes to its configuration.
    fn designed(model_type: &str, changes: &Value) -> Result<Design, EngineError> {
        let mut config = serde_json::json!({
            "model_type": model_type, "hidden_size": 64, "num_hidden_layers": 4,
            "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5, "vocab_size": 199, "max_position_embeddings": 512,
        });
        let config = config.as_object_mut().unwrap();
        config.extend(changes.as_object().unwrap().clone());
        design(&Source {
            config,
            context: None,
        })
    }

    #[test]
    fn windows_are_where_the_configuration_has_them() {
        let check = |model_type: &str, changes: Value, expected: [u32; 4]| {
            let design = designed(model_type, &changes).unwrap();
            let windows = design.layers.iter().map(|layer| layer.window.unwrap_or(0));
            let windows: Vec<u32> = windows.collect();
            assert_eq!(windows, expected, "{model_type} {changes}");
        };
        let length = || serde_json::json!({"sliding_window": 8});
        check("llama", length(), [0; 4]);
        check("mistral", length(), [8; 4]);
        check("phi3", length(), [8; 4]);
        check(
            "mistral",
            serde_json::json!({"sliding_window": null}),
            [0; 4],
        );
        check("qwen2", length(), [0; 4]);
        let upper = serde_json::json!({
            "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3,
        });
        check("qwen2", upper.clone(), [0, 0, 0, 8]);
        check("qwen3", upper, [0, 0, 0, 8]);
        check("gemma2", length(), [8, 0, 8, 0]);
        check("gemma2", serde_json::json!({}), [0; 4]);
        let experts = serde_json::json!({
            "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
        });
        check("gpt_oss", experts, [8, 0, 8, 0]);
        let pattern = serde_json::json!({"sliding_window": 8, "sliding_window_pattern": 3});
        check("gemma3_text", pattern, [8, 8, 0, 8]);
        let (slides, full) = ("sliding_attention", "full_attention");
        let listed = serde_json::json!({
            "sliding_window": 8, "layer_types": [full, slides, slides, full],
        });
        for model_type in ["llama", "mistral", "gemma2", "gemma3_text", "phi3"] {
            check(model_type, listed.clone(), [0, 8, 8, 0]);
        }
    }

    #[test]
    fn a_configuration_that_makes_no_network_says_why() {
        let check = |model_type: &str, changes: Value, part: &str| {
            let error = designed(model_type, &changes).unwrap_err().to_string();
            assert!(error.contains(part), "{model_type} {changes}: {error}");
        };
        check("gemma3_text", serde_json::json!({}), "\"sliding_window\"");
        let none = serde_json::json!({"sliding_window": 8, "sliding_window_pattern": 0});
        check("gemma3_text", none, "\"sliding_window_pattern\" is 0");
        let newer = serde_json::json!({"sliding_window": 8, "rope_parameters": {}});
        check("gemma3_text", newer, "\"rope_parameters\"");
        let short = serde_json::json!({"no_rope_layers": [1, 0]});
        check("smollm3", short, "\"no_rope_layers\"");
        check("granite", serde_json::json!({}), "embedding_multiplier");
        let experts = serde_json::json!({
            "num_experts": 4, "num_experts_per_tok": 5, "moe_intermediate_size": 8,
            "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
        });
        check("qwen3_moe", experts, "\"num_experts_per_tok\"");
        let few = serde_json::json!({
            "num_local_experts": 4, "num_experts_per_tok": 5, "sliding_window": 8,
        });
        check("gpt_oss", few, "\"num_experts_per_tok\"");
        let part = serde_json::json!({"partial_rotary_factor": 0.01});
        check("glm4", part, "cannot turn in pairs");
    }
}
