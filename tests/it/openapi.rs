//! The description of both ports: it is there, it asks for what the ports ask
//! for, and schemathesis finds nothing that it does not say.

use reqwest::Method;
use serde_json::{Value, json};

use super::clients::run;
use super::harness::{Answer, Home, Server, long};

/// A server with a model and a management key; answers the key.
fn served() -> (Home, Server, String) {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 2}));
    let (code, out, error) = home.run(&["keys", "new", "--management"]);
    assert_eq!(code, 0, "{error}");
    let key = out.lines().next().expect("a key").trim().to_owned();
    let server = home.serve();
    (home, server, key)
}

/// The description of a port.
async fn description(base: &str, key: Option<&str>) -> Answer {
    let mut request = reqwest::Client::new().get(format!("{base}/openapi.json"));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

#[tokio::test]
async fn both_ports_describe_themselves_to_whoever_may_use_them() {
    let (_home, server, key) = served();
    let check = |document: &Value, path: &str, method: &str| {
        assert_eq!(document["openapi"], "3.1.0");
        let operation = &document["paths"][path][method];
        assert!(
            operation["responses"]["200"].is_object(),
            "{path}: {operation}"
        );
        for (_, answers) in operation["responses"].as_object().expect("answers") {
            assert!(answers["description"].is_string(), "{answers}");
        }
    };
    let inference = description(&server.inference, None).await.json();
    check(&inference, "/v1/chat/completions", "post");
    check(&inference, "/v1/models/{id}", "get");
    check(&inference, "/health", "get");
    let properties = &inference["components"]["schemas"]["ChatRequest"]["properties"];
    assert_eq!(properties["n"]["maximum"], 8, "the count in force");
    let refused = description(&server.management, None).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "invalid_api_key")
    );
    let management = description(&server.management, Some(&key)).await.json();
    check(&management, "/admin/models/unload", "post");
    let (status, by_socket) = server.control(Method::GET, "/openapi.json", None).await;
    assert_eq!((status, by_socket), (200, management));
}

/// How many requests schemathesis makes up for each operation.
fn examples() -> String {
    let examples = if long() { 500 } else { 30 };
    examples.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_undocumented_on_the_inference_port() {
    let (_home, server, _) = served();
    let base = server.inference.clone();
    tokio::task::spawn_blocking(move || run("schemathesis_run.py", &[&base, &examples()]))
        .await
        .expect("the client's script");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_undocumented_on_the_management_port() {
    let (_home, server, key) = served();
    let base = server.management.clone();
    tokio::task::spawn_blocking(move || {
        run("schemathesis_run.py", &[&base, &examples(), "--key", &key])
    })
    .await
    .expect("the client's script");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_what_is_not_described() {
    let (_home, server, _) = served();
    let base = server.inference.clone();
    tokio::task::spawn_blocking(move || {
        run("schemathesis_run.py", &[&base, "5", "--forget", "404"]);
    })
    .await
    .expect("the client's script");
}
