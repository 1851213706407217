//! What refusals tell (O-08), and that nothing from outside steers a record (O-09).

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::access::home;
use super::harness::{Answer, Home, question};
use super::records::{state, until_lines};

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
            server.logged(&[id]);
        }
    }
    let bad = answers
        .iter()
        .find(|answer| answer.text.contains("t/bad"))
        .expect("refused");
    let id = bad.header("x-request-id").expect("an id");
    server.logged(&[id, "not loaded", "/secret/folder"]);
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

/// Method, path, headers, body; status and code expected.
type Case = (
    Method,
    &'static str,
    &'static [(&'static str, &'static str)],
    String,
    u16,
    &'static str,
);

#[tokio::test]
async fn wrong_kinds_sizes_paths_and_methods_keep_the_contract() {
    let home = Home::new("server: { limits: { body: 1kB } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    const PATH: &str = "/v1/chat/completions";
    let cases: &[Case] = &[
        (
            Method::POST,
            PATH,
            &[("content-type", "text/plain")],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
            ],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[("content-type", "application/json")],
            "{".into(),
            400,
            "invalid_json",
        ),
        (
            Method::POST,
            PATH,
            &[("content-type", "application/json")],
            "x".repeat(2000),
            413,
            "request_too_large",
        ),
        (
            Method::GET,
            PATH,
            &[],
            String::new(),
            405,
            "method_not_allowed",
        ),
        (
            Method::GET,
            "/v1/nothing",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/v1/%2e%2e/admin/status",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "//v1/models",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/V1/models",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/admin/status",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/v1/models/%ff",
            &[],
            String::new(),
            400,
            "invalid_model_id",
        ),
    ];
    for (method, path, headers, body, status, code) in cases {
        let mut request = server.request(method.clone(), path).body(body.clone());
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_request_id_goes_in_and_out_and_into_the_log() {
    let home = home();
    let server = home.serve();
    let ask = async |id: &str| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("x-request-id", id)
            .header("content-type", "application/json")
            .body(question("t/a", "n", false).to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        answer.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(ask("my-id.1").await, "my-id.1");
    assert!(ask("not an id").await.starts_with("req-"));
    server.logged(&["my-id.1"]);
}
