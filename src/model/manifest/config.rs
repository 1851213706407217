//! What `config.json` and `tokenizer_config.json` say, as far as the router
//! needs to know. Keys: `LlamaConfig` in transformers and what mlx-lm adds.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{Geometry, Quantization, Reason};
use crate::model::json;

/// Largest `config.json`, bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Largest `tokenizer_config.json` in which a chat template is looked for, bytes.
const LARGEST_TOKENIZER_CONFIG: u64 = 16 << 20;

/// Keys that name code in the repository which other loaders would run.
const CODE_KEYS: [&str; 4] = [
    "auto_map",
    "model_file",
    "trust_remote_code",
    "custom_pipelines",
];

/// What `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) model_type: String,
    pub(super) architectures: Vec<String>,
    pub(super) context: Option<u32>,
    pub(super) geometry: Option<Geometry>,
    pub(super) quantization: Option<Quantization>,
}

/// Reads `config.json`; `trusted` lets a model with code of its own pass.
pub(super) fn read(path: &std::path::Path, trusted: bool) -> Result<Config, Reason> {
    let value = json::read_file(path, LARGEST_CONFIG)
        .and_then(|bytes| json::parse(&bytes))
        .map_err(bad)?;
    parse(&value, trusted)
}

fn parse(value: &Value, trusted: bool) -> Result<Config, Reason> {
    let Some(object) = value.as_object() else {
        return Err(bad("is not a JSON object".to_owned()));
    };
    let says = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    if let Some(key) = CODE_KEYS
        .into_iter()
        .find(|key| !trusted && object.get(*key).is_some_and(says))
    {
        return Err(Reason::UntrustedCode(key.to_owned()));
    }
    let model_type = object
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| bad("has no model_type".to_owned()))?;
    let architectures = object
        .get("architectures")
        .and_then(Value::as_array)
        .map(|list| {
            list.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default();
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    Ok(Config {
        model_type: model_type.to_owned(),
        architectures,
        context: number("max_position_embeddings")
            .map(|positions| match model_type {
                // The first positions are the padding's and what comes before it.
                "xlm-roberta" => positions.saturating_sub(2),
                _ => positions,
            })
            .and_then(|n| u32::try_from(n).ok()),
        geometry: geometry(
            &number,
            object.contains_key("attn_logit_softcapping"),
            attending(object),
        ),
        quantization: quantization(value),
    })
}

/// The measures that memory follows from; nothing unless all are there and sane.
/// Keys of experts: `Qwen3MoeConfig` and `GptOssConfig` in transformers.
fn geometry(
    number: &dyn Fn(&str) -> Option<u64>,
    caps_scores: bool,
    attending: Option<u64>,
) -> Option<Geometry> {
    let sane = |key: &str| number(key).filter(|n| (1..=1 << 24).contains(n));
    let (hidden, heads) = (sane("hidden_size")?, sane("num_attention_heads")?);
    let intermediate = sane("block_ff_dim").or_else(|| sane("intermediate_size"))?;
    let shared = sane("n_shared_experts").unwrap_or(0);
    let experts = sane("num_experts_per_tok").map_or(0, |chosen| chosen + shared);
    let inside = sane("moe_intermediate_size").unwrap_or(intermediate);
    // All heads of `DeepseekV2Config` share a short vector and what turns of a key.
    let latent = sane("kv_lora_rank");
    let latent = latent.and_then(|rank| Some(rank + sane("qk_rope_head_dim")?));
    let head_dim = latent.unwrap_or_else(|| sane("head_dim").unwrap_or(hidden / heads));
    let kv_heads = match latent {
        Some(_) => 1,
        None => sane("num_key_value_heads").unwrap_or(heads),
    };
    let layers = sane("num_hidden_layers")?;
    let attending = attending.map_or(layers, |attending| attending.min(layers));
    Some(Geometry {
        experts,
        expert_intermediate: if experts > 0 { inside } else { 0 },
        caps_scores,
        hidden,
        intermediate,
        vocabulary: sane("vocab_size")?,
        layers: attending,
        convolved: (layers - attending) * hidden,
        heads,
        kv_heads,
        head_dim,
        kept: if latent.is_some() { 1 } else { 2 },
        unpacked: absorbed(&sane).unwrap_or(0),
    })
}

/// Layers that attend, where some convolve instead (`Lfm2Config`).
fn attending(object: &Map<String, Value>) -> Option<u64> {
    if let Some(attending) = object.get("full_attn_idxs").and_then(Value::as_array) {
        return Some(attending.len() as u64);
    }
    let kinds = object.get("layer_types")?.as_array()?;
    let attending = kinds.iter().filter(|kind| **kind != "conv").count();
    (attending < kinds.len()).then_some(attending as u64)
}

/// Numbers of the matrices that bring queries to short vectors and those to values.
fn absorbed(sane: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
    let each = sane("qk_nope_head_dim")? + sane("v_head_dim")?;
    let of_a_layer = sane("num_attention_heads")?.saturating_mul(each);
    let all = of_a_layer.saturating_mul(sane("kv_lora_rank")?);
    Some(all.saturating_mul(sane("num_hidden_layers")?))
}

/// The common numbers of `quantization`, which mlx-lm writes.
fn quantization(config: &Value) -> Option<Quantization> {
    let section = config
        .get("quantization")
        .or_else(|| config.get("quantization_config"))?;
    let number = |key: &str| u32::try_from(section.get(key)?.as_u64()?).ok();
    Some(Quantization {
        bits: number("bits")?,
        group_size: number("group_size")?,
    })
}

/// Whether `tokenizer_config.json` has a chat template. It is looked for without
/// building or rendering anything; a file that cannot be read has none.
pub(super) fn has_chat_template(path: &std::path::Path) -> bool {
    #[derive(Deserialize)]
    struct Section {
        #[serde(default)]
        chat_template: Option<IgnoredAny>,
    }
    json::read_file(path, LARGEST_TOKENIZER_CONFIG)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Section>(&bytes).ok())
        .is_some_and(|section| section.chat_template.is_some())
}

fn bad(problem: String) -> Reason {
    Reason::BadFile {
        file: "config.json".to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn code_that_comes_with_a_model_is_refused_unless_trusted() {
        let check = |key: &str, value: Value, refused: bool| {
            let config = json!({"model_type": "llama", key: value});
            let got = parse(&config, false);
            assert_eq!(
                matches!(got, Err(Reason::UntrustedCode(_))),
                refused,
                "{got:?}"
            );
            assert!(parse(&config, true).is_ok());
        };
        check("auto_map", json!({"AutoModel": "modeling.Evil"}), true);
        check("model_file", json!("modeling.py"), true);
        check("trust_remote_code", json!(true), true);
        check("trust_remote_code", json!(false), false);
        check("auto_map", Value::Null, false);
    }

    #[test]
    fn measures_are_read_with_the_defaults_of_the_architecture() {
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"],
            "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
            "num_hidden_layers": 30, "vocab_size": 49152, "max_position_embeddings": 8192,
            "quantization": {"group_size": 32, "bits": 4, "lm_head": {"bits": 8}},
        });
        let config = parse(&config, false).expect("a configuration");
        let geometry = config.geometry.expect("measures");
        assert_eq!((geometry.kv_heads, geometry.head_dim), (9, 64));
        assert_eq!((geometry.experts, geometry.caps_scores), (0, false));
        assert_eq!(config.context, Some(8192));
        let quantization = config.quantization.expect("quantised");
        assert_eq!((quantization.bits, quantization.group_size), (4, 32));
    }

    #[test]
    fn experts_and_caps_are_measures() {
        let config = json!({
            "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
            "num_hidden_layers": 48, "vocab_size": 151_936, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768, "attn_logit_softcapping": 50.0,
        });
        let config = parse(&config, false).expect("a configuration");
        let geometry = config.geometry.expect("measures");
        assert_eq!((geometry.experts, geometry.expert_intermediate), (8, 768));
        assert!(geometry.caps_scores);
    }

    #[test]
    fn layers_that_convolve_keep_what_they_look_back_at() {
        // LFM2-350M.
        let mut config = json!({
            "model_type": "lfm2", "hidden_size": 1024, "block_ff_dim": 6656,
            "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 16,
            "vocab_size": 65_536, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        });
        let check = |config: &Value| {
            let geometry = parse(config, false).expect("a configuration").geometry;
            let geometry = geometry.expect("measures");
            assert_eq!((geometry.layers, geometry.convolved), (6, 10 * 1024));
        };
        check(&config);
        let kind = |index: u64| match [2, 5, 8, 10, 12, 14].contains(&index) {
            true => "full_attention",
            false => "conv",
        };
        config["full_attn_idxs"] = Value::Null;
        config["layer_types"] = (0..16).map(kind).collect();
        check(&config);
    }

    #[test]
    fn of_latent_attention_one_short_vector_is_kept() {
        // DeepSeek-V2-Lite.
        let config = json!({
            "model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10_944,
            "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 27,
            "vocab_size": 102_400, "num_experts_per_tok": 6, "n_shared_experts": 2,
            "moe_intermediate_size": 1408, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128,
        });
        let geometry = parse(&config, false).expect("a configuration").geometry;
        let geometry = geometry.expect("measures");
        let kept = (geometry.kv_heads, geometry.head_dim, geometry.kept);
        assert_eq!(kept, (1, 576, 1));
        assert_eq!((geometry.heads, geometry.experts), (16, 8));
        assert_eq!(geometry.unpacked, 27 * 16 * (128 + 128) * 512);
    }

    #[test]
    fn what_is_no_configuration_says_so() {
        let check = |value: Value, part: &str| {
            let error = parse(&value, false).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        };
        check(json!([1]), "not a JSON object");
        check(json!({}), "no model_type");
        check(json!({"model_type": 7}), "no model_type");
    }
}
