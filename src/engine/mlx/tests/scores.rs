//! What sentence-transformers' `CrossEncoder` makes of pairs of texts, and what we do: the
//! snapshots of `tests/fixtures/rerankers`, made by `tests/reference/make_rerankers.py`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::reference::{project, read};
use super::vectors::load;
use crate::engine::encoder::{Encoder, Text};
use crate::engine::mlx::Settings;
use crate::engine::mlx::encoder::MlxEncoder;
use crate::engine::supported_architectures;
use crate::engine::tokenizer::pairs::Pairs;
use crate::model::kind::Kind;
use crate::model::manifest::{Manifest, Rules, inspect_folder};
use crate::model::sentence::{Recipe, Verdict};

/// Largest distance of two scores.
const CLOSE: f32 = 1e-4;

/// The snapshots.
const CASES: [&str; 4] = ["bert", "xlm-roberta", "modernbert", "modernbert-first"];

#[derive(Deserialize)]
struct Row {
    query: String,
    document: String,
    tokens: Vec<u32>,
    /// Nothing if the network is not told.
    types: Option<Vec<u32>>,
    score: f32,
}

fn folder(name: &str) -> PathBuf {
    project().join("tests/fixtures/rerankers").join(name)
}

fn rows(name: &str) -> Vec<Row> {
    read(&folder(name).join("scores.json"))
}

fn open(folder: &Path) -> (MlxEncoder, Recipe) {
    let recipe = Recipe::of(folder).unwrap();
    let encoder = load(folder, &Settings::default(), recipe.clone());
    (encoder.unwrap(), recipe)
}

fn manifest(folder: &Path) -> Manifest {
    let rules = Rules {
        architectures: supported_architectures(),
        trust_remote_code: false,
    };
    inspect_folder(folder, &rules).unwrap()
}

/// The pairs of a snapshot as its tokenizer makes them, as long as it may be.
fn pairs(name: &str, recipe: &Recipe) -> Vec<Text> {
    let pairs = Pairs::load(&folder(name), recipe.tokens.unwrap() as usize).unwrap();
    let pair = |row: &Row| {
        let first = pairs.first(&row.query).unwrap();
        let (tokens, first) = pairs.with(&first, &row.document).unwrap();
        Text { tokens, first }
    };
    rows(name).iter().map(pair).collect()
}

#[test]
fn pairs_are_those_of_the_tokenizer_and_cut_as_there() {
    for name in CASES {
        let recipe = Recipe::of(&folder(name)).unwrap();
        for (pair, row) in pairs(name, &recipe).iter().zip(rows(name)) {
            let place = format!("{name}: {:?} {:?}", row.query, row.document);
            assert_eq!(pair.tokens, row.tokens, "{place}");
            let types = (0..pair.tokens.len()).map(|at| u32::from(at >= pair.first));
            let expected = row.types.unwrap_or_else(|| vec![0; row.tokens.len()]);
            assert_eq!(types.collect::<Vec<u32>>(), expected, "{place}");
        }
    }
}

#[test]
fn scores_are_those_of_cross_encoders_in_any_order_and_company() {
    for name in CASES {
        let (mut encoder, recipe) = open(&folder(name));
        assert_eq!(encoder.size(), 1, "{name}");
        let scale = recipe.verdict.map(Verdict::scale).unwrap();
        let (texts, rows) = (pairs(name, &recipe), rows(name));
        let mut check = |order: &[usize]| {
            let batch: Vec<&Text> = order.iter().map(|at| &texts[*at]).collect();
            let found = encoder.encode(&batch).unwrap();
            assert_eq!(found.len(), order.len());
            for (at, vector) in order.iter().zip(found) {
                let [logit] = vector[..] else {
                    panic!("{name}: {vector:?}");
                };
                let (found, expected) = (scale.score(logit), rows[*at].score);
                assert!(
                    (found - expected).abs() <= CLOSE,
                    "{name}, {at} of {order:?}: {found}, expected {expected}"
                );
            }
        };
        let all: Vec<usize> = (0..texts.len()).collect();
        let back: Vec<usize> = all.iter().rev().copied().collect();
        check(&all);
        check(&back);
        check(&[6, 2]);
        all.iter().for_each(|at| check(&[*at]));
    }
}

#[test]
fn the_texts_of_a_pair_are_told_apart() {
    let (mut encoder, recipe) = open(&folder("bert"));
    let pair = pairs("bert", &recipe).remove(1);
    let one = Text::from(pair.tokens.clone());
    let found = encoder.encode(&[&pair, &one]).unwrap();
    assert!((found[0][0] - found[1][0]).abs() > 1e-2, "{found:?}");
}

#[test]
fn the_router_takes_them_for_ranking_and_counts_their_heads() {
    for name in CASES {
        let manifest = manifest(&folder(name));
        assert_eq!((manifest.kind, manifest.is_decoder), (Kind::Rerank, false));
        let (encoder, recipe) = open(&folder(name));
        assert_eq!(manifest.context, recipe.tokens, "{name}");
        assert_eq!(manifest.weight_bytes, encoder.bytes_held(), "{name}");
    }
}

/// A snapshot of the fixtures with changes to its configuration.
fn changed(name: &str, changes: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        fs::copy(folder(name).join(file), dir.path().join(file)).unwrap();
    }
    let mut config: Value = read(&folder(name).join("config.json"));
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn what_scores_no_pairs_is_refused_with_the_reason() {
    let rules = Rules {
        architectures: supported_architectures(),
        trust_remote_code: false,
    };
    let check = |name: &str, changes: Value, part: &str| {
        let dir = changed(name, &changes);
        let error = inspect_folder(dir.path(), &rules).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let labels = json!({"id2label": {"0": "no", "1": "maybe", "2": "yes"}});
    check("bert", labels, "config.json has a head of 3 labels");
    let decoder = json!({"model_type": "qwen3",
        "architectures": ["Qwen3ForSequenceClassification"]});
    let words = "\"qwen3\" is not supported for ranking by a head that scores pairs; supported \
                 are bert, xlm-roberta, modernbert";
    check("bert", decoder, words);

    let check = |name: &str, changes: Value, part: &str| {
        let dir = changed(name, &changes);
        let recipe = Recipe::of(&folder(name)).unwrap();
        let error = load(dir.path(), &Settings::default(), recipe).err();
        let error = error.expect("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    let pooled = |how: &str| json!({"classifier_pooling": how});
    check("modernbert", pooled("max"), "max");
    let activation = json!({"classifier_activation": "silu"});
    check("modernbert", activation, "silu");
    let decoder = json!({"model_type": "qwen3"});
    check("bert", decoder, "supported are bert, xlm-roberta");
}
