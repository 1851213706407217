//! Small llama models, written as snapshots. Their weights follow from their
//! names by the rule of `tests/reference/make_logits.py`.

use std::fs;

use mlx_rs::{Array, ops};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model to be written.
pub struct Tiny {
    /// `config.json`.
    pub config: Value,
    /// Layers that stay dense though nothing in the configuration says so.
    pub dense: Vec<String>,
    /// How many weight files; more than one come with an index.
    pub shards: usize,
    /// A weight that the architecture does not know.
    pub extra: Option<String>,
    /// Writes an index that names this file for every weight.
    pub index_names: Option<String>,
}

impl Tiny {
    /// Two layers of 128 with four heads that share two, and `changes` to that.
    pub fn new(changes: Value) -> Self {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2,
            "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5, "vocab_size": 199, "max_position_embeddings": 512,
            "rope_theta": 10000.0, "tie_word_embeddings": true,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        Self {
            config,
            dense: Vec::new(),
            shards: 1,
            extra: None,
            index_names: None,
        }
    }

    /// Packs all layers that have no settings of their own.
    pub fn quantize(&mut self, group_size: i32, bits: i32) {
        self.config["quantization"]["group_size"] = json!(group_size);
        self.config["quantization"]["bits"] = json!(bits);
    }

    /// Gives the layer at `path` settings of its own; nothing leaves it dense.
    pub fn quantize_layer(&mut self, path: &str, packing: Option<(i32, i32)>) {
        self.config["quantization"][path] = match packing {
            Some((group_size, bits)) => json!({"group_size": group_size, "bits": bits}),
            None => json!(false),
        };
    }

    /// Writes it into a fresh folder.
    pub fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = self.config.to_string();
        fs::write(dir.path().join("config.json"), config).unwrap();
        let mut weights = self.weights();
        if let Some(name) = &self.extra {
            weights.push((name.clone(), Array::from_f32(1.0)));
        }
        let per_file = weights.len().div_ceil(self.shards);
        let mut map = Map::new();
        for (i, part) in weights.chunks(per_file).enumerate() {
            let name = match self.shards {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            let arrays = part.iter().map(|(name, array)| (name.as_str(), array));
            Array::save_safetensors(arrays, None, dir.path().join(&name)).unwrap();
            for (weight, _) in part {
                let name = self.index_names.clone().unwrap_or(name.clone());
                map.insert(weight.clone(), json!(name));
            }
        }
        if self.shards > 1 || self.index_names.is_some() {
            let index = json!({"metadata": {}, "weight_map": map}).to_string();
            fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        }
        dir
    }

    fn number(&self, key: &str) -> i32 {
        self.config[key].as_i64().unwrap_or(0) as i32
    }

    fn flag(&self, key: &str) -> bool {
        self.config[key] == json!(true)
    }

    /// All weights, by name.
    fn weights(&self) -> Vec<(String, Array)> {
        let (hidden, inner) = (self.number("hidden_size"), self.number("intermediate_size"));
        let heads = self.number("num_attention_heads").max(1);
        let head = match self.number("head_dim") {
            0 => hidden / heads,
            head => head,
        };
        let (queries, keys) = (heads * head, self.number("num_key_value_heads") * head);
        let mut made = Made {
            weights: Vec::new(),
            packing: self.config["quantization"].as_object(),
            dense: &self.dense,
        };
        // The vocabulary stays as it was made: tests change what is said of it.
        made.matrix("model.embed_tokens", [199, hidden], false);
        for layer in 0..2 {
            let mut linear = |name: &str, shape, bias| {
                made.matrix(&format!("model.layers.{layer}.{name}"), shape, bias);
            };
            let bias = self.flag("attention_bias");
            linear("self_attn.q_proj", [queries, hidden], bias);
            linear("self_attn.k_proj", [keys, hidden], bias);
            linear("self_attn.v_proj", [keys, hidden], bias);
            linear("self_attn.o_proj", [hidden, queries], bias);
            let bias = self.flag("mlp_bias");
            linear("mlp.gate_proj", [inner, hidden], bias);
            linear("mlp.up_proj", [inner, hidden], bias);
            linear("mlp.down_proj", [hidden, inner], bias);
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                made.norm(&format!("model.layers.{layer}.{norm}"), hidden);
            }
        }
        made.norm("model.norm", hidden);
        if !self.flag("tie_word_embeddings") {
            made.matrix("lm_head", [199, hidden], false);
        }
        made.weights
    }
}

/// Weights made so far.
struct Made<'a> {
    weights: Vec<(String, Array)>,
    packing: Option<&'a Map<String, Value>>,
    dense: &'a [String],
}

impl Made<'_> {
    fn matrix(&mut self, path: &str, shape: [i32; 2], bias: bool) {
        let scale = (3.0 / shape[1] as f32).sqrt();
        let dense = array(&format!("{path}.weight"), &shape, |number| number * scale);
        match self.packing_of(path) {
            None => self.push(path, "weight", dense),
            Some((group_size, bits)) => {
                let (packed, scales, biases) = ops::quantize(dense, group_size, bits).unwrap();
                self.push(path, "weight", packed);
                self.push(path, "scales", scales);
                self.push(path, "biases", biases);
            }
        }
        if bias {
            let bias = array(&format!("{path}.bias"), &shape[..1], |number| number * 0.1);
            self.push(path, "bias", bias);
        }
    }

    fn packing_of(&self, path: &str) -> Option<(i32, i32)> {
        let all = self.packing?;
        let settings = match all.get(path) {
            Some(Value::Bool(false)) => return None,
            _ if self.dense.iter().any(|dense| dense == path) => return None,
            Some(own) => own.as_object()?,
            None => all,
        };
        let number = |key: &str| settings[key].as_i64().unwrap() as i32;
        Some((number("group_size"), number("bits")))
    }

    fn norm(&mut self, path: &str, size: i32) {
        let name = format!("{path}.weight");
        let weight = array(&name, &[size], |number| number * 0.2 + 1.0);
        self.push(path, "weight", weight);
    }

    fn push(&mut self, path: &str, kind: &str, array: Array) {
        self.weights.push((format!("{path}.{kind}"), array));
    }
}

/// A weight whose numbers follow from its name.
pub fn array(name: &str, shape: &[i32], form: impl Fn(f32) -> f32) -> Array {
    let count = shape.iter().product::<i32>() as usize;
    Array::from_iter(numbers(name).take(count).map(form), shape)
}

/// Numbers from -1 to 1 that follow from the name: FNV-1a, then SplitMix64.
fn numbers(name: &str) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (1..).map(move |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32
    })
}
