//! The main job on real models: the demo models through the true binary with
//! the embedded engine. `make demo` provides them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::clients::say;
use super::embeddings::{embed, vectors};
use super::harness::{Answer, Home, PATIENCE, Server, lives};
use super::keys::{chat, new_key};
use super::records::scrape;
use super::sampler::{Sample, sample};

pub const FOUR: &str = "roundhouse/SmolLM2-135M-Instruct-4bit";
pub const EIGHT: &str = "roundhouse/SmolLM2-135M-Instruct-8bit";
const DENSE: &str = "roundhouse/SmolLM2-135M-Instruct-f32";
const ENCODER: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// The cache with the demo models.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("ROUNDHOUSE_DEMO_CACHE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/hub")),
        PathBuf::from,
    );
    let there = [FOUR, EIGHT, DENSE, ENCODER].iter().all(|id| {
        cache
            .join(format!("models--{}/refs/main", id.replace('/', "--")))
            .is_file()
    });
    assert!(
        there,
        "the demo models are not in {}; run `make demo`",
        cache.display()
    );
    cache
}

/// A home that serves the demo models from where they lie.
pub fn home(more: &str) -> Home {
    Home::new(&home_yaml(more))
}

fn home_yaml(more: &str) -> String {
    format!(
        "cache: [{}]\nallow: [\"roundhouse/*\", {ENCODER}]\n{more}",
        json!(cache())
    )
}

pub fn ask(model: &str, prompt: &str, more: Value) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 16,
    });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// The worker processes of a server, with the model that each one loaded: read
/// from their command lines, not from what the router says.
pub fn workers(server: &Server) -> Vec<(u32, String)> {
    let listing = Command::new("ps")
        .args(["-eo", "pid=,ppid=,args="])
        .output()
        .expect("ps");
    String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (pid, parent) = (
                words.next()?.parse().ok()?,
                words.next()?.parse::<u32>().ok()?,
            );
            let folder = words.skip_while(|word| *word != "--model-dir").nth(1)?;
            let id = folder
                .split('/')
                .find_map(|part| part.strip_prefix("models--"))?;
            (parent == server.pid()).then(|| (pid, id.replacen("--", "/", 1)))
        })
        .collect()
}

#[tokio::test]
async fn the_capital_of_france_is_paris() {
    let home = home("");
    let server = home.serve();
    for model in [FOUR, EIGHT, DENSE] {
        for stream in [false, true] {
            let body = ask(
                model,
                "What is the capital of France?",
                json!({"stream": stream}),
            );
            let answer = server.chat(&body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(
                answer.content().contains("Paris"),
                "{model}: {}",
                answer.content()
            );
        }
    }
}

#[tokio::test]
async fn sixty_requests_alternate_over_three_models_in_room_for_one() {
    // One fits and no two do, also after it was seen how much less they hold.
    const BUDGET: u64 = 1_700_000_000;
    let entries = [FOUR, EIGHT, DENSE].map(|id| format!("  {id}: {{ memory: 900MB }}\n"));
    let home = home(&format!("memory: 1700MB\nmodels:\n{}", entries.concat()));
    let mut server = home.serve();
    let sampled = sample(&server, 10 * PATIENCE);
    let mut seen = Vec::new();
    for round in 0..60 {
        let model = [FOUR, EIGHT, DENSE][round % 3];
        let more = json!({"stream": round % 2 == 0, "max_tokens": 3});
        let answer = server.chat(&ask(model, "Count: one, two,", more)).await;
        assert_eq!(answer.status, 200, "{round}: {answer:?}");
        assert!(!answer.content().is_empty(), "{round}: {answer:?}");
        let workers = workers(&server);
        let ids: Vec<_> = workers.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(
            ids,
            [model],
            "round {round}: who answered is the one process there is"
        );
        let (pid, status) = (workers[0].0, server.status().await);
        let reserved = status["memory"]["reserved_bytes"]
            .as_u64()
            .expect("a number");
        let resident = roundhouse::platform::resident_memory(pid).expect("a figure");
        assert!(
            resident.0 <= reserved,
            "{model} uses {resident}, {reserved} bytes are reserved"
        );
        seen.push(pid);
    }
    // From outside and without a pause, loads and unloads among them.
    let samples = sampled.stop();
    assert!(samples.len() > 600, "only {} samples", samples.len());
    for sample in &samples {
        assert!(sample.reserved <= BUDGET, "the books: {sample:?}");
        assert!(sample.resident <= BUDGET, "the processes: {sample:?}");
        assert!(sample.mapping <= 1, "two models at once: {sample:?}");
        assert!(sample.workers <= 2, "one and the next: {sample:?}");
    }
    let is_swap = |sample: &Sample| sample.mapping == 1 && sample.workers == 2;
    assert!(samples.iter().any(is_swap), "no process was started ahead");
    let peak = samples.iter().map(|sample| sample.resident).max();
    assert!(
        peak > Some(500_000_000),
        "the dense model alone is 538 MB, seen were {peak:?}"
    );
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(seen.iter().all(|&pid| !lives(pid)), "a worker is left over");
}

#[tokio::test]
async fn batched_answers_are_those_given_alone() {
    let home = home("");
    let server = home.serve();
    let prompts = [
        "Name a colour.",
        "What is two plus two?",
        "Say hello in French.",
        "Who wrote Hamlet?",
    ];
    let mut alone = Vec::new();
    for prompt in prompts {
        alone.push(server.chat(&ask(EIGHT, prompt, json!({}))).await.content());
    }
    let bodies: Vec<_> = prompts
        .iter()
        .map(|prompt| ask(EIGHT, prompt, json!({})))
        .collect();
    let together =
        futures_util::future::join_all(bodies.iter().map(|body| server.chat(body))).await;
    let together: Vec<_> = together.iter().map(Answer::content).collect();
    assert_eq!(together, alone);
}

#[tokio::test]
async fn e170_a_second_turn_says_with_the_prompt_cache_what_it_says_without() {
    let home = home("");
    let server = home.serve();
    let question = "What is the capital of France?";
    let first = server.chat(&ask(EIGHT, question, json!({}))).await;
    let more = json!({"messages": [
        {"role": "user", "content": question},
        {"role": "assistant", "content": first.content()},
        {"role": "user", "content": "Which country is it the capital of?"},
    ]});
    let cached = |answer: &Answer| {
        let usage = &answer.json()["usage"];
        usage["prompt_tokens_details"]["cached_tokens"].as_u64()
    };
    let second = server.chat(&ask(EIGHT, question, more.clone())).await;
    assert_eq!(cached(&first), Some(0));
    let length = first.json()["usage"]["prompt_tokens"].as_u64();
    assert!(
        cached(&second) >= length,
        "all of the first turn was there: {second:?}"
    );
    let clear = server.control(Method::POST, "/admin/prompts/clear", Some(json!({})));
    assert_eq!(clear.await.1["models"], json!([EIGHT]));
    let anew = server.chat(&ask(EIGHT, question, more)).await;
    assert_eq!(cached(&anew), Some(0));
    assert_eq!(anew.content(), second.content());
}

/// Bytes of the prompts on disk.
fn on_disk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let bytes = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => on_disk(&path),
            false => path.metadata().expect("a file").len(),
        }
    });
    bytes.sum()
}

#[tokio::test]
async fn d20_what_was_read_is_there_after_a_swap_and_after_a_restart_within_the_quota() {
    let entries = [FOUR, EIGHT].map(|id| format!("  {id}: {{ memory: 900MB }}\n"));
    let yaml = format!("memory: 1700MB\nmodels:\n{}", entries.concat());
    let home = home(&yaml);
    let (anne, bert) = (new_key(&home, &[]), new_key(&home, &[]));
    let folder = home.path().join(".local/state/roundhouse/prompts");
    let mut server = home.serve();
    let question = "Tell me in a few words where Paris is and what one sees there.";
    let asked = async |server: &Server, key: &str, model: &str| {
        let answer = chat(server, key, &ask(model, question, json!({}))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let usage = &answer.json()["usage"]["prompt_tokens_details"];
        (usage["cached_tokens"].as_u64(), answer.content())
    };
    let (none, cold) = asked(&server, &anne, EIGHT).await;
    assert_eq!(none, Some(0));
    let before = asked(&server, &anne, EIGHT).await;
    assert!(before.0 > Some(20) && before.1 == cold, "{before:?}");
    for _ in 0..2 {
        asked(&server, &anne, FOUR).await;
        assert_eq!(workers(&server).len(), 1, "there is room for one");
        assert_eq!(asked(&server, &anne, EIGHT).await, before, "it is back");
    }
    let other = asked(&server, &bert, EIGHT).await;
    assert_eq!(other, (Some(0), cold.clone()), "another caller reads anew");
    let (_, kept) = server.control(Method::GET, "/admin/prompts", None).await;
    let models = kept["models"].as_array().expect("a list");
    let of = |model: &str| models.iter().find(|told| told["model"] == model);
    let (four, eight) = (of(FOUR).expect("told"), of(EIGHT).expect("told"));
    assert_eq!(
        eight["prompt_cache"]["restored"].as_u64(),
        before.0,
        "{kept}"
    );
    assert!(eight["disk"]["tokens"].as_u64() > before.0, "{kept}");
    assert!(four["disk"]["bytes"].as_u64() > Some(0) && four["prompt_cache"].is_null());

    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let most = on_disk(&folder);
    let mut server = home.serve();
    assert_eq!(
        asked(&server, &anne, EIGHT).await,
        before,
        "after a restart"
    );
    assert_eq!(
        asked(&server, &bert, EIGHT).await,
        before,
        "for both callers"
    );
    let unload = json!({"model": EIGHT, "mode": "now"});
    let (status, _) = server
        .control(Method::POST, "/admin/models/unload", Some(unload))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        on_disk(&folder),
        most,
        "what is unloaded at once writes nothing"
    );
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    // Less than there is: the oldest go at the start.
    let quota = most / 2;
    home.configure(&format!(
        "{}pool: {{ prompts_on_disk: {quota}B }}\n",
        home_yaml(&yaml)
    ));
    let server = home.serve();
    let left = on_disk(&folder) - 32;
    assert!(left > 0 && left <= quota, "{left} of {quota}");
    assert_eq!(asked(&server, &anne, EIGHT).await.1, cold);
    let cleared = server
        .control(Method::POST, "/admin/prompts/clear", Some(json!({})))
        .await;
    assert_eq!(cleared.0, 200, "{cleared:?}");
    // The salt stays, whose bytes are those left out above.
    assert_eq!(on_disk(&folder), 32);
    assert_eq!(asked(&server, &anne, EIGHT).await, (Some(0), cold));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_within_a_schema_are_documents_of_it() {
    let home = home(&format!("models: {{ {FOUR}: {{parallel: 4}} }}\n"));
    let server = home.serve();
    let inference = server.inference.clone();
    let said =
        tokio::task::spawn_blocking(move || say("constrained.py", &[&inference, FOUR, "40"]))
            .await
            .expect("the client's script");
    assert_eq!(said, "40 of 40 answers valid\n");
    let check = |more: Value, param: &'static str| {
        let body = ask(FOUR, "hello", more);
        let server = &server;
        async move {
            let answer = server.chat(&body).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "invalid_value")
            );
            assert_eq!(answer.json()["error"]["param"], param, "{answer:?}");
        }
    };
    check(json!({"guided_regex": "("}), "guided_regex").await;
    check(json!({"grammar": "start: nowhere"}), "grammar").await;
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "tree"}}});
    let param = "response_format.json_schema.schema";
    check(json!({"response_format": schema}), param).await;
    // Beside others that may say anything, and with alternatives told as the model has them.
    let free = ask(FOUR, "What is the capital of France?", json!({}));
    let one_of = json!({"guided_choice": ["Lisbon", "Rome"], "logprobs": true, "top_logprobs": 3});
    let within = ask(FOUR, "What is the capital of France?", one_of);
    let (free, within) = tokio::join!(server.chat(&free), server.chat(&within));
    assert!(free.content().contains("Paris"), "{free:?}");
    assert!(
        ["Lisbon", "Rome"].contains(&within.content().as_str()),
        "{within:?}"
    );
    let first = &within.json()["choices"][0]["logprobs"]["content"][0];
    let likeliest = &first["top_logprobs"][0];
    assert_ne!(first["token"], likeliest["token"], "{within:?}");
    assert!(first["logprob"].as_f64() < likeliest["logprob"].as_f64());
}

/// `e170`'s sibling for tokens that are guessed: whoever guesses, answers are the same, and
/// the usage and the metrics tell what was guessed.
#[tokio::test]
async fn row180_answers_with_a_draft_are_those_without() {
    let entries = [
        ("none", ""),
        ("text", ", draft: prompt"),
        ("small", ", draft: tiny"),
    ];
    let entries = entries.map(|(name, draft)| format!("  {name}: {{ repo: {EIGHT}{draft} }}\n"));
    let more = format!(
        "memory: 12GB\nmodels:\n{}  tiny: {{ repo: {FOUR} }}\n  foreign: {{ repo: {EIGHT}, draft: {ENCODER} }}\n",
        entries.concat()
    );
    let home = home(&more);
    let server = home.serve();
    let line = "one two three four five six seven eight nine ten. ";
    let bodies = [
        json!({"prompt": line.repeat(4), "max_tokens": 40, "temperature": 0}),
        json!({"prompt": line.repeat(4), "max_tokens": 40, "temperature": 0.7, "seed": 3, "logprobs": 2}),
        json!({"prompt": line.repeat(4), "max_tokens": 40, "temperature": 0, "stop": [" nine"]}),
        json!({"prompt": "List of numbers in JSON: ", "max_tokens": 40, "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": {
                "type": "array", "items": {"type": "integer", "maximum": 9}, "maxItems": 8}}}}),
    ];
    let asked = async |model: &str, body: &Value| {
        let mut body = body.clone();
        body["model"] = model.into();
        let answer = Answer::read(server.post("/v1/completions", &body).await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let (mut accepted, mut rejected) = (0, 0);
    for body in &bodies {
        let expected = asked("none", body).await;
        assert_eq!(expected["usage"]["completion_tokens_details"], Value::Null);
        for model in ["text", "small"] {
            // Once alone, once beside the others.
            let beside =
                futures_util::future::join_all(bodies.iter().map(|body| asked(model, body)));
            let alone = asked(model, body).await;
            assert_eq!(alone["choices"], expected["choices"], "{model}: {body}");
            let place = bodies.iter().position(|other| other == body);
            let beside = &beside.await[place.expect("it is one of them")];
            assert_eq!(beside["choices"], expected["choices"], "{model}: {body}");
            let usage = &alone["usage"];
            assert_eq!(
                usage["completion_tokens"],
                expected["usage"]["completion_tokens"]
            );
            let details = &usage["completion_tokens_details"];
            accepted += details["accepted_prediction_tokens"].as_u64().unwrap_or(0);
            rejected += details["rejected_prediction_tokens"].as_u64().unwrap_or(0);
        }
    }
    assert!(accepted > 0, "{rejected} guesses were wrong and none right");
    let metrics = scrape(&server).await;
    let told = metrics
        .lines()
        .filter(|line| line.starts_with("roundhouse_predicted_tokens_total{"));
    let told = told.filter(|line| line.contains("outcome=\"accepted\""));
    let told: u64 = told
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert!(told > 0, "{metrics}");
    // It makes no text.
    let refused = server
        .post(
            "/v1/completions",
            &json!({"model": "foreign", "prompt": "x"}),
        )
        .await;
    let refused = Answer::read(refused).await;
    assert_eq!(refused.status, 404, "{refused:?}");
    assert!(format!("{refused:?}").contains(ENCODER), "{refused:?}");
}

#[tokio::test]
async fn a_prompt_over_the_context_is_told_both_numbers() {
    let home = home("");
    let server = home.serve();
    let answer = server
        .chat(&ask(FOUR, &"word ".repeat(9000), json!({})))
        .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "context_length_exceeded")
    );
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains("8192") && message.contains("90"),
        "{message}"
    );
}

#[tokio::test]
async fn sampling_parameters_do_what_they_say() {
    let home = home("");
    let server = home.serve();
    let prompt = "Tell me a story.";
    let content = async |more: Value| server.chat(&ask(FOUR, prompt, more)).await.content();
    let seeded = json!({"temperature": 1.0, "seed": 7});
    assert_eq!(
        content(seeded.clone()).await,
        content(seeded).await,
        "a seed repeats"
    );
    let other = json!({"temperature": 1.0, "seed": 8});
    assert_ne!(
        content(json!({"temperature": 1.0, "seed": 7})).await,
        content(other).await
    );
    let greedy = content(json!({})).await;
    assert_eq!(
        content(json!({"temperature": 1.0, "top_k": 1, "seed": 3})).await,
        greedy
    );
    let first_word = greedy
        .split_whitespace()
        .nth(1)
        .expect("a second word")
        .to_owned();
    let stopped = content(json!({"stop": [first_word]})).await;
    assert!(
        greedy.starts_with(&stopped) && !stopped.contains(&first_word),
        "{stopped:?}"
    );
    let answer = server
        .chat(&ask(FOUR, prompt, json!({"max_tokens": 4})))
        .await
        .json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let more = json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 2});
    let answer = server.chat(&ask(FOUR, prompt, more)).await.json();
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .expect("tokens")
        .clone();
    assert_eq!(tokens.len(), 2);
    for token in tokens {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(
            (top.len(), &top[0]["token"]),
            (3, &token["token"]),
            "greedy takes the first"
        );
        assert!(token["logprob"].as_f64().expect("a number") <= 0.0);
    }
}

/// The cosine of two vectors of length one.
fn cosine(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn the_three_models_of_the_readme_answer_with_real_weights() {
    // Weights of the chat models are not here: the demo models stand in for them.
    let block = super::rules::block()
        .replace("mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit", EIGHT)
        .replace("mlx-community/Llama-3.2-3B-Instruct-4bit", FOUR);
    let home = Home::new(&format!("cache: [{}]\n{block}", json!(cache())));
    let server = home.serve();
    for (name, model) in [("coder", EIGHT), ("coder:thinking", EIGHT), ("small", FOUR)] {
        let answer = server.chat(&ask(name, "Say hello.", json!({}))).await;
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(answer.header("x-roundhouse-model"), Some(model), "{name}");
    }
    let texts = [
        "A man is eating food.",
        "Someone eats a meal.",
        "Rust compiles slowly.",
    ];
    let body = json!({"model": "embedder", "input": texts});
    let answer = embed(&server, &body).await;
    assert_eq!(answer.header("x-roundhouse-model"), Some(ENCODER));
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 23);
    let found = vectors(&answer);
    assert!(found.iter().all(|vector| vector.len() == 384));
    assert!((cosine(&found[0], &found[0]) - 1.0).abs() < 1e-5);
    let (near, far) = (cosine(&found[0], &found[1]), cosine(&found[0], &found[2]));
    assert!(near > 0.5 && far < 0.2, "{near} {far}");
    let long = json!({"model": "embedder", "input": ["a", "word ".repeat(300)]});
    let refused = embed(&server, &long).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "context_length_exceeded")
    );
    let message = refused.json()["error"]["message"].to_string();
    assert!(
        message.contains("256") && message.contains("302"),
        "{message}"
    );
    // The vectors came without a swap, and each model was loaded once.
    let counters = &server.status().await["counters"];
    assert_eq!(
        (&counters["loads"], &counters["swaps"]),
        (&json!(3), &json!(0))
    );
}

/// Nanoseconds of processor time that a process has had, all threads together.
fn processor_time(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a living process");
    let time = |thread: std::io::Result<std::fs::DirEntry>| {
        let path = thread.ok()?.path().join("schedstat");
        let text = std::fs::read_to_string(path).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.filter_map(time).sum()
}

/// The processor time of a process once it does nothing more.
async fn at_rest(pid: u32) -> u64 {
    let began = std::time::Instant::now();
    let mut last = processor_time(pid);
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = processor_time(pid);
        // Whoever does nothing still wakes up now and then.
        if now - last < 2_000_000 {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "it works on and on");
        last = now;
    }
}

#[tokio::test]
async fn when_a_client_leaves_the_worker_stops_within_a_token() {
    let home = home("");
    let server = home.serve();
    let more = json!({"stream": true, "max_tokens": 4000, "ignore_eos": true});
    let body = ask(DENSE, "Write a very long story.", more);
    let mut response = server.post("/v1/chat/completions", &body).await;
    // What a token costs, from tokens that came: a chunk is one or more.
    let mut text = String::new();
    let mut tokens = |piece: &[u8]| {
        text.push_str(&String::from_utf8_lossy(piece));
        text.matches("\"content\":").count() as u64
    };
    let first = response.chunk().await.expect("bytes").expect("a piece");
    let first = tokens(&first);
    let pid = workers(&server)[0].0;
    let before = processor_time(pid);
    let mut come = first;
    while come < first + 40 {
        come = tokens(&response.chunk().await.expect("bytes").expect("a piece"));
    }
    let left = processor_time(pid);
    let token = (left - before) / (come - first);
    drop(response);
    let more = (at_rest(pid).await - left) as f64 / token as f64;
    // One that was being made, one for the way that the news takes, and what it
    // costs to take a connection down.
    assert!(
        more < 3.0,
        "{more} tokens' worth of work after the client left"
    );
    server
        .until("free", |status| status["requests"]["running"] == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_talks_to_a_real_model() {
    let home = home("");
    let server = home.serve();
    let inference = server.inference.clone();
    tokio::task::spawn_blocking(move || {
        super::clients::run("openai_client.py", &[&inference, FOUR, ENCODER])
    })
    .await
    .expect("the client's script");
    server
        .until("free", |status| status["requests"]["running"] == 0)
        .await;
}
