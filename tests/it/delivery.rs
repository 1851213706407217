//! How streams reach their clients (group E): through a network that cuts them
//! anywhere, over older HTTP, and when the client leaves at an odd moment.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use roundhouse::shutdown::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{Answer, Home, PATIENCE, Server, long, question};

/// A home with one model.
fn home(script: Value) -> Home {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", script);
    home
}

/// A proxy before the server that passes on what it says in slices of a few bytes,
/// each a packet of its own. Answers its address.
async fn slicer(server: &Server, tasks: &Tasks) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let target = server
        .inference
        .strip_prefix("http://")
        .expect("clear text")
        .to_owned();
    tasks.spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        client.set_nodelay(true).expect("set");
        let mut server = TcpStream::connect(target).await.expect("connected");
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let mut random = StdRng::seed_from_u64(1);
        let slices = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    let size = rest.len().min(random.random_range(1..=9));
                    let (slice, more) = rest.split_at(size);
                    if to_client.write_all(slice).await.is_err() {
                        return;
                    }
                    rest = more;
                }
            }
        };
        tokio::select! {
            () = slices => {}
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e01_a_long_stream_cut_anywhere_has_every_event_once_and_in_order() {
    let tokens = if long() { 10_000 } else { 1_000 };
    let home = home(json!({"tokens": tokens}));
    let server = home.serve();
    let tasks = Tasks::new();
    let through = slicer(&server, &tasks).await;
    let mut body = question("t/a", "n", true);
    body["max_tokens"] = json!(tokens);
    // A window that holds it.
    let request = reqwest::Client::new()
        .post(format!("{through}/v1/chat/completions"))
        .header("content-type", "application/json")
        .timeout(PATIENCE)
        .body(body.to_string());
    let answer = Answer::read(request.send().await.expect("an answer")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let content = answer.content();
    let told = serde_json::Deserializer::from_str(&content).into_iter::<Value>();
    let numbers: Vec<_> = told
        .map(|told| told.expect("whole")["chunk"].as_u64())
        .collect();
    assert!(
        numbers.into_iter().eq((0..tokens).map(Some)),
        "not each once, in order"
    );
    // Role, chunks, finish; nothing of it twice.
    assert_eq!(events.len() as u64, tokens + 2);
    let ids = events.iter().map(|event| {
        let event: Value = serde_json::from_str(event).expect("JSON");
        event["id"].to_string()
    });
    assert_eq!(ids.collect::<std::collections::HashSet<_>>().len(), 1);
}

/// Sends bytes and reads until the server closes.
async fn exchange(server: &Server, head: &str, body: &str) -> String {
    let address = server
        .inference
        .strip_prefix("http://")
        .expect("clear text");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let length = body.len();
    let request = format!(
        "{head}Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    read.expect("it hangs").expect("bytes");
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn e08_streams_over_old_http_and_with_odd_wishes_are_framed_well_or_refused() {
    let home = home(json!({"tokens": 5, "token_ms": 5}));
    let server = home.serve();
    let body = question("t/a", "n", true).to_string();
    let post = "POST /v1/chat/completions HTTP";
    for (head, chunked) in [
        (format!("{post}/1.0\r\n"), false),
        (format!("{post}/1.1\r\nConnection: close\r\n"), true),
        (
            format!("{post}/1.1\r\nConnection: close\r\nAccept: application/json\r\n"),
            true,
        ),
    ] {
        let answer = exchange(&server, &head, &body).await;
        let (head, rest) = answer.split_once("\r\n\r\n").expect("a head");
        let head = head.to_lowercase();
        assert!(head.contains(" 200 ok"), "{answer}");
        assert!(head.contains("content-type: text/event-stream"), "{answer}");
        assert_eq!(
            head.contains("transfer-encoding: chunked"),
            chunked,
            "{answer}"
        );
        match chunked {
            true => assert!(rest.ends_with("0\r\n\r\n"), "{answer}"),
            false => assert!(rest.ends_with("data: [DONE]\n\n"), "{answer}"),
        }
        assert_eq!(rest.matches("[DONE]").count(), 1, "{answer}");
    }
    let head = "HEAD /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n";
    let answer = exchange(&server, head, &body).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "a body: {answer}");
}

#[tokio::test]
async fn e02_a_client_that_leaves_at_any_moment_frees_its_place() {
    let home = home(json!({"tokens": 3, "token_ms": 30, "first_token_ms": 100}));
    let server = home.serve();
    // Before the first token, in the middle, and between the last event and the end.
    for until in [None, Some("\\\"chunk\\\":0"), Some("[DONE]")] {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .body(question("t/a", "left", true).to_string());
        match until {
            None => {
                let waiting = tokio::time::timeout(Duration::from_millis(50), request.send());
                assert!(waiting.await.is_err(), "it began");
            }
            Some(until) => {
                let mut answer = request.send().await.expect("an answer");
                let mut seen = String::new();
                while !seen.contains(until) {
                    let piece = answer.chunk().await.expect("bytes").expect("a piece");
                    seen.push_str(&String::from_utf8_lossy(&piece));
                }
            }
        }
        let left = std::time::Instant::now();
        let free = |status: &Value| status["requests"]["running"] == 0;
        server.until("free", free).await;
        assert!(
            left.elapsed() < Duration::from_secs(1),
            "{:?}",
            left.elapsed()
        );
        let next = server.chat(&question("t/a", "next", true)).await;
        assert_eq!(next.told()["nonce"], "next");
        assert_eq!(next.events().last().map(String::as_str), Some("[DONE]"));
    }
    assert_eq!(server.status().await["counters"]["loads"], 1);
}
