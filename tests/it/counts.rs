//! How much may stand in a body (the cases of group L about bodies).

use reqwest::Method;
use serde_json::json;

use super::bodies::{CHAT, chat, check_nothing_loaded, check_refused, one_model, post};
use super::harness::{Answer, question};

#[tokio::test]
async fn l05_too_many_choices_and_stops_and_a_prompt_too_long_are_400_and_max_tokens_is_a_bound() {
    let (_home, server, last) = one_model("");
    let answer = server.chat(&chat(json!({"n": 1000}))).await;
    check_refused(&answer, 400, "invalid_value", Some("n"));
    let answer = server.chat(&chat(json!({"stop": vec!["x"; 10_000]}))).await;
    check_refused(&answer, 400, "invalid_value", Some("stop"));
    let body = json!({"model": "t/a", "prompt": vec!["a"; 33], "n": 2});
    let answer = post(&server, "/v1/completions", body.to_string()).await;
    check_refused(&answer, 400, "invalid_value", Some("n"));
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    // The scripted engine counts words; its context is 4096.
    let mut body = chat(json!({}));
    body["messages"][0]["content"] = "word ".repeat(4096).into();
    let answer = server.chat(&body).await;
    check_refused(&answer, 400, "context_length_exceeded", Some("messages"));
    assert!(
        answer.text.contains("4096") && answer.text.contains("4097"),
        "{answer:?}"
    );
    let mut body = chat(json!({"max_tokens": 1_000_000, "scripted": {"tokens": 1_000_000}}));
    body["messages"][0]["content"] = "word ".repeat(4085).into();
    for stream in [false, true] {
        body["stream"] = stream.into();
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-roundhouse-limited"), Some("max_tokens=10"));
        assert!(
            answer.text.contains(r#""finish_reason":"length""#),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn l07_more_than_the_counts_of_the_file_is_400_and_they_can_be_changed() {
    let (home, server, last) = one_model("");
    let user = json!({"role": "user", "content": "hi"});
    let messages = |count: usize| chat(json!({"messages": vec![user.clone(); count]}));
    let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
    let images = json!({"messages": [{"role": "user", "content": vec![image; 1000]}]});
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let calls = |count: usize| {
        let said = json!({"role": "assistant", "tool_calls": vec![call.clone(); count]});
        chat(json!({"messages": [said]}))
    };
    for body in [messages(10_000), chat(images), calls(100_000)] {
        let answer = server.chat(&body).await;
        check_refused(&answer, 400, "invalid_value", Some("messages"));
    }
    let answer = server
        .chat(&chat(json!({"tools": vec![json!({}); 1025]})))
        .await;
    check_refused(&answer, 400, "invalid_value", Some("tools"));
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    assert_eq!(server.chat(&messages(2000)).await.status, 200);
    home.configure(
        "server: { limits: { messages: 2, tool_calls: 1, choices: 2 } }\nmodels: { t/a: {} }\n",
    );
    let (status, _) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200);
    assert_eq!(server.chat(&messages(2)).await.status, 200);
    assert_eq!(server.chat(&messages(3)).await.status, 400);
    assert_eq!(server.chat(&calls(2)).await.status, 400);
    assert_eq!(server.chat(&chat(json!({"n": 3}))).await.status, 400);
    assert_eq!(server.chat(&chat(json!({"n": 2}))).await.status, 200);
}

#[tokio::test]
async fn l08_a_compressed_body_is_415_unread() {
    let (_home, server, last) = one_model("");
    for encoding in [
        "gzip",
        "br",
        "zstd",
        "deflate",
        "gzip, gzip",
        "identity, gzip",
        "x",
        "",
    ] {
        let request = server
            .request(Method::POST, CHAT)
            .header("content-type", "application/json")
            .header("content-encoding", encoding)
            .body(question("t/a", "n", false).to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        check_refused(&answer, 415, "unsupported_media_type", None);
    }
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    let plain = server
        .request(Method::POST, CHAT)
        .header("content-type", "application/json; charset=utf-8")
        .header("content-encoding", "identity")
        .body(question("t/a", "n", false).to_string());
    assert_eq!(plain.send().await.expect("an answer").status(), 200);
}
