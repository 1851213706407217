//! Many connections at once (group L): floods, attacks, few descriptors. A normal
//! client asks on meanwhile and has to be answered in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::connections::{HEAD, home, memory};
use super::harness::{PATIENCE, Server, long, question};
use super::raw::Raw;

/// A normal client that asks so often while something else happens.
struct Normal {
    stop: Arc<AtomicBool>,
    begun: Arc<Notify>,
    asks: JoinSet<Vec<Duration>>,
}

impl Normal {
    /// Asks for the list of models over one connection; every answer has to be good.
    fn start(server: &Server, every: Duration) -> Self {
        Self::start_with_key(server, every, None)
    }

    /// The same with a key, where one is asked for.
    fn start_with_key(server: &Server, every: Duration, key: Option<&str>) -> Self {
        let key = key.map(str::to_owned);
        let stop = Arc::new(AtomicBool::new(false));
        let (told, url) = (stop.clone(), format!("{}/v1/models", server.inference));
        let begun = Arc::new(Notify::new());
        let answered = begun.clone();
        let mut asks = JoinSet::new();
        asks.spawn(async move {
            let (http, mut times) = (Client::new(), Vec::new());
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                let mut request = http.get(&url).timeout(PATIENCE);
                if let Some(key) = &key {
                    request = request.bearer_auth(key);
                }
                let answer = request.send().await.expect("an answer");
                assert_eq!(answer.status(), 200);
                answer.bytes().await.expect("a body");
                times.push(start.elapsed());
                answered.notify_one();
                tokio::time::sleep(every).await;
            }
            times
        });
        Self { stop, begun, asks }
    }

    /// Waits for its first answer: from then on it has a connection.
    async fn begun(&self) {
        self.begun.notified().await;
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
    let normal = Normal::start(&server, Duration::from_millis(50));
    normal.begun().await;
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
    let p99 = normal.p99().await;
    assert!(p99 < Duration::from_millis(250), "{p99:?}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l12_a_flood_of_wrong_keys_is_not_noticed_by_the_holder_of_a_right_one() {
    let home = home("", json!({"tokens": 1}));
    let (code, key, _) = home.run(&["keys", "new", "--name", "normal"]);
    assert_eq!(code, 0);
    let server = home.serve();
    let normal = Normal::start_with_key(&server, Duration::from_millis(20), Some(key.trim()));
    let lasts = Duration::from_secs(if long() { 60 } else { 3 });
    let mut flood = JoinSet::new();
    for _ in 0..16 {
        let url = format!("{}/v1/models", server.inference);
        flood.spawn(async move {
            let (http, start, mut asked) = (Client::new(), Instant::now(), 0_u64);
            while start.elapsed() < lasts {
                let request = http.get(&url).bearer_auth("wrong-wrong-wrong-wrong");
                let status = request.send().await.expect("an answer").status();
                assert!(status == 401 || status == 429, "{status}");
                asked += 1;
            }
            asked
        });
    }
    let asked: u64 = flood.join_all().await.into_iter().sum();
    let p99 = normal.p99().await;
    println!("beside {asked} wrong keys in {lasts:?}");
    assert!(asked > 100, "no flood: {asked}");
    assert!(p99 < Duration::from_millis(250), "{p99:?}");
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
