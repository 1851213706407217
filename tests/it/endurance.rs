//! The embedded engine on a real model for a length of time: whether the prompt cache
//! ever changes an answer or crosses from caller to caller, and whether memory stays
//! where the reservation has it; and a very long prompt on a small one. Seconds in every
//! run of the tests; `make test-long` has ten minutes, a thousand requests and a hundred
//! thousand tokens.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use roundhouse::platform::resident_memory;
use serde_json::{Value, json};

use super::demo::{EIGHT, FOUR, ask, cache, home, workers};
use super::harness::{Answer, Home, PATIENCE, Server, long};
use super::keys::{chat, new_key};
use super::sampler::sample;

/// What all questions begin with.
const TOGETHER: &str = "You are the guide of a small museum of railways. A roundhouse is a \
    building in which locomotives are kept around a turntable, so that any of them can be \
    brought out in a moment and none stands in the way of another. Answer in few words.";

/// What each ends with, long enough that to have all of it cached tells who has asked it.
const QUESTIONS: [&str; 6] = [
    "What stands in the middle of a roundhouse, and what is done with it every morning?",
    "Why were locomotives kept under a roof at all, and who looked after them at night?",
    "Name three things that a visitor sees first when the doors of the building open.",
    "How many stalls has a large roundhouse, and how were they numbered by its builders?",
    "Which city in Germany has a museum like this, and how does one get there by train?",
    "Please write one line about the smell of coal, oil and steam in a locomotive shed.",
];

/// What a caller asked and was told, as far as it is counted.
#[derive(Debug, Default)]
struct Told {
    answers: u64,
    /// With some of the prompt from the cache.
    cached: u64,
}

fn cached(answer: &Answer) -> u64 {
    let usage = &answer.json()["usage"];
    let cached = &usage["prompt_tokens_details"]["cached_tokens"];
    cached.as_u64().expect("a number")
}

fn asking(model: &str, question: &str) -> Value {
    let more = json!({"max_tokens": 8, "messages": [
        {"role": "system", "content": TOGETHER},
        {"role": "user", "content": question},
    ]});
    ask(model, question, more)
}

/// What each model says to each question with nothing cached.
async fn cold(server: &Server, key: &str) -> BTreeMap<(&'static str, usize), String> {
    let mut answers = BTreeMap::new();
    for model in [FOUR, EIGHT] {
        for (place, question) in QUESTIONS.iter().enumerate() {
            let answer = chat(server, key, &asking(model, question)).await;
            assert_eq!((answer.status, cached(&answer)), (200, 0), "{answer:?}");
            answers.insert((model, place), answer.content());
        }
    }
    answers
}

/// One caller, asking this and that of both models until then.
async fn caller(
    server: &Server,
    key: &str,
    seed: u64,
    until: Instant,
    cold: &BTreeMap<(&'static str, usize), String>,
) -> Told {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut told, mut asked) = (Told::default(), HashSet::new());
    let mut model = FOUR;
    while Instant::now() < until {
        // A few questions in a row to one, as people ask.
        if random.random_bool(0.3) {
            model = if model == FOUR { EIGHT } else { FOUR };
        }
        let place = random.random_range(0..QUESTIONS.len());
        let answer = chat(server, key, &asking(model, QUESTIONS[place])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.content(), cold[&(model, place)], "{answer:?}");
        let prompt = answer.json()["usage"]["prompt_tokens"].as_u64();
        let cached = cached(&answer);
        if asked.insert((model, place)) {
            // The other may have asked just this, which is not to be seen.
            assert!(
                Some(cached + 10) < prompt,
                "{cached} tokens of a question never asked: {answer:?}"
            );
        }
        told.answers += 1;
        told.cached += u64::from(cached > 0);
    }
    told
}

/// Tokens that each model took from the disk since it is up.
async fn restored(server: &Server) -> BTreeMap<String, u64> {
    let (_, kept) = server.control(Method::GET, "/admin/prompts", None).await;
    let models = kept["models"].as_array().expect("a list").iter();
    let restored = models.map(|told| {
        let name = told["model"].as_str().expect("a name").to_owned();
        let tokens = told["prompt_cache"]["restored"].as_u64();
        (name, tokens.unwrap_or(0))
    });
    restored.collect()
}

/// Takes a model out again and again, and now and then forgets all prompts, until then.
/// Answers how many tokens came from the disk, as far as it saw.
async fn disturb(server: &Server, until: Instant) -> u64 {
    let mut random = StdRng::seed_from_u64(20);
    let (mut before, mut from_disk) = (BTreeMap::new(), 0);
    while Instant::now() < until {
        let now = restored(server).await;
        for (name, tokens) in &now {
            // Less than before: it was loaded anew in between.
            let before = before.get(name).filter(|before| *before <= tokens);
            from_disk += tokens - before.unwrap_or(&0);
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        let (path, body) = match random.random_range(0..40) {
            0 => ("/admin/prompts/clear", json!({})),
            1..6 => {
                let model = [FOUR, EIGHT][random.random_range(0..2)];
                let body = json!({"model": model, "mode": "idle"});
                ("/admin/models/unload", body)
            }
            _ => continue,
        };
        // One that is busy or not there stays as it is.
        server.control(Method::POST, path, Some(body)).await;
    }
    from_disk
}

#[tokio::test]
async fn two_callers_with_one_prefix_hear_what_a_cold_model_says_whatever_becomes_of_it() {
    let time = Duration::from_secs(if long() { 600 } else { 10 });
    // Room for one model, and in its caches for some of the questions.
    let entries = |more: &str| {
        [FOUR, EIGHT]
            .map(|id| format!("  {id}: {{ memory: 900MB, kv: 30MB, parallel: 2{more} }}\n"))
    };
    let budget = "memory: 1700MB\npool: { switch_after: 300ms }\nmodels:\n";
    let home = home(&format!(
        "{budget}{}",
        entries(", request: {prompt_cache: off}").concat()
    ));
    let keys = [new_key(&home, &[]), new_key(&home, &[])];
    let yaml = std::fs::read_to_string(home.config()).expect("the file");
    let mut server = home.serve();
    let cold = cold(&server, &keys[0]).await;
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    home.configure(&yaml.replace(", request: {prompt_cache: off}", ""));

    let mut server = home.serve();
    let until = Instant::now() + time;
    let (one, other, from_disk) = tokio::join!(
        caller(&server, &keys[0], 1, until, &cold),
        caller(&server, &keys[1], 2, until, &cold),
        disturb(&server, until),
    );
    let status = server.status().await;
    let counters = &status["counters"];
    println!(
        "{time:?}: {one:?}, {other:?}, loads {}, swaps {}, at least {from_disk} tokens from the disk",
        counters["loads"], counters["swaps"],
    );
    assert!(from_disk > 0, "{status:#}");
    for told in [&one, &other] {
        assert!(told.cached > 0 && told.cached < told.answers, "{told:?}");
    }
    assert!(counters["loads"].as_u64() > Some(3), "{status:#}");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
}

/// Parts of the requests of random length, after each of which memory is looked at.
const PARTS: usize = 4;

/// A network too small to say anything, with the tokenizer of a demo model and a context
/// of 131,072 tokens, of which its makers would have taught it 8,192.
fn small_network(folder: &Path) {
    let snapshots = cache().join(format!("models--{}/snapshots", FOUR.replace('/', "--")));
    let mut snapshots = std::fs::read_dir(snapshots).expect("the demo model");
    let demo = snapshots
        .next()
        .expect("a snapshot")
        .expect("a folder")
        .path();
    std::fs::create_dir_all(folder).expect("a folder");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(demo.join(file), folder.join(file)).expect("copied");
    }
    let template = demo.join("chat_template.jinja");
    if template.exists() {
        std::fs::copy(template, folder.join("chat_template.jinja")).expect("copied");
    }
    let (vocabulary, hidden, inner, layers) = (49_152, 64, 128, 2);
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden,
        "num_hidden_layers": layers, "intermediate_size": inner, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": vocabulary,
        "max_position_embeddings": 131_072, "rope_theta": 100_000.0, "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192},
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let mut shapes = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![vocabulary, hidden],
        ),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let parts = [
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![32, hidden]),
            ("self_attn.v_proj", vec![32, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        let named =
            parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape));
        shapes.extend(named);
    }
    let mut random = StdRng::seed_from_u64(3);
    let (mut header, mut numbers) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, shape) in shapes {
        let begin = numbers.len();
        for _ in 0..shape.iter().product::<usize>() {
            let number: f32 = random.random_range(-0.5..0.5);
            numbers.extend(number.to_le_bytes());
        }
        let offsets = [begin, numbers.len()];
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": offsets}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(numbers);
    std::fs::write(folder.join("model.safetensors"), file).expect("written");
}

#[tokio::test]
async fn a_very_long_prompt_fits_with_packed_keys_and_values_within_the_reservation() {
    let tokens: usize = if long() { 100_000 } else { 6_000 };
    let home = Home::new("");
    let folder = home.path().join("small");
    small_network(&folder);
    // Room for the prompt and little more, packed: a quarter and an eighth of 4-byte numbers.
    let packed = 2 * 2 * (32 + 2 * 4);
    let room = (tokens + 512) * packed;
    home.configure(&format!(
        "models:\n  small: {{ path: {}, kv: {room}B, kv_format: 8bit }}\n",
        json!(folder)
    ));
    let server = home.serve();
    let sampled = sample(&server, 20 * PATIENCE);
    let body = json!({
        "model": "small", "prompt": " roundhouse".repeat(tokens / 2), "max_tokens": 8, "temperature": 0,
    });
    let asked = async || {
        let request = server.request(Method::POST, "/v1/completions");
        let request = request
            .timeout(20 * PATIENCE)
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let began = Instant::now();
    let first = asked().await;
    let took = began.elapsed();
    let again = asked().await;
    let samples = sampled.stop();
    let read = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    let peak = samples.iter().map(|sample| sample.resident).max();
    let reserved = samples.iter().map(|sample| sample.reserved).max();
    println!("{read} tokens in {took:?}, peak {peak:?} of {reserved:?}");
    assert!(read >= tokens as u64, "{read} tokens");
    assert!(
        peak > Some(0) && peak <= reserved,
        "{peak:?} of {reserved:?}"
    );
    assert_eq!(first["choices"][0]["text"], again["choices"][0]["text"]);
    let cached = &again["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert_eq!(cached.as_u64(), Some(read - 1), "{again}");
    // As numbers of four bytes they would not fit.
    home.configure(&format!(
        "models:\n  small: {{ path: {}, kv: {room}B }}\n",
        json!(folder)
    ));
    let (status, answer) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200, "{answer}");
    let unload = json!({"model": "small", "mode": "now"});
    server
        .control(Method::POST, "/admin/models/unload", Some(unload))
        .await;
    let refused = server.post("/v1/completions", &body).await;
    assert_eq!(refused.status(), 400);
}

/// Words in a random order, as many.
fn words(random: &mut StdRng, count: usize) -> String {
    let all: Vec<&str> = TOGETHER.split(' ').collect();
    let words = (0..count).map(|_| all[random.random_range(0..all.len())]);
    words.collect::<Vec<_>>().join(" ")
}

/// Asks so many things of random length, four at once.
async fn ask_at_random(server: &Server, seed: u64, requests: usize, longest: usize) {
    let lanes = (0..4).map(async |lane| {
        let mut random = StdRng::seed_from_u64(seed + lane);
        for _ in 0..requests / 4 {
            let count = random.random_range(1..longest);
            let more = json!({"max_tokens": random.random_range(1..24)});
            let body = ask(FOUR, &words(&mut random, count), more);
            let answer = server.chat(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    futures_util::future::join_all(lanes).await;
}

#[tokio::test]
async fn requests_of_random_length_stay_within_the_reservation_and_leave_nothing_behind() {
    // So few as every run can bear have not met all sizes before they are measured.
    let (before, requests, kv, longest, allowed) = match long() {
        true => (100, 1000, "60MB", 120, 0.05),
        false => (32, 16, "40MB", 80, 0.1),
    };
    // The reservation is what the pool reckons; nothing is said of it.
    let home = home(&format!("models:\n  {FOUR}: {{ kv: {kv}, parallel: 4 }}\n"));
    let server = home.serve();
    server.chat(&ask(FOUR, "hello", json!({}))).await;
    let pid = workers(&server)[0].0;
    let resident = || resident_memory(pid).expect("a figure").0;
    let fresh = resident();
    let sampled = sample(&server, Duration::from_secs(3600));
    ask_at_random(&server, 100, before, longest).await;
    let begin = resident();
    let mut course = Vec::with_capacity(PARTS);
    for part in 0..PARTS {
        let seed = 200 + 10 * part as u64;
        ask_at_random(&server, seed, requests / PARTS, longest).await;
        course.push(resident() / 1_000_000);
    }
    let end = resident();
    let samples = sampled.stop();
    let reserved = samples.iter().map(|sample| sample.reserved).max();
    let peak = samples.iter().map(|sample| sample.resident).max();
    println!(
        "fresh {fresh}, {before} later {begin}, {course:?}, at the end {end}, peak {peak:?} of {reserved:?}"
    );
    for sample in &samples {
        assert!(sample.resident <= sample.reserved, "{sample:?}");
    }
    let change = end.abs_diff(begin) as f64 / begin as f64;
    assert!(change < allowed, "{begin} bytes became {end}");
}
