//! What is written down (group O): the audit before each effect, and the request
//! log.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, long, question};

/// A home with two models and a request log.
pub fn home() -> Home {
    let home = Home::new("request_log: true\nmodels: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 2}));
    home.scripted("t/b", json!({"tokens": 2}));
    home
}

/// A file of the state folder.
pub fn state(home: &Home, name: &str) -> PathBuf {
    home.path().join(".local/state/roundhouse").join(name)
}

/// The lines of a file, each of which must be JSON of its own.
pub fn lines(path: &Path) -> Vec<Value> {
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
pub async fn scrape(server: &Server) -> String {
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

/// A value of a scrape.
pub fn value(text: &str, name: &str) -> f64 {
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

/// A management call over TCP.
pub async fn manage(
    server: &Server,
    method: Method,
    path: &str,
    key: &str,
    body: &Value,
) -> Answer {
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
    let server = home.serve_after("ulimit -f 1; trap '' XFSZ");
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
        body["scripted"] =
            json!({"tokens": 9, "token_ms": 20, "crash": {"at": "token", "token": 4}});
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
    let about = std::fs::metadata(state(&home, "requests.jsonl")).expect("metadata");
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
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
    server.logged(&["nothing-loud"]);
}
