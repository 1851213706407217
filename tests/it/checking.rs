//! `roundhouse check` on a file that is valid: what fits together, and what it would
//! mean for the server that runs. Nothing is changed by it.

use reqwest::Method;
use serde_json::{Value, json};

use super::access::manage;
use super::harness::{Home, Server, question};

fn home(yaml: &str) -> Home {
    let home = Home::new(yaml);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

/// What `check` says of a valid file.
fn checked(home: &Home, file: &str) -> (String, Value) {
    let args = ["check", file, "--scripted-engine"];
    let (code, text, error) = home.run(&args);
    assert_eq!((code, error.as_str()), (0, ""), "{text}");
    let (_, report, _) = home.run(&[&args[..], &["--json"]].concat());
    (text, serde_json::from_str(&report).expect("JSON"))
}

#[test]
fn check_says_what_fits_together_and_what_swaps() {
    let home = home(
        "memory: 1GB
models:
  t/a: { memory: 600MB }
  t/b: { memory: 300MB }
  t/c: { memory: 800MB }
  large: { repo: t/a, memory: 2GB }
",
    );
    let (text, report) = checked(&home, "models.yaml");
    let expected = "budget 1.0 GB
  t/a and t/b fit together
  t/c (800.0 MB) only alone: a request for it unloads t/a and t/b
  large never fits: it needs 2.0 GB and the budget is 1.0 GB
  what has no room takes the place of idle models, the least recently used first
";
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(report["fits"]["together"], json!([["t/a", "t/b"]]));
    assert_eq!(report["fits"]["alone"], json!(["t/c"]));
    assert_eq!(report["fits"]["never"], json!(["large"]));
    assert_eq!(report["server"], Value::Null, "none runs");
}

/// The number of the configuration in force and whether t/a is still loaded.
async fn state(server: &Server) -> (Value, Value) {
    let status = server.status().await;
    let models = status["models"].as_array().expect("models").iter();
    let state = models.filter(|model| model["model"] == "t/a");
    let state = state.map(|model| model["state"].clone()).next();
    let generation = status["configuration"]["generation"].clone();
    (generation, state.unwrap_or_default())
}

#[tokio::test]
async fn check_says_what_a_running_server_would_do_and_changes_nothing() {
    let home = home("models: { t/a: {}, t/b: { aliases: [x] } }\n");
    let key = home.run(&["keys", "new", "--management"]).1;
    let server = home.serve();
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    let (text, report) = checked(&home, "models.yaml");
    let in_force = "the server that runs has this in force (configuration 1)";
    assert!(text.contains(in_force), "{text}");
    assert_eq!(report["server"]["changes"], false, "{report}");

    let next = "audit: next.jsonl
models: { t/b: { aliases: [y], context: 100, idle_unload: 1m }, t/c: { preload: true } }
";
    std::fs::write(home.path().join("next.yaml"), next).expect("written");
    let (text, report) = checked(&home, "next.yaml");
    for line in [
        "in the place of ",
        "reload 2: +1 model, -1 model, 2 aliases changed, 1 setting changed, ",
        "new: t/c",
        "gone: t/a, for new requests",
        "unloaded after the last answer: t/a, if loaded",
        "t/a is loaded now (idle)",
        "loaded at once: t/c",
        "in force at once: t/b (idle_unload)",
        "from the next load on: t/b (context)",
        "after a restart: audit",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let told = &report["server"];
    assert_eq!(told["unloads"], json!([{"model": "t/a", "requests": 0}]));
    assert_eq!(state(&server).await, (json!(1), json!("ready")));

    // What is wrong with it in the server's place is told too, and to the owner alone.
    let broken = Some(json!({"text": "models: { t/a: { idle: 1 } }"}));
    let (status, body) = server.control(Method::POST, "/admin/check", broken).await;
    assert_eq!(status, 400, "{body}");
    let headers = [("x-api-key", key.trim())];
    let refused = manage(&server, Method::POST, "/admin/check", &headers).await;
    assert_eq!(refused.code(), "insufficient_scope");

    // Saving it does what was said, in the same words.
    home.configure(next);
    let said = told["change"].as_str().expect("words").to_owned();
    server.logged(&["configuration reloaded", &said]);
    let (text, _) = checked(&home, "models.yaml");
    assert!(
        text.contains("has this in force (configuration 2)"),
        "{text}"
    );
}
