//! Small llama models with seeded weights, written as snapshots.

use std::fs;

use mlx_rs::{Array, ops, random};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A model to be written.
pub struct Tiny {
    /// `config.json`.
    pub config: Value,
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
        let mut made = Made::new(self.config["quantization"].as_object());
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

/// Weights made so far, each from the next seed.
struct Made<'a> {
    weights: Vec<(String, Array)>,
    packing: Option<&'a Map<String, Value>>,
    seed: u64,
}

impl<'a> Made<'a> {
    fn new(packing: Option<&'a Map<String, Value>>) -> Self {
        Self {
            weights: Vec::new(),
            packing,
            seed: 0,
        }
    }

    fn random(&mut self, shape: &[i32], scale: f32) -> Array {
        self.seed += 1;
        let key = random::key(self.seed).unwrap();
        random::normal::<f32>(shape, None, scale, &key).unwrap()
    }

    fn matrix(&mut self, path: &str, shape: [i32; 2], bias: bool) {
        let dense = self.random(&shape, (shape[1] as f32).powf(-0.5));
        let packing = self.packing.and_then(|all| match all.get(path) {
            Some(Value::Bool(false)) => None,
            Some(own) => own.as_object(),
            None => Some(all),
        });
        match packing {
            None => self.push(path, "weight", dense),
            Some(packing) => {
                let number = |key: &str| packing[key].as_i64().unwrap() as i32;
                let (group_size, bits) = (number("group_size"), number("bits"));
                let (packed, scales, biases) = ops::quantize(dense, group_size, bits).unwrap();
                self.push(path, "weight", packed);
                self.push(path, "scales", scales);
                self.push(path, "biases", biases);
            }
        }
        if bias {
            let bias = self.random(&shape[..1], 0.1);
            self.push(path, "bias", bias);
        }
    }

    fn norm(&mut self, path: &str, size: i32) {
        let weight = self.random(&[size], 0.2).add(Array::from_f32(1.0)).unwrap();
        self.push(path, "weight", weight);
    }

    fn push(&mut self, path: &str, kind: &str, array: Array) {
        self.weights.push((format!("{path}.{kind}"), array));
    }
}
