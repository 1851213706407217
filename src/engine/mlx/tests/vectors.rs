//! What sentence-transformers and transformers compute, and what we do:
//! `tests/fixtures/vectors.json`, made by `tests/reference/make_vectors.py`.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde::Deserialize;
use serde_json::Value;

use super::tiny::{Tiny, array};
use crate::engine::EngineError;
use crate::engine::encoder::{Encoder, Text};
use crate::engine::mlx::encoder::{self, MlxEncoder};
use crate::engine::mlx::{Prepared, Settings};
use crate::engine::tokenizer::Tokenizer;
use crate::model::sentence::{Pooling, Recipe};

/// Largest distance of two numbers of a vector.
const CLOSE: f32 = 1e-4;

/// Loads an encoder.
pub(super) fn load(
    dir: &Path,
    settings: &Settings,
    recipe: Recipe,
) -> Result<MlxEncoder, EngineError> {
    encoder::load(Prepared::new(settings)?, dir, settings, recipe, &|_| {})
}

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<Told>,
    prompts: Vec<Vec<u32>>,
    small: Vec<Small>,
}

#[derive(Deserialize)]
struct Told {
    text: String,
    tokens: usize,
    vector: Vec<f32>,
}

#[derive(Deserialize)]
struct Small {
    name: String,
    config: Value,
    /// Of each prompt, the mean of its tokens' vectors.
    means: Vec<Vec<f32>>,
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Fails unless the vectors are alike; gives the largest distance.
#[track_caller]
fn alike(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) -> f32 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut largest = 0f32;
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: {place}");
        let distances = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let distance = distances.fold(
            0f32,
            |most, x| if x > most || x.is_nan() { x } else { most },
        );
        assert!(distance <= CLOSE, "{what}: {place} is {distance} away");
        largest = largest.max(distance);
    }
    largest
}

/// Each text alone, all together, and in other company.
#[track_caller]
fn check(encoder: &mut MlxEncoder, texts: &[Text], expected: &[Vec<f32>], what: &str) -> f32 {
    let all: Vec<&Text> = texts.iter().collect();
    let together = encoder.encode(&all).unwrap();
    let alone: Vec<_> = all
        .iter()
        .map(|text| encoder.encode(&[text]).unwrap().remove(0))
        .collect();
    alike(&alone, expected, what).max(alike(&together, expected, what))
}

fn mean() -> Recipe {
    Recipe {
        pooling: Pooling::Mean,
        normalise: false,
        tokens: None,
        lower_case: false,
        prompt: String::new(),
        verdict: None,
    }
}

/// What the weights of a small encoder are called, and their sizes.
#[derive(Default)]
struct Names {
    /// Rows and columns.
    matrices: Vec<(String, i32, i32)>,
    norms: Vec<String>,
    /// Those of matrices and norms that have one, and its size.
    biases: Vec<(String, i32)>,
}

fn number(config: &Value, key: &str) -> i32 {
    config[key].as_i64().unwrap() as i32
}

fn of_bert(config: &Value) -> Names {
    let number = |key: &str| number(config, key);
    let (hidden, inner) = (number("hidden_size"), number("intermediate_size"));
    let mut names = Names::default();
    for (table, key) in [
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ] {
        let name = format!("embeddings.{table}_embeddings");
        names.matrices.push((name, number(key), hidden));
    }
    names.norms.push("embeddings.LayerNorm".to_owned());
    for layer in 0..number("num_hidden_layers") {
        for (name, outputs, inputs) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            let name = format!("encoder.layer.{layer}.{name}");
            names.biases.push((name.clone(), outputs));
            names.matrices.push((name, outputs, inputs));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            names.norms.push(format!("encoder.layer.{layer}.{name}"));
        }
    }
    let norms = names.norms.iter().map(|name| (name.clone(), hidden));
    names.biases.extend(norms);
    names
}

fn of_modernbert(config: &Value) -> Names {
    let number = |key: &str| number(config, key);
    let (hidden, inner) = (number("hidden_size"), number("intermediate_size"));
    let mut names = Names::default();
    let table = "embeddings.tok_embeddings".to_owned();
    names.matrices.push((table, number("vocab_size"), hidden));
    names.norms = vec!["embeddings.norm".to_owned(), "final_norm".to_owned()];
    for layer in 0..number("num_hidden_layers") {
        for (name, outputs, inputs, bias) in [
            ("attn.Wqkv", 3 * hidden, hidden, "attention_bias"),
            ("attn.Wo", hidden, hidden, "attention_bias"),
            ("mlp.Wi", 2 * inner, hidden, "mlp_bias"),
            ("mlp.Wo", hidden, inner, "mlp_bias"),
        ] {
            let name = format!("layers.{layer}.{name}");
            if config[bias] == true {
                names.biases.push((name.clone(), outputs));
            }
            names.matrices.push((name, outputs, inputs));
        }
        let norms = ["attn_norm", "mlp_norm"]
            .into_iter()
            .skip(usize::from(layer == 0));
        names
            .norms
            .extend(norms.map(|name| format!("layers.{layer}.{name}")));
    }
    if config["norm_bias"] == true {
        let norms = names.norms.iter().map(|name| (name.clone(), hidden));
        names.biases.extend(norms);
    }
    names
}

/// A small encoder, written as a snapshot. Some names and weights are what
/// checkpoints made for other tasks have besides.
fn write(config: &Value, prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let names = match config["model_type"] == "modernbert" {
        true => of_modernbert(config),
        false => of_bert(config),
    };
    let hidden = number(config, "hidden_size");
    let mut named: Vec<(String, Array)> = Vec::new();
    let mut add = |name: String, shape: &[i32], change: &dyn Fn(f32) -> f32| {
        let array = array(&name, shape, change);
        named.push((format!("{prefix}{name}"), array));
    };
    for (name, rows, columns) in names.matrices {
        let scale = (3.0 / columns as f32).sqrt();
        add(format!("{name}.weight"), &[rows, columns], &|number| {
            number * scale
        });
    }
    for (name, size) in names.biases {
        add(format!("{name}.bias"), &[size], &|number| number * 0.1);
    }
    for name in names.norms {
        add(format!("{name}.weight"), &[hidden], &|number| {
            number * 0.2 + 1.0
        });
    }
    let positions = number(config, "max_position_embeddings");
    let places: Vec<i64> = (0..i64::from(positions)).collect();
    let places = Array::from_slice(&places, &[1, positions]);
    named.push((format!("{prefix}embeddings.position_ids"), places));
    named.push((format!("{prefix}pooler.dense.bias"), Array::from_f32(1.0)));
    named.push(("classifier.out_proj.bias".to_owned(), Array::from_f32(1.0)));
    let arrays = named.iter().map(|(name, array)| (name.as_str(), array));
    Array::save_safetensors(arrays, None, dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn small_encoders_agree_with_transformers_alone_and_in_batches() {
    let fixture = fixture();
    assert_eq!(fixture.small.len(), 5);
    for case in &fixture.small {
        let prefix = match case.name.as_str() {
            "bert" | "modernbert" => "",
            "xlm-roberta" => "roberta.",
            "bert, tanh" => "bert.",
            _ => "model.",
        };
        let dir = write(&case.config, prefix);
        let mut encoder = load(dir.path(), &Settings::default(), mean()).unwrap();
        let prompts: Vec<Text> = fixture.prompts.iter().cloned().map(Text::from).collect();
        check(&mut encoder, &prompts, &case.means, &case.name);
        assert_eq!((encoder.size(), encoder.vocabulary()), (64, 101));
        let mut refused = |text: &[u32]| encoder.encode(&[&text.to_vec().into()]).is_err();
        assert!(
            refused(&[101]) && refused(&[]) && refused(&[1; 41]),
            "{}",
            case.name
        );
        assert_eq!(refused(&[1; 40]), case.name == "xlm-roberta");
    }
}

#[test]
fn what_an_encoder_cannot_be_loaded_from_is_told() {
    let fixture = fixture();
    let check_of = |case: usize, key: &str, value: Value, part: &str| {
        let mut config = fixture.small[case].config.clone();
        config[key] = value;
        let dir = write(&fixture.small[case].config, "");
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let settings = Settings {
            context: Some(40),
            ..Settings::default()
        };
        let error = load(dir.path(), &settings, mean()).err();
        let error = error.expect("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    let check = |key: &str, value: Value, part: &str| check_of(0, key, value, part);
    check(
        "model_type",
        "rwkv9".into(),
        "lfm2, bert, xlm-roberta, modernbert",
    );
    check("model_type", "llama".into(), "rms_norm_eps");
    check("hidden_act", "swish".into(), "swish");
    check(
        "position_embedding_type",
        "relative_key".into(),
        "relative_key",
    );
    check("hidden_size", 65.into(), "num_attention_heads");
    check("hidden_size", 128.into(), "config.json asks for");
    check("num_hidden_layers", 0.into(), "belong to no layer");
    check("max_position_embeddings", 0.into(), "positions");
    let check = |key: &str, value: Value, part: &str| check_of(4, key, value, part);
    check("num_attention_heads", 64.into(), "no even multiple");
    check(
        "layer_types",
        serde_json::json!(["full_attention"]),
        "layer_types",
    );
    let other = serde_json::json!(["full_attention", "full_attention", "linear_attention"]);
    check("layer_types", other, "linear_attention");
    check("local_attention", 0.into(), "local_attention");
    check("hidden_activation", "swish".into(), "swish");
}

#[test]
fn a_decoder_that_sees_both_ways_is_refused() {
    for key in ["is_causal", "use_bidirectional_attention"] {
        let mut config = serde_json::json!({
            "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 1,
            "intermediate_size": 96, "num_attention_heads": 4, "rms_norm_eps": 1e-5,
            "vocab_size": 101,
        });
        config[key] = (key != "is_causal").into();
        let dir = Tiny::new(config).write();
        let error = load(dir.path(), &Settings::default(), mean()).err();
        assert!(
            error
                .expect("refused")
                .to_string()
                .contains("see those after them")
        );
    }
}

/// The snapshot of the demo encoder.
fn demo() -> PathBuf {
    let cache = std::env::var_os("ROUNDHOUSE_DEMO_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("data/hub"),
        PathBuf::from,
    );
    let repository = cache.join("models--sentence-transformers--all-MiniLM-L6-v2");
    let commit = fs::read_to_string(repository.join("refs/main"));
    let commit = commit.expect("the demo models are not there; run `make demo`");
    repository.join("snapshots").join(commit.trim())
}

#[test]
fn the_demo_encoder_agrees_with_sentence_transformers() {
    let (dir, fixture) = (demo(), fixture());
    let recipe = Recipe::of(&dir).unwrap();
    assert_eq!((recipe.tokens, recipe.normalise), (Some(256), true));
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let texts: Vec<_> = fixture
        .texts
        .iter()
        .map(|case| {
            let tokens = tokenizer.encode(&case.text, true).unwrap();
            assert_eq!(tokens.len(), case.tokens, "{:?}", case.text);
            Text::from(tokens)
        })
        .collect();
    let expected: Vec<_> = fixture.texts.into_iter().map(|case| case.vector).collect();
    let mut encoder = load(&dir, &Settings::default(), recipe).unwrap();
    let distance = check(&mut encoder, &texts, &expected, "demo");
    println!("largest distance: {distance:e}");
}
