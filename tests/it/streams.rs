//! What a stream looks like from the client's side, and what becomes of an
//! engine whose stream is odd (group E).

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::connections::memory;
use super::harness::{Answer, Home, PATIENCE, long, question};

/// A question with changes to the script.
fn scripted(nonce: &str, stream: bool, changes: Value) -> Value {
    let mut body = question("t/a", nonce, stream);
    body["scripted"] = changes;
    body
}

fn one_model(more: &str, script: Value) -> Home {
    let home = Home::new(&format!("{more}\nmodels: {{ t/a: {{}} }}\n"));
    home.scripted("t/a", script);
    home
}

#[tokio::test]
async fn a_stream_has_the_canonical_shape() {
    let home = one_model("", json!({"tokens": 3}));
    let server = home.serve();
    let mut body = question("t/a", "n", true);
    body["stream_options"] = json!({"include_usage": true});
    let answer = server.chat(&body).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let events = answer.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let id = chunks[0]["id"].clone();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "t/a");
        assert_eq!(chunk["id"], id);
        assert!(
            chunk["created"].is_u64() && chunk["choices"].is_array(),
            "{chunk}"
        );
    }
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (usage, finish) = (&chunks[chunks.len() - 1], &chunks[chunks.len() - 2]);
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    for chunk in &chunks[..chunks.len() - 2] {
        assert!(chunk["choices"][0]["finish_reason"].is_null(), "{chunk}");
    }
    let without = server.chat(&question("t/a", "n", true)).await;
    assert!(
        !without.text.contains("\"choices\":[]"),
        "usage only when asked for"
    );
}

#[tokio::test]
async fn a_plain_answer_has_the_canonical_shape_and_is_one_json_value() {
    let home = one_model("", json!({"tokens": 3}));
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", false)).await;
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert!(body["id"].is_string() && body["created"].is_u64());
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["index"], &choice["finish_reason"]),
        (&json!(0), &json!("stop"))
    );
    assert!(
        choice["logprobs"].is_null()
            && choice
                .as_object()
                .expect("an object")
                .contains_key("logprobs")
    );
    assert!(
        choice["message"]
            .as_object()
            .expect("an object")
            .contains_key("refusal")
    );
    assert_eq!(body["usage"]["completion_tokens"], 3);
    assert!(answer.text.starts_with('{'));
}

#[tokio::test]
async fn the_first_piece_comes_before_the_last_is_made() {
    let home = one_model(
        "",
        json!({"tokens": 20, "token_ms": 50, "journal": "journal"}),
    );
    let server = home.serve();
    let mut response = server
        .post("/v1/chat/completions", &question("t/a", "n", true))
        .await;
    response.chunk().await.expect("bytes").expect("a piece");
    let journal = journal(&home);
    assert_eq!(journal, "started n\n");
}

#[tokio::test]
async fn e09_headers_wait_for_the_engine_and_then_comments_fill_the_silence() {
    let server_part = "server: { heartbeat_after: 200ms, heartbeat_every: 100ms }";
    let home = one_model(server_part, json!({"load_ms": 900, "tokens": 1}));
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", true)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-roundhouse-model"), Some("t/a"));
    let comments = answer
        .text
        .lines()
        .filter(|line| line.starts_with(':'))
        .count();
    assert!(comments >= 3, "{comments} comments: {}", answer.text);
    assert!(
        answer.text.starts_with(": x-roundhouse-model: t/a\n"),
        "{}",
        answer.text
    );
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn a_late_failure_is_one_error_event_and_an_early_one_a_status() {
    let script = json!({"load_ms": 500, "load_fail": "no such luck"});
    for (after, late) in [("100ms", true), ("20s", false)] {
        let home = one_model(
            &format!("server: {{ heartbeat_after: {after} }}"),
            script.clone(),
        );
        let server = home.serve();
        let answer = server.chat(&question("t/a", "n", true)).await;
        if late {
            assert_eq!(answer.status, 200);
            let events = answer.events();
            assert_eq!(events.len(), 1, "{events:?}");
            let error: Value = serde_json::from_str(&events[0]).expect("JSON");
            assert_eq!(error["error"]["code"], "load_failed");
        } else {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (503, "load_failed")
            );
        }
    }
}

#[tokio::test]
async fn e03_what_is_cut_short_never_looks_complete() {
    let home = one_model("", json!({"tokens": 4}));
    let server = home.serve();
    for odd in ["no_done", "half_event", "half_character"] {
        let answer = server.chat(&scripted("n", true, json!({"odd": odd}))).await;
        let last = answer.events().last().cloned().expect("an event");
        let error: Value =
            serde_json::from_str(&last).unwrap_or_else(|_| panic!("{odd}: {answer:?}"));
        assert_eq!(error["error"]["code"], "worker_crashed", "{odd}");
        assert!(!answer.text.contains("[DONE]"), "{odd}");
        assert!(answer.text.ends_with("\n\n"), "{odd}: no clean end");
    }
}

#[tokio::test]
async fn e04_text_that_looks_like_the_protocol_arrives_as_text() {
    let text = "\n\ndata: [DONE]\n\n\r\u{2028}event: x\u{0}";
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    let answer = server
        .chat(&scripted("n", true, json!({"text": text, "tokens": 9})))
        .await;
    assert!(
        answer.content().contains("\n\ndata: [DONE]\n\n"),
        "{answer:?}"
    );
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn e06_an_endless_line_ends_in_an_error_and_little_memory() {
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    server.chat(&question("t/a", "warm", true)).await;
    let before = memory(server.pid());
    let size = if long() { 64_000_000 } else { 8_000_000 };
    let changes = json!({"odd": "huge_line", "odd_size": size});
    let mut response = server
        .post("/v1/chat/completions", &scripted("n", true, changes))
        .await;
    let (mut most, mut text) = (0, Vec::new());
    while let Some(piece) = response.chunk().await.expect("bytes") {
        most = most.max(memory(server.pid()).saturating_sub(before));
        text.extend(&piece);
    }
    let text = String::from_utf8_lossy(&text);
    let shown = &text[..text.len().min(500)];
    assert!(text.contains("bad_upstream_response"), "{shown}");
    assert!(!text.contains("[DONE]"), "{shown}");
    assert!(most < 16_000_000, "{most} bytes more");
}

#[tokio::test]
async fn e06_many_empty_events_pass_and_little_memory() {
    let count = if long() { 1_000_000 } else { 100_000 };
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    server.chat(&question("t/a", "warm", true)).await;
    let before = memory(server.pid());
    let changes = json!({"odd": "empty_events", "odd_size": count});
    let mut response = server
        .post("/v1/chat/completions", &scripted("n", true, changes))
        .await;
    let (mut breaks, mut most, mut last) = (0, 0, Vec::<u8>::new());
    while let Some(piece) = response.chunk().await.expect("bytes") {
        breaks += piece.iter().filter(|&&byte| byte == b'\n').count();
        most = most.max(memory(server.pid()).saturating_sub(before));
        last.drain(..last.len().saturating_sub(200));
        last.extend(&piece);
    }
    assert!(breaks >= count, "{breaks} line breaks");
    // It breaks off after them.
    let last = String::from_utf8_lossy(&last);
    assert!(
        last.contains("\"worker_crashed\"") && last.ends_with("\n\n"),
        "{last}"
    );
    assert!(most < 16_000_000, "{most} bytes more");
}

#[tokio::test]
async fn e10_what_is_no_stream_is_502_and_not_passed_on() {
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    for odd in ["html", "empty", "gzip", "server_error"] {
        for stream in [true, false] {
            let answer = server
                .chat(&scripted("n", stream, json!({"odd": odd})))
                .await;
            let code = answer.code();
            assert_eq!(answer.status, 502, "{odd} {stream}: {answer:?}");
            assert!(
                ["bad_upstream_response", "worker_crashed"].contains(&code.as_str()),
                "{odd}: {code}"
            );
            for inner in ["<html", "/opt/"] {
                assert!(!answer.text.contains(inner), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn headers_of_an_engine_stay_inside() {
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    for stream in [true, false] {
        let answer = server
            .chat(&scripted("n", stream, json!({"odd": "headers"})))
            .await;
        for name in [
            "set-cookie",
            "access-control-allow-origin",
            "location",
            "server",
        ] {
            assert_eq!(answer.header(name), None, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn e02_a_client_that_leaves_stops_the_generation_within_a_token() {
    const TOKEN_MS: u64 = 250;
    let home = one_model(
        "",
        json!({"tokens": 100_000, "token_ms": TOKEN_MS, "journal": "journal"}),
    );
    let server = home.serve();
    for (nonce, stream) in [("streamed", true), ("whole", false)] {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(question("t/a", nonce, stream).to_string());
        let asked = std::time::Instant::now();
        let most = if stream {
            let mut response = request.send().await.expect("an answer");
            let mut seen = 0;
            while seen < 3 {
                let piece = response.chunk().await.expect("bytes").expect("a piece");
                seen += String::from_utf8_lossy(&piece)
                    .matches("\"content\":\"{")
                    .count() as u64;
            }
            drop(response);
            seen + 1
        } else {
            let waiting = tokio::time::timeout(Duration::from_millis(600), request.send()).await;
            assert!(waiting.is_err(), "an unfinished answer began");
            asked.elapsed().as_millis() as u64 / TOKEN_MS + 1
        };
        let gone = std::time::Instant::now();
        let cancelled = format!("cancelled {nonce} after ");
        let made: u64 = loop {
            let journal = journal(&home);
            let found = journal
                .lines()
                .find_map(|line| line.strip_prefix(&cancelled));
            if let Some(made) = found {
                break made.parse().expect("a number of tokens");
            }
            assert!(gone.elapsed() < PATIENCE, "never cancelled: {journal}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(
            made <= most,
            "{nonce}: {made} tokens, expected at most {most}"
        );
        server
            .until("free", |status| status["requests"]["running"] == 0)
            .await;
    }
}

#[tokio::test]
async fn r10_a_waiter_that_leaves_is_forgotten() {
    let home = one_model(
        "",
        json!({"load_ms": 600, "tokens": 1, "journal": "journal"}),
    );
    let server = home.serve();
    let request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(question("t/a", "left", true).to_string());
    let waiting = tokio::time::timeout(Duration::from_millis(200), request.send()).await;
    assert!(waiting.is_err(), "headers went out before the engine spoke");
    server
        .until("forgotten", |status| status["requests"]["waiting"] == 0)
        .await;
    let answer = server.chat(&question("t/a", "stayed", false)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        server.status().await["counters"]["loads"],
        1,
        "the load went on for the next"
    );
    assert!(!journal(&home).contains("left"));
}

#[tokio::test]
async fn the_bytes_of_a_request_reach_the_engine_as_they_came() {
    // Numbers in odd spellings and unknown fields pass; what the scripted worker
    // answers proves that it could read the body.
    let home = one_model("", json!({"tokens": 1}));
    let server = home.serve();
    let body = r#"{"model":"t/a" , "messages":[{"role":"user","content":"x"}],"nonce":"n","x_unknown":[1e2,-0,{"a":null}]}"#;
    let response = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json; charset=utf-8")
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(Answer::read(response).await.told()["nonce"], "n");
}

#[tokio::test]
async fn the_legacy_path_answers_too() {
    let home = one_model("", json!({"tokens": 2}));
    let server = home.serve();
    for stream in [false, true] {
        let body = json!({"model": "t/a", "prompt": "hello", "stream": stream});
        let answer = Answer::read(server.post("/v1/completions", &body).await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let first = if stream {
            serde_json::from_str(&answer.events()[0]).expect("JSON")
        } else {
            answer.json()
        };
        assert_eq!(first["object"], "text_completion");
    }
}

fn journal(home: &Home) -> String {
    let snapshots = home.cache().join("models--t--a/snapshots");
    let snapshot = std::fs::read_dir(snapshots)
        .expect("snapshots")
        .next()
        .expect("one")
        .expect("one");
    std::fs::read_to_string(snapshot.path().join("journal")).unwrap_or_default()
}
