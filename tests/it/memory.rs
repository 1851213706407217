//! What models really hold: it is learnt from run to run, watched while they
//! live, and running out of it costs as little as can be.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::Method;
use roundhouse::platform::footprint;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::cgroup::Cgroup;
use super::harness::{Answer, Home, Server, lives, long, question};
use super::records::{metric, scrape, state};
use super::sampler::children;

/// One model of the status.
fn model(status: &Value, name: &str) -> Value {
    let models = status["models"].as_array().expect("a list");
    let found = models.iter().find(|model| model["model"] == name);
    found.cloned().unwrap_or(Value::Null)
}

/// A number of one model.
fn figure(status: &Value, name: &str, key: &str) -> u64 {
    let pointer = format!("/{}", key.replace('.', "/"));
    let model = model(status, name);
    model.pointer(&pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// A request that changes the script for itself.
fn asking(model: &str, stream: bool, script: Value) -> Value {
    let mut body = question(model, "n", stream);
    body["scripted"] = script;
    body
}

/// Takes a model out of memory and waits until it is gone.
async fn unload(server: &Server, name: &str) {
    let body = Some(json!({"model": name}));
    let path = "/admin/models/unload";
    let (status, body) = server.control(Method::POST, path, body).await;
    assert_eq!(status, 200, "{body}");
}

/// Begins a stream and waits for its first piece; answers who sends it.
async fn begin(server: &Server, body: &Value) -> (reqwest::Response, Value, Vec<u8>) {
    let mut response = server.post("/v1/chat/completions", body).await;
    let mut text = Vec::new();
    loop {
        let more = response.chunk().await.expect("bytes");
        text.extend_from_slice(&more.unwrap_or_else(|| panic!("{}", lossy(&text))));
        let seen = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: lossy(&text),
        };
        if !seen.content().is_empty() {
            return (response, seen.told()["pid"].clone(), text);
        }
    }
}

/// Reads a stream to its end: its last event.
async fn last_event(mut response: reqwest::Response, mut text: Vec<u8>) -> Value {
    while let Some(more) = response.chunk().await.expect("a clean end") {
        text.extend_from_slice(&more);
    }
    let text = lossy(&text);
    assert!(!text.contains("[DONE]"), "{text}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let data = last.strip_prefix("data: ").unwrap_or_default();
    serde_json::from_str(data).unwrap_or_else(|_| panic!("{text}"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn what_was_learnt_is_on_the_disk_and_holds_after_the_next_start() {
    let home = Home::new("memory: 600MB\nmodels: { t/more: {}, t/less: {} }\n");
    home.scripted(
        "t/more",
        json!({"memory_bytes": 20_000_000, "grow_bytes": 80_000_000, "tokens": 1}),
    );
    home.scripted("t/less", json!({"tokens": 1}));
    let mut server = home.serve();
    let before = server.status().await;
    let estimate = figure(&before, "t/less", "need_bytes");
    server.chat(&question("t/more", "n", false)).await;
    let has_seen = |status: &Value| figure(status, "t/more", "reserved_bytes") >= 100_000_000;
    server.until("seen", has_seen).await;
    unload(&server, "t/more").await;
    for life in 1..=3 {
        let need = figure(&server.status().await, "t/less", "need_bytes");
        assert_eq!(need, estimate, "after {} lives", life - 1);
        server.chat(&question("t/less", "n", false)).await;
        unload(&server, "t/less").await;
    }
    let after = server.status().await;
    let check = |status: &Value| {
        let more = figure(status, "t/more", "need_bytes");
        assert!((115_000_000..150_000_000).contains(&more), "{status:#}");
        let less = figure(status, "t/less", "need_bytes");
        assert!(less > 0 && less < estimate, "{status:#}");
        assert_eq!(
            model(status, "t/less")["ledger"]["trusted"],
            true,
            "{status:#}"
        );
    };
    check(&after);
    assert!(figure(&before, "t/more", "need_bytes") < 50_000_000);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let ledger = state(&home, "ledger.json");
    let mode = std::fs::metadata(&ledger)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let server = home.serve();
    check(&server.status().await);
    // And it is what a load reserves.
    server.chat(&question("t/more", "n", false)).await;
    let status = server.status().await;
    assert!(
        figure(&status, "t/more", "reserved_bytes") >= 115_000_000,
        "{status:#}"
    );
    // Other files are another model.
    drop(server);
    home.scripted("t/more", json!({"memory_bytes": 21_000_000, "tokens": 1}));
    let server = home.serve();
    let status = server.status().await;
    assert!(
        figure(&status, "t/more", "need_bytes") < 50_000_000,
        "{status:#}"
    );
    assert_eq!(model(&status, "t/more")["ledger"], Value::Null);
}

#[tokio::test]
async fn a_broken_or_foreign_ledger_costs_what_it_taught_and_nothing_else() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let path = state(&home, "ledger.json");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    for (text, word) in [
        ("{\"version\": 1, \"ent", "no ledger"),
        (
            "{\"version\": 7, \"entries\": []}",
            "has the form 7 and this program reads 1",
        ),
    ] {
        std::fs::write(&path, text).expect("written");
        let server = home.serve();
        server.logged(&["ledger is begun anew", word]);
        let aside = std::fs::read_to_string(path.with_extension("json.broken"));
        assert_eq!(aside.expect("put aside"), text);
        assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    }
    let text = std::fs::read_to_string(&path).expect("written anew");
    let ledger: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(ledger["entries"][0]["model"], "t/a", "{ledger}");
}

#[tokio::test]
async fn a_worker_far_beyond_the_budget_is_ended_and_its_holders_hear_why() {
    let home = Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB } }\n");
    home.scripted("t/a", json!({"tokens": 2000, "token_ms": 10}));
    let server = home.serve();
    let (stream, pid, text) = begin(&server, &question("t/a", "n", true)).await;
    let grow = asking("t/a", false, json!({"tokens": 1, "grow_bytes": 20_000_000}));
    // So much that its entry rises and nothing else happens.
    assert_eq!(server.chat(&grow).await.status, 200);
    assert_eq!(server.chat(&grow).await.status, 200);
    let grow = asking("t/a", false, json!({"tokens": 1, "grow_bytes": 90_000_000}));
    let more = server.chat(&grow).await;
    let error = last_event(stream, text).await;
    assert_eq!(error["error"]["code"], "insufficient_memory", "{error}");
    let message = error["error"]["message"].as_str().expect("a message");
    for part in ["t/a", "60.0 MB were reserved", "the budget is 100.0 MB"] {
        assert!(message.contains(part), "{message}");
    }
    // Its own answer may have been ready before anybody looked.
    if more.status != 200 {
        assert_eq!(more.code(), "insufficient_memory", "{more:?}");
    }
    server.logged(&["holds more than it may"]);
    let status = server
        .until("reaped", |status| {
            status["counters"]["unloads"]["memory"] == 1 && status["memory"]["reserved_bytes"] == 0
        })
        .await;
    let need = figure(&status, "t/a", "need_bytes");
    assert_eq!(need, 100_000_000, "all that it can have: {status:#}");
    let small = asking("t/a", false, json!({"tokens": 1}));
    let again = server.chat(&small).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.told()["pid"], pid);
    assert_eq!(
        metric(&server, "unloads_total{reason=\"memory\"}").await,
        1.0
    );
}

#[tokio::test]
async fn above_the_budget_nobody_new_gets_the_model_until_it_falls() {
    let home = Home::new(
        "memory: 400MB\npool: { switch_after: 1m }\n\
         models: { t/a: { memory: 200MB }, t/b: { memory: 200MB } }\n",
    );
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 2000, "token_ms": 10}));
    }
    let server = home.serve();
    let (_b, ..) = begin(&server, &question("t/b", "n", true)).await;
    let (_a, pid, _) = begin(&server, &question("t/a", "n", true)).await;
    let large = json!({"tokens": 150, "token_ms": 10, "work_bytes": 205_000_000});
    let large = asking("t/a", false, large);
    let small = asking("t/a", false, json!({"tokens": 1}));
    let waits = async {
        let drains = |status: &Value| model(status, "t/a")["state"] == "draining";
        let status = server.until("above the budget", drains).await;
        let reserved = figure(&status, "t/a", "reserved_bytes");
        assert!(reserved > 200_000_000, "{status:#}");
        assert_eq!(model(&status, "t/b")["state"], "ready", "{status:#}");
        server.chat(&small).await
    };
    let (large, small) = tokio::join!(server.chat(&large), waits);
    assert_eq!((large.status, small.status), (200, 200), "{small:?}");
    let waited = small.header("x-roundhouse-wait-ms").expect("a header");
    assert_ne!(waited, "0", "{small:?}");
    assert_eq!(small.told()["pid"], pid, "it was not loaded anew");
    let status = server.status().await;
    assert_eq!(model(&status, "t/a")["state"], "ready", "{status:#}");
    assert_eq!(status["counters"]["unloads"], json!({}), "{status:#}");
}

#[tokio::test]
async fn a_load_that_says_that_memory_ran_out_is_tried_once_more_without_the_idle() {
    let home =
        Home::new("memory: 300MB\nmodels: { t/once: {}, t/never: { memory: 50MB }, t/idle: {} }\n");
    let oom = json!({"at": "load", "how": "oom", "once": "ran-out"});
    home.scripted("t/once", json!({"tokens": 1, "crash": oom}));
    // More than any system gives: the allocation itself fails.
    home.scripted("t/never", json!({"tokens": 1, "memory_bytes": 1_u64 << 50}));
    home.scripted("t/idle", json!({"tokens": 1}));
    let server = home.serve();
    let idle = server.chat(&question("t/idle", "n", false)).await;
    let idle = idle.told()["pid"].as_u64().expect("a pid") as u32;
    let answer = server.chat(&question("t/once", "n", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!lives(idle));
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 3, "{status:#}");
    assert_eq!(status["counters"]["load_failures"], 0, "{status:#}");
    assert_eq!(status["counters"]["unloads"]["memory"], 1, "{status:#}");
    let answer = server.chat(&question("t/never", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "load_failed")
    );
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 5, "once more: {status:#}");
    assert_eq!(status["counters"]["load_failures"], 1, "{status:#}");
    let reason = &model(&status, "t/never")["last_failure"]["reason"];
    let reason = reason.as_str().expect("a reason");
    assert!(reason.starts_with("oom: out of memory"), "{reason}");
}

#[tokio::test]
async fn f22_a_worker_that_the_system_ends_for_memory_is_told_as_that() {
    let Some(cgroup) = Cgroup::of(150_000_000) else {
        return;
    };
    let home = Home::new("memory: 2GB\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 2000, "token_ms": 10}));
    let mut server = home.serve_after(&cgroup.enter());
    let (stream, pid, text) = begin(&server, &question("t/a", "n", true)).await;
    let grow = json!({"tokens": 1, "grow_bytes": 400_000_000});
    let grow = asking("t/a", false, grow);
    let grown = server.chat(&grow).await;
    assert_eq!(
        (grown.status, grown.code().as_str()),
        (502, "worker_crashed"),
        "{grown:?}"
    );
    let error = last_event(stream, text).await;
    assert_eq!(error["error"]["code"], "worker_crashed", "{error}");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(message.contains("(oom)"), "{message}");
    server.logged(&["was ended by the system: out of memory"]);
    let status = server.status().await;
    assert_eq!(status["counters"]["unloads"]["memory"], 1, "{status:#}");
    assert_eq!(
        status["counters"]["unloads"]["crashed"],
        Value::Null,
        "{status:#}"
    );
    let again = server
        .chat(&asking("t/a", false, json!({"tokens": 1})))
        .await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_ne!(again.told()["pid"], pid);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0), "the router lives on");
}

#[tokio::test]
async fn f22_a_load_that_the_system_ends_for_memory_is_tried_again_without_the_idle() {
    let Some(cgroup) = Cgroup::of(138_000_000) else {
        return;
    };
    let home = Home::new("memory: 2GB\nmodels: { t/idle: {}, t/big: {}, t/huge: {} }\n");
    for (id, bytes) in [
        ("t/idle", 40_000_000),
        ("t/big", 95_000_000),
        ("t/huge", 400_000_000),
    ] {
        home.scripted(id, json!({"tokens": 1, "memory_bytes": bytes}));
    }
    let server = home.serve_after(&cgroup.enter());
    assert_eq!(
        server.chat(&question("t/idle", "n", false)).await.status,
        200
    );
    let answer = server.chat(&question("t/big", "n", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
    let status = server.status().await;
    assert_eq!(model(&status, "t/idle")["state"], "unloaded", "{status:#}");
    assert_eq!(status["counters"]["loads"], 3, "one was tried again");
    assert_eq!(status["counters"]["load_failures"], 0, "{status:#}");
    let answer = server.chat(&question("t/huge", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "load_failed")
    );
    let status = server.status().await;
    let reason = &model(&status, "t/huge")["last_failure"]["reason"];
    assert!(
        reason
            .as_str()
            .is_some_and(|text| text.starts_with("oom: ")),
        "{status:#}"
    );
    assert_eq!(
        server.chat(&question("t/idle", "n", false)).await.status,
        200
    );
}

#[tokio::test]
async fn swaps_leave_nothing_behind() {
    let home = Home::new(
        "memory: 100MB\npool: { switch_after: 50ms }\n\
         models: { t/a: { memory: 60MB }, t/b: { memory: 60MB } }\n",
    );
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 1, "memory_bytes": 30_000_000}));
    }
    let server = home.serve();
    let held = async |swaps: usize| {
        for swap in 0..swaps {
            let model = ["t/a", "t/b"][swap % 2];
            assert_eq!(server.chat(&question(model, "n", false)).await.status, 200);
        }
        let workers = children(server.pid());
        assert_eq!(workers.len(), 1);
        let all = workers.into_iter().chain([server.pid()]);
        let each = all.filter_map(|pid| Some(footprint::of(pid)?.private.0));
        each.sum::<u64>()
    };
    // The first ones fill the router's own pools.
    let base = held(6).await;
    let swaps = if long() { 50 } else { 8 };
    let after = held(swaps).await;
    let allowed = base + base / 20;
    assert!(after <= allowed, "{base} before, {after} after");
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 6 + swaps, "{status:#}");
}

#[tokio::test]
async fn the_status_and_the_metrics_tell_how_short_memory_is() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "memory_bytes": 30_000_000}));
    let server = home.serve();
    server.chat(&question("t/a", "n", false)).await;
    let seen = |status: &Value| figure(status, "t/a", "footprint_bytes") > 30_000_000;
    let status = server.until("looked at", seen).await;
    let pressure = &status["memory"]["pressure"];
    let levels = ["normal", "warn", "critical"].map(Value::from);
    assert!(levels.contains(&pressure["level"]), "{status:#}");
    assert!(pressure["free_bytes"].as_u64() > Some(0), "{status:#}");
    let footprint = status["memory"]["footprint_bytes"].as_u64();
    assert!(footprint > Some(30_000_000), "{status:#}");
    let text = scrape(&server).await;
    for name in [
        "memory_pressure ",
        "memory_free_bytes ",
        "memory_footprint_bytes ",
        "model_footprint_bytes{model=\"t/a\"} ",
        "model_need_bytes{model=\"t/a\"} ",
    ] {
        assert!(text.contains(&format!("\nroundhouse_{name}")), "{text}");
    }
}

#[tokio::test]
async fn f10_what_a_worker_holds_is_not_free_before_it_is_reaped() {
    let home =
        Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB }, t/b: { memory: 60MB } }\n");
    let deaf = json!({"tokens": 1, "ignore_sigterm": true, "spawn_child": true});
    home.scripted("t/a", deaf);
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    let pid = pid.as_u64().expect("a pid") as u32;
    let start = Instant::now();
    let next = question("t/b", "n", false);
    let swap = server.chat(&next);
    let looks = async {
        let mut counted = 0;
        loop {
            // In this order: it may be reaped in between.
            let alive = lives(pid);
            let status = server.status().await;
            if !alive || !lives(pid) {
                return counted;
            }
            let stopping = model(&status, "t/a")["state"] == "stopping";
            assert_eq!(figure(&status, "t/a", "reserved_bytes"), 60_000_000);
            assert_ne!(model(&status, "t/b")["state"], "loading", "{status:#}");
            counted += u32::from(stopping);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (answer, counted) = tokio::join!(swap, looks);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(counted > 10, "{counted} looks");
    assert!(start.elapsed() >= Duration::from_secs(4), "the grace time");
}
