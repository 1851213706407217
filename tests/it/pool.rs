//! The pool through the true binary: every model answers for itself, nothing is
//! loaded twice, nothing is taken away, and the budget holds.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::harness::{Home, PATIENCE, lives, long, question};
use super::sampler::sample;

/// Three models of which the budget holds one.
const ONE_OF_THREE: &str = "
memory: 100MB
pool: { switch_after: 100ms, queue: 500 }
models:
  t/a: { memory: 60MB }
  t/b: { memory: 60MB }
  t/c: { memory: 60MB }
";

#[tokio::test]
async fn sixty_requests_over_three_models_are_answered_by_the_model_asked_for() {
    const MEMORY: u64 = 40_000_000;
    let home = Home::new(ONE_OF_THREE);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(
            id,
            json!({"tokens": 3, "token_ms": 2, "memory_bytes": MEMORY}),
        );
    }
    let mut server = home.serve();
    let sampled = sample(&server, PATIENCE);
    let mut pids = HashSet::new();
    for round in 0..60 {
        let model = ["t/a", "t/b", "t/c"][round % 3];
        let nonce = format!("n{round}");
        let answer = server.chat(&question(model, &nonce, round % 2 == 0)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.told();
        assert_eq!(
            (&told["model"], &told["nonce"]),
            (&json!(model), &json!(nonce))
        );
        pids.insert(told["pid"].as_u64().expect("a pid") as u32);
    }
    let samples = sampled.stop();
    assert!(samples.len() > 10, "only {} samples", samples.len());
    for sample in &samples {
        assert!(
            sample.reserved <= 100_000_000,
            "the books passed the budget: {samples:?}"
        );
        assert!(sample.holding(MEMORY) <= 1, "two at once: {samples:?}");
        assert!(sample.workers <= 2, "one and the next: {samples:?}");
        assert!(
            sample.held() <= 100_000_000,
            "the processes passed the budget: {samples:?}"
        );
    }
    assert!(
        samples.iter().any(|sample| sample.holding(MEMORY) == 1),
        "{samples:?}"
    );
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 60, "each switch is one load");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(pids.iter().all(|&pid| !lives(pid)), "a worker is left over");
}

#[tokio::test]
async fn r11_alternating_requests_at_once_are_all_answered() {
    let home = Home::new(ONE_OF_THREE);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 2, "token_ms": 1}));
    }
    let server = home.serve();
    let requests = if long() { 500 } else { 60 };
    let asked = (0..requests).map(|round| {
        let (server, model) = (&server, ["t/a", "t/b", "t/c"][round % 3]);
        async move {
            let answer = server
                .chat(&question(model, &format!("n{round}"), round % 4 == 0))
                .await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.told()["model"], model);
            assert_eq!(answer.told()["nonce"], format!("n{round}"));
        }
    });
    join_all(asked).await;
    let loads = server.status().await["counters"]["loads"]
        .as_u64()
        .expect("a number");
    assert!(
        loads < requests as u64 / 2,
        "{loads} loads for {requests} requests that came together"
    );
}

#[tokio::test]
async fn r14_what_can_never_fit_is_refused_at_once_and_nothing_is_evicted() {
    let home =
        Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB }, t/huge: { memory: 101MB } }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    home.scripted("t/huge", json!({"tokens": 1}));
    let server = home.serve();
    let before = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    let answer = server.chat(&question("t/huge", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "insufficient_memory")
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    for figure in ["101.0 MB", "100.0 MB"] {
        assert!(answer.text.contains(figure), "{answer:?}");
    }
    assert_eq!(
        server.chat(&question("t/a", "n", false)).await.told()["pid"],
        before
    );
}

#[tokio::test]
async fn two_models_that_fit_stay_resident_and_the_least_used_goes_first() {
    let home = Home::new(
        "memory: 100MB\nmodels: { t/a: { memory: 40MB }, t/b: { memory: 40MB }, t/c: { memory: 40MB } }\n",
    );
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    let server = home.serve();
    for model in ["t/a", "t/b", "t/a", "t/b", "t/a"] {
        assert_eq!(server.chat(&question(model, "n", false)).await.status, 200);
    }
    assert_eq!(
        server.status().await["counters"]["loads"],
        2,
        "two fit beside each other"
    );
    server.chat(&question("t/c", "n", false)).await;
    let state = |status: &serde_json::Value, model: &str| {
        let models = status["models"].as_array().expect("a list");
        models
            .iter()
            .find(|m| m["model"] == model)
            .map(|m| m["state"].clone())
    };
    let status = server.status().await;
    assert_eq!(state(&status, "t/a"), Some(json!("ready")), "{status:#}");
    assert_eq!(state(&status, "t/b"), Some(json!("unloaded")), "{status:#}");
}

#[tokio::test]
async fn r04_a_model_that_streams_is_not_taken_away() {
    let home =
        Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB }, t/b: { memory: 60MB } }\n");
    home.scripted("t/a", json!({"tokens": 40, "token_ms": 20}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let (stream, swap) = (
        question("t/a", "long", true),
        question("t/b", "short", false),
    );
    let first = server.chat(&stream);
    let second = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        server.chat(&swap).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(
        first.events().len(),
        43,
        "role, forty pieces, finish, done: {first:?}"
    );
    assert_eq!(second.told()["model"], "t/b");
}

#[tokio::test]
async fn r15_what_is_kept_is_loaded_at_start_and_never_a_victim() {
    let home = Home::new(
        "memory: 100MB\nmodels: { t/a: { memory: 40MB, keep: always }, t/b: { memory: 40MB }, t/c: { memory: 40MB } }\n",
    );
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1, "load_ms": 100}));
    }
    let server = home.serve();
    let start = Instant::now();
    while server.get("/ready").await.0 != 200 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    for model in ["t/b", "t/c", "t/b", "t/c"] {
        assert_eq!(server.chat(&question(model, "n", false)).await.status, 200);
    }
    assert_eq!(
        server.chat(&question("t/a", "n", false)).await.told()["pid"],
        before
    );
}

#[tokio::test]
async fn an_idle_model_is_unloaded_after_its_time() {
    let home = Home::new(
        "pool: { idle_unload: 200ms }\nmodels: { t/a: {}, t/b: { idle_unload: never } }\n",
    );
    home.scripted("t/a", json!({"tokens": 1}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    server.chat(&question("t/b", "n", false)).await;
    server.chat(&question("t/a", "n", false)).await;
    let status = server
        .until("unloaded", |status| {
            status["counters"]["unloads"]["idle"] == 1
        })
        .await;
    let ready: Vec<_> = status["models"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|model| model["state"] == "ready")
        .map(|model| model["model"].clone())
        .collect();
    assert_eq!(ready, ["t/b"]);
}

#[tokio::test]
async fn a_reader_at_a_crawl_does_not_hold_the_model() {
    let home =
        Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB }, t/b: { memory: 60MB } }\n");
    home.scripted("t/a", json!({"tokens": 100, "chunk_bytes": 4000}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    // The answer is begun and then not read; its 400 kB wait in the spool.
    let mut slow = server
        .post("/v1/chat/completions", &question("t/a", "slow", true))
        .await;
    let first = slow.chunk().await.expect("bytes").expect("a first piece");
    let swap = Instant::now();
    assert_eq!(
        server.chat(&question("t/b", "n", false)).await.told()["model"],
        "t/b"
    );
    assert!(
        swap.elapsed() < Duration::from_secs(10),
        "the reader held the model"
    );
    let mut text = first.to_vec();
    while let Some(more) = slow.chunk().await.expect("bytes") {
        text.extend_from_slice(&more);
    }
    assert!(String::from_utf8_lossy(&text).ends_with("data: [DONE]\n\n"));
}
