//! Editing the file while the server runs: what changed is in force, what did
//! not is untouched, and a broken file changes nothing.

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Home, Server, question};

const BEFORE: &str = "models: { t/a: {}, t/b: {} }\n";

fn home() -> Home {
    let home = Home::new(BEFORE);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

async fn reload(server: &Server) -> (u16, Value) {
    server.control(Method::POST, "/admin/reload", None).await
}

#[tokio::test]
async fn what_changed_is_in_force_and_unedited_models_stay_loaded() {
    let home = home();
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    home.configure("models: { t/a: { aliases: [first] }, t/c: {} }\n");
    assert_eq!(
        server.chat(&question("t/c", "n", false)).await.status,
        404,
        "not before the reload"
    );
    let (status, change) = reload(&server).await;
    assert_eq!(status, 200, "{change}");
    assert_eq!(
        server.chat(&question("first", "n", false)).await.told()["pid"],
        pid
    );
    assert_eq!(server.chat(&question("t/c", "n", false)).await.status, 200);
    assert_eq!(server.chat(&question("t/b", "n", false)).await.status, 404);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_where() {
    let home = home();
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    home.configure("models:\n  t/a: { idle_unlod: 10m }\n");
    let (status, error) = reload(&server).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (400, Some("invalid_value")),
        "{error}"
    );
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("idle_unload") && message.contains(":2:"),
        "{message}"
    );
    assert_eq!(
        server.get("/health").await,
        (200, json!({"status": "degraded"}))
    );
    assert_eq!(
        server.chat(&question("t/a", "n", false)).await.told()["pid"],
        pid
    );
    home.configure(BEFORE);
    assert_eq!(reload(&server).await.0, 200);
    assert_eq!(server.get("/health").await, (200, json!({"status": "ok"})));
}

#[tokio::test]
async fn a_hang_up_reloads() {
    let home = home();
    let server = home.serve();
    home.configure("models: { t/c: {} }\n");
    server.signal(Signal::HUP);
    server
        .until("reloaded", |status| {
            status["configuration"]["generation"] == 2
        })
        .await;
    assert_eq!(server.chat(&question("t/c", "n", false)).await.status, 200);
}

#[tokio::test]
async fn r17_a_model_removed_in_mid_stream_finishes_and_is_gone() {
    let home = home();
    home.scripted("t/a", json!({"tokens": 30, "token_ms": 20}));
    let server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let edit = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        home.configure("models: { t/b: {} }\n");
        assert_eq!(reload(&server).await.0, 200);
        assert_eq!(
            server.chat(&question("t/a", "late", false)).await.status,
            404
        );
    };
    let (stream, ()) = tokio::join!(stream, edit);
    assert_eq!(
        stream.events().last().map(String::as_str),
        Some("[DONE]"),
        "{stream:?}"
    );
    server
        .until("unloaded", |status| {
            status["counters"]["unloads"]["config"] == 1
        })
        .await;
}

#[tokio::test]
async fn a_hundred_edits_of_an_alias_drop_nothing_and_unload_nothing() {
    let home = home();
    home.scripted("t/a", json!({"tokens": 400, "token_ms": 5}));
    let server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let edits = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        for round in 0..100 {
            home.configure(&format!(
                "models: {{ t/a: {{ aliases: [name{round}] }} }}\n"
            ));
            assert_eq!(reload(&server).await.0, 200);
        }
    };
    let (stream, ()) = tokio::join!(stream, edits);
    assert_eq!(stream.events().last().map(String::as_str), Some("[DONE]"));
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 1);
    assert_eq!(status["counters"]["unloads"], json!({}));
    let mut short = question("name99", "n", false);
    short["scripted"] = json!({"tokens": 1});
    assert_eq!(server.chat(&short).await.status, 200);
}
