//! The browser as attacker (W-09): pages of other origins, in headless Chromium,
//! try everything a page can against a server with models loaded. What a page
//! could read it tells its own server; what happened is asked of Roundhouse.

mod chromium;
mod site;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Home, Server, question};
use chromium::Chromium;
use site::Site;

/// How long one trick may be silent before the page goes on.
const TRICK: Duration = Duration::from_secs(5);

/// How long a browser may take for all of it.
const BROWSING: Duration = Duration::from_secs(240);

/// What a page would say to the inference port.
fn inference_calls() -> Value {
    let chat = question("t/a", "stolen", false).to_string();
    json!([
        {"path": "/v1/chat/completions", "body": chat},
        {"path": "/v1/completions", "body": json!({"model": "t/b", "prompt": "x", "nonce": "stolen"}).to_string()},
        {"path": "/v1/models", "body": "{}"},
    ])
}

/// What a page would say to the management port.
fn management_calls() -> Value {
    json!([
        {"path": "/admin/models/unload", "body": json!({"model": "t/a", "mode": "now"}).to_string()},
        {"path": "/admin/models/load", "body": json!({"model": "t/c"}).to_string()},
        {"path": "/admin/models/release", "body": "{}"},
        {"path": "/admin/reload", "body": "{}"},
        {"path": "/admin/status", "body": "{}"},
    ])
}

/// Three models, of which two are loaded. Each writes down what reaches it.
fn home(yaml: &str) -> Home {
    let home = Home::new(&format!(
        "{yaml}models: {{ t/a: {{}}, t/b: {{}}, t/c: {{}} }}\n"
    ));
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 3, "journal": "journal"}));
    }
    home
}

/// A server whose models `t/a` and `t/b` are loaded.
async fn loaded(home: &Home) -> Server {
    let server = home.serve();
    for id in ["t/a", "t/b"] {
        let body = Some(json!({"model": id}));
        let load = server.control(reqwest::Method::POST, "/admin/models/load", body);
        assert_eq!(load.await.0, 200, "{}", server.log());
    }
    server
}

/// What an effect would change: counters, the configuration's generation, and of
/// each model its state, process and whether it was used since `since`.
async fn state(server: &Server, since: Instant) -> Value {
    // Before the server is asked: what was not used is idle for at least so long.
    let elapsed = since.elapsed().as_secs_f64();
    let status = server.status().await;
    let models: Vec<_> = status["models"]
        .as_array()
        .expect("models")
        .iter()
        .map(|model| {
            let idle = model["idle_seconds"].as_f64();
            // The idle clock may begin a moment after the answer was read; a browser takes
            // longer than this to start.
            let used = idle.is_some_and(|idle| idle + 0.5 < elapsed);
            json!([model["model"], model["state"], model["process"], used])
        })
        .collect();
    json!([
        status["counters"],
        status["configuration"]["generation"],
        models
    ])
}

/// What reached any of the models.
fn journals(home: &Home) -> String {
    let models = ["t--a", "t--b", "t--c"].map(|id| {
        let snapshots = home.cache().join(format!("models--{id}/snapshots"));
        let commit = std::fs::read_dir(snapshots)
            .expect("snapshots")
            .flatten()
            .next();
        let journal = commit.expect("a snapshot").path().join("journal");
        std::fs::read_to_string(journal).unwrap_or_default()
    });
    models.concat()
}

/// The lines of the audit that tell of something that was done.
fn effects(home: &Home) -> usize {
    let audit = home.path().join(".local/state/roundhouse/audit.jsonl");
    let text = std::fs::read_to_string(audit).expect("an audit");
    text.lines()
        .filter(|line| line.contains("\"allowed\""))
        .count()
}

/// The result of one trick, as the page tells it.
fn outcome<'a>(report: &'a Value, target: &str, trick: &str) -> Vec<&'a str> {
    let results = report.as_array().expect("a list").iter();
    results
        .filter(|result| result["target"] == target && result["trick"] == trick)
        .map(|result| result["outcome"].as_str().expect("an outcome"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn w09_a_page_on_another_port_reads_nothing_and_changes_nothing() {
    let home = home("");
    assert_eq!(home.run(&["keys", "new", "--management"]).0, 0);
    let server = loaded(&home).await;
    let site = Site::open().await;
    let victim = json!([{"path": "/victim", "body": "{\"a\":1}"}]);
    let plan = json!({"patience": TRICK.as_millis() as u64, "targets": [
        {"name": "victim", "base": site.victim, "calls": victim},
        {"name": "inference", "base": server.inference, "calls": inference_calls()},
        {"name": "management", "base": server.management, "calls": management_calls()},
    ]});
    let page = site.attack(&plan);
    let since = Instant::now();
    let (before, allowed, reached) = (state(&server, since).await, effects(&home), journals(&home));

    let browser = Chromium::open(&page, &[]);
    let report = site.report(&browser, BROWSING).await;

    // The tricks are real: an open server gets them all, and the page reads its answers.
    let arrived = site.arrived();
    for trick in site::TRICKS {
        assert!(
            arrived.contains(*trick),
            "{trick} never left the browser: {arrived:?}"
        );
    }
    for trick in [
        "fetch-json",
        "fetch-x-api-key",
        "xhr",
        "own-service-worker",
        "sandboxed",
    ] {
        let read = outcome(&report, "victim", trick);
        assert!(
            read.iter().all(|read| read.contains("secret")),
            "{trick}: {read:?}"
        );
    }
    // Here they get nothing.
    let results = report.as_array().expect("a list");
    assert!(results.len() > 300, "{} results", results.len());
    for result in results.iter().filter(|result| result["target"] != "victim") {
        let outcome = result["outcome"].as_str().expect("an outcome");
        assert!(!outcome.starts_with("read"), "{result}\n{}", server.log());
    }
    assert_eq!(state(&server, since).await, before, "{}", server.log());
    assert_eq!(effects(&home), allowed);
    assert_eq!(journals(&home), reached);
}

#[tokio::test(flavor = "multi_thread")]
async fn w09_a_page_of_a_listed_origin_can_chat() {
    let site = Site::open().await;
    let home = home(&format!(
        "server: {{ allowed_origins: [\"{}\"] }}\n",
        site.origin
    ));
    let server = loaded(&home).await;
    let plan = json!({"patience": TRICK.as_millis() as u64, "targets": [
        {"name": "inference", "base": server.inference, "calls": inference_calls()},
    ]});
    let reached = journals(&home);
    let browser = Chromium::open(&site.attack(&plan), &[]);
    let report = site.report(&browser, BROWSING).await;
    let read = outcome(&report, "inference", "fetch-json");
    assert!(
        read[0].starts_with("read: 200") && read[0].contains("chat.completion"),
        "{read:?}"
    );
    assert_ne!(journals(&home), reached, "what reaches a model is seen");
    // A page in a frame without an origin is not the listed one.
    for outcome in outcome(&report, "inference", "sandboxed") {
        assert!(!outcome.starts_with("read"), "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn w09_a_page_whose_name_was_bound_to_this_machine_is_refused() {
    let home = home("");
    let key = home.run(&["keys", "new", "--management"]).1;
    let server = loaded(&home).await;
    for (target, calls) in [
        (&server.inference, inference_calls()),
        (&server.management, management_calls()),
    ] {
        let site = Site::open().await;
        // The key would open management, if the page had come by it.
        let page = site.rebound(target, &calls, key.trim()).await;
        let since = Instant::now();
        let (before, allowed, reached) =
            (state(&server, since).await, effects(&home), journals(&home));
        let proxy = format!("--proxy-server={}", page.proxy);
        let browser = Chromium::open(&page.url, &[&proxy]);
        let report = site.report(&browser, BROWSING).await;
        let results = report.as_array().expect("a list");
        assert_eq!(results.len(), 2 * calls.as_array().expect("calls").len());
        for result in results {
            assert_eq!(result["status"], 403, "{result}\n{}", server.log());
            let text = result["text"].as_str().expect("a text");
            assert!(
                text.contains("host_not_allowed") && !text.contains("t/a"),
                "{text}"
            );
        }
        assert_eq!(state(&server, since).await, before, "{}", server.log());
        assert_eq!(effects(&home), allowed);
        assert_eq!(journals(&home), reached);
    }
}
