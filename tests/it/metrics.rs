//! What is counted, and what health says (group O).

use std::time::Instant;

use reqwest::Method;
use serde_json::json;

use super::harness::{Answer, Home, PATIENCE, Server, long, question};
use super::raw::Raw;
use super::records::{home, manage, metric, scrape, until_metric, value};

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

/// The case's "fd-starved": the limit of the running server is lowered from outside,
/// so that it can open nothing at all. An open connection still gets its answers, a
/// new one waits and is served when there are descriptors again.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn o05_without_a_free_descriptor_health_is_alive_and_ready_is_not() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let home = home();
    let server = home.serve();
    let mut open = Raw::connect(&server.inference).await;
    let check = async |open: &mut Raw, ready: (u16, &str)| {
        for (path, (status, word)) in [("/health", (200, "ok")), ("/ready", ready)] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            open.send(head).await;
            let reply = open.reply().await;
            let body = json!({"status": word}).to_string();
            assert_eq!((reply.status, reply.body), (status, body), "{path}");
        }
    };
    check(&mut open, (200, "ok")).await;
    let pid = Pid::from_raw(server.pid() as i32);
    // The server's own soft limit is its hard one, which it has from here.
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = |current| Rlimit { current, maximum };
    let before = prlimit(pid, Resource::Nofile, limit(Some(8))).expect("lowered");
    check(&mut open, (503, "degraded")).await;
    let mut waits = Raw::connect(&server.inference).await;
    server.logged(&["connections are not accepted"]);
    check(&mut open, (503, "degraded")).await;
    prlimit(pid, Resource::Nofile, before).expect("restored");
    check(&mut open, (200, "ok")).await;
    check(&mut waits, (200, "ok")).await;
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
