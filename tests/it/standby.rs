//! The process of the next model, started while another one drains: through the true
//! binary, looked at from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Response;
use roundhouse::platform::footprint;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, lives, question};
use super::sampler::children;

/// What a model's worker takes, bytes.
const MEMORY: u64 = 40_000_000;

/// What a process that stands by does not come near, bytes.
const LITTLE: u64 = 20_000_000;

/// Room for one of two models, with a short wait for the drain of the other.
fn one_of_two(pool: &str, first: Value, second: Value) -> Home {
    let home = Home::new(&format!(
        "memory: 100MB\npool: {{ switch_after: 50ms, {pool} }}\nmodels:\n  \
         t/a: {{ memory: 60MB }}\n  t/b: {{ memory: 60MB }}\n"
    ));
    for (id, more) in [("t/a", first), ("t/b", second)] {
        let mut script = json!({"memory_bytes": MEMORY, "tokens": 2});
        let more = more.as_object().expect("an object").clone();
        script.as_object_mut().expect("an object").extend(more);
        home.scripted(id, script);
    }
    home
}

/// What is shown of a model.
fn shown<'v>(status: &'v Value, model: &str) -> &'v Value {
    let models = status["models"].as_array().expect("models");
    let mut found = models.iter().filter(|it| it["model"] == model);
    found.next().expect("a model")
}

/// The process of `t/b` that stands by.
fn standby(status: &Value) -> Option<u32> {
    let pid = shown(status, "t/b")["standby_process"].as_u64()?;
    Some(u32::try_from(pid).expect("a pid"))
}

/// A stream of `t/a` that has begun, and its process.
async fn streaming(server: &Server) -> (Response, u32) {
    let body = question("t/a", "first", true);
    let mut stream = server.post("/v1/chat/completions", &body).await;
    stream.chunk().await.expect("bytes").expect("a piece");
    let status = server.status().await;
    let pid = shown(&status, "t/a")["process"].as_u64();
    (stream, pid.expect("a pid") as u32)
}

/// Waits until the process of `t/b` stands by.
async fn stands_by(server: &Server) -> u32 {
    let status = server
        .until("standing by", |it| standby(it).is_some())
        .await;
    assert_eq!(shown(&status, "t/a")["state"], "draining", "{status:#}");
    assert_eq!(shown(&status, "t/b")["state"], "waiting", "{status:#}");
    standby(&status).expect("it stands by")
}

/// The rest of the answer that [`streaming`] began, which is to be whole.
async fn whole(stream: Response) {
    let answer = Answer::read(stream).await;
    assert!(answer.text.contains("[DONE]"), "{answer:?}");
}

/// Looks at `process` again and again until told to stop: the most that it was seen to
/// hold of its own while `other` had not been reaped.
fn most_beside(process: u32, other: u32, stop: Arc<AtomicBool>) -> u64 {
    let is_there = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        let held = footprint::of(process).map_or(0, |held| held.private.0);
        // It was there before this, since it is there now.
        if is_there(other) {
            most = most.max(held);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    most
}

#[tokio::test]
async fn the_next_model_takes_no_memory_before_the_one_that_drains_is_reaped() {
    let first = json!({"tokens": 30, "token_ms": 40});
    let home = one_of_two("queue: 8", first, json!({"load_ms": 20}));
    let server = home.serve();
    let (stream, old) = streaming(&server).await;
    let body = question("t/b", "second", false);
    let next = async {
        let process = stands_by(&server).await;
        assert!(lives(old), "it still answers");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let watch = std::thread::spawn(move || most_beside(process, old, told));
        whole(stream).await;
        (process, stop, watch)
    };
    let (answer, (process, stop, watch)) = tokio::join!(server.chat(&body), next);
    stop.store(true, Ordering::Relaxed);
    let most = watch.join().expect("no panic");
    assert!(0 < most && most < LITTLE, "{most} bytes beside the other");
    assert_eq!(answer.told()["pid"], process, "the one that stood by");
    let held = footprint::of(process).expect("it lives").private.0;
    assert!(held > MEMORY, "{held}");
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 2, "{status:#}");
    assert_eq!(children(server.pid()), [process]);
    let phases = &shown(&status, "t/b")["load_phases"];
    let of = |phase: &str| phases[phase].as_f64().expect("milliseconds");
    // The drain is over a second; no part of it counts as the load's.
    assert!(of("standby") > 200.0 && of("ahead") > 0.0, "{phases}");
    assert!(of("evaluate") >= 20.0, "{phases}");
    // In whole milliseconds.
    assert!(
        of("process") + 1.0 >= of("ahead") + of("evaluate"),
        "{phases}"
    );
    let alone = &shown(&status, "t/a")["load_phases"];
    assert!(alone.is_null(), "{alone}");
}

#[tokio::test]
async fn what_stands_by_goes_when_nobody_waits_any_more() {
    let first = json!({"tokens": 60, "token_ms": 40});
    let home = one_of_two("queue: 8", first, json!({}));
    let server = home.serve();
    let (stream, old) = streaming(&server).await;
    let body = question("t/b", "second", false);
    let process = tokio::select! {
        answer = server.chat(&body) => panic!("{answer:?}"),
        process = stands_by(&server) => process,
    };
    let gone = |status: &Value| {
        let is_back = shown(status, "t/a")["state"] == "ready";
        is_back && standby(status).is_none()
    };
    let status = server.until("gone", gone).await;
    assert_eq!(status["memory"]["reserved_bytes"], 60_000_000, "{status:#}");
    assert_eq!(shown(&status, "t/b")["last_failure"], Value::Null);
    assert!(!lives(process));
    assert_eq!(children(server.pid()), [old]);
    whole(stream).await;
    assert_eq!(server.status().await["counters"]["loads"], 1);
}

#[tokio::test]
async fn what_stands_by_for_a_drain_without_end_goes_with_the_patience_of_who_waits() {
    let first = json!({"tokens": 3, "hang": {"at": "token", "token": 2}});
    let home = one_of_two("queue_timeout: 1s", first, json!({}));
    let server = home.serve();
    let (_stream, old) = streaming(&server).await;
    let body = question("t/b", "second", false);
    let (answer, process) = tokio::join!(server.chat(&body), stands_by(&server));
    assert_eq!(answer.code(), "queue_timeout", "{answer:?}");
    server.until("gone", |it| standby(it).is_none()).await;
    assert!(!lives(process));
    assert_eq!(children(server.pid()), [old]);
}

#[tokio::test]
async fn what_crashes_while_it_stands_by_is_a_load_that_failed() {
    let first = json!({"tokens": 40, "token_ms": 40});
    let crash = json!({"crash": {"at": "prepare", "how": "exit"}});
    let home = one_of_two("queue: 8", first, crash);
    let server = home.serve();
    let (stream, old) = streaming(&server).await;
    let answer = server.chat(&question("t/b", "second", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "load_failed"),
        "{answer:?}"
    );
    let status = server.status().await;
    assert_eq!(shown(&status, "t/a")["state"], "ready", "nobody waits");
    assert_eq!(shown(&status, "t/b")["state"], "failed");
    let reason = &shown(&status, "t/b")["last_failure"]["reason"];
    assert_eq!(reason, "its worker ended with code 17 before it was ready");
    assert_eq!(status["counters"]["loads"], 2);
    assert_eq!(status["counters"]["load_failures"], 1);
    assert_eq!(children(server.pid()), [old]);
    whole(stream).await;
}

#[tokio::test]
async fn what_stands_by_ends_with_the_server_however_that_ends() {
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::KILL, None)] {
        let first = json!({"tokens": 30, "token_ms": 40});
        let home = one_of_two("queue: 8", first, json!({"ignore_sigterm": true}));
        let mut server = home.serve();
        let (stream, old) = streaming(&server).await;
        let body = question("t/b", "second", false);
        let process = tokio::select! {
            answer = server.chat(&body) => panic!("{answer:?}"),
            process = stands_by(&server) => process,
        };
        server.signal(signal);
        if code.is_some() {
            whole(stream).await;
        }
        assert_eq!(server.wait(), code);
        for pid in [old, process] {
            let gone = async {
                while lives(pid) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
            assert!(gone.is_ok(), "{pid} is left over after {signal:?}");
        }
    }
}
