//! The end of the server: answers finish within the drain, the rest ends
//! honestly, nothing is left over.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Home, lives, question};

fn home(drain: &str, script: Value) -> Home {
    let home = Home::new(&format!(
        "server: {{ drain: {drain} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", script);
    home
}

#[tokio::test]
async fn f14_streams_that_fit_into_the_drain_finish() {
    let home = home("10s", json!({"tokens": 30, "token_ms": 20}));
    let mut server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let stop = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        server.signal(Signal::TERM);
    };
    let (stream, ()) = tokio::join!(stream, stop);
    assert_eq!(
        stream.events().last().map(String::as_str),
        Some("[DONE]"),
        "{stream:?}"
    );
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn f14_streams_past_the_drain_end_with_an_error_event() {
    let home = home("300ms", json!({"tokens": 100_000, "token_ms": 20}));
    let mut server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let stop = async {
        let status = server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        server.signal(Signal::TERM);
        (
            status["models"][0]["process"].as_u64().expect("a pid") as u32,
            Instant::now(),
        )
    };
    let (stream, (pid, stopped)) = tokio::join!(stream, stop);
    let last: Value =
        serde_json::from_str(stream.events().last().expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "shutting_down", "{stream:?}");
    assert!(!stream.text.contains("[DONE]"));
    assert_eq!(server.wait(), Some(0));
    assert!(
        stopped.elapsed() < Duration::from_secs(10),
        "{:?}",
        stopped.elapsed()
    );
    assert!(!lives(pid));
}

#[tokio::test]
async fn f15_a_second_signal_ends_it_at_once() {
    let home = home(
        "60s",
        json!({"tokens": 100_000, "token_ms": 20, "ignore_sigterm": true}),
    );
    let mut server = home.serve();
    let mut stream = server
        .post("/v1/chat/completions", &question("t/a", "n", true))
        .await;
    stream.chunk().await.expect("bytes").expect("a piece");
    let pid = server.status().await["models"][0]["process"]
        .as_u64()
        .expect("a pid") as u32;
    server.signal(Signal::TERM);
    // The first has been heard when the port refuses; only then comes the second.
    let start = Instant::now();
    while !server.log().contains("stopping") {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(1));
    let ended = Instant::now();
    while lives(pid) {
        assert!(
            ended.elapsed() < Duration::from_secs(2),
            "the worker lives on"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn f15_an_idle_server_stops_quickly_and_a_second_one_starts_in_the_same_home() {
    let home = home("10s", json!({"tokens": 1}));
    for _ in 0..2 {
        let mut server = home.serve();
        assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
        let start = Instant::now();
        server.signal(Signal::INT);
        assert_eq!(server.wait(), Some(0));
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "{:?}",
            start.elapsed()
        );
    }
}
