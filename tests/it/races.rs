//! Requests that meet at the wrong moment (group R): through the true binary, with
//! room for one model where nothing else is said. Every answer says which process
//! of which model made it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, long, question};
use super::records::{lines, state};
use super::sampler::{children, sample};

/// Three models of which the budget holds one.
fn one_of_three(pool: &str, script: Value) -> Home {
    let home = Home::new(&format!(
        "memory: 100MB\npool: {{ {pool} }}\nmodels:\n  t/a: {{ memory: 60MB }}\n  \
         t/b: {{ memory: 60MB }}\n  t/c: {{ memory: 60MB }}\n"
    ));
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, script.clone());
    }
    home
}

/// Asks a model and holds the answer to it.
async fn ask(server: &Server, model: &str, nonce: &str, stream: bool) -> Answer {
    let answer = server.chat(&question(model, nonce, stream)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.told();
    assert_eq!(
        (&told["model"], &told["nonce"]),
        (&json!(model), &json!(nonce)),
        "{answer:?}"
    );
    answer
}

/// The process of a model, if it has one.
fn process(status: &Value, model: &str) -> Option<u64> {
    let models = status["models"].as_array().expect("a list");
    let found = models.iter().find(|entry| entry["model"] == model);
    found.and_then(|entry| entry["process"].as_u64())
}

async fn unload(server: &Server, model: &str, mode: Option<&str>) -> (u16, Value) {
    let mut body = json!({"model": model});
    if let Some(mode) = mode {
        body["mode"] = json!(mode);
    }
    let path = "/admin/models/unload";
    server.control(Method::POST, path, Some(body)).await
}

#[tokio::test]
async fn r01_all_first_requests_for_a_cold_model_are_one_load() {
    let home = Home::new("pool: { queue: 2000 }\nmodels: { t/a: { parallel: 64 } }\n");
    home.scripted("t/a", json!({"load_ms": 300, "tokens": 1}));
    let server = home.serve();
    let count = if long() { 1000 } else { 200 };
    let asked = (0..count).map(|number| {
        let server = &server;
        async move { ask(server, "t/a", &format!("n{number}"), number % 2 == 0).await }
    });
    let answers = join_all(asked).await;
    let pids: HashSet<_> = answers
        .iter()
        .map(|answer| answer.told()["pid"].to_string())
        .collect();
    assert_eq!((answers.len(), pids.len()), (count, 1));
    assert_eq!(server.status().await["counters"]["loads"], 1);
}

#[tokio::test]
async fn r02_a_failed_load_refuses_every_waiter_once_and_is_tried_once() {
    // A stream is refused as plainly as long as its headers are held.
    let home = Home::new(
        "server: { heartbeat_after: 60s }\npool: { queue: 2000 }\nmodels: { t/a: {}, t/b: {} }\n",
    );
    home.scripted(
        "t/a",
        json!({"load_ms": 400, "load_fail": "the weights are made of cheese"}),
    );
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let count = if long() { 1000 } else { 100 };
    let asked = (0..count).map(|number| {
        let (body, server) = (question("t/a", "n", number % 2 == 0), &server);
        async move { (server.chat(&body).await, Instant::now()) }
    });
    let (answers, ends): (Vec<_>, Vec<_>) = join_all(asked).await.into_iter().unzip();
    for answer in answers {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "load_failed")
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        // Why is for the owner, in the log and in the status.
        assert!(!answer.text.contains("cheese"), "{answer:?}");
    }
    let (first, last) = (ends.iter().min(), ends.iter().max());
    let apart = last
        .expect("an end")
        .duration_since(*first.expect("an end"));
    assert!(apart < Duration::from_secs(1), "{apart:?}");
    let failure = &server.status().await["models"][0]["last_failure"]["reason"];
    let reason = failure.as_str().unwrap_or_default();
    assert!(reason.contains("cheese"), "{failure}");
    server.logged(&["cheese"]);
    assert_eq!(server.status().await["counters"]["loads"], 1);
    ask(&server, "t/b", "others are not affected", false).await;
}

#[tokio::test]
async fn r03_two_cold_models_asked_for_at_once_beside_an_idle_one_are_both_served() {
    let home = one_of_three("switch_after: 10m", json!({"tokens": 1}));
    let server = home.serve();
    for round in 0..if long() { 1000 } else { 5 } {
        ask(&server, "t/a", "idle", false).await;
        let nonce = format!("n{round}");
        tokio::join!(
            ask(&server, "t/b", &nonce, false),
            ask(&server, "t/c", &nonce, true)
        );
    }
}

#[tokio::test]
async fn r06_a_model_that_loads_is_not_ended_for_another() {
    let home = one_of_three("switch_after: 50ms", json!({"tokens": 1}));
    home.scripted("t/a", json!({"load_ms": 600, "tokens": 1}));
    let server = home.serve();
    let second = async {
        let loading = |status: &Value| process(status, "t/a").is_some();
        let pid = process(&server.until("loading", loading).await, "t/a");
        (ask(&server, "t/b", "second", false).await, pid)
    };
    let (first, (_, pid)) = tokio::join!(ask(&server, "t/a", "first", false), second);
    assert_eq!(first.told()["pid"].as_u64(), pid, "it was started again");
    let counters = server.status().await["counters"].clone();
    assert_eq!(
        (&counters["loads"], &counters["load_failures"]),
        (&json!(2), &json!(0))
    );
}

#[tokio::test]
async fn r08_a_request_for_a_model_that_is_being_stopped_is_served_by_the_next_instance() {
    // At full size each worker is deaf to SIGTERM, so that every request comes while
    // one is being stopped.
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "ignore_sigterm": long()}));
    let server = home.serve();
    let mut before = ask(&server, "t/a", "first", false).await.told()["pid"].clone();
    for round in 0..10 {
        let nonce = format!("n{round}");
        let asking = async {
            let stopping = |status: &Value| status["models"][0]["state"] != "ready";
            server.until("stopping", stopping).await;
            ask(&server, "t/a", &nonce, false).await
        };
        let ((status, body), answer) = tokio::join!(unload(&server, "t/a", None), asking);
        assert_eq!(status, 200, "{body}");
        let pid = answer.told()["pid"].clone();
        assert_ne!(pid, before);
        before = pid;
    }
}

#[tokio::test]
async fn r09_a_full_queue_refuses_at_once() {
    let home = Home::new("memory: 100MB\npool: { queue: 2 }\nmodels: { t/a: { memory: 60MB } }\n");
    home.scripted("t/a", json!({"load_ms": 1500, "tokens": 1}));
    let server = home.serve();
    let (body, server) = (question("t/a", "n", false), &server);
    let answers = join_all((0..5).map(|_| server.chat(&body))).await;
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    assert_eq!(refused.len(), 3, "{answers:?}");
    for answer in refused {
        assert_eq!(answer.code(), "queue_full");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn r09_who_waited_too_long_is_told_and_leaves_no_place_taken() {
    let home = one_of_three("queue_timeout: 200ms, queue: 3", json!({"tokens": 1}));
    home.scripted("t/a", json!({"load_ms": 1200, "tokens": 1}));
    let server = home.serve();
    let (body, server) = (question("t/a", "n", false), &server);
    for _ in 0..2 {
        for answer in join_all((0..3).map(|_| server.chat(&body))).await {
            let code = answer.code();
            assert_eq!((answer.status, code.as_str()), (503, "queue_timeout"));
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
        assert_eq!(server.status().await["requests"]["waiting"], 0);
    }
    // The load went on for whoever comes next.
    let ready = |status: &Value| status["models"][0]["state"] == "ready";
    server.until("ready", ready).await;
    ask(server, "t/a", "patient", false).await;
    assert_eq!(server.status().await["counters"]["loads"], 1);
}

#[tokio::test]
async fn r10_when_all_waiters_but_one_leave_the_load_goes_on_and_no_worker_is_unowned() {
    let home = Home::new("pool: { queue: 200 }\nmodels: { t/a: {} }\n");
    home.scripted(
        "t/a",
        json!({"load_ms": 1200, "tokens": 1, "journal": "journal"}),
    );
    let server = home.serve();
    let leaving = |number: usize| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(question("t/a", "left", number.is_multiple_of(2)).to_string());
        request.send()
    };
    // With the one that stays, and then with none.
    for (stays, loads) in [(true, 1), (false, 2)] {
        let count = 99 + u64::from(stays);
        let leave = async {
            let crowd = join_all((0..99).map(leaving));
            let all_wait = |status: &Value| status["requests"]["waiting"] == count;
            tokio::select! {
                _ = crowd => panic!("somebody was answered"),
                _ = server.until("all wait", all_wait) => {}
            }
        };
        let stay = async {
            if stays {
                ask(&server, "t/a", "stays", false).await;
            }
        };
        tokio::join!(leave, stay);
        let ready = |status: &Value| {
            status["models"][0]["state"] == "ready" && status["requests"]["waiting"] == 0
        };
        let status = server.until("ready", ready).await;
        assert_eq!(status["counters"]["loads"], loads);
        assert_eq!(status["requests"]["running"], 0);
        let owned: Vec<_> = process(&status, "t/a").into_iter().collect();
        let alive: Vec<_> = children(server.pid()).into_iter().map(u64::from).collect();
        assert_eq!(alive, owned, "a worker that nobody owns");
        assert_eq!(unload(&server, "t/a", None).await.0, 200);
    }
}

/// Two lanes that alternate between two models against each other, in room for one.
#[tokio::test]
async fn r11_alternating_requests_are_all_answered_and_nobody_waits_for_ever() {
    const SWITCH_AFTER: Duration = Duration::from_millis(100);
    let home = one_of_three("switch_after: 100ms", json!({"tokens": 2, "token_ms": 2}));
    let server = home.serve();
    let each = if long() { 250 } else { 15 };
    let lane = async |first: usize| {
        let mut slowest = 0;
        for number in 0..each {
            let model = ["t/a", "t/b"][(first + number) % 2];
            let nonce = format!("{first}-{number}");
            let answer = ask(&server, model, &nonce, number % 3 == 0).await;
            let wait = answer.header("x-roundhouse-wait-ms").expect("a wait");
            slowest = slowest.max(wait.parse::<u64>().expect("milliseconds"));
        }
        slowest
    };
    let (one, other) = tokio::join!(lane(0), lane(1));
    let counters = server.status().await["counters"].clone();
    let number = |name: &str| counters[name].as_u64().expect("a number");
    println!(
        "{} requests, {} swaps, longest waits {one} and {other} ms",
        2 * each,
        number("swaps")
    );
    assert_eq!(number("load_failures"), 0, "one was ended while it loaded");
    assert!(number("swaps") <= 2 * each as u64, "{counters}");
    // One drain and one load take far less than this on the slowest machine.
    let most = SWITCH_AFTER + Duration::from_secs(5);
    assert!(
        u128::from(one.max(other)) < most.as_millis(),
        "{one} {other}"
    );
}

#[tokio::test]
async fn r13_concurrent_loads_stay_within_the_budget_at_every_moment() {
    let home = Home::new(
        "memory: 100MB\npool: { switch_after: 50ms }\nmodels:\n  t/a: { memory: 40MB }\n  \
         t/b: { memory: 40MB }\n  t/c: { memory: 40MB }\n",
    );
    const MEMORY: u64 = 30_000_000;
    let script = json!({"load_ms": 30, "tokens": 3, "token_ms": 5, "memory_bytes": MEMORY});
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, script.clone());
    }
    let server = home.serve();
    let sampled = sample(&server, Duration::from_secs(600));
    for round in 0..if long() { 200 } else { 6 } {
        let nonce = format!("n{round}");
        let asked = ["t/a", "t/b", "t/c"].map(|model| ask(&server, model, &nonce, false));
        join_all(asked).await;
    }
    let samples = sampled.stop();
    assert!(samples.len() > 10, "only {} samples", samples.len());
    for sample in &samples {
        assert!(sample.reserved <= 100_000_000, "{sample:?}");
        assert!(sample.holding(MEMORY) <= 2, "{sample:?}");
        assert!(sample.workers <= 3, "two and the next: {sample:?}");
        assert!(sample.held() <= 100_000_000, "{sample:?}");
    }
    assert!(samples.iter().any(|sample| sample.holding(MEMORY) == 2));
}

#[tokio::test]
async fn r16_an_unload_during_a_stream_is_refused_waits_or_takes_and_is_written_down() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 30, "token_ms": 20}));
    let server = home.serve();
    let streaming = async || {
        let body = question("t/a", "n", true);
        let mut stream = server.post("/v1/chat/completions", &body).await;
        stream.chunk().await.expect("bytes").expect("a piece");
        stream
    };
    let stream = streaming().await;
    let (status, body) = unload(&server, "t/a", None).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (409, Some("conflict"))
    );
    let ((status, _), drained) = tokio::join!(unload(&server, "t/a", Some("drain")), stream.text());
    assert_eq!(status, 200);
    assert!(drained.expect("whole").ends_with("data: [DONE]\n\n"));
    let stream = streaming().await;
    let ((status, _), taken) = tokio::join!(unload(&server, "t/a", Some("now")), stream.text());
    assert_eq!(status, 200);
    let taken = taken.expect("a clean end");
    let last = taken.trim_end().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["error"]["code"], "overloaded", "{taken}");
    assert!(!taken.contains("[DONE]"), "{taken}");
    let audit = lines(&state(&home, "audit.jsonl"));
    let actions: Vec<_> = audit.iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["unload", "unload", "unload"], "{audit:#?}");
}

/// No answer of a model that is up waits for a load of another one: the times of
/// those beside a load are held against the times of those without one.
#[tokio::test]
async fn callers_of_a_model_that_is_up_are_not_slowed_by_another_load() {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "load_ms": 1000}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    ask(&server, "t/b", "first", false).await;
    let beside = async {
        let loading = |status: &Value| process(status, "t/a").is_some();
        server.until("loading", loading).await;
        let mut times = Vec::new();
        while process(&server.status().await, "t/a").is_some() && times.len() < 50 {
            let start = Instant::now();
            ask(&server, "t/b", "beside", times.len() % 2 == 0).await;
            times.push(start.elapsed());
        }
        times.sort();
        times
    };
    let (loaded, times) = tokio::join!(ask(&server, "t/a", "cold", false), beside);
    let wait = loaded.header("x-roundhouse-wait-ms").expect("a wait");
    assert!(wait.parse::<u64>().expect("milliseconds") >= 900, "{wait}");
    // A lock that is held during a load would make every one of them wait for it.
    let middle = times[times.len() / 2];
    assert!(
        times.len() >= 5 && middle < Duration::from_millis(300),
        "{times:?}"
    );
}
