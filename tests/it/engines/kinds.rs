//! An engine's kinds decide which paths it gets, and a body with a file in it goes to
//! the model that its part `model` names, as it comes. The engine is the script that
//! keeps what it is asked.

use std::time::Instant;

use serde_json::json;

use super::super::harness::PATIENCE;
use super::super::raw::Raw;
use super::exact::Place;
use super::until;

/// The type of a body with the boundary `b`.
const FORM: &str = "multipart/form-data; boundary=b";

fn part(name: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
}

/// A file of so many bytes.
fn file(bytes: usize) -> String {
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                Content-Type: audio/wav\r\n\r\n";
    format!("{head}{}\r\n", "-\r\n--x".repeat(bytes / 6))
}

fn answer(kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn paths_go_to_the_engines_whose_kinds_have_them() {
    let place = Place::new("kinds: [rerank, audio]", "");
    let asked = r#"{"query":"q" , "model":"raw","documents":["a",{"x":1e0}],"top_n":1}"#;
    place.replies(answer("application/json", r#"{"results":[]}"#));
    let json = "application/json";
    let told = place.posts("/v1/rerank", json, asked).await;
    assert_eq!(
        (told.status, told.text.as_str()),
        (200, r#"{"results":[]}"#),
        "{told:?}"
    );
    assert_eq!(told.header("x-roundhouse-model"), Some("raw"));
    assert_eq!(place.body(), asked.replace("\"raw\"", "\"its own\""));
    assert!(
        place
            .kept("head")
            .expect("kept")
            .starts_with("POST /v1/rerank HTTP/1.1\r\n")
    );

    let speak = r#"{"model":"raw","input":"hello","voice":"a"}"#;
    for (said, passed) in [
        ("audio/mpeg", "audio/mpeg"),
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
    ] {
        place.replies(answer(said, "\u{1}sound"));
        let told = place.posts("/v1/audio/speech", json, speak).await;
        assert_eq!(
            (told.status, told.text.as_str()),
            (200, "\u{1}sound"),
            "{told:?}"
        );
        assert_eq!(told.header("content-type"), Some(passed), "{said}");
    }
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] {
        let told = place.posts(path, json, r#"{"model":"raw"}"#).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (400, "invalid_value"),
            "{path}"
        );
        assert!(
            told.text.contains("is for rerank and audio"),
            "{path}: {told:?}"
        );
    }

    let chatting = Place::new("kinds: [chat]", "");
    let form = [part("model", "raw"), file(60), "--b--\r\n".to_owned()].concat();
    for (path, kind, body) in [
        ("/v1/rerank", json, asked),
        ("/v1/audio/speech", json, speak),
        ("/v1/audio/transcriptions", FORM, form.as_str()),
        ("/v1/audio/translations", FORM, form.as_str()),
    ] {
        let told = chatting.posts(path, kind, body.to_owned()).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (400, "invalid_value"),
            "{path}"
        );
        assert!(told.text.contains("is for chat"), "{path}: {told:?}");
    }
    assert_eq!(chatting.kept("head"), None, "it was asked");
}

#[tokio::test]
async fn an_upload_goes_by_its_part_model_and_is_not_held() {
    const PATH: &str = "/v1/audio/transcriptions";
    let place = Place::new("kinds: [audio]", "");
    place.replies(answer("text/vtt; charset=utf-8", "WEBVTT"));
    let first = [part("language", "de"), part("model", "raw")].concat();
    let rest = [
        file(9_000_000).as_str(),
        &part("prompt", "model"),
        "--b--\r\n",
    ]
    .concat();
    let whole = [first.as_str(), &rest].concat();
    let expected = whole.replacen("\r\n\r\nraw\r\n", "\r\n\r\nits own\r\n", 1);

    // The engine has been asked before the file has left the client.
    let mut raw = Raw::connect(&place.server.inference).await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n\
         Authorization: Bearer mine\r\nContent-Length: {}\r\n\r\n",
        whole.len()
    );
    raw.send(head + &first).await;
    raw.send(&rest[..1000]).await;
    until("asked", || place.kept("head").is_some()).await;
    raw.send(&rest[1000..]).await;
    let told = raw.reply().await;
    assert_eq!(
        (told.status, told.body.as_str()),
        (200, "WEBVTT"),
        "{told:?}"
    );
    assert_eq!(told.header("content-type"), Some("text/vtt; charset=utf-8"));
    assert!(place.body() == expected, "{} bytes", place.body().len());
    let head = place.kept("head").expect("kept").to_lowercase();
    assert!(
        head.starts_with("post /v1/audio/transcriptions http/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("content-length: {}\r\n", expected.len())),
        "{head}"
    );
    assert!(
        head.contains("content-type: multipart/form-data; boundary=b\r\n"),
        "{head}"
    );
    assert!(
        !head.contains("authorization") && !head.contains("chunked"),
        "{head}"
    );

    // In chunks, and with the model after a small file.
    let late = [file(60_000), part("model", "raw"), "--b--".to_owned()].concat();
    let chunks: String = late
        .as_bytes()
        .chunks(7000)
        .map(|chunk| {
            format!(
                "{:x}\r\n{}\r\n",
                chunk.len(),
                String::from_utf8_lossy(chunk)
            )
        })
        .collect();
    raw.send(format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    ))
    .await;
    let told = raw.reply().await;
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(
        place.body(),
        late.replacen("raw\r\n--b--", "its own\r\n--b--", 1)
    );

    std::fs::remove_file(place.folder.join("body")).expect("kept");
    for (what, kind, body, status) in [
        (
            "too late",
            FORM,
            [file(5_000_000), part("model", "raw"), "--b--".to_owned()].concat(),
            400,
        ),
        (
            "twice",
            FORM,
            [
                part("model", "raw"),
                file(6_000_000),
                part("model", "x"),
                "--b--".to_owned(),
            ]
            .concat(),
            400,
        ),
        (
            "no end",
            FORM,
            [part("model", "raw"), file(60)].concat(),
            400,
        ),
        (
            "another",
            FORM,
            [part("model", "nobody"), "--b--".to_owned()].concat(),
            404,
        ),
        (
            "JSON",
            "application/json",
            json!({"model": "raw"}).to_string(),
            415,
        ),
        (
            "no boundary",
            "multipart/form-data",
            part("model", "raw"),
            415,
        ),
    ] {
        let mut raw = Raw::connect(&place.server.inference).await;
        let length = body.len();
        raw.send(format!(
            "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\n\r\n"
        ))
        .await;
        // A refusal may come before all has been sent.
        raw.send(&body).await;
        let told = raw.reply().await;
        assert_eq!(told.status, status, "{what}: {told:?}");
        assert_eq!(
            place.kept("body"),
            None,
            "{what}: the engine got a whole body"
        );
    }

    // An engine that refuses before it has all of it is heard.
    std::fs::write(place.folder.join("early"), "").expect("written");
    place
        .replies(answer("application/json", r#"{"detail":"no more"}"#).replace("200 OK", "413 No"));
    let start = Instant::now();
    let told = place.posts(PATH, FORM, whole).await;
    assert_eq!(told.status, 400, "{told:?}");
    assert!(told.text.contains("no more"), "{told:?}");
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test]
async fn rules_take_parts_out_of_uploads_and_put_parts_in() {
    const PATH: &str = "/v1/audio/transcriptions";
    let place = Place::new(
        "kinds: [audio]",
        "request: { strip: [hotwords], set: { language: fr }, defaults: { temperature: 0.5 } }",
    );
    place.replies(answer("text/plain", "text"));
    let (model, named) = (part("model", "raw"), part("model", "its own"));
    let (words, german) = (part("hotwords", "say so"), part("language", "de"));
    let (french, warm) = (part("language", "fr"), part("temperature", "0.5"));
    let end = "--b--\r\n".to_owned();
    // All of it is there before the engine is asked, or most of it comes later.
    for size in [60, 9_000_000] {
        let large = file(size);
        let asked = [
            &words, &model, &german, &large, &words, &german, &words, &end,
        ];
        let told = place.posts(PATH, FORM, asked.map(String::as_str).concat());
        let told = told.await;
        assert_eq!((told.status, told.text.as_str()), (200, "text"), "{told:?}");
        let expected = [&named, &large, &french, &warm, &end];
        let expected = expected.map(String::as_str).concat();
        assert!(place.body() == expected, "{} bytes", place.body().len());
    }
    let asked = [&model, &part("temperature", "1"), &file(9), &end];
    let told = place.posts(PATH, FORM, asked.map(String::as_str).concat());
    assert_eq!(told.await.status, 200);
    let expected = [&named, &part("temperature", "1"), &file(9), &french, &end];
    assert_eq!(place.body(), expected.map(String::as_str).concat());

    // A boundary that makes another part of what is put in.
    let place = Place::new("kinds: [audio]", "request: { set: { language: \"a--b\" } }");
    let asked = [&model, &end].map(String::as_str).concat();
    let told = place.posts(PATH, FORM, asked).await;
    assert_eq!(told.status, 400, "{told:?}");
    assert_eq!(place.kept("body"), None);
}
