//! What the entries of the file make of requests, from the client's bytes to those
//! that the engine gets.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::embeddings;
use super::harness::{Answer, Home, Server, question};

/// A home whose model keeps the last body it got, and where.
fn home(yaml: &str) -> (Home, PathBuf) {
    let home = Home::new(yaml);
    let folder = home.scripted("t/a", json!({"tokens": 40, "last_body": "last"}));
    (home, folder.join("last"))
}

/// Asks with the body as it is written.
async fn ask(server: &Server, path: &str, body: &str) -> Answer {
    let request = server.request(reqwest::Method::POST, path);
    let request = request.header("content-type", "application/json");
    let sent = request
        .body(body.to_owned())
        .send()
        .await
        .expect("answered");
    Answer::read(sent).await
}

/// A list or an object of the inference port.
async fn get(server: &Server, path: &str) -> Value {
    let sent = server.request(reqwest::Method::GET, path).send().await;
    let answer = Answer::read(sent.expect("answered")).await;
    assert_eq!(answer.status, 200, "{path}");
    answer.json()
}

/// The ids of such a list.
async fn ids(server: &Server, path: &str) -> Vec<String> {
    let listed = get(server, path).await;
    let models = listed["data"].as_array().expect("a list").iter();
    models
        .map(|model| model["id"].as_str().expect("an id").to_owned())
        .collect()
}

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn rules_change_the_fields_they_name_and_no_other_byte() {
    let (home, last) = home(
        "
models:
  t/a:
    aliases: [a]
    request:
      strip: [user]
      defaults: {temperature: 0.5, chat_template_kwargs: {x: 1}}
      set: {top_p: 0.25}
      limits: {max_tokens: 12, top_k: 3}
      system_prefix: Be brief.
  plain: {repo: t/a}
",
    );
    let server = home.serve();
    let got = || String::from_utf8(std::fs::read(&last).expect("kept")).expect("text");
    let asked = r#"{ "model":"a", "top_p": 1e0 ,"user":"u", "x": [ {"top_p":1} ],"top_k" :9,
 "max_completion_tokens":4000, "messages":[{"role":"system","content":"\u0059es"},{"content":"hi","role":"user"}] }"#;
    let answer = ask(&server, CHAT, asked).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let expected = r#"{"temperature":0.5,"chat_template_kwargs":{"x":1}, "model":"a", "top_p": 0.25 ,"x": [ {"top_p":1} ],"top_k" :3,
 "max_completion_tokens":12, "messages":[{"role":"system","content":"Be brief.\n\n\u0059es"},{"content":"hi","role":"user"}] }"#;
    assert_eq!(got(), expected);
    assert_eq!(
        answer.header("x-roundhouse-limited"),
        Some("top_k=3, max_tokens=12")
    );
    let choice = &answer.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "length");

    // The same load without rules: every byte as it came.
    let plain = asked.replacen("\"a\"", "\"plain\"", 1);
    let answer = ask(&server, CHAT, &plain).await;
    assert_eq!((answer.status, got()), (200, plain));
    assert_eq!(answer.header("x-roundhouse-limited"), None);
    assert_eq!(server.status().await["counters"]["loads"], 1);

    // Streamed, and without a bound: there is one all the same, and it is told.
    let mut body = question("t/a", "n", true);
    let answer = server.chat(&body).await;
    assert_eq!(answer.header("x-roundhouse-limited"), Some("max_tokens=12"));
    assert_eq!(answer.events().len(), 12 + 3, "{:?}", answer.events());
    let sent: Value = serde_json::from_str(&got()).expect("JSON");
    assert_eq!(
        sent["messages"][0],
        json!({"role": "system", "content": "Be brief."})
    );
    // Twice the same key is refused as ever, and what no field takes.
    let twice =
        r#"{"model":"a","user":"u","user":"v","messages":[{"role":"user","content":"hi"}]}"#;
    let answer = ask(&server, CHAT, twice).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "invalid_json")
    );
    body["top_k"] = json!("many");
    assert_eq!(server.chat(&body).await.status, 400);
    let shown = server
        .control(reqwest::Method::GET, "/admin/config", None)
        .await
        .1;
    let limits = &shown["config"]["models"]["t/a"]["request"]["limits"];
    assert_eq!(limits, &json!({"max_tokens": 12, "top_k": 3}));
}

#[tokio::test]
async fn a_variant_is_the_same_load_with_fields_of_its_own() {
    let (home, last) = home(
        "
default: t/a:cold
models:
  t/a:
    aliases: [a]
    request: {defaults: {temperature: 0.5, top_k: 5}}
    variants:
      cold: {temperature: 0, chat_template_kwargs: {enable_thinking: true}}
",
    );
    let server = home.serve();
    let got =
        || -> Value { serde_json::from_slice(&std::fs::read(&last).expect("kept")).expect("JSON") };
    let answer = server.chat(&question("a", "n", false)).await;
    assert_eq!(answer.header("x-roundhouse-route"), Some("alias"));
    assert_eq!(
        (&got()["temperature"], &got()["top_k"]),
        (&json!(0.5), &json!(5))
    );
    for name in ["a:cold", "t/a:cold"] {
        let mut body = question(name, "n", false);
        body["chat_template_kwargs"] = json!({"other": 1});
        let answer = server.chat(&body).await;
        assert_eq!(answer.header("x-roundhouse-route"), Some("variant"));
        assert_eq!(answer.header("x-roundhouse-model"), Some("t/a"));
        assert_eq!(answer.json()["model"], name);
        let sent = got();
        assert_eq!(
            (&sent["temperature"], &sent["top_k"]),
            (&json!(0), &json!(5))
        );
        assert_eq!(
            sent["chat_template_kwargs"],
            json!({"enable_thinking": true, "other": 1})
        );
    }
    let mut body = question("x", "n", true);
    body.as_object_mut()
        .expect("an object")
        .shift_remove("model");
    body["temperature"] = json!(1.5);
    let answer = server.chat(&body).await;
    assert_eq!(answer.header("x-roundhouse-route"), Some("default"));
    assert_eq!(
        (&got()["temperature"], &got()["model"]),
        (&json!(1.5), &json!("t/a:cold"))
    );
    assert_eq!(server.status().await["counters"]["loads"], 1);

    let listed = get(&server, "/v1/models").await;
    let variants: Vec<_> = listed["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|model| model["id"].as_str().is_some_and(|id| id.ends_with(":cold")))
        .map(|model| {
            (
                model["id"].clone(),
                model["alias_of"].clone(),
                model["state"].clone(),
            )
        })
        .collect();
    let expected = ["t/a:cold", "a:cold"].map(|id| (json!(id), json!("t/a"), json!("ready")));
    assert_eq!(variants, expected);
    assert_eq!(get(&server, "/v1/models/a:cold").await["alias_of"], "t/a");
    let (_, told) = server
        .control(reqwest::Method::GET, "/admin/explain?model=a:cold", None)
        .await;
    assert_eq!(
        (&told["route"], &told["variant"]),
        (&json!("variant"), &json!("cold"))
    );
    let (code, text, _) = home.run(&["explain", "a:cold"]);
    assert!(
        code == 0 && text.contains("the variant cold of t/a"),
        "{text}"
    );
}

#[tokio::test]
async fn lists_are_filtered_by_tags() {
    let yaml = "
models:
  t/a: {tags: [code, large], aliases: [a], variants: {cold: {temperature: 0}}}
  b: {repo: t/a, tags: [chat]}
  t/c: {tags: [code]}
";
    let (home, _) = home(yaml);
    home.scripted("t/c", json!({}));
    let server = home.serve();
    assert_eq!(
        ids(&server, "/v1/models?tag=code").await,
        ["t/a", "t/c", "a", "t/a:cold", "a:cold"]
    );
    assert_eq!(
        ids(&server, "/v1/models?x=1&tag=code&tag=large").await,
        ["t/a", "a", "t/a:cold", "a:cold"]
    );
    assert_eq!(ids(&server, "/v1/models?tag=nobody").await.len(), 0);
    assert_eq!(ids(&server, "/v1/models").await.len(), 6);
    // A load has the tags of every name that leads to it.
    let (_, told) = server
        .control(
            reqwest::Method::GET,
            "/admin/models?tag=chat&tag=large",
            None,
        )
        .await;
    let models = told["models"].as_array().expect("a list");
    assert_eq!((models.len(), &models[0]["model"]), (1, &json!("t/a")));
    assert_eq!(models[0]["tags"], json!(["chat", "code", "large"]));
    let (code, text, _) = home.run(&["models", "--why", "--tag", "code"]);
    assert!(
        code == 0 && text.contains("t/c") && text.contains("tagged code, large"),
        "{text}"
    );
    let (_, text, _) = home.run(&["models", "--why", "--tag", "chat", "--json"]);
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(told["models"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["models"][0]["tags"], json!(["chat"]));
}

/// The block of the README that shows the file.
pub fn block() -> String {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme
        .split_once("## models.yaml in twelve lines")
        .expect("the heading");
    let (_, rest) = rest.split_once("```yaml\n").expect("a block");
    rest.split_once("```").expect("its end").0.to_owned()
}

#[tokio::test]
async fn the_file_of_the_readme_answers_to_each_of_its_names() {
    let block = block();
    assert!(block.lines().count() <= 12, "{block}");
    let home = Home::new(&block);
    let coder = "mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit";
    let small = "mlx-community/Llama-3.2-3B-Instruct-4bit";
    let embedder = "sentence-transformers/all-MiniLM-L6-v2";
    let folder = home.scripted(coder, json!({"tokens": 1, "last_body": "last"}));
    home.scripted(small, json!({"tokens": 1}));
    embeddings::embedder(&home, embedder, json!({}));
    let server = home.serve();
    let state = |status: &Value, id: &str| {
        let models = status["models"].as_array().expect("a list");
        let model = models.iter().find(|model| model["model"] == id);
        model.map_or(Value::Null, |model| model["state"].clone())
    };
    // The small one is there before anybody asks, the coder is not.
    let status = server
        .until("the small model", |status| state(status, small) == "ready")
        .await;
    assert_eq!(state(&status, coder), "unloaded");
    for (name, model, route) in [
        (small, small, "exact"),
        ("small", small, "alias"),
        ("gpt-4o-mini", small, "alias"),
        ("claude-haiku-4-5-20251001", small, "wildcard"),
        ("claude-haiku-3", small, "wildcard"),
        (coder, coder, "exact"),
        ("coder", coder, "alias"),
        ("coder:thinking", coder, "variant"),
    ] {
        let answer = server.chat(&question(name, "n", false)).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.json());
        assert_eq!(answer.header("x-roundhouse-model"), Some(model), "{name}");
        assert_eq!(answer.header("x-roundhouse-route"), Some(route), "{name}");
    }
    let sent = std::fs::read(folder.join("last")).expect("kept");
    let sent: Value = serde_json::from_slice(&sent).expect("JSON");
    assert_eq!(
        sent["chat_template_kwargs"],
        json!({"enable_thinking": true})
    );
    // The coder and its variant are one load, and the small model never went.
    let counters = &server.status().await["counters"];
    assert_eq!(
        (&counters["loads"], &counters["swaps"]),
        (&json!(2), &json!(0))
    );
    for name in [embedder, "embedder", "text-embedding-3-small"] {
        let body = json!({"model": name, "input": "n"});
        let answer = embeddings::embed(&server, &body).await;
        assert_eq!(embeddings::vectors(&answer).len(), 1, "{name}");
        assert_eq!(
            answer.header("x-roundhouse-model"),
            Some(embedder),
            "{name}"
        );
    }
    let ids = ids(&server, "/v1/models?tag=embeddings").await;
    assert_eq!(ids, [embedder, "embedder", "text-embedding-3-small"]);
    let (code, text, _) = home.run(&["check"]);
    assert!(code == 0 && text.contains(embedder), "{text}");
}
