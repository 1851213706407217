//! Workers that die, hang or never come up, and a router that is killed: every
//! request ends honestly and nothing is left behind (group F).

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::harness::{Answer, Home, lives, question};

fn kill(pid: &serde_json::Value) {
    let pid = Pid::from_raw(pid.as_i64().expect("a pid") as i32).expect("a pid");
    kill_process(pid, Signal::KILL).expect("sent");
}

/// Reads a stream up to its first piece and answers the pid that sent it.
async fn first_piece(response: &mut reqwest::Response) -> (Vec<u8>, serde_json::Value) {
    let mut text = Vec::new();
    loop {
        text.extend_from_slice(&response.chunk().await.expect("bytes").expect("more"));
        let seen = Answer {
            status: 200,
            headers: response.headers().clone(),
            text: String::from_utf8_lossy(&text).into_owned(),
        };
        if !seen.content().is_empty() {
            return (text, seen.told()["pid"].clone());
        }
    }
}

#[tokio::test]
async fn f01_a_worker_killed_in_mid_stream_is_an_error_event_and_no_done() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1000, "token_ms": 20}));
    let server = home.serve();
    let mut stream = server
        .post("/v1/chat/completions", &question("t/a", "n", true))
        .await;
    assert_eq!(stream.status(), 200);
    let (mut text, pid) = first_piece(&mut stream).await;
    kill(&pid);
    while let Some(more) = stream.chunk().await.expect("a clean end of the body") {
        text.extend_from_slice(&more);
    }
    let text = String::from_utf8(text).expect("text");
    assert!(!text.contains("[DONE]"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let error: serde_json::Value =
        serde_json::from_str(last.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(error["error"]["code"], "worker_crashed", "{last}");
    let mut short = question("t/a", "again", false);
    short["scripted"] = json!({"tokens": 1});
    let again = server.chat(&short).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.told()["pid"], pid);
}

#[tokio::test]
async fn f01_a_worker_that_dies_before_the_headers_is_502() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted(
        "t/a",
        json!({"tokens": 1, "crash": {"at": "headers", "how": "kill", "once": "crashed"}}),
    );
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "worker_crashed")
    );
    assert_eq!(server.chat(&question("t/a", "n", true)).await.status, 200);
}

#[tokio::test]
async fn f01_an_unstreamed_answer_cut_short_is_502() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 9, "token_ms": 5, "crash": {"at": "token", "token": 4, "how": "abort", "once": "crashed"}}));
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "worker_crashed")
    );
}

#[tokio::test]
async fn f02_a_worker_that_dies_while_it_loads_refuses_its_waiters() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted(
        "t/a",
        json!({"tokens": 1, "load_ms": 50, "crash": {"at": "load", "how": "exit"}}),
    );
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "load_failed")
    );
}

#[tokio::test]
async fn f03_an_idle_worker_that_was_killed_is_replaced_without_an_error() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    kill(&pid);
    server
        .until("seen", |status| {
            status["counters"]["unloads"]["crashed"] == 1
        })
        .await;
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(answer.told()["pid"], pid);
}

#[tokio::test]
async fn f01_a_crash_of_one_model_leaves_the_others_alone() {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    home.scripted("t/b", json!({"tokens": 60, "token_ms": 10}));
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    let body = question("t/b", "n", true);
    let stream = server.chat(&body);
    let killing = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        kill(&pid);
    };
    let (stream, ()) = tokio::join!(stream, killing);
    assert_eq!(stream.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn l04_a_load_that_takes_too_long_is_504_and_its_worker_is_ended() {
    let home = Home::new("server: { limits: { load_time: 300ms } }\nmodels: { t/a: {} }\n");
    home.scripted(
        "t/a",
        json!({"hang": {"at": "load"}, "ignore_sigterm": true}),
    );
    let server = home.serve();
    let answer = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (504, "load_timeout")
    );
    server
        .until("reaped", |status| status["memory"]["reserved_bytes"] == 0)
        .await;
}

/// Waits until the worker is gone and nothing of it is reserved.
async fn until_recycled(server: &super::harness::Server, workers: u64) {
    server
        .until("recycled", |status| {
            status["counters"]["unloads"]["requested"] == workers
                && status["memory"]["reserved_bytes"] == 0
                && status["requests"]["running"] == 0
        })
        .await;
}

#[tokio::test]
async fn l04_an_engine_that_never_says_a_first_word_is_504_and_its_worker_is_replaced() {
    let home = Home::new("server: { limits: { first_token: 300ms } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let mut pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    for (workers, stream) in [(1, false), (2, true)] {
        let mut body = question("t/a", "n", stream);
        body["scripted"] = json!({"hang": {"at": "headers"}});
        let answer = server.chat(&body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (504, "first_token_timeout")
        );
        until_recycled(&server, workers).await;
        assert!(!lives(pid.as_u64().expect("a pid") as u32), "{stream}");
        let again = server.chat(&question("t/a", "n", false)).await;
        assert_eq!(again.status, 200, "{again:?}");
        let next = again.told()["pid"].clone();
        assert_ne!(next, pid, "streamed: {stream}");
        pid = next;
    }
}

#[tokio::test]
async fn l04_an_unstreamed_answer_that_hangs_is_504_and_the_others_of_its_worker_end_well() {
    let home = Home::new("server: { limits: { first_token: 400ms } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 4}));
    let server = home.serve();
    let mut hangs = question("t/a", "hangs", false);
    hangs["scripted"] = json!({"hang": {"at": "token", "token": 2}});
    // It goes on for longer than the other is waited for.
    let mut well = question("t/a", "well", true);
    well["scripted"] = json!({"tokens": 40, "token_ms": 25});
    let (hung, well) = tokio::join!(server.chat(&hangs), server.chat(&well));
    assert_eq!(
        (hung.status, hung.code().as_str()),
        (504, "first_token_timeout")
    );
    assert_eq!(well.events().last().map(String::as_str), Some("[DONE]"));
    until_recycled(&server, 1).await;
    let pid = well.told()["pid"].clone();
    assert!(!lives(pid.as_u64().expect("a pid") as u32), "it lives on");
    let again = server.chat(&question("t/a", "again", false)).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.told()["pid"], pid);
}

#[tokio::test]
async fn l04_an_engine_that_stops_between_tokens_is_an_error_event_and_its_worker_is_replaced() {
    let home = Home::new("server: { limits: { between_tokens: 300ms } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 4}));
    let server = home.serve();
    let mut body = question("t/a", "n", true);
    body["scripted"] = json!({"hang": {"at": "token", "token": 2}});
    let answer = server.chat(&body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.text.contains("[DONE]"), "{answer:?}");
    let events = answer.events();
    let last: serde_json::Value =
        serde_json::from_str(events.last().expect("an event").trim()).expect("JSON");
    assert_eq!(last["error"]["code"], "upstream_timeout", "{last}");
    let pid = answer.told()["pid"].clone();
    until_recycled(&server, 1).await;
    let again = server.chat(&question("t/a", "again", false)).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.told()["pid"], pid);
}

#[tokio::test]
async fn l04_a_silent_stream_leaves_the_others_of_its_model_alone() {
    let home = Home::new("server: { limits: { between_tokens: 300ms } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 40, "token_ms": 50}));
    let server = home.serve();
    let mut silent = question("t/a", "silent", true);
    silent["scripted"] = json!({"hang": {"at": "token", "token": 2}});
    let well = question("t/a", "well", true);
    let (silent, well) = tokio::join!(server.chat(&silent), server.chat(&well));
    assert!(!silent.text.contains("[DONE]"), "{silent:?}");
    assert_eq!(well.events().last().map(String::as_str), Some("[DONE]"));
    until_recycled(&server, 1).await;
}

#[tokio::test]
async fn f09_a_killed_router_leaves_no_worker_and_the_next_start_is_clean() {
    let home = Home::new("models: { t/a: {}, t/b: {}, t/slow: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "ignore_sigterm": true}));
    home.scripted("t/b", json!({"tokens": 1}));
    home.scripted("t/slow", json!({"load_ms": 60_000}));
    let mut server = home.serve();
    let mut pids = Vec::new();
    for model in ["t/a", "t/b"] {
        let told = server.chat(&question(model, "n", false)).await.told();
        pids.push(told["pid"].as_u64().expect("a pid") as u32);
    }
    let loading = server.request(reqwest::Method::POST, "/v1/chat/completions");
    let body = question("t/slow", "n", false).to_string();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(
        loading
            .header("content-type", "application/json")
            .body(body)
            .send(),
    );
    let status = server.until("loading", |status| {
        status["models"].as_array().is_some_and(|models| {
            models
                .iter()
                .any(|model| model["state"] == "loading" && model["process"].is_u64())
        })
    });
    let status = status.await;
    for model in status["models"].as_array().expect("a list") {
        pids.extend(model["process"].as_u64().map(|pid| pid as u32));
    }
    server.signal(Signal::KILL);
    server.wait();
    let killed = Instant::now();
    while pids.iter().any(|&pid| lives(pid)) {
        assert!(
            killed.elapsed() < Duration::from_secs(2),
            "workers live on: {pids:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        tasks
            .join_next()
            .await
            .expect("a task")
            .expect("its end")
            .is_err(),
        "the request ended with the router"
    );
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
}

#[tokio::test]
async fn f10_a_worker_with_a_child_and_deaf_to_sigterm_is_ended_with_it() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted(
        "t/a",
        json!({"tokens": 1, "ignore_sigterm": true, "spawn_child": true}),
    );
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"]
        .as_u64()
        .expect("a pid") as u32;
    let group = members(pid);
    assert!(group.len() >= 2, "{group:?}");
    let (status, body) = server
        .control(
            reqwest::Method::POST,
            "/admin/models/unload",
            Some(json!({"model": "t/a"})),
        )
        .await;
    assert_eq!(status, 200, "{body}");
    // The unload is answered when the worker has been reaped.
    assert!(!lives(pid));
    let ended = Instant::now();
    while group.iter().any(|&pid| lives(pid)) {
        assert!(
            ended.elapsed() < Duration::from_secs(2),
            "a grandchild lives on: {group:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Processes of a group, by its leader.
fn members(leader: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return vec![leader];
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            after_name.split_whitespace().nth(2) == Some(&leader.to_string())
        })
        .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn f07_a_worker_has_what_is_documented_and_nothing_else() {
    let home = Home::new("models: { t/a: {} }\n");
    let snapshot = home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    let proc = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).expect("readable");
    let words = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("text");
        text.split_terminator('\0')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let command = words(proc("cmdline"));
    assert_eq!(command[1], "worker");
    let at = command
        .iter()
        .position(|word| word == "--model-dir")
        .expect("the folder");
    assert_eq!(std::path::Path::new(&command[at + 1]), snapshot);
    let names: Vec<_> = words(proc("environ"))
        .iter()
        .filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
        .collect();
    let allowed = [
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "LC_ALL",
        "TZ",
        "RUST_BACKTRACE",
        "LLVM_PROFILE_FILE",
    ];
    for name in &names {
        assert!(
            allowed.contains(&name.as_str()) || name.starts_with("ROUNDHOUSE_"),
            "{names:?}"
        );
    }
    let sockets = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("readable")
        .filter_map(|entry| std::fs::read_link(entry.expect("an entry").path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    let own: std::collections::BTreeSet<_> = sockets
        .iter()
        .filter(|target| target.starts_with("socket:"))
        .collect();
    // Its own listener, the router's connection and the pair that signals come
    // by; no inherited listener.
    assert!(own.len() <= 4, "{sockets:?}");
}
