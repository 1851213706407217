//! What is written down (group O): the audit before each effect, the request log,
//! the metrics, and what health says; and that nothing in them can be steered
//! from outside.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, long, question};

fn home() -> Home {
    let home = Home::new("request_log: true\nmodels: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 2}));
    home.scripted("t/b", json!({"tokens": 2}));
    home
}

fn state(home: &Home, name: &str) -> PathBuf {
    home.path().join(".local/state/roundhouse").join(name)
}

/// The lines of a file, each of which must be JSON of its own.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}")))
        .collect()
}

/// Waits until a file has so many lines.
pub async fn until_lines(path: &Path, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let found = lines(path);
        if found.len() >= count {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "never {count} lines: {found:#?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One scrape through the control socket.
async fn scrape(server: &Server) -> String {
    let http = Client::builder().unix_socket(server.control.as_path());
    let request = http
        .build()
        .expect("a client")
        .get("http://localhost/metrics");
    let answer = Answer::read(request.send().await.expect("an answer")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text
}

/// A value of the metrics; what is not there yet is nothing.
pub async fn metric(server: &Server, name: &str) -> f64 {
    value(&scrape(server).await, name)
}

fn value(text: &str, name: &str) -> f64 {
    let start = format!("roundhouse_{name} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&start));
    found.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Waits until a value is so.
pub async fn until_metric(server: &Server, name: &str, holds: impl Fn(f64) -> bool) {
    let start = Instant::now();
    while !holds(metric(server, name).await) {
        assert!(
            start.elapsed() < PATIENCE,
            "{name} stays\n{}",
            scrape(server).await
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn manage(server: &Server, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    let request = Client::new()
        .request(method, format!("{}{path}", server.management))
        .header("x-api-key", key)
        .header("content-type", "application/json")
        .body(body.to_string());
    Answer::read(request.send().await.expect("an answer")).await
}

#[tokio::test]
async fn o01_o03_each_management_action_is_on_disk_when_it_is_answered() {
    let home = home();
    let key = home.run(&["keys", "new", "--management"]).1;
    let key = key.trim();
    let inference = home.run(&["keys", "new"]).1;
    let audit = state(&home, "audit.jsonl");
    let model = json!({"model": "t/a"});
    let actions = [
        ("/admin/models/load", &model, "load", "t/a"),
        ("/admin/models/unload", &model, "unload", "t/a"),
        ("/admin/models/release", &json!({}), "release", ""),
        ("/admin/reload", &json!({}), "reload", ""),
    ];
    let mut expected = 0;
    for (path, body, action, target) in actions {
        let mut server = home.serve();
        if action == "unload" {
            server
                .control(Method::POST, "/admin/models/load", Some(model.clone()))
                .await;
            expected += 1;
        }
        let refused = manage(&server, Method::POST, path, inference.trim(), body).await;
        assert_eq!(refused.code(), "wrong_key_class");
        let wrong = manage(
            &server,
            Method::POST,
            path,
            "rh-management-guessed-wrongly",
            body,
        )
        .await;
        assert_eq!(wrong.code(), "invalid_api_key");
        let done = manage(&server, Method::POST, path, key, body).await;
        assert_eq!(done.status, 200, "{done:?}");
        server.signal(rustix::process::Signal::KILL);
        server.wait();
        let written = lines(&audit);
        expected += 3;
        assert_eq!(written.len(), expected, "{written:#?}");
        for (number, line) in written.iter().enumerate() {
            assert_eq!(line["sequence"], number, "{line}");
            assert!(line["time_ms"].as_u64().is_some_and(|time| time > 0));
        }
        let last = &written[expected - 3..];
        let results: Vec<_> = last.iter().map(|line| line["result"].clone()).collect();
        assert_eq!(results, ["wrong_key_class", "invalid_api_key", "allowed"]);
        assert_eq!(last[0]["action"], format!("POST {path}"));
        assert_eq!(
            (&last[2]["action"], &last[2]["target"]),
            (&json!(action), &json!(target))
        );
        let caller = last[2]["caller"].as_str().expect("a caller");
        assert!(caller.starts_with("key-") && caller.len() < 16, "{caller}");
        assert_eq!(last[2]["peer"], "127.0.0.1");
    }
    let text = std::fs::read_to_string(&audit).expect("text");
    for secret in [key, inference.trim(), "guessed-wrongly"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn o01_what_cannot_be_written_down_does_not_happen() {
    let home = home();
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    // A folder in the file's place: whoever is root may write to anything else.
    let audit = state(&home, "audit.jsonl");
    std::fs::remove_file(&audit).expect("removed");
    std::fs::create_dir(&audit).expect("made");
    for (path, body) in [
        ("/admin/models/unload", json!({"model": "t/a"})),
        ("/admin/models/load", json!({"model": "t/b"})),
        ("/admin/models/release", json!({})),
        ("/admin/reload", json!({})),
    ] {
        let (status, body) = server.control(Method::POST, path, Some(body)).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (500, Some("internal_error"))
        );
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(
            message.contains("nothing was done") && !message.contains('/'),
            "{message}"
        );
    }
    let status = server.status().await;
    assert_eq!(status["configuration"]["generation"], 1);
    assert_eq!(status["counters"]["loads"], 1);
    assert_eq!(metric(&server, "audit_failures_total").await, 4.0);
    // Serving goes on, and so does the audit when it can.
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    std::fs::remove_dir(&audit).expect("removed");
    let (status, _) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200);
    assert_eq!(lines(&audit).len(), 1);
}

#[tokio::test]
async fn o02_a_full_disk_leaves_whole_lines_and_stops_the_effect() {
    let home = home();
    // No file may grow beyond a kilobyte, as on a disk without room.
    let server = home.serve_by("ulimit -f 1; trap '' XFSZ; exec \"$@\"", &[]);
    let mut refused = 0;
    for _ in 0..20 {
        let (status, _) = server.control(Method::POST, "/admin/reload", None).await;
        refused += usize::from(status == 500);
        assert!([200, 500].contains(&status));
    }
    assert!(refused > 0, "the disk was never full");
    let written = lines(&state(&home, "audit.jsonl"));
    assert_eq!(written.len(), 20 - refused);
    let generation = server.status().await["configuration"]["generation"].clone();
    assert_eq!(generation, 1 + written.len(), "as many reloads as lines");
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    // The request log lost lines and says how many.
    for _ in 0..20 {
        server.chat(&question("t/a", "n", false)).await;
    }
    until_metric(&server, "request_log_lost_lines_total", |lost| lost >= 1.0).await;
    lines(&state(&home, "requests.jsonl"));
}

#[tokio::test]
async fn o02_two_servers_share_one_audit_and_a_moved_or_cut_one_shows_a_gap() {
    let home = home();
    let audit = state(&home, "audit.jsonl");
    let key = home.run(&["keys", "new", "--management"]).1;
    let key = key.trim();
    let [one, other] = [home.serve(), home.serve()];
    let rounds = if long() { 500 } else { 40 };
    let many = async |server: &Server| {
        for _ in 0..rounds {
            let answer = manage(
                server,
                Method::POST,
                "/admin/models/release",
                key,
                &json!({}),
            )
            .await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    tokio::join!(many(&one), many(&other));
    let numbers = |path: &Path| -> Vec<u64> {
        let number = |line: &Value| line["sequence"].as_u64().expect("a number");
        lines(path).iter().map(number).collect()
    };
    let all = 2 * rounds as u64;
    assert_eq!(numbers(&audit), (0..all).collect::<Vec<_>>());
    let moved = audit.with_extension("moved");
    std::fs::rename(&audit, &moved).expect("moved");
    let release = async |server: &Server| {
        server
            .control(Method::POST, "/admin/models/release", None)
            .await
            .0
    };
    assert_eq!(release(&one).await, 200);
    std::fs::write(&audit, "").expect("cut");
    assert_eq!(release(&one).await, 200);
    assert_eq!(numbers(&audit), [all + 1]);
}

#[tokio::test]
async fn o05_health_says_alive_and_ready_says_able_and_neither_says_more() {
    let home = Home::new("models: { t/a: { preload: true }, t/b: {} }\npool: { queue: 1 }\n");
    home.scripted("t/a", json!({"tokens": 1, "load_ms": 700}));
    home.scripted("t/b", json!({"load_ms": 60_000}));
    let key = home.run(&["keys", "new"]).1;
    let mut server = home.serve();
    let check = async |server: &Server, health: (u16, &str), ready: (u16, &str)| {
        for (path, (status, word)) in [("/health", health), ("/ready", ready)] {
            let answer = server
                .request(Method::GET, path)
                .send()
                .await
                .expect("an answer");
            let answer = Answer::read(answer).await;
            let body = json!({"status": word}).to_string();
            assert_eq!((answer.status, answer.text), (status, body), "{path}");
        }
    };
    let (ok, degraded) = ((200, "ok"), (200, "degraded"));
    check(&server, ok, (503, "degraded")).await;
    server
        .until("loaded", |status| status["ready"] == true)
        .await;
    check(&server, ok, (200, "ok")).await;
    // A full queue of one model keeps nobody else from being served.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .header("x-api-key", key.trim())
            .body(question("t/b", "n", false).to_string());
        waiting.spawn(request.send());
    }
    server
        .until("waiting", |status| status["requests"]["waiting"] == 1)
        .await;
    check(&server, ok, (200, "ok")).await;
    home.configure("models: [");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        400
    );
    check(&server, degraded, (200, "ok")).await;
    home.configure("models: { t/a: {} }\n");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    check(&server, ok, (200, "ok")).await;
    // While it drains it takes no connections, which is an answer too.
    server.signal(rustix::process::Signal::TERM);
    let start = Instant::now();
    loop {
        match server.request(Method::GET, "/ready").send().await {
            Ok(answer) if answer.status() == 200 => {
                assert!(start.elapsed() < PATIENCE, "it is ready and drains");
            }
            _ => break,
        }
    }
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn o06_requests_make_no_labels() {
    let home = home();
    let server = home.serve();
    server.chat(&question("t/a", "n", false)).await;
    let count = if long() { 100_000 } else { 1_000 };
    const LANES: usize = 8;
    let lane = async |lane: usize| {
        for number in 0..count / LANES {
            let name = format!("unknown/model-{lane}-{number}");
            let answer = server.chat(&question(&name, "n", false)).await;
            assert_eq!(answer.status, 404);
        }
    };
    futures_util::future::join_all((0..LANES).map(lane)).await;
    until_metric(
        &server,
        "requests_total{model=\"other\",ending=\"refused\"}",
        |seen| seen == count as f64,
    )
    .await;
    let text = scrape(&server).await;
    assert_eq!(
        value(&text, "refusals_total{code=\"model_not_found\"}"),
        count as f64
    );
    let mut models: Vec<_> = text
        .split("model=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    models.sort_unstable();
    models.dedup();
    assert_eq!(models, ["other", "t/a", "t/b"]);
    assert!(text.len() < 32_000 && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn o07_counters_rise_by_what_happened() {
    let home = Home::new("models: { t/a: {}, t/bad: {}, t/idle: {} }\n");
    home.scripted(
        "t/a",
        json!({"tokens": 3, "crash": {"at": "token", "token": 1}}),
    );
    home.scripted("t/bad", json!({"load_fail": "no such weights"}));
    home.scripted("t/idle", json!({"tokens": 1}));
    home.run(&["keys", "new", "--management"]);
    let server = home.serve();
    let before = scrape(&server).await;
    let crashes = 3;
    for _ in 0..crashes {
        let answer = server.chat(&question("t/a", "n", false)).await;
        assert!([502, 503].contains(&answer.status), "{answer:?}");
        // A model that crashes early again and again rests for a while.
        server
            .until("rested", |status| {
                status["models"][0]["last_failure"]["retry_in_seconds"]
                    .as_f64()
                    .is_none_or(|left| left == 0.0)
            })
            .await;
    }
    let bad = server.chat(&question("t/bad", "n", false)).await;
    assert_eq!(bad.code(), "load_failed");
    let wrong = 7;
    for _ in 0..wrong {
        let answer = manage(&server, Method::GET, "/admin/status", "wrong", &json!({})).await;
        assert_eq!(answer.status, 401);
    }
    for _ in 0..4 {
        assert_eq!(server.get("/v1/nothing").await.0, 404);
    }
    let foreign = server
        .request(Method::GET, "/health")
        .header("host", "evil.example");
    assert_eq!(foreign.send().await.expect("an answer").status(), 403);
    let after = scrape(&server).await;
    let check = |name: &str, by: usize| {
        let rise = value(&after, name) - value(&before, name);
        assert_eq!(rise, by as f64, "{name}\n{after}");
    };
    check("unloads_total{reason=\"crashed\"}", crashes);
    check("load_failures_total", 1);
    check("loads_total", crashes + 1);
    check("refusals_total{code=\"worker_crashed\"}", crashes);
    check("refusals_total{code=\"load_failed\"}", 1);
    check("refusals_total{code=\"invalid_api_key\"}", wrong);
    check("refusals_total{code=\"not_found\"}", 4);
    check("refusals_total{code=\"host_not_allowed\"}", 1);
    check("panics_total{place=\"handler\"}", 0);
    until_metric(
        &server,
        "requests_total{model=\"t/a\",ending=\"engine_failed\"}",
        |seen| seen == crashes as f64,
    )
    .await;
    let loads = value(&after, "loads_total");
    assert_eq!(
        metric(&server, "loads_total").await,
        loads,
        "a scrape loads nothing"
    );
}

#[tokio::test]
async fn o08_no_refusal_says_what_is_inside() {
    let home = Home::new(
        "models: { t/a: {}, t/bad: {}, t/gone: {}, t/slow: {} }\nserver: { limits: { load_time: 300ms } }\n",
    );
    home.scripted("t/a", json!({"tokens": 3}));
    home.scripted(
        "t/bad",
        json!({"load_fail": "/secret/folder/weights: std::io::Error at 10.1.2.3:99"}),
    );
    home.scripted("t/slow", json!({"load_ms": 60_000}));
    let server = home.serve();
    let mut answers = Vec::new();
    let mut ask = async |body: Value| answers.push(server.chat(&body).await);
    let scripted = |stream: bool, script: Value| {
        let mut body = question("t/a", "n", stream);
        body["scripted"] = script;
        body
    };
    for stream in [false, true] {
        for odd in [
            "html",
            "empty",
            "server_error",
            "gzip",
            "no_done",
            "half_event",
            "error_event",
        ] {
            ask(scripted(stream, json!({"odd": odd}))).await;
        }
        for at in ["headers", "token"] {
            ask(scripted(
                stream,
                json!({"crash": {"at": at, "how": "abort"}}),
            ))
            .await;
        }
        for model in ["t/bad", "t/gone", "t/slow", "../../etc/passwd", "no/where"] {
            ask(question(model, "n", stream)).await;
        }
        ask(json!({"model": "t/a", "messages": 5, "stream": stream})).await;
    }
    for answer in &answers {
        let id = answer.header("x-request-id").expect("an id");
        let home = home.path().to_str().expect("text");
        let inner = [
            home,
            "/secret",
            "std::",
            "::",
            "10.1.2.3",
            "panicked",
            ".rs",
            ".sock",
            "backtrace",
            "os error",
            "hyper",
            "reqwest",
            "weights:",
            "Traceback",
            "0x",
        ];
        let told: String = match answer.status {
            // Of a stream only what we say ourselves.
            200 => answer
                .events()
                .into_iter()
                .filter(|event| event.contains("\"error\""))
                .collect(),
            _ => answer.text.clone(),
        };
        for word in inner {
            assert!(!told.contains(word), "{word:?} in {told}");
        }
        if answer.status >= 500 {
            assert!(server.log().contains(id), "the log has nothing of {id}");
        }
    }
    let log = server.log();
    let bad = answers
        .iter()
        .find(|answer| answer.text.contains("t/bad"))
        .expect("refused");
    let id = bad.header("x-request-id").expect("an id");
    let line = log
        .lines()
        .find(|line| line.contains(id) && line.contains("not loaded"));
    assert!(
        line.is_some_and(|line| line.contains("/secret/folder")),
        "{log}"
    );
    home.configure("models: [");
    let (_, body) = server.control(Method::POST, "/admin/reload", None).await;
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(
        !message.contains(home.path().to_str().expect("text")),
        "{message}"
    );
    assert!(message.contains("models.yaml"), "{message}");
}

#[tokio::test]
async fn o09_what_comes_from_outside_is_one_harmless_line() {
    let evil = "a\r\nforged: line\u{1b}[31m\u{7}\u{1b}]52;c;aGk=\u{7}\u{202e}\u{9b}";
    let home = Home::new("log: trace\nrequest_log: true\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "load_fail": evil}));
    let server = home.serve();
    let mut body = question("t/a", "n", false);
    server.chat(&body).await;
    body["model"] = json!(evil);
    server.chat(&body).await;
    for name in [
        "user-agent",
        "x-request-id",
        "referer",
        "origin",
        "authorization",
    ] {
        let value = reqwest::header::HeaderValue::from_bytes("a\u{9b}\u{202e}b".as_bytes());
        let request = server.request(Method::GET, "/v1/models");
        let request = request.header(name, value.expect("a value"));
        request.send().await.expect("an answer");
    }
    for path in ["/%0d%0aforged", "/%1b%5b31m", "/v1/models/%e2%80%ae"] {
        server.get(path).await;
    }
    let model = json!({"model": evil});
    server
        .control(Method::POST, "/admin/models/load", Some(model))
        .await;
    until_lines(&state(&home, "requests.jsonl"), 5).await;
    let steers = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c));
    for text in [
        server.log(),
        std::fs::read_to_string(state(&home, "requests.jsonl")).expect("text"),
        std::fs::read_to_string(state(&home, "audit.jsonl")).unwrap_or_default(),
    ] {
        assert!(!text.contains(steers), "{text:?}");
        for line in text.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok(),
                "no line of ours: {line:?}"
            );
        }
    }
}

/// Fields of the log that come from outside must not be written with `%`, which
/// puts them there as they are.
#[test]
fn o09_no_log_line_shows_request_data_as_it_came() {
    let mut offences = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for call in text.split("tracing::").skip(1) {
                let levels = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
                let Some(call) = levels.iter().find_map(|level| call.strip_prefix(level)) else {
                    continue;
                };
                seen += 1;
                for field in display_fields(call) {
                    offences.push(format!("{}: {field}", path.display()));
                }
            }
        }
    }
    assert!(seen > 20, "the calls were not found");
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// The fields of a call that are written with `%` and are not plainly numbers or
/// sizes of ours.
fn display_fields(call: &str) -> Vec<String> {
    let (mut depth, mut end, mut quoted) = (1, call.len(), false);
    for (at, byte) in call.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            end = at;
            break;
        }
    }
    let inside = &call[..end];
    inside
        .split(['\n', ','])
        .map(str::trim)
        .filter(|field| field.starts_with('%') || field.contains("= %"))
        .filter(|field| !field.ends_with("plan.memory"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_lint_itself_can_fail() {
    assert_eq!(display_fields("id = %x, \"a (b\")").len(), 1);
    assert_eq!(display_fields("\n %error,\n \"text\")").len(), 1);
    assert!(display_fields("?x, y, \"100 %\"); let z = a %b").is_empty());
}

#[tokio::test]
async fn the_request_log_says_how_each_request_ended() {
    let home = home();
    home.scripted("t/b", json!({"tokens": 1000, "token_ms": 20}));
    let key = home.run(&["keys", "new"]).1;
    let server = home.serve();
    let ask = |id: &str, body: &Value| {
        server
            .request(Method::POST, "/v1/chat/completions")
            .header("x-request-id", id)
            .header("x-api-key", key.trim())
            .header("content-type", "application/json")
            .body(body.to_string())
    };
    for (id, stream) in [("whole", false), ("stream", true)] {
        let answer = ask(id, &question("t/a", "n", stream)).send().await;
        Answer::read(answer.expect("an answer")).await;
    }
    let refused = server.request(Method::POST, "/v1/chat/completions?key=x");
    let refused = refused.header("x-request-id", "refused").send().await;
    assert_eq!(refused.expect("an answer").status(), 401);
    let unknown = ask("unknown", &question("no/where", "n", true))
        .send()
        .await;
    assert_eq!(unknown.expect("an answer").status(), 404);
    for (id, stream) in [("crash-whole", false), ("crash-stream", true)] {
        let mut body = question("t/a", "n", stream);
        body["scripted"] = json!({"tokens": 9, "crash": {"at": "token", "token": 4}});
        let answer = ask(id, &body).send().await;
        Answer::read(answer.expect("an answer")).await;
    }
    // One leaves in the middle of a stream, one before its answer has begun.
    let mut leaving = ask("left-stream", &question("t/b", "n", true))
        .send()
        .await
        .expect("an answer");
    leaving.chunk().await.expect("bytes");
    drop(leaving);
    let whole = ask("left-whole", &question("t/b", "n", false)).send();
    drop(tokio::time::timeout(Duration::from_millis(500), whole).await);
    let written = until_lines(&state(&home, "requests.jsonl"), 8).await;
    let line = |id: &str| {
        let mut found = written.iter().filter(|line| line["request_id"] == id);
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no {id}: {written:#?}"));
        assert!(found.next().is_none(), "two lines for {id}");
        line
    };
    for (id, ending, status, code) in [
        ("whole", "complete", 200, Value::Null),
        ("stream", "complete", 200, Value::Null),
        ("refused", "refused", 401, json!("invalid_api_key")),
        ("unknown", "refused", 404, json!("model_not_found")),
        ("crash-whole", "engine_failed", 502, json!("worker_crashed")),
        (
            "crash-stream",
            "engine_failed",
            200,
            json!("worker_crashed"),
        ),
        ("left-stream", "client_left", 200, Value::Null),
    ] {
        let line = line(id);
        let told = (&line["ending"], &line["status"], &line["code"]);
        assert_eq!(told, (&json!(ending), &json!(status), &code), "{line}");
        assert_eq!(line["path"], "/v1/chat/completions");
        assert_eq!(line["peer"], "127.0.0.1");
        assert!(line["duration_ms"].is_u64() && line["time_ms"].is_u64());
    }
    assert_eq!(line("left-whole")["ending"], "client_left");
    for id in ["whole", "stream"] {
        let line = line(id);
        assert_eq!(
            (&line["model"], &line["route"]),
            (&json!("t/a"), &json!("exact"))
        );
        assert!(
            line["wait_ms"].is_u64() && line["completion_tokens"] == 2,
            "{line}"
        );
        assert!(
            line["request_bytes"].as_u64() > Some(20) && line["response_bytes"].as_u64() > Some(50)
        );
        assert!(
            line["caller"]
                .as_str()
                .is_some_and(|id| id.starts_with("key-"))
        );
        assert_eq!(line["first_event_ms"].is_u64(), id == "stream");
    }
}

#[tokio::test]
async fn the_request_log_follows_the_configuration() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    server.chat(&question("t/a", "n", false)).await;
    let other = home.path().join("logs/who.jsonl");
    home.configure("models: { t/a: {} }\nrequest_log: logs/who.jsonl\n");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    server.chat(&question("t/a", "n", false)).await;
    until_lines(&other, 1).await;
    home.configure("models: { t/a: {} }\n");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let before = until_lines(&other, 2).await.len();
    server.chat(&question("t/a", "n", false)).await;
    until_metric(
        &server,
        "requests_total{model=\"t/a\",ending=\"complete\"}",
        |seen| seen == 3.0,
    )
    .await;
    assert_eq!(lines(&other).len(), before, "it writes on");
    assert!(!state(&home, "requests.jsonl").exists());
}

#[tokio::test]
async fn the_log_follows_the_configuration() {
    let home = Home::new("log: warn\n");
    let server = home.serve();
    server.get("/v1/nothing-quiet").await;
    assert!(!server.log().contains("nothing-quiet"));
    home.configure("log: info\n");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    server.get("/v1/nothing-loud").await;
    assert!(server.log().contains("nothing-loud"), "{}", server.log());
}
