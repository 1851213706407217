//! One runner for every architecture and form of weights: a small model with
//! seeded weights, written as an ordinary snapshot, is loaded and held against
//! itself: whatever way tokens go in, the logits are the same.

mod adapters;
mod guesses;
mod parity;
mod reference;
mod scores;
mod tiny;
mod vectors;

use serde_json::{Value, json};

use self::tiny::Tiny;
use super::device::Device;
use super::kv::{Cache, Piece};
use super::{MlxNetwork, Settings, load, load_on};
use crate::engine::prefix::Owner;
use crate::engine::sampling::Sampling;
use crate::engine::speculation::Draft;
use crate::engine::stored::room::Quota;
use crate::engine::stored::{Key, Place, file};
use crate::engine::thread::outlet::Said;
use crate::engine::thread::{self, Engine, Job};
use crate::engine::{EngineError, Network, Reading};

/// What two ways to the same number may differ by. The order of sums differs,
/// nothing else; logits of the tiny models are around 1.
const CLOSE: f32 = 2e-4;

fn tokens(count: u32, seed: u32) -> Vec<u32> {
    (0..count)
        .map(|i| (i * 37 + seed * 101 + 3) % 199)
        .collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = (found - expected).abs();
        assert!(
            distance < CLOSE,
            "{what}: logit {i} is {found}, expected {expected}"
        );
    }
    let spread = expected
        .iter()
        .fold(0f32, |most, logit| most.max(logit.abs()));
    assert!(
        spread > 0.05,
        "{what}: the logits say nothing: {expected:?}"
    );
}

fn opened(tiny: &Tiny) -> MlxNetwork {
    let dir = tiny.write();
    load(dir.path(), &Settings::default()).unwrap()
}

/// Whole, in pieces, token by token and beside others: one result.
fn check(name: &str, tiny: &Tiny) {
    check_network(name, opened(tiny));
}

fn check_network(name: &str, mut network: MlxNetwork) {
    let prompt = tokens(45, 1);
    let mut cache = network.new_cache();
    let whole = network.logits_of_all(&mut cache, &prompt).unwrap();
    assert_eq!(whole.len(), prompt.len());
    check_prefill(name, &mut network, &prompt, &whole);
    check_single(name, &mut network, &prompt, &whole);
    check_batch(name, &mut network);
}

fn check_prefill(name: &str, network: &mut MlxNetwork, prompt: &[u32], whole: &[Vec<f32>]) {
    for cut in [1, 17, 44] {
        let mut cache = network.new_cache();
        let (first, second) = prompt.split_at(cut);
        assert_eq!(network.prefill(&mut cache, first, false).unwrap(), None);
        let logits = network.prefill(&mut cache, second, true).unwrap().unwrap();
        assert_close(
            &logits,
            &whole[prompt.len() - 1],
            &format!("{name}, cut at {cut}"),
        );
        assert_eq!(cache.tokens(), prompt.len());
    }
}

fn check_single(name: &str, network: &mut MlxNetwork, prompt: &[u32], whole: &[Vec<f32>]) {
    let mut cache = network.new_cache();
    for (i, token) in prompt.iter().enumerate() {
        let logits = network.decode(&mut [(&mut cache, &[*token])]).unwrap();
        assert_close(&logits[0], &whole[i], &format!("{name}, token {i} alone"));
    }
}

/// Sequences of different length, one of which grows over the step of a cache, read in
/// one pass.
fn check_batch(name: &str, network: &mut MlxNetwork) {
    let lengths = [3u32, 254, 40];
    let prompts = [0, 1, 2].map(|i| tokens(lengths[i] + 4, i as u32));
    let mut whole = |prompt: &Vec<u32>| {
        let mut cache = network.new_cache();
        network.logits_of_all(&mut cache, prompt).unwrap()
    };
    let alone: Vec<Vec<Vec<f32>>> = prompts.iter().map(&mut whole).collect();
    let mut caches: Vec<Cache> = lengths.iter().map(|_| network.new_cache()).collect();
    let starts = caches.iter_mut().zip(&prompts).enumerate();
    let starts = starts.map(|(i, (cache, prompt))| Reading {
        cache,
        tokens: &prompt[..lengths[i] as usize],
        want_logits: i != 1,
    });
    let mut starts: Vec<Reading<'_, Cache>> = starts.collect();
    let read = network.prefill_batch(&mut starts).unwrap();
    assert_eq!(read.len(), lengths.len());
    for (i, logits) in read.into_iter().enumerate() {
        let expected = &alone[i][lengths[i] as usize - 1];
        match logits {
            Some(logits) => assert_close(&logits, expected, &format!("{name}, prompt {i} of 3")),
            None => assert_eq!(i, 1, "{name}: only these are not wanted"),
        }
    }
    for step in 0..4 {
        let token = |i: usize| prompts[i][lengths[i] as usize + step];
        let next: Vec<[u32; 1]> = (0..lengths.len()).map(|i| [token(i)]).collect();
        let batch = caches.iter_mut().zip(&next);
        let mut batch: Vec<_> = batch.map(|(cache, next)| (cache, &next[..])).collect();
        for (i, logits) in network.decode(&mut batch).unwrap().iter().enumerate() {
            let expected = &alone[i][lengths[i] as usize + step];
            assert_close(
                logits,
                expected,
                &format!("{name}, sequence {i} of a batch"),
            );
        }
    }
}

/// What was taken apart and put together again goes on as if nothing had happened, and
/// what was taken from stays as it was.
fn check_pieces(name: &str, network: &mut MlxNetwork) {
    let prompt = tokens(300, 1);
    let mut cache = network.new_cache();
    let whole = network.logits_of_all(&mut cache, &prompt).unwrap();
    for cuts in [&[1usize, 63, 64, 128, 44][..], &[256, 44], &[300]] {
        let mut cache = network.new_cache();
        network.prefill(&mut cache, &prompt, false).unwrap();
        let mut pieces = network.evaluate_pieces(cache, 0, &cuts[..1]).unwrap();
        pieces[0] = through_the_disk(network, &pieces[0], cuts[0]);
        // The rest comes from another sequence that was read the same way.
        let mut cache = network.new_cache();
        network.prefill(&mut cache, &prompt, false).unwrap();
        pieces.extend(network.evaluate_pieces(cache, cuts[0], &cuts[1..]).unwrap());
        for held in [299, 256, 200] {
            let mut left = held;
            let parts = pieces.iter().zip(cuts).filter_map(|(piece, length)| {
                let count = left.min(*length);
                left -= count;
                (count > 0).then(|| (piece.clone(), count))
            });
            let mut cache = network.evaluate_cache(parts.collect()).unwrap();
            assert_eq!(network.tokens_in(&cache), held);
            let rest = &prompt[held..];
            let logits = network.prefill(&mut cache, rest, true).unwrap().unwrap();
            assert_close(&logits, &whole[299], &format!("{name}, {held} held"));
        }
    }
}

/// The piece as it comes back from a file.
fn through_the_disk(network: &MlxNetwork, piece: &Piece, tokens: usize) -> Piece {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("piece.safetensors");
    let head = file::Head {
        parent: Key([0; 16]),
        tokens: vec![0; tokens],
    };
    let tensors = network.tensors_of(piece).unwrap();
    file::write(&path, &head, &tensors, std::time::SystemTime::now()).unwrap();
    assert!(network.map_piece(&path, tokens + 1).is_err());
    network.map_piece(&path, tokens).unwrap()
}

#[test]
fn e170_pieces_of_a_cache_hold_what_it_held() {
    check_pieces("two heads", &mut opened(&Tiny::new(json!({}))));
    let one = Tiny::new(json!({"num_key_value_heads": 1}));
    check_pieces("one head", &mut opened(&one));
}

/// The tokens that follow on `prompt`, and how many of it were cached.
async fn answered(engine: &Engine, owner: Option<u128>, prompt: &[u32]) -> (Vec<u32>, u64) {
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
        owner: owner.map(Owner),
        adapter: None,
    });
    let (mut made, mut cached) = (Vec::new(), 0);
    loop {
        match sequence.next().await.expect("the engine lives") {
            Said::Began { cached: held } => cached = held,
            Said::Token(sampled) => made.push(sampled.token),
            Said::End { .. } => return (made, cached),
            Said::Failed(error) => panic!("{error}"),
        }
    }
}

/// Two callers, many turns, prefixes in common and too little room for all: every
/// answer is the one that a fresh engine gives, and only a caller's own prompts help.
#[tokio::test]
async fn e170_answers_from_the_prompt_cache_are_those_without_it() {
    let start = |tokens: u64| {
        let settings = thread::Settings {
            parallel: 4.try_into().unwrap(),
            context: 512,
            kv: tokens * 2 * 2 * 32 * 2 * 4,
            chunk: 48.try_into().unwrap(),
        };
        let dir = Tiny::new(json!({})).write();
        let build = move || Ok((load(dir.path(), &Settings::default())?, Draft::Nothing));
        Engine::start(settings, None, build).unwrap().0
    };
    let (cold, warm, tight) = (start(2000), start(4000), start(400));
    let mut saved = 0;
    for turn in 0..24u32 {
        // Owner 0 is everybody.
        let (owner, talk) = (1 + turn % 2, turn % 3);
        let mut prompt = tokens(70, 1);
        prompt.extend(tokens(10 + turn * 6, talk));
        let (expected, none) = answered(&cold, None, &prompt).await;
        assert_eq!(none, 0);
        let own = Some(u128::from(owner));
        let (made, cached) = answered(&warm, own, &prompt).await;
        assert_eq!(made, expected, "turn {turn}, {cached} cached");
        // The first of a caller finds nothing, whatever the other one has asked.
        assert_eq!(cached == 0, turn < 2, "turn {turn}");
        assert!(cached < prompt.len() as u64);
        let again = answered(&warm, own, &prompt).await;
        assert_eq!(again, (expected.clone(), prompt.len() as u64 - 1));
        let (made, cached) = answered(&tight, own, &prompt).await;
        assert_eq!(made, expected, "turn {turn}, {cached} cached, little room");
        let kept = tight.counted().kept;
        assert!(kept.bytes <= 400 * 2 * 2 * 32 * 2 * 4, "{kept:?}");
        saved += cached;
    }
    assert!(saved > 0, "little room is some");
}

/// The same with the way through the disk between any two turns, and too little room there.
#[tokio::test]
async fn d20_answers_after_the_way_through_the_disk_are_those_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = Tiny::new(json!({})).write();
    let path = snapshot.path().to_owned();
    let start = |quota: Option<u64>| {
        let settings = thread::Settings {
            parallel: 4.try_into().unwrap(),
            context: 512,
            kv: 1000 * 2 * 2 * 32 * 2 * 4,
            chunk: 48.try_into().unwrap(),
        };
        let place = quota.map(|quota| Place {
            folder: dir.path().join("prompts/tiny"),
            quota: Quota {
                each: quota,
                all: quota,
            },
            form: String::new(),
        });
        let path = path.clone();
        let build = move || Ok((load(&path, &Settings::default())?, Draft::Nothing));
        Engine::start(settings, place, build).unwrap()
    };
    let (cold, _) = start(None);
    let mut restored = 0;
    for turn in 0..18u32 {
        // All that is asked is some 1,500 tokens of a kilobyte each.
        let (engine, ended) = start(Some(if turn < 9 { 10_000_000 } else { 300_000 }));
        // Owner 0 is everybody.
        let (owner, talk) = (1 + turn % 2, turn % 3);
        let mut prompt = tokens(70, 1);
        prompt.extend(tokens(10 + turn * 6, talk));
        let (expected, _) = answered(&cold, None, &prompt).await;
        let own = Some(u128::from(owner));
        let (made, cached) = answered(&engine, own, &prompt).await;
        assert_eq!(made, expected, "turn {turn}, {cached} cached");
        if turn < 9 {
            assert_eq!(cached == 0, turn < 2, "turn {turn}");
        }
        let again = answered(&engine, own, &prompt).await;
        assert_eq!(again, (expected, prompt.len() as u64 - 1));
        let kept = engine.counted().kept;
        assert!(kept.bytes <= 1000 * 2 * 2 * 32 * 2 * 4, "{kept:?}");
        assert!(kept.restored >= cached);
        restored += kept.restored;
        engine.leave(std::time::Instant::now() + std::time::Duration::from_secs(60));
        ended.await.unwrap_err();
    }
    assert!(restored > 0);
}

fn check_packed(group_size: i32, bits: i32) {
    let mut tiny = Tiny::new(json!({}));
    tiny.quantize(group_size, bits);
    check(&format!("{bits} bits in groups of {group_size}"), &tiny);
}

#[test]
fn dense() {
    check("dense, tied", &Tiny::new(json!({})));
    check(
        "dense, untied",
        &Tiny::new(json!({"tie_word_embeddings": false})),
    );
    let biases = json!({"attention_bias": true, "mlp_bias": true, "head_dim": 48});
    check("with biases and wide heads", &Tiny::new(biases));
    check(
        "one key head",
        &Tiny::new(json!({"num_key_value_heads": 1})),
    );
    check("traditional", &Tiny::new(json!({"rope_traditional": true})));
    check(
        "mistral",
        &Tiny::new(json!({"model_type": "mistral", "sliding_window": null})),
    );
}

/// What a GPU takes is tried on the device there is.
#[test]
fn with_the_operations_for_a_gpu() {
    let settings = Settings::default();
    let device = Device::prepare(settings.compute).unwrap().without_own();
    for changes in [
        json!({}),
        json!({"rope_traditional": true, "num_key_value_heads": 1}),
    ] {
        let dir = Tiny::new(changes.clone()).write();
        let network = load_on(device, dir.path(), &settings, &|_| {}).unwrap();
        check_network(&format!("{changes}"), network);
    }
}

#[test]
fn packed() {
    for (group_size, bits) in [
        (32, 2),
        (64, 3),
        (32, 4),
        (64, 4),
        (128, 4),
        (32, 6),
        (64, 8),
    ] {
        check_packed(group_size, bits);
    }
}

#[test]
fn packed_with_overrides() {
    let mut tiny = Tiny::new(json!({"tie_word_embeddings": false}));
    tiny.quantize_layer("model.layers.0.mlp.down_proj", Some((32, 8)));
    tiny.quantize_layer("lm_head", None);
    tiny.quantize(64, 4);
    check("with a layer of its own and a dense head", &tiny);
}

#[test]
fn rope_variants() {
    let original = 64;
    for scaling in [
        json!({"type": "linear", "factor": 2.0}),
        json!({"rope_type": "dynamic", "factor": 2.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": original}),
        json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": original}),
    ] {
        check(
            &scaling.to_string(),
            &Tiny::new(json!({"rope_scaling": scaling})),
        );
    }
}

#[test]
fn shards_are_found_through_the_index() {
    let mut tiny = Tiny::new(json!({}));
    let mut single = opened(&tiny);
    tiny.shards = 3;
    let mut sharded = opened(&tiny);
    let prompt = tokens(9, 1);
    let read = |network: &mut MlxNetwork| {
        let mut cache = network.new_cache();
        network.prefill(&mut cache, &prompt, true).unwrap().unwrap()
    };
    assert_eq!(read(&mut single), read(&mut sharded));
}

#[test]
fn figures_are_those_of_the_model() {
    let network = opened(&Tiny::new(json!({})));
    assert_eq!(network.vocabulary(), 199);
    // Two layers, two key heads of 32, keys and values, four bytes each.
    assert_eq!(network.kv_bytes_per_token(), 2 * 2 * 32 * 2 * 4);
    assert_eq!(network.device(), ("cpu", "float32"));
    // 199·128 + 2·(128·(128+64+64) + 128² … counted by hand.
    let layer = 128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 256 * 128 + 2 * 128;
    assert_eq!(network.bytes_held(), 4 * (199 * 128 + 2 * layer + 128));
}

fn check_refused(what: &str, tiny: &Tiny, part: &str) {
    let dir = tiny.write();
    let error = load(dir.path(), &Settings::default()).err().expect(what);
    assert!(error.to_string().contains(part), "{what}: {error}");
}

#[test]
fn what_does_not_fit_is_refused_with_its_name() {
    let config = |key: &str, value: Value| {
        let mut tiny = Tiny::new(json!({}));
        tiny.config[key] = value;
        tiny
    };
    let with = |name: &str| {
        let mut tiny = Tiny::new(json!({}));
        tiny.extra = Some(name.to_owned());
        tiny
    };
    check_refused("type", &config("model_type", json!("rwkv9")), "\"rwkv9\"");
    check_refused(
        "missing",
        &config("hidden_size", Value::Null),
        "config.json",
    );
    check_refused(
        "layers",
        &config("num_hidden_layers", json!(3)),
        "model.layers.2.",
    );
    check_refused(
        "shape",
        &config("vocab_size", json!(200)),
        "model.embed_tokens.weight",
    );
    check_refused(
        "rope",
        &config("rope_scaling", json!({"type": "mrope"})),
        "\"mrope\"",
    );
    check_refused(
        "zero",
        &config("num_attention_heads", json!(0)),
        "num_attention_heads",
    );
    let slides = json!(["sliding_attention", "full_attention"]);
    check_refused("window", &config("layer_types", slides), "sliding window");
    let short = json!(["full_attention"]);
    check_refused(
        "layers' kinds",
        &config("layer_types", short),
        "layer_types",
    );
    let strange = json!(["linear_attention", "full_attention"]);
    check_refused(
        "strange layers",
        &config("layer_types", strange),
        "linear_attention",
    );
    check_refused("extra", &with("model.layers.0.router.weight"), "router");
    let mut wrong = with("model.layers.0.self_attn.rotary_emb.inv_freq");
    opened(&wrong);
    wrong.index_names = Some("../model.safetensors".to_owned());
    check_refused("path", &wrong, "is not a name of a file");
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let mut network = opened(&Tiny::new(json!({})));
    let mut cache = network.new_cache();
    let error = network.prefill(&mut cache, &[3, 199], true).unwrap_err();
    assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
    assert_eq!(cache.tokens(), 0);
}
