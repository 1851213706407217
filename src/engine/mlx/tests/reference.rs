//! What mlx-lm computes, and what we do: small models of every supported form
//! against `tests/fixtures/logits.json`, the demo models against
//! `tests/fixtures/greedy`. The scripts that made them are in `tests/reference`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::tiny::Tiny;
use crate::engine::Network;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::{MlxNetwork, Settings, load, load_on};

/// Largest distance of two log-probabilities.
const CLOSE: f64 = 1e-3;
/// Where the reference's best logit is no more above its second, either may win.
const NEAR_TIE: f64 = 1e-3;

pub(super) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Has a script of `tests/reference` write into a folder what mlx-lm makes of models.
pub(super) fn have_written(script: &str, folder: &Path) {
    let packages = project().join("target/python-engines");
    assert!(
        packages.join(".installed").is_file(),
        "mlx-lm is not installed; run `make engines`"
    );
    let output = Command::new("python3")
        .arg(project().join("tests/reference").join(script))
        .arg(folder)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Natural logarithms of the probabilities.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - most).exp()).sum();
    let total = most + sum.ln();
    logits.iter().map(|l| f64::from(*l) - total).collect()
}

pub(super) fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

#[derive(Deserialize)]
struct Small {
    prompt: Vec<u32>,
    cases: Vec<SmallCase>,
}

#[derive(Deserialize)]
struct SmallCase {
    name: String,
    config: Value,
    #[serde(default)]
    dense: Vec<String>,
    /// Of the last tokens of the prompt.
    logprobs: Vec<Vec<f64>>,
}

/// `own` is how this device computes, otherwise with the operations that a GPU takes.
fn check_small(own: bool) {
    let settings = Settings::default();
    let device = Device::prepare(settings.compute).unwrap();
    let device = if own { device } else { device.without_own() };
    let small: Small = read(&project().join("tests/fixtures/logits.json"));
    assert_eq!(small.cases.len(), 19);
    for case in small.cases {
        let mut tiny = Tiny::new(case.config);
        tiny.dense = case.dense;
        let dir = tiny.write();
        let mut network = load_on(device, dir.path(), &settings, &|_| {}).unwrap();
        let mut cache = network.new_cache();
        let rows = network.logits_of_all(&mut cache, &small.prompt).unwrap();
        let last = &rows[rows.len() - case.logprobs.len()..];
        for (found, expected) in last.iter().zip(&case.logprobs) {
            let found = log_softmax(found);
            assert_eq!(found.len(), expected.len(), "{}", case.name);
            for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
                let distance = (found - expected).abs();
                let name = &case.name;
                assert!(
                    distance < CLOSE,
                    "{name}: token {token} {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn small_models_compute_what_mlx_lm_computes() {
    check_small(true);
}

#[test]
fn the_operations_for_a_gpu_compute_the_same() {
    check_small(false);
}

/// One prompt and the reference's 64 tokens after it.
#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    logprobs: Vec<f64>,
    margins: Vec<f64>,
}

/// The snapshot of a demo model. Without it there is nothing to compare, which
/// is a failure and not a pass.
fn demo_model(name: &str) -> MlxNetwork {
    let cache = std::env::var_os("ROUNDHOUSE_DEMO_CACHE")
        .map_or_else(|| project().join("data/hub"), PathBuf::from);
    let folder = cache.join(format!("models--roundhouse--{name}"));
    let commit = fs::read_to_string(folder.join("refs/main")).unwrap_or_else(|error| {
        panic!(
            "the demo model {name} is not in {}: {error}; run `make demo`, or set \
             ROUNDHOUSE_DEMO_CACHE to the folder that it prints",
            cache.display()
        )
    });
    let snapshot = folder.join("snapshots").join(commit.trim());
    load(&snapshot, &Settings::default()).unwrap()
}

/// Fed with the reference's tokens: the same choice wherever it is a clear one,
/// the same probability everywhere.
fn check_fed(name: &str, network: &mut MlxNetwork, case: &Greedy, one_by_one: bool) {
    let mut cache = network.new_cache();
    let (last, start) = case.prompt.split_last().unwrap();
    network.prefill(&mut cache, start, false).unwrap();
    let fed: Vec<u32> = [*last].iter().chain(&case.tokens).copied().collect();
    let rows = if one_by_one {
        let mut step = |token: &u32| {
            network
                .decode(&mut [(&mut cache, &[*token])])
                .unwrap()
                .remove(0)
        };
        fed.iter().map(&mut step).collect()
    } else {
        network.logits_of_all(&mut cache, &fed).unwrap()
    };
    for (i, token) in case.tokens.iter().enumerate() {
        let place = format!("{name}, prompt of {}, token {i}", case.prompt.len());
        let found = log_softmax(&rows[i])[*token as usize];
        let expected = case.logprobs[i];
        let distance = (found - expected).abs();
        assert!(distance < CLOSE, "{place}: {found}, expected {expected}");
        if case.margins[i] > NEAR_TIE {
            assert_eq!(best(&rows[i]), *token, "{place}");
        }
    }
}

/// Left alone, with ever the best token: the same answers up to the first near-tie, all prompts in one batch.
fn check_free(name: &str, network: &mut MlxNetwork, cases: &[Greedy]) {
    let mut caches = Vec::new();
    let mut tokens = Vec::new();
    for case in cases {
        let mut cache = network.new_cache();
        let logits = network.prefill(&mut cache, &case.prompt, true).unwrap();
        tokens.push(vec![best(&logits.unwrap())]);
        caches.push(cache);
    }
    let steps = cases[0].tokens.len();
    for _ in 1..steps {
        let last = tokens.iter().map(|tokens| [tokens[tokens.len() - 1]]);
        let last: Vec<[u32; 1]> = last.collect();
        let batch = caches.iter_mut().zip(&last);
        let mut batch: Vec<_> = batch.map(|(cache, last)| (cache, &last[..])).collect();
        for (row, logits) in network.decode(&mut batch).unwrap().iter().enumerate() {
            tokens[row].push(best(logits));
        }
    }
    for (case, found) in cases.iter().zip(&tokens) {
        let ties = case.margins.iter().position(|margin| *margin <= NEAR_TIE);
        let clear = ties.unwrap_or(steps);
        let place = format!("{name}, prompt of {}", case.prompt.len());
        assert_eq!(found[..clear], case.tokens[..clear], "{place}");
    }
}

fn check_demo(name: &str) {
    let path = format!("tests/fixtures/greedy/{name}.json");
    let cases: Vec<Greedy> = read(&project().join(path));
    assert!(cases.len() >= 8 && cases.iter().all(|case| case.tokens.len() == 64));
    let mut network = demo_model(name);
    for (i, case) in cases.iter().enumerate() {
        // Token by token takes much longer; one prompt does it.
        check_fed(name, &mut network, case, i == 1);
    }
    check_free(name, &mut network, &cases);
}

#[test]
fn the_4_bit_demo_model_answers_as_with_mlx_lm() {
    check_demo("SmolLM2-135M-Instruct-4bit");
}

#[test]
fn the_8_bit_demo_model_answers_as_with_mlx_lm() {
    check_demo("SmolLM2-135M-Instruct-8bit");
}

#[test]
fn the_dense_demo_model_answers_as_with_mlx_lm() {
    check_demo("SmolLM2-135M-Instruct-f32");
}
