//! A panic costs one request (F-26), in a handler, in a stream, in the pool's
//! owner and while the configuration is read; and management stays quick while
//! inference is saturated. Fail points are armed by a header that only a server
//! with the scripted engine obeys.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::harness::{Answer, Home, Server, long, question};
use super::raw::Raw;
use super::records::{metric, until_metric};

fn home() -> Home {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 2}));
    home.scripted("t/b", json!({"tokens": 50, "token_ms": 20}));
    home
}

/// Asks with a fail point armed.
async fn failing(server: &Server, place: &str, body: &Value) -> Answer {
    let request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .header("x-roundhouse-fail", place)
        .body(body.to_string());
    Answer::read(request.send().await.expect("an answer")).await
}

#[tokio::test]
async fn f26_a_panic_in_a_handler_costs_one_request() {
    let home = home();
    let server = home.serve();
    let answer = failing(&server, "handler", &question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "internal_error")
    );
    let id = answer.header("x-request-id").expect("an id");
    server.logged(&[id, "a panic cost this request"]);
    for stream in [false, true] {
        assert_eq!(server.chat(&question("t/a", "n", stream)).await.status, 200);
    }
    assert_eq!(
        metric(&server, "panics_total{place=\"handler\"}").await,
        1.0
    );
}

#[tokio::test]
async fn f26_a_panic_while_a_connection_is_taken_costs_that_connection() {
    let home = home();
    let mut server = home.serve();
    let ask = async |raw: &mut Raw, more: &str| {
        raw.send(format!(
            "GET /health HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"
        ))
        .await;
        assert_eq!(raw.reply().await.status, 200);
    };
    let mut open = Raw::connect(&server.inference).await;
    for listener in [&server.inference, &server.management, &server.inference] {
        // Armed over a connection that is there, passed by the next one.
        ask(&mut open, "x-roundhouse-fail: accept\r\n").await;
        let mut lost = Raw::connect(listener).await;
        lost.closed().await;
        let mut next = Raw::connect(&server.inference).await;
        ask(&mut next, "").await;
    }
    ask(&mut open, "").await;
    assert_eq!(metric(&server, "panics_total{place=\"accept\"}").await, 3.0);
    server.logged(&["a panic cost a connection"]);
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    drop(open);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0), "every listener still ends");
}

#[tokio::test]
async fn f26_a_panic_in_a_stream_is_told_and_costs_one_request() {
    let home = home();
    let server = home.serve();
    let answer = failing(&server, "stream", &question("t/a", "n", true)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "internal_error")
    );
    let answer = server.chat(&question("t/a", "n", true)).await;
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn f26_a_panic_in_the_pool_is_told_and_the_pool_starts_again() {
    let home = home();
    let server = home.serve();
    let before = server.chat(&question("t/b", "n", false)).await.told()["pid"].clone();
    // A running answer survives the panic, a waiting one is told.
    let body = question("t/b", "n", true);
    let mut running = server.post("/v1/chat/completions", &body).await;
    let first = running.chunk().await.expect("bytes").expect("an event");
    let answer = failing(&server, "pool", &question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "internal_error"),
        "{}",
        server.log()
    );
    let rest = running.text().await.expect("a whole body");
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert!(!first.is_empty());
    for model in ["t/a", "t/b"] {
        let answer = server.chat(&question(model, "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_ne!(answer.told()["pid"], before, "the old worker still answers");
    }
    let old = before.as_u64().expect("a pid") as u32;
    assert!(!super::harness::lives(old), "an orphan");
    let status = server.status().await;
    assert_eq!(status["ready"], true);
    assert_eq!(status["counters"]["loads"], 3, "counters go on");
}

#[tokio::test]
async fn f26_panics_of_the_pool_one_after_the_other_leave_it_at_work() {
    let home = home();
    let mut server = home.serve();
    let rounds = if long() { 50 } else { 5 };
    for _ in 0..rounds {
        let answer = failing(&server, "pool", &question("t/a", "n", false)).await;
        assert_eq!(answer.code(), "internal_error");
        assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
        let unload = Some(json!({"model": "t/a", "mode": "now"}));
        let unloaded = server.control(Method::POST, "/admin/models/unload", unload);
        assert_eq!(unloaded.await.0, 200);
    }
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn f26_a_panic_while_reloading_costs_that_reload() {
    let home = home();
    let server = home.serve();
    failing(&server, "reload", &json!({})).await;
    let (status, body) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (500, Some("internal_error"))
    );
    let (status, body) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(metric(&server, "panics_total{place=\"reload\"}").await, 1.0);
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
}

#[tokio::test]
async fn f26_a_panic_of_the_request_log_loses_lines_and_counts_them() {
    let home = Home::new("request_log: true\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let answer = failing(&server, "request_log", &question("t/a", "n", false)).await;
    assert_eq!(answer.status, 200);
    until_metric(&server, "request_log_lost_lines_total", |lost| lost >= 1.0).await;
    server.chat(&question("t/a", "n", false)).await;
    super::records::until_lines(
        &home.path().join(".local/state/roundhouse/requests.jsonl"),
        1,
    )
    .await;
}

#[tokio::test]
async fn f20_a_log_that_nobody_reads_any_more_is_counted_and_stops_nothing() {
    let home = home();
    // The reader of the log has gone away.
    let server = home.serve_after("mkfifo log; (exit 0) <log & exec 2>log; wait");
    let answer = failing(&server, "handler", &question("t/a", "n", false)).await;
    assert_eq!(answer.code(), "internal_error");
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    until_metric(&server, "log_lost_lines_total", |lost| lost >= 3.0).await;
}

#[tokio::test]
async fn f20_a_log_that_is_not_read_holds_nobody_up() {
    let home = Home::new("log: trace\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    // The reader of the log stops reading and stays: its pipe fills up.
    let mut server = home.serve_after("mkfifo log; sleep 100 <log >/dev/null 2>&1 & exec 2>log");
    let start = Instant::now();
    while metric(&server, "log_lost_lines_total").await < 1.0 {
        let paths = (0..50).map(|number| format!("/v1/nothing-{number}"));
        let asks = paths.map(|path| async { drop(server.get(&{ path }).await) });
        futures_util::future::join_all(asks).await;
        assert!(
            start.elapsed() < super::harness::PATIENCE,
            "it is never full"
        );
    }
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    server.signal(rustix::process::Signal::TERM);
    let stopping = Instant::now();
    assert_eq!(server.wait(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn fail_points_do_nothing_without_the_scripted_engine() {
    let home = Home::new("");
    let server = home.start(home.command(&[
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--management",
        "127.0.0.1:0",
    ]));
    let answer = failing(&server, "handler", &question("t/a", "n", false)).await;
    assert_eq!(answer.code(), "model_not_found");
}

/// What the case allows at the 99th percentile.
const LIMIT: Duration = Duration::from_millis(100);

/// The 99th percentile of this many calls of management, one after another.
async fn slowest_call(client: &reqwest::Client, calls: usize) -> Duration {
    let mut times = Vec::new();
    for number in 0..calls {
        let path = ["/admin/status", "/admin/models", "/metrics"][number % 3];
        let start = Instant::now();
        let answer = client.get(format!("http://localhost{path}")).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("a body");
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[calls * 99 / 100]
}

#[tokio::test]
async fn r18_management_is_quick_while_inference_is_saturated() {
    let streams = if long() { 200 } else { 40 };
    let calls = if long() { 1000 } else { 200 };
    let home = Home::new("models: { t/a: { parallel: 256 }, t/b: { parallel: 256 } }\n");
    for model in ["t/a", "t/b"] {
        home.scripted(model, json!({"tokens": 1_000_000, "token_ms": 20}));
    }
    let server = home.serve();
    for model in ["t/a", "t/b"] {
        let body = Some(json!({"model": model}));
        let loaded = server.control(Method::POST, "/admin/models/load", body);
        assert_eq!(loaded.await.0, 200);
    }
    let client = reqwest::Client::builder()
        .unix_socket(server.control.as_path())
        .build()
        .expect("a client");
    let idle = slowest_call(&client, calls).await;
    let mut running = JoinSet::new();
    for number in 0..streams {
        let body = question(["t/a", "t/b"][number % 2], "n", true).to_string();
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(body);
        running.spawn(async move {
            let mut answer = request.send().await.expect("an answer");
            while let Ok(Some(_)) = answer.chunk().await {}
        });
    }
    let all = streams as u64;
    server
        .until("saturated", |status| status["requests"]["running"] == all)
        .await;
    // Other programs share the processors: a round that they disturbed is repeated, and
    // what they cost management without any stream is no fault of the streams.
    let limit = LIMIT.max(4 * idle);
    let mut slowest = Duration::MAX;
    for _ in 0..3 {
        slowest = slowest.min(slowest_call(&client, calls).await);
        println!("management beside {streams} streams: p99 {slowest:?}, without {idle:?}");
        if slowest < limit {
            break;
        }
    }
    assert!(slowest < limit, "p99 {slowest:?}, without streams {idle:?}");
    running.abort_all();
}
