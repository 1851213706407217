//! Waiting for a model through the true binary: places in the line, classes, and
//! what those hear who do not want to wait.

use reqwest::Method;
use roundhouse::shutdown::Tasks;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, question};

/// Four models of which the budget holds one.
fn home(pool: &str) -> Home {
    let home = Home::new(&format!(
        "memory: 100MB\npool: {{ {pool} }}\nmodels:\n  t/a: {{ memory: 60MB }}\n  \
         t/b: {{ memory: 60MB }}\n  t/c: {{ memory: 60MB }}\n  t/d: {{ memory: 60MB }}\n"
    ));
    for id in ["t/a", "t/b", "t/c", "t/d"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

/// A stream that holds `t/a` until it is dropped.
async fn hold(server: &Server) -> reqwest::Response {
    let mut body = question("t/a", "holds", true);
    body["scripted"] = json!({"tokens": 100_000, "token_ms": 20});
    let mut response = server.post("/v1/chat/completions", &body).await;
    response.chunk().await.expect("bytes").expect("a piece");
    response
}

/// Asks with a class, in a task of its own, and waits until it stands in the line.
async fn queue(
    server: &Server,
    model: &str,
    class: Option<&str>,
    waiting: u64,
) -> tokio::task::JoinHandle<(Answer, std::time::Instant)> {
    let mut request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("content-type", "application/json")
        .body(question(model, "n", false).to_string());
    if let Some(class) = class {
        request = request.header("x-priority", class);
    }
    let asked = Tasks::new().spawn(async move {
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        (answer, std::time::Instant::now())
    });
    server
        .until("in the line", |status| {
            status["requests"]["waiting"] == waiting
        })
        .await;
    asked
}

#[tokio::test]
async fn the_line_is_told_truly_and_a_higher_class_overtakes() {
    let home = home("switch_after: 10m");
    let server = home.serve();
    let holder = hold(&server).await;
    let low = queue(&server, "t/b", Some("low"), 1).await;
    let normal = queue(&server, "t/c", None, 2).await;
    let high = queue(&server, "t/d", Some("high"), 3).await;
    let last = queue(&server, "t/b", Some("low"), 4).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(holder);
    let mut answers = Vec::new();
    for (name, asked) in [
        ("low", low),
        ("normal", normal),
        ("high", high),
        ("last", last),
    ] {
        let (answer, at) = asked.await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        let number = |header| -> u64 {
            let text = answer.header(header).expect("a header");
            text.parse().expect("a number")
        };
        // Each came before the holder left.
        assert!(number("x-roundhouse-wait-ms") >= 50, "{answer:?}");
        answers.push((at, name, number("x-roundhouse-queue-position")));
    }
    answers.sort();
    let order: Vec<_> = answers.iter().map(|(_, name, _)| *name).collect();
    assert_eq!(order[..2], ["high", "normal"], "{answers:?}");
    let position = |wanted| answers.iter().find(|(_, name, _)| *name == wanted);
    let position = |wanted| position(wanted).map(|(_, _, position)| *position);
    assert_eq!(position("low"), Some(0));
    assert_eq!(position("normal"), Some(0), "before what is low");
    assert_eq!(position("high"), Some(0));
    assert_eq!(position("last"), Some(3));
    let again = server.chat(&question("t/b", "n", false)).await;
    assert_eq!(again.header("x-roundhouse-queue-position"), Some("0"));
}

#[tokio::test]
async fn without_autoload_a_cold_model_is_a_conflict() {
    let home = home("autoload: true");
    let server = home.serve();
    let ask = async |query: &str| {
        let path = format!("/v1/chat/completions{query}");
        Answer::read(server.post(&path, &question("t/a", "n", false)).await).await
    };
    let cold = ask("?autoload=false").await;
    assert_eq!((cold.status, cold.code().as_str()), (409, "conflict"));
    assert_eq!(cold.header("x-should-retry"), Some("false"));
    assert_eq!(server.status().await["counters"]["loads"], 0);
    assert_eq!(ask("").await.status, 200);
    assert_eq!(ask("?autoload=false").await.status, 200);
    let odd = ask("?autoload=maybe").await;
    assert_eq!((odd.status, odd.code().as_str()), (400, "invalid_value"));
}

#[tokio::test]
async fn where_contention_fails_nobody_waits_for_a_busy_model() {
    let home = home("contention: fail");
    let server = home.serve();
    let holder = hold(&server).await;
    let refused = server.chat(&question("t/b", "n", false)).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "overloaded")
    );
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    drop(holder);
    server
        .until("free", |status: &Value| status["requests"]["running"] == 0)
        .await;
    assert_eq!(server.chat(&question("t/b", "n", false)).await.status, 200);
}

#[tokio::test]
async fn where_contention_preempts_the_one_who_loses_the_model_hears_it() {
    let home = home("contention: preempt, switch_after: 200ms");
    let server = home.serve();
    let holder = hold(&server).await;
    let asked = question("t/b", "n", false);
    let (answer, lost) = tokio::join!(server.chat(&asked), Answer::read(holder));
    assert_eq!(answer.status, 200, "{answer:?}");
    let events = lost.events();
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "overloaded", "{last}");
}

/// What clients do whose own patience is shorter than a load: they leave and send
/// the same again. The load is not theirs alone, so it goes on.
#[tokio::test]
async fn a_request_that_is_sent_again_meets_the_load_that_its_first_try_began() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "load_ms": 1000}));
    let server = home.serve();
    let patience = std::time::Duration::from_millis(400);
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        let body = question("t/a", "same", true);
        let asked = tokio::time::timeout(patience, server.chat(&body));
        if let Ok(answer) = asked.await {
            break answer;
        }
    };
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(server.status().await["counters"]["loads"], 1);
    assert!((2..=20).contains(&tries), "{tries} tries");
}

#[tokio::test]
async fn looking_at_models_loads_none_and_keeps_none_from_going() {
    let home = Home::new("pool: { idle_unload: 500ms }\nmodels: { t/a: {}, t/b: {} }\n");
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    let start = std::time::Instant::now();
    loop {
        for path in [
            "/v1/models",
            "/v1/models/t/a",
            "/v1/models/t/b",
            "/health",
            "/ready",
        ] {
            assert_eq!(server.get(path).await.0, 200, "{path}");
        }
        for path in ["/admin/models", "/admin/config", "/metrics"] {
            let (status, _) = server.control(Method::GET, path, None).await;
            assert_eq!(status, 200, "{path}");
        }
        let status = server.status().await;
        if status["counters"]["unloads"]["idle"] == 1 {
            break;
        }
        assert!(
            start.elapsed() < super::harness::PATIENCE,
            "looking keeps it loaded: {status}"
        );
    }
    assert_eq!(server.status().await["counters"]["loads"], 1);
}
