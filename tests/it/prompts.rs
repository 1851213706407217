//! What is kept of prompts: for whom, and who is told of it. The scripted engine keeps
//! words where the embedded one keeps what it computed for tokens.

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Home, Server};
use super::keys::{chat, new_key};
use super::records::until_metric;

const YAML: &str = "
models:
  t/a: {}
  everybody: {repo: t/a, request: {prompt_cache: shared}}
  nobody: {repo: t/a, request: {prompt_cache: off}}
";

fn home() -> Home {
    let home = Home::new(YAML);
    home.scripted("t/a", json!({"tokens": 3, "prompt_cache": 1000}));
    home
}

/// How many of a prompt's tokens were there, as a whole answer and a stream tell it.
pub async fn cached(server: &Server, key: &str, model: &str, text: &str, stream: bool) -> u64 {
    let mut body = json!({"model": model, "stream": stream,
        "messages": [{"role": "user", "content": text}]});
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    let answer = chat(server, key, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let usage = match stream {
        false => answer.json()["usage"].clone(),
        true => {
            let events = answer.events();
            let last = events.iter().rev().nth(1).expect("an event");
            let last: Value = serde_json::from_str(last).expect("JSON");
            last["usage"].clone()
        }
    };
    usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test]
async fn o10_a_prompt_is_gone_on_from_by_its_own_caller_unless_the_file_shares_it() {
    let home = home();
    let (anne, bert) = (new_key(&home, &[]), new_key(&home, &[]));
    let server = home.serve();
    let text = "one two three four five";
    // A message is a token more than its words, and the last one is always read.
    let check = async |key: &str, model: &str, expected: u64| {
        for stream in [false, true] {
            assert_eq!(cached(&server, key, model, text, stream).await, expected);
        }
    };
    assert_eq!(cached(&server, &anne, "t/a", text, false).await, 0);
    check(&anne, "t/a", 5).await;
    assert_eq!(cached(&server, &bert, "t/a", text, true).await, 0);
    check(&bert, "t/a", 5).await;
    // Entries of one load have one cache, and what is shared is apart.
    assert_eq!(cached(&server, &anne, "everybody", text, false).await, 0);
    check(&bert, "everybody", 5).await;
    check(&bert, "nobody", 0).await;
    let longer = format!("{text} six seven");
    assert_eq!(cached(&server, &anne, "t/a", &longer, true).await, 6);
    let (status, kept) = server.control(Method::GET, "/admin/prompts", None).await;
    let expected = json!({"models": [{"model": "t/a", "prompt_cache":
        // Six of each caller and of all together, and two more words.
        {"bytes": 20, "tokens": 20, "asked": 10, "hits": 7, "saved": 36, "restored": 0},
        // The scripted engine writes nothing down.
        "disk": {"bytes": 0, "tokens": 0}}]});
    assert_eq!((status, kept), (200, expected));
    let clear = |target: Value| server.control(Method::POST, "/admin/prompts/clear", Some(target));
    assert_eq!(clear(json!({"model": "t/none"})).await.0, 404);
    let (status, cleared) = clear(json!({"model": "everybody"})).await;
    assert_eq!((status, &cleared["models"]), (200, &json!(["t/a"])));
    assert_eq!(cached(&server, &anne, "t/a", text, false).await, 0);
    let (code, shown, error) = home.run(&["prompts"]);
    assert!(code == 0 && shown.contains("t/a"), "{shown}{error}");
    assert_eq!(home.run(&["prompts", "--clear"]).1, "forgotten: t/a\n");
    assert_eq!(cached(&server, &anne, "t/a", text, false).await, 0);
    let saved = "cached_tokens_total{model=\"t/a\"}";
    until_metric(&server, saved, |saved| saved == 36.0).await;
}
