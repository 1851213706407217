//! Paths under `/v1/` that nobody here knows, and answers of engines that stream where
//! no `[DONE]` is said: they reach an engine of the file as they came.

use serde_json::{Value, json};

use super::super::harness::{Answer, Home};
use super::exact::Place;

const JSON: &str = "application/json";

/// Events without `[DONE]`.
const EVENTS: &str = "event: transcript.text.delta\ndata: {\"delta\":\"a\"}\n\ndata: {\"type\":\"transcript.text.done\"}\n\n";

fn streams(events: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{events}"
    )
}

fn answers(kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn row21_an_engine_of_the_file_gets_other_paths_as_they_are() {
    let place = Place::new(
        "kinds: [chat]",
        "request: { strip: [secret], set: { temperature: 0 } }",
    );
    let asked = r#"{"odd":1e5 , "model":"raw","secret":1,"max_tokens":3}"#;
    place.replies(answers("image/png", "\u{1}picture"));
    let told = place.posts("/v1/images/Edits_2", JSON, asked).await;
    assert_eq!(
        (told.status, told.text.as_str()),
        (200, "\u{1}picture"),
        "{told:?}"
    );
    // No browser would run it.
    assert_eq!(
        told.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(told.header("x-roundhouse-model"), Some("raw"));
    let head = place.kept("head").expect("kept");
    assert!(
        head.starts_with("POST /v1/images/Edits_2 HTTP/1.1\r\n"),
        "{head}"
    );
    let got: serde_json::Value = serde_json::from_str(&place.body()).expect("JSON");
    assert_eq!(got["model"], "its own");
    assert_eq!(
        (&got["secret"], &got["odd"]),
        (&serde_json::Value::Null, &1e5.into())
    );

    // With a file in it.
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nraw\r\n\
                --b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nxyz\r\n--b--\r\n";
    place.replies(answers(JSON, r#"{"data":[]}"#));
    let told = place
        .posts("/v1/images/edits", "multipart/form-data; boundary=b", form)
        .await;
    assert_eq!(
        (told.status, told.text.as_str()),
        (200, r#"{"data":[]}"#),
        "{told:?}"
    );
    assert_eq!(place.body(), form.replacen("raw", "its own", 1));

    // A stream is at its end when no more comes, and cut off if there should be more.
    let asked = r#"{"model":"raw","stream":true}"#;
    place.replies(streams(EVENTS, EVENTS.len()));
    let told = place.posts("/v1/responses", JSON, asked).await;
    assert_eq!((told.status, told.text.as_str()), (200, EVENTS), "{told:?}");
    place.replies(streams(EVENTS, EVENTS.len() + 9));
    let told = place.posts("/v1/responses", JSON, asked).await;
    assert!(
        told.text.starts_with(EVENTS) && told.text.contains("\"error\""),
        "{told:?}"
    );
    place.replies(answers(JSON, r#"{"id":"r"}"#));
    let told = place.posts("/v1/responses", JSON, asked).await;
    assert_eq!(
        (told.status, told.text.as_str()),
        (200, r#"{"id":"r"}"#),
        "{told:?}"
    );

    // What no request may say, none says here either.
    for field in ["adapters", "draft_model", "chat_template"] {
        let body = format!(r#"{{"model":"raw","{field}":"x"}}"#);
        let told = place.posts("/v1/other", JSON, body).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (400, "invalid_value"),
            "{field}"
        );
    }
    std::fs::remove_file(place.folder.join("head")).expect("kept");
    for (path, kind, body) in [
        ("/v1/other", JSON, r#"{"mode":"raw"}"#),
        ("/v1/a//b", JSON, r#"{"model":"raw"}"#),
        ("/v1/a%2fb", JSON, r#"{"model":"raw"}"#),
        ("/v1/a/", JSON, r#"{"model":"raw"}"#),
        ("/v2/other", JSON, r#"{"model":"raw"}"#),
    ] {
        let told = place.posts(path, kind, body).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "not_found"),
            "{path} {told:?}"
        );
    }
    assert_eq!(place.kept("head"), None, "it was asked");
}

#[tokio::test]
async fn transcriptions_are_streamed_where_the_upload_says_so() {
    const PATH: &str = "/v1/audio/transcriptions";
    let place = Place::new("kinds: [audio]", "request: { strip: [user] }");
    let part = |name: &str, text: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let file = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nxyz\r\n--b--\r\n";
    let body = [part("model", "raw").as_str(), &part("stream", "true"), file].concat();
    let form = "multipart/form-data; boundary=b";
    place.replies(streams(EVENTS, EVENTS.len()));
    let told = place.posts(PATH, form, body.clone()).await;
    assert_eq!((told.status, told.text.as_str()), (200, EVENTS), "{told:?}");
    assert_eq!(told.header("content-type"), Some("text/event-stream"));
    assert_eq!(place.body(), body.replacen("raw", "its own", 1));

    // What comes before it breaks off has gone out: it was not collected.
    let half = EVENTS.find("\n\n").expect("an end") + 2;
    place.replies(streams(&EVENTS[..half], EVENTS.len()));
    let told = place.posts(PATH, form, body.clone()).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.text.starts_with(&EVENTS[..half]), "{told:?}");
    assert!(told.text.contains("\"error\""), "{told:?}");

    // What the entry takes out of requests is taken out, wherever it stands.
    place.replies(streams(EVENTS, EVENTS.len()));
    let user = part("user", "me");
    for with_user in [
        body.replacen(file, &(user.clone() + file), 1),
        body.replacen("--b--", &(user + "--b--"), 1),
    ] {
        let told = place.posts(PATH, form, with_user).await;
        assert_eq!((told.status, told.text.as_str()), (200, EVENTS), "{told:?}");
        assert_eq!(place.body(), body.replacen("raw", "its own", 1));
    }

    // An engine that does not stream answers all the same.
    place.replies(answers(JSON, r#"{"text":"a"}"#));
    let told = place.posts(PATH, form, body).await;
    assert_eq!(
        (told.status, told.text.as_str()),
        (200, r#"{"text":"a"}"#),
        "{told:?}"
    );
}

#[tokio::test]
async fn row15_words_are_told_by_engines_of_the_file_and_by_our_own() {
    let place = Place::new("kinds: [chat]", "");
    for path in ["/tokenize", "/detokenize", "/apply-template", "/infill"] {
        place.replies(answers(JSON, r#"{"odd":1e0}"#));
        let asked = r#"{"model":"raw","content" : "a", "stream":true}"#;
        let told = place.posts(path, JSON, asked).await;
        assert_eq!(
            (told.status, told.text.as_str()),
            (200, r#"{"odd":1e0}"#),
            "{path} {told:?}"
        );
        assert_eq!(place.body(), asked.replace("raw", "its own"), "{path}");
        let head = place.kept("head").expect("kept");
        assert!(
            head.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
            "{head}"
        );
        let told = place.posts(path, JSON, r#"{"content":"a"}"#).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }

    let home = Home::new("models: { t/a: { aliases: [small] } }");
    home.scripted("t/a", json!({}));
    let server = home.serve();
    let ask = async |path: &str, body: Value| Answer::read(server.post(path, &body).await).await;
    let told = ask(
        "/tokenize",
        json!({"model": "small", "prompt": "one two", "return_token_strs": true, "user": "me"}),
    );
    let told = told.await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(told.header("x-roundhouse-model"), Some("t/a"));
    let tokens = told.json();
    assert_eq!(
        (&tokens["count"], &tokens["token_strs"]),
        (&json!(2), &json!(["one", "two"]))
    );
    let (one, two) = (&tokens["tokens"][0], &tokens["tokens"][1]);
    let told = ask("/detokenize", json!({"model": "t/a", "tokens": [two, one]})).await;
    assert_eq!(told.json()["content"], format!("{two} {one}"));
    let messages = json!([{"role": "user", "content": "hello"}]);
    let body = json!({"model": "t/a", "messages": messages, "stream": true});
    let told = ask("/apply-template", body).await;
    assert_eq!(told.json(), json!({"prompt": "hello"}));
    let told = ask("/tokenize", json!({"model": "t/a", "content": 1})).await;
    assert_eq!((told.status, told.code().as_str()), (400, "invalid_value"));
    let told = ask("/infill", json!({"model": "t/a", "input_prefix": "a"})).await;
    assert_eq!((told.status, told.code().as_str()), (404, "not_found"));
}
