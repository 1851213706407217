//! System prompts that are read at load (row 175), on the demo model through the true binary.

use serde_json::{Value, json};

use super::demo::{EIGHT, FOUR, ask, home};
use super::harness::Server;
use super::keys::{chat, new_key};

const HOUSE: &str = "You are the assistant of a roundhouse, a place where locomotives are kept. \
                     Answer in one short sentence, and say nothing of trams.";

/// How much of a chat was read before, and what is said.
async fn asked(server: &Server, key: &str, system: &str, more: Value) -> (u64, String) {
    let mut body = ask(FOUR, "", more);
    body["messages"] = json!([
        {"role": "system", "content": system},
        {"role": "user", "content": "What is kept here?"},
    ]);
    let answer = chat(server, key, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let cached = &answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
    (cached.as_u64().expect("a number"), answer.content())
}

#[tokio::test]
async fn e175_the_first_request_of_anybody_goes_on_from_a_warm_prompt() {
    let entry = |warm: &str| {
        let other = format!("  {EIGHT}: {{ warm_prompts: [other] }}\n");
        format!("models:\n  {FOUR}: {{ parallel: 2{warm} }}\n{other}")
    };
    let cold = home(&entry(""));
    let key = new_key(&cold, &[]);
    let (none, said) = asked(&cold.serve(), &key, HOUSE, json!({})).await;
    assert_eq!(none, 0);

    // One that has no place in the context is told and costs nothing else.
    let long = "far too long ".repeat(4000);
    let warm = home(&entry(&format!(
        ", warm_prompts: [{}, {long}]",
        json!(HOUSE)
    )));
    let (anne, bert) = (new_key(&warm, &[]), new_key(&warm, &[]));
    let server = warm.serve();
    let (read, answer) = asked(&server, &anne, HOUSE, json!({})).await;
    assert!(read > 30, "{read} tokens were there");
    assert_eq!(answer, said, "the same as read anew");
    assert_eq!(
        asked(&server, &bert, HOUSE, json!({})).await,
        (read, answer)
    );
    // The form of a chat is alike for all, and nothing of what they say.
    let (alike, _) = asked(&server, &bert, "Speak of trams alone.", json!({})).await;
    assert!(alike < 10, "{alike} tokens were there");
    server.logged(&["a warm prompt is read"]);
    server.logged(&["a warm prompt cannot be read"]);
}
