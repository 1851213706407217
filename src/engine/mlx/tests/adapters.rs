//! Adapters: what mlx-lm makes of small models with them (`tests/reference/adapters.py`),
//! alone and side by side in one batch; whose prompts help whom; and what is held.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use super::reference::{best, have_written, log_softmax, read};
use super::tiny::{Tiny, array};
use super::tokens;
use crate::engine::adapter::Chosen;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::kv::Cache;
use crate::engine::mlx::{MlxNetwork, Settings, load, load_on};
use crate::engine::prefix::Owner;
use crate::engine::sampling::Sampling;
use crate::engine::speculation::Draft;
use crate::engine::thread::outlet::Said;
use crate::engine::thread::{self, Engine, Job};
use crate::engine::{EngineError, Network};

/// Largest distance of two log-probabilities, as in the parity table.
const CLOSE: f64 = 3e-4;

/// What mlx-lm makes of a snapshot.
#[derive(Deserialize)]
struct Reference {
    name: String,
    base: Answer,
    one: Answer,
    two: Answer,
}

#[derive(Deserialize)]
struct Answer {
    prompt: Vec<u32>,
    /// After each token of the prompt.
    logprobs: Vec<Vec<f64>>,
    /// What follows if the best is always taken.
    tokens: Vec<u32>,
}

/// The adapter in a folder; its mark is the digest of the path.
fn chosen(dir: &Path) -> Chosen {
    let none = Chosen {
        mark: dir.as_os_str().len() as u128,
        dir: dir.to_owned(),
    };
    let bytes = dir.as_os_str().as_encoded_bytes().iter();
    let mark = bytes.fold(Owner(0), |owner, byte| {
        let mark = u128::from(*byte);
        Chosen {
            mark,
            ..none.clone()
        }
        .apart(owner)
    });
    Chosen {
        mark: mark.0,
        ..none
    }
}

/// An empty cache of a sequence that runs with the adapter in a folder, or with none.
fn cache(network: &mut MlxNetwork, dir: Option<&Path>) -> Result<Cache, EngineError> {
    let mut cache = network.new_cache();
    if let Some(dir) = dir {
        network.adapt(&mut cache, &chosen(dir))?;
    }
    Ok(cache)
}

/// The logits of a prompt and what follows on it, in the company of others.
fn check_answers(network: &mut MlxNetwork, cases: &[(&str, &Answer, Option<PathBuf>)]) {
    let (mut caches, mut made) = (Vec::new(), Vec::new());
    for (name, answer, dir) in cases {
        let mut alone = cache(network, dir.as_deref()).unwrap();
        let rows = network.logits_of_all(&mut alone, &answer.prompt).unwrap();
        for (row, expected) in rows.iter().zip(&answer.logprobs) {
            let found = log_softmax(row);
            for (found, expected) in found.iter().zip(expected) {
                let distance = (found - expected).abs();
                assert!(distance < CLOSE, "{name}: {distance:.1e} apart");
            }
        }
        made.push(vec![best(&rows[rows.len() - 1])]);
        caches.push(alone);
    }
    for _ in 1..cases[0].1.tokens.len() {
        let last = made.iter().map(|made| &made[made.len() - 1..]);
        let mut batch: Vec<_> = caches.iter_mut().zip(last).collect();
        let rows = network.decode(&mut batch).unwrap();
        for (made, row) in made.iter_mut().zip(rows) {
            made.push(best(&row));
        }
    }
    for ((name, answer, _), made) in cases.iter().zip(made) {
        assert_eq!(made, answer.tokens, "{name}");
    }
}

#[test]
fn e181_models_with_adapters_answer_as_with_mlx_lm_alone_and_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    have_written("adapters.py", folder.path());
    let folders: BTreeSet<PathBuf> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(folders.len(), 6);
    let settings = Settings::default();
    let own = Device::prepare(settings.compute).unwrap();
    for folder in folders {
        let reference: Reference = read(&folder.join("reference.json"));
        let Reference {
            name,
            base,
            one,
            two,
        } = &reference;
        assert!(
            one.tokens != base.tokens && two.tokens != base.tokens,
            "{name}"
        );
        let at = |name: &str| Some(folder.join(name));
        let cases = [
            ("one", one, at("one")),
            ("as it is", base, None),
            ("two", two, at("two")),
            ("one again", one, at("one")),
            ("one by PEFT", one, at("one-peft")),
        ];
        let named = cases
            .each_ref()
            .map(|(case, answer, dir)| (format!("{name}, {case}"), *answer, dir.clone()));
        let cases = named
            .each_ref()
            .map(|(name, answer, dir)| (name.as_str(), *answer, dir.clone()));
        for device in [own, own.without_own()] {
            let mut network = load_on(device, &folder, &settings, &|_| {}).unwrap();
            check_answers(&mut network, &cases);
            // Nothing is left of them once they are through.
            check_answers(&mut network, &cases[1..2]);
        }
    }
}

/// An adapter for the layers `paths` of the small models, with numbers from its name.
fn adapter(name: &str, paths: &[&str], [inputs, outputs]: [i32; 2]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"lora_parameters": {"rank": 4, "scale": 1.5}});
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let matrices = paths.iter().flat_map(|path| {
        [("lora_a", [inputs, 4]), ("lora_b", [4, outputs])].map(|(kind, shape)| {
            let seed = format!("{name}{path}{kind}");
            (
                format!("{path}.{kind}"),
                array(&seed, &shape, |number| number * 0.3),
            )
        })
    });
    let matrices: Vec<(String, Array)> = matrices.collect();
    let named = matrices.iter().map(|(name, array)| (name.as_str(), array));
    Array::save_safetensors(named, None, dir.path().join("adapters.safetensors")).unwrap();
    dir
}

const BOTH: [&str; 2] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.o_proj",
];

/// The tokens that follow on a prompt, and how many of it were cached.
async fn answered(
    engine: &Engine,
    adapter: Option<&Chosen>,
    prompt: &[u32],
) -> Result<(Vec<u32>, u64), EngineError> {
    answered_to(engine, Owner(7), adapter, prompt).await
}

/// The same to somebody.
async fn answered_to(
    engine: &Engine,
    owner: Owner,
    adapter: Option<&Chosen>,
    prompt: &[u32],
) -> Result<(Vec<u32>, u64), EngineError> {
    let mut sequence = engine.begin(Job {
        prompt: prompt.to_vec(),
        max_tokens: 12,
        end_tokens: [].into(),
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        grammar: None,
        logprobs: None,
        owner: Some(adapter.map_or(owner, |adapter| adapter.apart(owner))),
        adapter: adapter.cloned(),
    });
    let (mut made, mut cached) = (Vec::new(), 0);
    loop {
        match sequence.next().await.expect("the engine lives") {
            Said::Began { cached: held } => cached = held,
            Said::Token(sampled) => made.push(sampled.token),
            Said::End { .. } => return Ok((made, cached)),
            Said::Failed(error) => return Err(error),
        }
    }
}

fn started(adapters: u64) -> Engine {
    started_with(adapters, || Ok(Draft::Nothing))
}

fn started_with(
    adapters: u64,
    draft: impl FnOnce() -> Result<Draft<MlxNetwork>, EngineError> + Send + 'static,
) -> Engine {
    let settings = thread::Settings {
        parallel: 4.try_into().unwrap(),
        context: 512,
        kv: 4000 * 2 * 2 * 32 * 2 * 4,
        chunk: 48.try_into().unwrap(),
    };
    let dir = Tiny::new(json!({})).write();
    let load_settings = Settings {
        adapters,
        ..Settings::default()
    };
    let build = move || Ok((load(dir.path(), &load_settings)?, draft()?));
    Engine::start(settings, None, build).unwrap().0
}

/// The smaller network runs without adapters; what reads its guesses has the sequence's.
#[tokio::test]
async fn answers_with_an_adapter_and_a_draft_are_those_without_the_draft() {
    let dirs = ["one", "two"].map(|name| adapter(name, &BOTH, [128, 128]));
    let adapters = dirs.each_ref().map(|dir| chosen(dir.path()));
    let plain = started(0);
    let guessing = started_with(0, || {
        let dir = Tiny::new(json!({})).write();
        Ok(Draft::Network(load(dir.path(), &Settings::default())?))
    });
    let prompt = tokens(40, 3);
    let mut expected = Vec::new();
    for way in [None, Some(&adapters[0]), Some(&adapters[1])] {
        let (made, _) = answered(&plain, way, &prompt).await.unwrap();
        let (with_draft, _) = answered(&guessing, way, &prompt).await.unwrap();
        assert_eq!(with_draft, made);
        expected.push(made);
    }
    // Side by side their steps have different rows.
    let (none, one, two) = tokio::join!(
        answered(&guessing, None, &prompt),
        answered(&guessing, Some(&adapters[0]), &prompt),
        answered(&guessing, Some(&adapters[1]), &prompt),
    );
    assert_eq!([none, one, two].map(|made| made.unwrap().0), *expected);
    // Whether they are worth it on this machine is another question.
    assert!(guessing.counted().guessed > 0);
}

#[tokio::test]
async fn e181_prompts_with_an_adapter_help_nobody_without_it() {
    let dirs = ["one", "two"].map(|name| adapter(name, &BOTH, [128, 128]));
    let adapters = dirs.each_ref().map(|dir| chosen(dir.path()));
    let ways = [None, Some(&adapters[0]), Some(&adapters[1])];
    let prompt = tokens(150, 3);
    let (warm, mut cold) = (started(0), Vec::new());
    for way in ways {
        let (made, none) = answered(&started(0), way, &prompt).await.unwrap();
        assert_eq!(none, 0);
        cold.push(made);
    }
    let different: BTreeSet<_> = cold.iter().collect();
    assert_eq!(different.len(), ways.len(), "adapters change the answer");
    // Nor does what everybody may go on from.
    let warmed = started(0);
    let first = answered_to(&warmed, Owner::ANYBODY, None, &prompt).await;
    assert_eq!(first.unwrap().1, 0);
    for (way, expected) in ways.iter().zip(&cold) {
        let (made, cached) = answered(&warmed, *way, &prompt).await.unwrap();
        assert_eq!((made, cached > 0), (expected.clone(), way.is_none()));
    }
    for turn in 0..3 {
        for (way, expected) in ways.iter().zip(&cold) {
            let (made, cached) = answered(&warm, *way, &prompt).await.unwrap();
            assert_eq!(made, *expected, "turn {turn}");
            let own = if turn == 0 {
                0
            } else {
                prompt.len() as u64 - 1
            };
            assert_eq!(cached, own, "turn {turn}");
        }
    }
    // And all at once, in one batch.
    let all = ways.map(|way| answered(&warm, way, &prompt));
    let all = futures_util::future::join_all(all).await;
    for (found, expected) in all.into_iter().zip(&cold) {
        assert_eq!(found.unwrap().0, *expected);
    }
}

#[tokio::test]
async fn e181_what_is_no_adapter_for_the_model_is_told_and_the_others_go_on() {
    let engine = started(0);
    let prompt = tokens(20, 1);
    let (expected, _) = answered(&engine, None, &prompt).await.unwrap();
    let strange = adapter("one", &["model.layers.7.self_attn.q_proj"], [128, 128]);
    let narrow = adapter("one", &BOTH, [64, 128]);
    let head = adapter("one", &["lm_head"], [128, 199]);
    let empty = tempfile::tempdir().unwrap();
    for (dir, part) in [
        (
            &strange,
            "model.layers.7.self_attn.q_proj, which is no layer",
        ),
        (&narrow, "[64, 128], which are [128, 128]"),
        (&head, "lm_head, which is no layer"),
        (&empty, "adapter_config.json: could not be read"),
    ] {
        let failed = answered(&engine, Some(&chosen(dir.path())), &prompt).await;
        let error = failed.expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
        let (made, _) = answered(&engine, None, &prompt).await.unwrap();
        assert_eq!(made, expected);
    }
}

#[test]
fn e182_what_is_held_of_adapters_stays_within_their_room() {
    let dirs = ["one", "two", "three"].map(|name| adapter(name, &BOTH, [128, 128]));
    let each = 2 * 4 * (128 + 128) * 4;
    let snapshot = Tiny::new(json!({})).write();
    let settings = Settings {
        adapters: 2 * each,
        ..Settings::default()
    };
    let mut network = load(snapshot.path(), &settings).unwrap();
    let mut opened = |index: usize| cache(&mut network, Some(dirs[index].path()));
    let (one, two) = (opened(0).unwrap(), opened(1).unwrap());
    drop(one);
    // The first one gives way: nobody runs with it.
    let three = opened(2).unwrap();
    // Files that are gone show what had to be read again.
    for dir in &dirs {
        fs::remove_file(dir.path().join("adapters.safetensors")).unwrap();
    }
    assert!(opened(0).is_err());
    assert!(opened(1).is_ok() && opened(2).is_ok());
    drop((two, three));
}
