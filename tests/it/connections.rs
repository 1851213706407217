//! Connections that are slow, idle, too many or not HTTP (group L), and what
//! becomes of everybody else meanwhile. Unix sockets as files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::harness::{Answer, Home, long, question};
use super::raw::Raw;

/// A home with one model.
pub fn home(server: &str, script: Value) -> Home {
    let home = Home::new(&format!(
        "server: {{ {server} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", script);
    home
}

/// What every request for inference begins with.
pub const HEAD: &str = "Host: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn idle_connections_end_at_their_time_and_busy_ones_do_not() {
    let home = home(
        "limits: { idle: 1s, header_time: 2s }",
        json!({"tokens": 30, "token_ms": 100}),
    );
    let server = home.serve();
    let mut idle = Raw::connect(&server.inference).await;
    idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(idle.reply().await.status, 200);
    let body = question("t/a", "n", true);
    let (answer, lasted) = tokio::join!(server.chat(&body), idle.closed());
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert!(
        lasted >= Duration::from_millis(900) && lasted < Duration::from_secs(2),
        "{lasted:?}"
    );
}

#[tokio::test]
async fn l02_a_slow_body_gets_408_and_no_worker() {
    let home = home("limits: { body_idle: 1s }", json!({"tokens": 1}));
    let server = home.serve();
    let mut raw = Raw::connect(&server.inference).await;
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: 1000000\r\n\r\n"
    ))
    .await;
    let start = Instant::now();
    // A byte each tenth of a second never pauses for long, and is too slow all the same.
    for _ in 0..13 {
        raw.send(" ").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reply = raw.reply().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (408, "request_timeout")
    );
    raw.closed().await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let mut silent = Raw::connect(&server.inference).await;
    silent.send(format!("POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n")).await;
    assert_eq!(silent.reply().await.code(), "request_timeout");
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 0, "{status}");
    assert_eq!(status["requests"]["running"], 0, "{status}");
}

#[tokio::test]
async fn l03_a_reader_that_reads_nothing_is_cut_off_and_costs_a_spool() {
    let script = json!({"tokens": 3000, "text": "x".repeat(10_000)});
    let home = home("limits: { write_stall: 2s }", script);
    let server = home.serve();
    server
        .chat(&json!({"model": "t/a", "messages": [], "max_tokens": 1, "scripted": {"tokens": 1}}))
        .await;
    let before = memory(server.pid());
    let address = server
        .inference
        .strip_prefix("http://")
        .expect("clear text")
        .parse()
        .expect("an address");
    let mut stuck = Vec::new();
    for number in 0..10 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let mut raw = Raw::over(socket.connect(address).await.expect("connected"));
        let body = question("t/a", &format!("stuck-{number}"), true).to_string();
        raw.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        stuck.push(raw);
    }
    server
        .until("running", |status| {
            status["requests"]["running"].as_u64() > Some(0)
        })
        .await;
    let mut other = question("t/a", "other", true);
    other["scripted"] = json!({"tokens": 5, "text": "y"});
    let answer = server.chat(&other).await;
    assert_eq!(
        answer.events().last().map(String::as_str),
        Some("[DONE]"),
        "others go on"
    );
    let grown = memory(server.pid()).saturating_sub(before);
    println!("10 stuck readers: {} kB each", grown / 10 / 1000);
    assert!(grown / 10 < 2_500_000, "{grown} bytes for 10 stuck readers");
    server
        .until("cut off", |status| status["requests"]["running"] == 0)
        .await;
    for raw in &mut stuck {
        raw.closed().await;
    }
    assert_eq!(server.chat(&other).await.status, 200);
}

#[tokio::test]
async fn l06_the_cap_of_a_body_is_exact_with_and_without_a_length() {
    let home = home("limits: { body: 2000B }", json!({"tokens": 1}));
    let server = home.serve();
    for (size, status) in [(1999, 200), (2000, 200), (2001, 413), (20_000, 413)] {
        let body = question("t/a", "n", false).to_string();
        let body = format!("{body}{}", " ".repeat(size - body.len()));
        for framing in [
            format!("Content-Length: {size}\r\n\r\n{body}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"),
        ] {
            let mut raw = Raw::connect(&server.inference).await;
            raw.send(format!(
                "POST /v1/chat/completions HTTP/1.1\r\n{HEAD}{framing}"
            ))
            .await;
            let reply = raw.reply().await;
            assert_eq!(reply.status, status, "{size}: {reply:?}");
            if status != 200 {
                assert_eq!(reply.code(), "request_too_large");
            }
        }
    }
}

#[tokio::test]
async fn a15_a_huge_body_without_a_key_is_refused_unread() {
    let home = home("", json!({"tokens": 1}));
    home.run(&["keys", "new"]);
    let server = home.serve();
    // The program's own pages that a refusal needs are there afterwards.
    let mut raw = Raw::connect(&server.inference).await;
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n{{}}"
    ))
    .await;
    assert_eq!(raw.reply().await.status, 401);
    drop(raw);
    let before = memory(server.pid());
    let mut raw = Raw::connect(&server.inference).await;
    raw.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: 1099511627776\r\n\r\n"
    ))
    .await;
    raw.send(vec![b'x'; 1_000_000]).await;
    let start = Instant::now();
    let reply = raw.reply().await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (401, "invalid_api_key")
    );
    raw.closed().await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let grown = memory(server.pid()).saturating_sub(before);
    assert!(grown < 2_000_000, "{grown} bytes more");
}

#[tokio::test]
async fn h09_heads_beyond_the_limits_are_refused_in_the_words_of_the_contract() {
    let home = home("", json!({"tokens": 1}));
    let server = home.serve();
    let fields = |count: usize| -> String { (0..count).map(|n| format!("x-{n}: y\r\n")).collect() };
    for (request, status, code) in [
        (
            format!(
                "GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
                fields(101)
            ),
            431,
            "headers_too_large",
        ),
        (
            format!(
                "GET /health HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n",
                "y".repeat(70_000)
            ),
            431,
            "headers_too_large",
        ),
        (
            format!(
                "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "y".repeat(66_000)
            ),
            431,
            "headers_too_large",
        ),
        (
            "GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_request"),
        (
            format!("POST /v1/completions HTTP/1.1\r\n{HEAD}Content-Length: 5, 6\r\n\r\nhello"),
            400,
            "bad_request",
        ),
    ] {
        let mut raw = Raw::connect(&server.inference).await;
        raw.send(&request).await;
        let reply = raw.reply().await;
        let start = &request[..request.len().min(60)];
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{start}"
        );
        raw.closed().await;
    }
    let mut raw = Raw::connect(&server.inference).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    raw.closed().await;
    assert_eq!(
        server.get("/health").await.0,
        200,
        "HTTP/2 is not spoken in clear text"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h09_many_heads_beyond_the_limits_at_once_cost_little() {
    let count = if long() { 1000 } else { 100 };
    let home = home("", json!({"tokens": 1}));
    let server = home.serve();
    assert_eq!(server.get("/health").await.0, 200);
    let before = memory(server.pid());
    let host = "HTTP/1.1\r\nHost: localhost\r\n";
    let heads = [
        format!("GET /health {host}x: {}\r\n\r\n", "y".repeat(64 * 1024 + 1)),
        format!("GET /health {host}x: {}\r\n\r\n", "y".repeat(500_000)),
        format!("GET /{} {host}\r\n", "y".repeat(100_000)),
        format!("GET /health {host}{}\r\n", "x: y\r\n".repeat(101)),
    ];
    let asked = (0..count).map(async |number| {
        let mut raw = Raw::connect(&server.inference).await;
        // It may be refused before all of it has gone.
        raw.send(&heads[number % heads.len()]).await;
        raw.closed().await;
        memory(server.pid()).saturating_sub(before)
    });
    let most = futures_util::future::join_all(asked).await;
    let most = most.into_iter().max().expect("some");
    assert!(most < 64_000_000, "{most} bytes more");
    assert_eq!(server.get("/health").await.0, 200);
}

/// Resident bytes.
pub fn memory(process: u32) -> usize {
    let size = roundhouse::platform::resident_memory(process).expect("a living process");
    usize::try_from(size.0).expect("a size")
}

#[tokio::test]
async fn unix_sockets_have_the_mode_they_are_given_and_replace_no_file() {
    let home = home("socket_mode: 0660", json!({"tokens": 1}));
    let socket = home.path().join("i.sock");
    let listen = format!("unix:{}", socket.display());
    let args = [
        "serve",
        "--json",
        "--scripted-engine",
        "--management",
        "127.0.0.1:0",
        "--listen",
        &listen,
    ];
    std::fs::write(&socket, "a file of somebody").expect("written");
    let (code, _, error) = home.run(&args);
    assert_eq!(code, 1);
    assert!(error.contains("is no socket"), "{error}");
    assert_eq!(
        std::fs::read_to_string(&socket).expect("still there"),
        "a file of somebody"
    );
    std::fs::remove_file(&socket).expect("removed");
    let mut server = home.start(home.command(&args));
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("a socket")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode(&socket), mode(&server.control)), (0o660, 0o600));
    let http = Client::builder()
        .unix_socket(socket.as_path())
        .build()
        .expect("a client");
    let answer = http
        .get("http://anything/v1/models")
        .send()
        .await
        .expect("an answer");
    assert_eq!(Answer::read(answer).await.status, 200);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(!socket.exists());
}

/// What a stuck client has not taken is not read further than a spool.
#[tokio::test]
async fn l03_a_slow_reader_gets_every_byte_in_the_end() {
    let home = home(
        "limits: { write_stall: 20s }",
        json!({"tokens": 400, "text": "z".repeat(10_000)}),
    );
    let server = home.serve();
    let mut response = server
        .post("/v1/chat/completions", &question("t/a", "n", true))
        .await;
    response.chunk().await.expect("bytes").expect("a piece");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = Answer::read(response).await;
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
}
