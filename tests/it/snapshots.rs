//! Snapshots that are broken or hostile (group M of the security cases): a 404
//! with the reason, no worker, and nothing lost for the models beside them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Home, Server, question};

/// Puts a file in place of a link or a file of the snapshot.
fn put(snapshot: &Path, name: &str, content: &[u8]) {
    let path = snapshot.join(name);
    let _ = fs::remove_file(&path);
    fs::write(path, content).expect("written");
}

/// Puts a link in place of a file of the snapshot.
fn link(snapshot: &Path, name: &str, target: &str) {
    let path = snapshot.join(name);
    let _ = fs::remove_file(&path);
    symlink(target, path).expect("linked");
}

/// A safetensors file with this header and eight bytes of data.
fn weights(header: &str) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([0; 8]);
    file
}

/// Breaks a model in one way and asks for it: a 404 that says why, no worker
/// started, and the model beside it answers.
async fn check(break_it: impl FnOnce(&Path), reason: &str) {
    let home = Home::new("allow: ['t/*']\n");
    home.scripted("t/whole", json!({"tokens": 1}));
    break_it(&home.scripted("t/broken", json!({"tokens": 1})));
    let server = home.serve();
    let answer = server.chat(&question("t/broken", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "model_not_found"),
        "{answer:?}"
    );
    assert!(
        answer.text.contains(reason),
        "expected {reason:?} in {answer:?}"
    );
    assert!(
        !answer.text.contains(&*home.path().to_string_lossy()),
        "a path is told: {answer:?}"
    );
    assert_eq!(
        server.status().await["counters"]["loads"],
        0,
        "a worker was started"
    );
    assert_eq!(
        server.chat(&question("t/whole", "n", false)).await.status,
        200
    );
}

#[tokio::test]
async fn m11_links_that_leave_the_repository() {
    check(|s| link(s, "config.json", "/etc/hostname"), "unsafe_link").await;
    check(
        |s| link(s, "tokenizer.json", "../../../../x"),
        "unsafe_link",
    )
    .await;
    check(|s| link(s, "model.safetensors", "/dev/zero"), "unsafe_link").await;
    check(|s| link(s, "scripted.json", "scripted.json"), "unsafe_link").await;
    let other = "../../../models--t--whole/blobs/blob-config.json";
    check(|s| link(s, "config.json", other), "unsafe_link").await;
}

#[tokio::test]
async fn m12_what_is_not_downloaded_to_its_end() {
    let missing = "model-00002-of-00002.safetensors is missing";
    let index = json!({"weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
    }});
    let whole = weights(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#);
    let half = |snapshot: &Path| {
        put(
            snapshot,
            "model.safetensors.index.json",
            index.to_string().as_bytes(),
        );
        put(snapshot, "model-00001-of-00002.safetensors", &whole);
        fs::write(snapshot.join("../../blobs/abc.incomplete"), b"half").expect("written");
    };
    check(half, missing).await;
    check(
        |s| put(s, "model.safetensors", b""),
        "model.safetensors (empty)",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", &whole[..whole.len() - 1]),
        "incomplete",
    )
    .await;
    check(
        |s| link(s, "scripted.json", "../../blobs/not-there"),
        "scripted.json is missing",
    )
    .await;
    let empty = |snapshot: &Path| {
        for name in ["config.json", "scripted.json"] {
            fs::remove_file(snapshot.join(name)).expect("removed");
        }
    };
    check(empty, "config.json is missing").await;
}

#[tokio::test]
async fn m15_configurations_that_are_traps() {
    let marker = std::env::temp_dir().join("a-marker-that-code-of-a-model-would-leave");
    let code =
        json!({"model_type": "scripted", "auto_map": {"AutoModel": "evil.Model"}}).to_string();
    let hostile = |snapshot: &Path| {
        put(snapshot, "config.json", code.as_bytes());
        let line = format!("open({marker:?}, 'w')\n");
        put(snapshot, "evil.py", line.as_bytes());
    };
    check(hostile, "untrusted_code").await;
    assert!(!marker.exists());
    check(
        |s| put(s, "config.json", &vec![b' '; 50 << 20]),
        "is larger than",
    )
    .await;
    check(
        |s| put(s, "config.json", &br#"{"a":"#.repeat(10_000)),
        "recursion limit",
    )
    .await;
    let twice = br#"{"model_type": "scripted", "model_type": "llama"}"#;
    check(|s| put(s, "config.json", twice), "twice").await;
}

/// The entry opens what its name says and nothing more: no code is run, and weights
/// and links are judged as ever.
#[tokio::test]
async fn m15_an_entry_may_trust_a_model_that_comes_with_code() {
    let home = Home::new(
        "allow: ['t/*']\nmodels: { trusted: { repo: t/code, trust_remote_code: true } }\n",
    );
    let marker = home
        .path()
        .join("a-marker-that-code-of-a-model-would-leave");
    let snapshot = home.scripted("t/code", json!({"tokens": 1}));
    let config = json!({"model_type": "scripted", "max_position_embeddings": 64,
        "auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": true});
    put(&snapshot, "config.json", config.to_string().as_bytes());
    let line = format!("open({:?}, 'w')\n", marker);
    put(&snapshot, "evil.py", line.as_bytes());
    let server = home.serve();
    let answer = server.chat(&question("t/code", "n", false)).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.text.contains("untrusted_code"), "{answer:?}");
    let answer = server.chat(&question("trusted", "n", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!marker.exists());
    link(&snapshot, "evil.py", "/etc/hostname");
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let answer = server.chat(&question("trusted", "n", false)).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.text.contains("unsafe_link"), "{answer:?}");
}

/// What an entry or a cached id lacks is told to management, with what mends it and
/// without a path.
#[tokio::test]
async fn m11_m12_management_is_told_why_and_what_mends_it() {
    let home = Home::new("allow: ['t/*']\nmodels: { t/gone: {} }\n");
    home.scripted("t/whole", json!({"tokens": 1}));
    home.scripted("other/model", json!({"tokens": 1}));
    let half = home.scripted("t/half", json!({"tokens": 1}));
    link(&half, "scripted.json", "../../blobs/not-there");
    fs::write(half.join("../../blobs/not-there.incomplete"), b"half").expect("written");
    let out = home.scripted("t/out", json!({"tokens": 1}));
    link(&out, "config.json", "/etc/hostname");
    let pointer = home.scripted("t/pointer", json!({"tokens": 1}));
    let lfs = b"version https://git-lfs.github.com/spec/v1\n";
    put(&pointer, "config.json", lfs);
    fs::create_dir(home.cache().join("models--gpt2")).expect("a folder");
    let server = home.serve();
    let (status, plain) = server.control(Method::GET, "/admin/models", None).await;
    assert_eq!((status, &plain["why"]), (200, &Value::Null));
    let (_, told) = server
        .control(Method::GET, "/admin/models?why=1", None)
        .await;
    let of = |id: &str| {
        let lines = told["why"].as_array().expect("lines");
        let line = lines.iter().find(|line| line["id"] == id);
        line.unwrap_or_else(|| panic!("no {id} in {told}")).clone()
    };
    assert_eq!(of("t/whole")["served_as"], json!(["t/whole"]));
    assert_eq!(of("t/whole")["reason"], Value::Null);
    for (id, reason, mend) in [
        ("t/gone", "not cached", "hf download t/gone"),
        (
            "t/half",
            "incomplete: scripted.json is missing (one download is not finished)",
            "hf download t/half",
        ),
        ("t/out", "unsafe_link: config.json", "remove the link"),
        (
            "t/pointer",
            "bad_file: config.json is a git-lfs pointer without its content",
            "hf download t/pointer --force-download",
        ),
        (
            "other/model",
            "allow does not permit it",
            "roundhouse allow other/model",
        ),
        ("models--gpt2", "its name is not", "remove the folder"),
    ] {
        let line = of(id);
        let has =
            |key: &str, part: &str| line[key].as_str().is_some_and(|text| text.contains(part));
        assert!(has("reason", reason) && has("mend", mend), "{line}");
        assert_eq!(line["served_as"], json!([]), "{line}");
    }
    let text = told["why"].to_string();
    assert!(!text.contains(&*home.path().to_string_lossy()), "{text}");
}

#[tokio::test]
async fn m17_m18_weights_that_are_none() {
    let overlap = r#"{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}"#;
    check(
        |s| put(s, "model.safetensors", &weights(overlap)),
        "bad_weights",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", &weights("not json")),
        "bad_weights",
    )
    .await;
    let mut huge = weights("{}");
    huge[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    check(
        |s| put(s, "model.safetensors", &huge),
        "claims 9223372036854775808",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", b"GGUF\x03\0\0\0\0\0\0\0"),
        "a GGUF file",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", b"<!DOCTYPE html>"),
        "a web page",
    )
    .await;
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    check(|s| put(s, "model.safetensors", pointer), "git-lfs pointer").await;
}

/// The words of a worker's command line.
#[cfg(target_os = "linux")]
fn command_of(pid: &Value) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("readable");
    let line = String::from_utf8(line).expect("text");
    line.split_terminator('\0').map(str::to_owned).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn m16_a_load_takes_a_name_and_nothing_that_could_reach_a_command_line() {
    let home = Home::new("models: { t/a: { context: 64, kv: 1MB } }\n");
    let snapshot = home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let load = async |body: Value| {
        server
            .control(Method::POST, "/admin/models/load", Some(body))
            .await
    };
    let fields = [
        "args",
        "env",
        "command",
        "--log-file",
        "port",
        "extra_args",
        "path",
    ];
    for field in fields {
        for value in [
            json!(["--scripted-engine"]),
            json!("--x"),
            json!({"A": "b"}),
        ] {
            let (status, answer) = load(json!({"model": "t/a", field: value})).await;
            assert_eq!(
                (status, &answer["error"]["code"]),
                (400, &json!("invalid_value")),
                "{field}: {answer}"
            );
        }
    }
    // A dash may stand at the start of a name, and no model has such a one.
    for name in ["--model-dir", "-t/a", "--socket=/x"] {
        let (status, answer) = load(json!({"model": name})).await;
        assert!([400, 404].contains(&status), "{name}: {answer}");
    }
    assert_eq!(server.status().await["counters"]["loads"], 0);
    assert_eq!(load(json!({"model": "t/a"})).await.0, 200);
    let status = server.status().await;
    let mut command = command_of(&status["models"][0]["process"]);
    assert!(command.remove(0).ends_with("roundhouse"));
    let socket = command.remove(2);
    assert!(socket.starts_with('/') && socket.len() <= 104, "{socket}");
    let dir = snapshot.canonicalize().expect("a folder");
    let expected = format!(
        "worker --socket --model-dir {} --engine scripted --context 64 --parallel 8 \
         --kv 1000000 --kv-format auto --compute auto --adapters 0",
        dir.display()
    );
    assert_eq!(command.join(" "), expected);
}

/// The most memory the router has held, bytes.
#[cfg(target_os = "linux")]
fn peak(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("readable");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.expect("a figure").parse::<u64>().expect("a number") << 10
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn m19_the_router_renders_no_template_and_parses_no_tokenizer() {
    let home = Home::new("allow: ['t/*']\n");
    home.scripted("t/whole", json!({"tokens": 1}));
    let snapshot = home.scripted("t/hostile", json!({"tokens": 1}));
    put(
        &snapshot,
        "chat_template.jinja",
        b"{{ ''.__class__.__mro__[1].__subclasses__() }}{% for i in range(10 ** 12) %}{% endfor %}",
    );
    let deep = br#"{"chat_template":"#.repeat(10_000);
    put(&snapshot, "tokenizer_config.json", &deep);
    put(&snapshot, "special_tokens_map.json", &deep);
    let tokenizer = fs::File::create(snapshot.join("tokenizer.json")).expect("created");
    tokenizer.set_len(2 << 30).expect("sparse");
    let server = home.serve();
    for model in ["t/hostile", "t/whole"] {
        let answer = server.chat(&question(model, "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.get("/v1/models").await.0, 200);
    assert!(peak(&server) < 256 << 20, "{} bytes", peak(&server));
    // What the worker makes of them is its own affair: here it dies of a request.
    let script = json!({"tokens": 4, "crash": {"at": "headers"}});
    home.scripted("t/hostile", script);
    let unload = json!({"model": "t/hostile", "mode": "drain"});
    let (status, answer) = server
        .control(Method::POST, "/admin/models/unload", Some(unload))
        .await;
    assert_eq!(status, 200, "{answer}");
    let answer = server.chat(&question("t/hostile", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "worker_crashed")
    );
    let other = server.chat(&question("t/whole", "n", false)).await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn m20_weights_that_crash_at_the_first_token_rest_longer_and_longer() {
    let home = Home::new("allow: ['t/*']\n");
    home.scripted("t/whole", json!({"tokens": 1}));
    home.scripted(
        "t/broken",
        json!({"tokens": 4, "crash": {"at": "token", "token": 0}}),
    );
    let server = home.serve();
    let whole = server.chat(&question("t/whole", "n", false)).await;
    let other = whole.told()["pid"].clone();
    let start = Instant::now();
    let (mut crashed, mut resting) = (0, 0);
    while resting < 3 {
        let answer = server.chat(&question("t/broken", "n", false)).await;
        match (answer.status, answer.code().as_str()) {
            (502, "worker_crashed") => crashed += 1,
            (503, "load_failed") => {
                resting += 1;
                assert_eq!(answer.header("x-should-retry"), Some("false"), "{answer:?}");
            }
            told => panic!("{told:?}: {answer:?}"),
        }
        let whole = server.chat(&question("t/whole", "n", false)).await;
        assert_eq!(whole.told()["pid"], other, "another model was disturbed");
        assert!(start.elapsed() < Duration::from_secs(60), "it never rests");
    }
    // Once more at once, then after 1, 2, 4 … seconds of rest.
    let rests = (start.elapsed().as_secs() + 1).ilog2() + 1;
    assert!(
        crashed <= 1 + rests + 1,
        "{crashed} in {:?}",
        start.elapsed()
    );
    let loads = server.status().await["counters"]["loads"].as_u64();
    assert!(loads.expect("a number") <= 1 + u64::from(1 + rests + 1));
}

/// Flipped bits in the header are refused before a worker starts; in the data they
/// cannot be seen, and are what `m20` above is about.
#[tokio::test]
async fn m20_a_flipped_bit_in_a_header_is_refused() {
    let whole = weights(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#);
    let flipped = |at: usize| {
        let mut file = whole.clone();
        file[at] ^= 0x08;
        file
    };
    // In the length, in the number format, in an offset.
    for at in [7, 25, 65] {
        check(|s| put(s, "model.safetensors", &flipped(at)), "bad_weights").await;
    }
}

/// A download moves the branch first and brings file after file: until the last is
/// there the snapshot of before goes on serving, with its worker.
#[tokio::test]
async fn an_update_on_its_way_cuts_nobody_off() {
    let home = Home::new("allow: ['t/*']\n");
    let snapshot = home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let reload = || server.control(Method::POST, "/admin/reload", None);
    let ask = || async {
        let answer = server.chat(&question("t/a", "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
        answer.told()["pid"].clone()
    };
    let first = ask().await;
    let next = "b".repeat(40);
    let repository = snapshot.ancestors().nth(2).expect("a repository");
    fs::write(repository.join("refs/main"), &next).expect("written");
    assert_eq!(reload().await.0, 200);
    assert_eq!(ask().await, first, "the branch has moved");
    let arriving = repository.join("snapshots").join(&next);
    fs::create_dir(&arriving).expect("made");
    for name in ["config.json", "scripted.json"] {
        assert_eq!(reload().await.0, 200);
        assert_eq!(ask().await, first, "{name} is not there");
        fs::copy(snapshot.join(name), arriving.join(name)).expect("copied");
    }
    fs::remove_dir_all(&snapshot).expect("removed");
    assert_eq!(reload().await.0, 200);
    let body = Some(json!({"model": "t/a"}));
    let unloaded = server.control(Method::POST, "/admin/models/unload", body);
    assert_eq!(unloaded.await.0, 200);
    assert_ne!(ask().await, first, "all of it is there, and nothing else");
}
