//! Engines that are not ours in the same pool: how they are started, seen to be ready,
//! asked and ended. The engine of these tests is a script beside this file; the real
//! ones are in `engines/real.rs`.

mod exact;
mod kinds;
mod real;
mod rest;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, lives, long, question};

/// The script.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engines/tiny.py")
}

/// Python itself; what is found first may be a script that looks for it.
fn python() -> String {
    static PYTHON: OnceLock<String> = OnceLock::new();
    let ask = || {
        let code = "import sys; print(sys.executable)";
        let output = std::process::Command::new("python3")
            .args(["-c", code])
            .output();
        String::from_utf8(output.expect("python3").stdout)
            .expect("a path")
            .trim()
            .to_owned()
    };
    PYTHON.get_or_init(ask).clone()
}

/// A folder with a file of weights.
fn weights(home: &Home) -> PathBuf {
    let folder = home.path().join("weights with {port}");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("model.bin"), [7; 1000]).expect("written");
    folder
}

/// A home with one entry `tiny` on the script with these arguments; `more` are further
/// keys of the engine, as lines.
fn home(arguments: &[&str], more: &str) -> Home {
    let mut command = vec![python(), script().display().to_string()];
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let home = Home::new("");
    let folder = weights(&home);
    home.configure(&format!(
        "engines:\n  script:\n    command: {}\n{more}\
         models:\n  tiny: {{ path: {}, engine: script, memory: 100MB }}\n",
        json!(command),
        json!(folder),
    ));
    home
}

/// Asks and wants an answer; what the engine tells of it.
async fn told(server: &Server) -> Value {
    let answer = server.chat(&question("tiny", "n", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.told()
}

fn pid(told: &Value) -> u32 {
    told["pid"].as_u64().expect("a pid") as u32
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn unload(server: &Server) {
    let unload = json!({"model": "tiny", "mode": "now"});
    let path = "/admin/models/unload";
    let (status, body) = server
        .control(reqwest::Method::POST, path, Some(unload))
        .await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn what_the_command_says_is_filled_in_and_nothing_else_reaches_the_engine() {
    let arguments = [
        "--port",
        "{port}",
        "--text={path}",
        "--text={file}",
        "--text={model}:{{port}}",
        "--text=$HOME `id` ; *",
    ];
    let more = "    env: { TINY: \"on {port}\" }\n    model: \"{path}\"\n";
    let home = home(&arguments, more);
    let secret = [("HF_TOKEN", "hf_0"), ("http_proxy", "http://192.0.2.1:1")];
    let anywhere = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let server = home.serve_as(&anywhere, &secret);
    let body =
        r#" {"mod\u0065l" : "tiny", "messages": [], "nonce": "n", "x": 1e400, "y": "\ud83d"} "#;
    let asked = server
        .request(reqwest::Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer mine")
        .header("cookie", "a=b")
        .body(body);
    let answer = Answer::read(asked.send().await.expect("an answer")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.told();
    let folder = weights(&home);
    let port = told["arguments"][1].as_str().expect("a port");
    assert!(port.parse::<u16>().is_ok_and(|port| port > 0), "{told}");
    let expected = [
        "--port".to_owned(),
        port.to_owned(),
        format!("--text={}", folder.display()),
        format!("--text={}", folder.join("model.bin").display()),
        "--text=tiny:{port}".to_owned(),
        "--text=$HOME `id` ; *".to_owned(),
    ];
    assert_eq!(told["arguments"], json!(expected));
    let environment = told["environment"].as_object().expect("variables");
    assert_eq!(environment["TINY"], format!("on {port}"));
    // Python adds the last one itself.
    let known = [
        "PATH",
        "HOME",
        "TMPDIR",
        "TINY",
        "LLVM_PROFILE_FILE",
        "LC_CTYPE",
    ];
    let foreign = environment
        .keys()
        .find(|name| !known.contains(&name.as_str()));
    assert_eq!(foreign, None);
    // The name that the engine has for it takes the place of the other; all else is as it was.
    let name = json!(folder).to_string();
    assert_eq!(told["body"], body.replace("\"tiny\"", &name));
    let headers = told["headers"].as_object().expect("headers");
    for name in [
        "authorization",
        "cookie",
        "x-roundhouse-secret",
        "te",
        "forwarded",
    ] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    let workplace = PathBuf::from(told["folder"].as_str().expect("a folder"));
    assert!(workplace.starts_with(home.path()), "{workplace:?}");
    assert_eq!(told["standard_input"], "");
    // Usage comes out of the answer.
    let engine = pid(&told);
    unload(&server).await;
    until("gone", || !lives(engine) && !workplace.exists()).await;
}

#[tokio::test]
async fn a_socket_serves_streams_and_another_kind_is_refused() {
    let home = home(&["--socket", "{socket}"], "    kinds: [chat]\n");
    let server = home.serve();
    let mut body = question("tiny", "n", true);
    body["stream_options"] = json!({"include_usage": true});
    // Whether it can do this is for it to say.
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": {}}});
    let answer = server.chat(&body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.content().ends_with("} and more"), "{answer:?}");
    let events = answer.events();
    assert!(
        events[0].contains(r#""model": "mine""#),
        "left alone: {events:?}"
    );
    assert!(events[3].contains("prompt_tokens"), "{events:?}");
    assert_eq!(events.last().map(|event| event.trim()), Some("[DONE]"));
    server.logged(&["answered", "prompt=3 completion=5"]);
    let host = &answer.told()["headers"]["host"];
    assert_eq!(host, "localhost");
    let mut refused = question("tiny", "n", false);
    refused["refuse"] = json!(true);
    let answer = server.chat(&refused).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request")
    );
    assert!(answer.text.contains("not like this"), "{answer:?}");
    let wrong = json!({"model": "tiny", "prompt": "x"});
    let answer = Answer::read(server.post("/v1/completions", &wrong).await).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("is for chat"), "{answer:?}");
    // A body may not say what our own engine refuses for safety.
    let mut unsafe_body = question("tiny", "n", false);
    unsafe_body["adapters"] = json!("/etc");
    assert_eq!(server.chat(&unsafe_body).await.status, 400);
    let status = server.status().await;
    let model = &status["models"][0];
    assert_eq!(
        (&model["engine"], &model["state"]),
        (&json!("script"), &json!("ready"))
    );
    // The supervisor alone holds less; what is held is looked at now and then.
    let holds = |status: &Value| {
        let held = status["models"][0]["footprint_bytes"].as_u64();
        held > Some(5_000_000)
    };
    server.until("what the engine holds", holds).await;
}

#[tokio::test]
async fn ready_is_a_path_that_says_so_or_a_line() {
    for (arguments, ready) in [
        (vec!["--late-health", "0.3"], "/health"),
        (
            vec!["--slow", "0.2", "--line", "serving on it"],
            "serving on",
        ),
    ] {
        let arguments = [vec!["--port", "{port}"], arguments].concat();
        let home = home(&arguments, &format!("    ready: {ready}\n"));
        let server = home.serve();
        told(&server).await;
    }
}

#[tokio::test]
async fn an_engine_that_ends_at_once_or_never_is_ready_is_told_so() {
    let failing = home(&["--port", "{port}", "--fail"], "");
    let server = failing.serve();
    let answer = server.chat(&question("tiny", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "load_failed")
    );
    assert!(
        !answer.text.contains("weights"),
        "for the owner alone: {answer:?}"
    );
    let status = server.status().await;
    let reason = &status["models"][0]["last_failure"]["reason"];
    let reason = reason.as_str().expect("a reason");
    assert!(
        reason.contains("ended with code 1 before it was ready"),
        "{reason}"
    );
    assert!(
        reason.contains("it wrote last: no \\u{1b}[31mweights"),
        "{reason}"
    );
    drop(server);
    let hanging = home(
        &["--port", "{port}", "--hang", "--family", "family"],
        "server: { limits: { load_time: 1s } }\n",
    );
    let server = hanging.serve();
    let answer = server.chat(&question("tiny", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "load_timeout")
    );
}

#[tokio::test]
async fn f01_an_engine_that_dies_is_told_and_replaced() {
    let home = home(&["--port", "{port}"], "");
    let server = home.serve();
    let before = pid(&told(&server).await);
    let mut die = question("tiny", "n", true);
    die["die"] = json!(true);
    let answer = server.chat(&die).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "worker_crashed")
    );
    server.logged(&["the worker of tiny", "ended with code 7"]);
    assert_ne!(pid(&told(&server).await), before);
}

#[tokio::test]
async fn f10_whatever_an_engine_started_ends_with_it_however_deaf() {
    let note = tempfile::tempdir().expect("a folder");
    let family = note.path().join("family");
    let family_text = family.display().to_string();
    let arguments = ["--port", "{port}", "--deaf", "--family", &family_text];
    let home = home(&arguments, "");
    let server = home.serve();
    let all = async |server: &Server| {
        let engine = pid(&told(server).await);
        let text = std::fs::read_to_string(&family).expect("written");
        let mut all: Vec<u32> = text
            .split(' ')
            .map(|pid| pid.parse().expect("a pid"))
            .collect();
        all.push(engine);
        assert!(all.iter().all(|pid| lives(*pid)), "{all:?}");
        all
    };
    // By an unload, whose grace time it sits out.
    if long() {
        let first = all(&server).await;
        unload(&server).await;
        until("all gone", || !first.iter().any(|pid| lives(*pid))).await;
    }
    // By the end of the server, and by one that is gone without a word.
    for signal in [Signal::TERM, Signal::KILL] {
        let mut server = home.serve();
        let before = all(&server).await;
        server.signal(signal);
        server.wait();
        until("all gone", || !before.iter().any(|pid| lives(*pid))).await;
    }
}

#[tokio::test]
async fn the_signal_of_the_file_asks_it_to_end() {
    let note = tempfile::tempdir().expect("a folder");
    let farewell = note.path().join("farewell");
    let text = farewell.display().to_string();
    let home = home(
        &["--port", "{port}", "--farewell", &text],
        "    stop: SIGINT\n",
    );
    let server = home.serve();
    told(&server).await;
    unload(&server).await;
    until("a farewell", || farewell.exists()).await;
    assert_eq!(
        std::fs::read_to_string(&farewell).expect("written"),
        "SIGINT"
    );
}

#[tokio::test]
async fn an_engine_that_never_stops_writing_serves_all_the_same() {
    let home = home(&["--port", "{port}", "--flood"], "log: debug\n");
    let server = home.serve();
    for _ in 0..5 {
        told(&server).await;
    }
    let log = server.log();
    assert!(
        log.contains("early early") && !log.contains("late late"),
        "it may hold what it was asked"
    );
}

#[tokio::test]
async fn a_port_that_somebody_takes_is_not_taken_for_the_engine() {
    let race = tempfile::tempdir().expect("a folder");
    let text = race.path().display().to_string();
    let home = home(&["--port", "{port}", "--race", &text], "");
    let server = home.serve();
    let stranger = async {
        let file = race.path().join("port");
        until("a port", || file.exists()).await;
        let port = std::fs::read_to_string(&file).expect("written");
        let port: u16 = port.parse().expect("a port");
        let stranger = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
        std::fs::write(race.path().join("taken"), "").expect("written");
        (port, stranger)
    };
    let (told, (port, _stranger)) = tokio::join!(told(&server), stranger);
    assert_ne!(told["arguments"][1], port.to_string());
}
