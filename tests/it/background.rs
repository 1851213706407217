//! Background names through the true binary: whatever permitted model is up
//! answers, says so, and nothing is loaded or put out for them.

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, question};

/// Room for one of three; one has no entry and is only allowed.
fn home() -> Home {
    let home = Home::new(
        "
memory: 100MB
allow: [x/*]
pool: { switch_after: 100ms }
server: { heartbeat_after: 50ms }
models:
  t/title: { memory: 60MB, aliases: [own, {name: titles, background: true}] }
  t/chat: { memory: 60MB }
",
    );
    for id in ["t/title", "t/chat"] {
        home.scripted(id, json!({"tokens": 2}));
    }
    home.scripted("x/big", json!({"tokens": 2, "memory_bytes": 60_000_000}));
    home
}

/// The answer of a model, which says by its own word who it is.
#[track_caller]
fn check(answer: &Answer, model: &str, route: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.told()["model"], model, "{answer:?}");
    assert_eq!(answer.header("x-roundhouse-model"), Some(model));
    assert_eq!(answer.header("x-roundhouse-route"), Some(route));
}

async fn loads(server: &Server) -> Value {
    server.status().await["counters"]["loads"].clone()
}

#[tokio::test]
async fn a_title_generator_beside_a_chat_never_causes_a_swap() {
    let home = home();
    let server = home.serve();
    for round in 0..10 {
        let chat = server.chat(&question("t/chat", "c", round % 2 == 0)).await;
        check(&chat, "t/chat", "exact");
        let title = server.chat(&question("titles", "t", round % 3 == 0)).await;
        check(&title, "t/chat", "background");
    }
    assert_eq!(loads(&server).await, 1);
    // By a name that is not background its own model comes, and then answers for itself.
    check(
        &server.chat(&question("own", "n", false)).await,
        "t/title",
        "alias",
    );
    check(
        &server.chat(&question("titles", "n", false)).await,
        "t/title",
        "background",
    );
    check(
        &server.chat(&question("x/big", "n", false)).await,
        "x/big",
        "allowed",
    );
    check(
        &server.chat(&question("titles", "n", false)).await,
        "x/big",
        "background",
    );
    assert_eq!(loads(&server).await, 3);
}

#[tokio::test]
async fn with_nothing_up_its_own_model_is_loaded_and_early_headers_claim_nothing() {
    let home = home();
    home.scripted("t/title", json!({"tokens": 2, "load_ms": 300}));
    let server = home.serve();
    let answer = server.chat(&question("titles", "n", true)).await;
    assert_eq!(answer.header("x-roundhouse-route"), Some("background"));
    assert_eq!(answer.header("x-roundhouse-model"), None, "not known yet");
    assert!(
        answer.text.contains(": x-roundhouse-model: t/title\n"),
        "{answer:?}"
    );
    assert!(answer.text.ends_with("data: [DONE]\n\n"), "{answer:?}");
}

#[tokio::test]
async fn only_what_the_caller_may_use_answers() {
    let home = home();
    let (code, out, error) = home.run(&["keys", "new", "--models", "t/title"]);
    assert_eq!(code, 0, "{error}");
    let narrow = out.lines().next().expect("a key").trim().to_owned();
    let (code, out, error) = home.run(&["keys", "new"]);
    assert_eq!(code, 0, "{error}");
    let wide = out.lines().next().expect("a key").trim().to_owned();
    let server = home.serve();
    let ask = async |key: &str, model: &str| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(question(model, "n", false).to_string());
        Answer::read(request.send().await.expect("an answer")).await
    };
    check(&ask(&wide, "t/chat").await, "t/chat", "exact");
    check(&ask(&wide, "titles").await, "t/chat", "background");
    check(&ask(&narrow, "titles").await, "t/title", "background");
}
