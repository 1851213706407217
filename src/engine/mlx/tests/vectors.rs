//! What sentence-transformers and transformers compute, and what we do:
//! `tests/fixtures/vectors.json`, made by `tests/reference/make_vectors.py`.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde::Deserialize;
use serde_json::Value;

use super::tiny::array;
use crate::engine::encoder::Encoder;
use crate::engine::mlx::Settings;
use crate::engine::mlx::encoder::{MlxEncoder, load};
use crate::engine::tokenizer::Tokenizer;
use crate::model::sentence::{Pooling, Recipe};

/// Largest distance of two numbers of a vector.
const CLOSE: f32 = 1e-4;

#[derive(Deserialize)]
struct Fixture {
    texts: Vec<Text>,
    prompts: Vec<Vec<u32>>,
    small: Vec<Small>,
}

#[derive(Deserialize)]
struct Text {
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
fn check(encoder: &mut MlxEncoder, texts: &[Vec<u32>], expected: &[Vec<f32>], what: &str) -> f32 {
    let all: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
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
    }
}

/// A small encoder, written as a snapshot. Some names and weights are what
/// checkpoints made for other tasks have besides.
fn write(config: &Value, prefix: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let number = |key: &str| config[key].as_i64().unwrap() as i32;
    let (hidden, inner) = (number("hidden_size"), number("intermediate_size"));
    let mut weights: Vec<(String, Array)> = Vec::new();
    let mut matrix = |name: &str, rows: i32, columns: i32| {
        let scale = (3.0 / columns as f32).sqrt();
        let name = format!("{name}.weight");
        let matrix = array(&name, &[rows, columns], |number| number * scale);
        weights.push((name, matrix));
    };
    matrix("embeddings.word_embeddings", number("vocab_size"), hidden);
    let positions = number("max_position_embeddings");
    matrix("embeddings.position_embeddings", positions, hidden);
    let segments = number("type_vocab_size");
    matrix("embeddings.token_type_embeddings", segments, hidden);
    let mut biases = vec![("embeddings.LayerNorm".to_owned(), hidden)];
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
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
            matrix(&name, outputs, inputs);
            biases.push((name, outputs));
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            let name = format!("encoder.layer.{layer}.{name}");
            norms.push(name.clone());
            biases.push((name, hidden));
        }
    }
    for (name, size) in biases {
        let name = format!("{name}.bias");
        let bias = array(&name, &[size], |number| number * 0.1);
        weights.push((name, bias));
    }
    for name in norms {
        let name = format!("{name}.weight");
        let norm = array(&name, &[hidden], |number| number * 0.2 + 1.0);
        weights.push((name, norm));
    }
    let mut named: Vec<_> = weights
        .into_iter()
        .map(|(name, array)| (format!("{prefix}{name}"), array))
        .collect();
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
    assert_eq!(fixture.small.len(), 3);
    for case in &fixture.small {
        let prefix = match case.name.as_str() {
            "bert" => "",
            "xlm-roberta" => "roberta.",
            _ => "bert.",
        };
        let dir = write(&case.config, prefix);
        let mut encoder = load(dir.path(), &Settings::default(), mean(), &|_| {}).unwrap();
        let prompts = &fixture.prompts;
        check(&mut encoder, prompts, &case.means, &case.name);
        assert_eq!((encoder.size(), encoder.vocabulary()), (64, 101));
        let mut refused = |text: &[u32]| encoder.encode(&[text]).is_err();
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
    let check = |key: &str, value: Value, part: &str| {
        let mut config = fixture.small[0].config.clone();
        config[key] = value;
        let dir = write(&fixture.small[0].config, "");
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let settings = Settings {
            context: Some(40),
            ..Settings::default()
        };
        let error = load(dir.path(), &settings, mean(), &|_| {}).err();
        let error = error.expect("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    check("model_type", "rwkv9".into(), "gpt_oss, bert, xlm-roberta");
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
            tokens
        })
        .collect();
    let expected: Vec<_> = fixture.texts.into_iter().map(|case| case.vector).collect();
    let mut encoder = load(&dir, &Settings::default(), recipe, &|_| {}).unwrap();
    let distance = check(&mut encoder, &texts, &expected, "demo");
    println!("largest distance: {distance:e}");
}
