//! Connections that are slow, idle, too many or not HTTP (group L), and what
//! becomes of everybody else meanwhile. Unix sockets as files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::harness::{Answer, Home, PATIENCE, Server, long, question};
use super::raw::Raw;

fn home(server: &str, script: Value) -> Home {
    let home = Home::new(&format!(
        "server: {{ {server} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", script);
    home
}

/// A normal client that asks so often while something else happens.
struct Normal {
    stop: Arc<AtomicBool>,
    asks: JoinSet<Vec<Duration>>,
}

impl Normal {
    /// Asks for the list of models over one connection; every answer has to be good.
    fn start(server: &Server, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, url) = (stop.clone(), format!("{}/v1/models", server.inference));
        let mut asks = JoinSet::new();
        asks.spawn(async move {
            let (http, mut times) = (Client::new(), Vec::new());
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = http
                    .get(&url)
                    .timeout(PATIENCE)
                    .send()
                    .await
                    .expect("an answer");
                assert_eq!(answer.status(), 200);
                answer.bytes().await.expect("a body");
                times.push(start.elapsed());
                tokio::time::sleep(every).await;
            }
            times
        });
        Self { stop, asks }
    }

    /// The time within which 99 of 100 answers came.
    async fn p99(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.asks.join_next().await.expect("it asks");
        let mut times = times.expect("every answer was good");
        times.sort();
        assert!(times.len() > 10, "too few answers: {}", times.len());
        let p99 = times[(times.len() - 1) * 99 / 100];
        println!("{} answers of a normal client: p99 {p99:?}", times.len());
        p99
    }
}

/// So many open connections, made a few at a time.
async fn connections(server: &Server, count: usize) -> Vec<Raw> {
    let mut open = Vec::new();
    while open.len() < count {
        let some = (open.len()..count)
            .take(50)
            .map(|_| Raw::connect(&server.inference));
        open.extend(futures_util::future::join_all(some).await);
    }
    open
}

const HEAD: &str = "Host: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_slow_heads_are_cut_off_and_others_do_not_notice() {
    let home = home("", json!({"tokens": 1}));
    let server = home.serve();
    let normal = Normal::start(&server, Duration::from_millis(50));
    let count = if long() { 2000 } else { 200 };
    let mut slow = JoinSet::new();
    for mut raw in connections(&server, count).await {
        slow.spawn(async move {
            let start = Instant::now();
            let creep = async {
                for byte in b"GET /v1/models HTTP/1.1\r\n".chunks(1) {
                    raw.send(byte).await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            };
            // The two halves share the socket, so reading has turns of its own.
            let _ = tokio::time::timeout(Duration::from_millis(9_500), creep).await;
            raw.closed().await;
            start.elapsed()
        });
    }
    while let Some(lasted) = slow.join_next().await {
        let lasted = lasted.expect("closed");
        assert!(
            lasted < Duration::from_millis(10_500),
            "open for {lasted:?}"
        );
    }
    let p99 = normal.p99().await;
    assert!(p99 < Duration::from_millis(200), "{p99:?}");
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l09_bodies_together_stay_within_their_budget() {
    let (count, size) = if long() {
        (1000, 1_000_000)
    } else {
        (40, 1_000_000)
    };
    // At its whole size with the default; the rest of the process does not shrink with it.
    let (budget, rest): (usize, usize) = if long() {
        (512_000_000, 0)
    } else {
        (10_000_000, 8_000_000)
    };
    let home = home(
        &format!("limits: {{ body: 1MB, bodies: {budget}B }}"),
        json!({"tokens": 1}),
    );
    let server = home.serve();
    server.chat(&question("t/a", "n", false)).await;
    let before = memory(server.pid());
    let mut held = connections(&server, count).await;
    println!(
        "{} bytes more for {count} connections",
        memory(server.pid()).saturating_sub(before)
    );
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: {size}\r\n\r\n");
    let most = vec![b' '; size - 1];
    for raw in &mut held {
        raw.send(&head).await;
        raw.send(&most).await;
    }
    // Those within the budget wait for their last byte, all others are refused.
    let fit = budget / size;
    let mut answers: Vec<_> = held.iter_mut().map(|raw| Box::pin(raw.reply())).collect();
    let mut refused = 0;
    while refused < count - fit {
        let (reply, _, rest) = futures_util::future::select_all(answers).await;
        answers = rest;
        assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        refused += 1;
    }
    drop(answers);
    let grown = memory(server.pid()).saturating_sub(before);
    println!("{count} bodies of {size}: {refused} refused, {grown} bytes more");
    assert!(
        count - refused <= budget / size && refused < count,
        "{refused} refused"
    );
    assert!(grown < budget * 12 / 10 + rest, "{grown} bytes more");
    let small = question("t/a", "n", false);
    drop(held);
    let start = Instant::now();
    while server.chat(&small).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "the budget was not given back");
    }
}

#[tokio::test]
async fn a15_a_huge_body_without_a_key_is_refused_unread() {
    let home = home("", json!({"tokens": 1}));
    home.run(&["keys", "new"]);
    let server = home.serve();
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
    assert!(grown < 4_000_000, "{grown} bytes more");
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

/// Resident bytes.
fn memory(process: u32) -> usize {
    let size = roundhouse::platform::resident_memory(process).expect("a living process");
    usize::try_from(size.0).expect("a size")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l15_idle_connections_cost_little_and_disturb_nobody() {
    let count = if long() { 10_000 } else { 1000 };
    let home = home("", json!({"tokens": 1}));
    let server = home.serve();
    let normal = Normal::start(&server, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = memory(server.pid());
    let mut idle = Vec::new();
    while idle.len() < count {
        // Each asks at once, or its first head would be late.
        let some = (0..50).map(async |_| {
            let mut raw = Raw::connect(&server.inference).await;
            raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            assert_eq!(raw.reply().await.status, 200);
            raw
        });
        idle.extend(futures_util::future::join_all(some).await);
    }
    let each = memory(server.pid()).saturating_sub(before) / count;
    println!("{count} idle connections: {each} bytes each");
    assert!(each <= 24_000, "{each} bytes for each idle connection");
    tokio::time::sleep(Duration::from_secs(if long() { 30 } else { 2 })).await;
    let p99 = normal.p99().await;
    assert!(p99 < Duration::from_millis(250), "{p99:?}");
    for raw in &mut idle {
        raw.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        assert_eq!(raw.reply().await.status, 200, "still open");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn l14_the_soft_limit_of_files_is_raised_to_the_hard_one() {
    let home = home("", json!({"tokens": 1}));
    let server = home.serve_after("ulimit -Sn 100; ulimit -Hn 2000");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["2000", "2000"], "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l14_with_few_descriptors_open_connections_go_on_and_all_is_well_after() {
    let home = home("", json!({"tokens": 1}));
    let server = home.serve_after("ulimit -n 256");
    let mut open = Raw::connect(&server.inference).await;
    let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    open.send(health).await;
    assert_eq!(open.reply().await.status, 200);
    let mut crowd = JoinSet::new();
    for _ in 0..400 {
        let url = server.inference.clone();
        crowd.spawn(async move {
            // Those that are not taken yet wait in the system's queue.
            let _held = Raw::connect(&url).await;
            std::future::pending::<()>().await;
        });
    }
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_secs(6) {
        open.send(health).await;
        let reply = tokio::time::timeout(Duration::from_secs(1), open.reply()).await;
        assert_eq!(reply.expect("at once").status, 200);
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(asked > 20);
    assert_eq!(
        server.control(Method::GET, "/admin/status", None).await.0,
        200
    );
    crowd.shutdown().await;
    let start = Instant::now();
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(answer.status, 200);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let lines = server
        .log()
        .lines()
        .filter(|line| line.contains("further connections wait"))
        .count();
    let seconds = start.elapsed().as_secs() + 8;
    assert!(
        (1..=seconds as usize / 5 + 1).contains(&lines),
        "{lines} lines\n{}",
        server.log()
    );
    assert!(
        !server.log().contains("not accepted"),
        "descriptors never ran out"
    );
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

/// Runs one of slowhttptest's attacks to its end. Debian's package is `slowhttptest`.
async fn attacked(kind: &str, more: &[&str]) {
    let home = home(
        "limits: { body_idle: 5s, header_time: 5s, write_stall: 5s }",
        json!({"tokens": 1}),
    );
    let server = home.serve();
    let normal = Normal::start(&server, Duration::from_millis(20));
    let (count, seconds) = if long() { ("2000", "60") } else { ("200", "8") };
    let url = format!("{}/v1/chat/completions", server.inference);
    let attack = tokio::process::Command::new("slowhttptest")
        .args([
            kind, "-c", count, "-r", "200", "-l", seconds, "-p", "3", "-u", &url,
        ])
        .args(more)
        .stdout(std::process::Stdio::null())
        .status()
        .await;
    let status = attack.unwrap_or_else(|error| {
        panic!("slowhttptest cannot be started ({error}); install the package slowhttptest")
    });
    assert!(status.code().is_some(), "{status}");
    let p99 = normal.p99().await;
    assert!(p99 < Duration::from_millis(250), "{kind}: {p99:?}");
    let start = Instant::now();
    while server.chat(&question("t/a", "n", false)).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "no service after the attack");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_slowhttptest_with_slow_heads() {
    attacked("-H", &["-i", "1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l02_slowhttptest_with_slow_bodies() {
    attacked(
        "-B",
        &[
            "-i",
            "1",
            "-s",
            "8192",
            "-t",
            "POST",
            "-f",
            "application/json",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l03_slowhttptest_with_slow_readers() {
    attacked(
        "-X",
        &["-w", "16", "-y", "32", "-n", "1", "-z", "8", "-k", "1"],
    )
    .await;
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
