//! Other paths under `/v1/`, and uploads, to upstreams; and that nobody comes in by them
//! without what the chat path asks for.

use reqwest::Method;
use serde_json::json;

use super::super::harness::{Answer, Home, Server, question};
use super::fake::{Fake, whole};
use super::serve;

/// Asks any path, with a key or without.
async fn ask(server: &Server, path: &str, key: Option<&str>, kind: &str, body: String) -> Answer {
    let mut request = server
        .request(Method::POST, path)
        .header("content-type", kind);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    Answer::read(request.body(body).send().await.expect("an answer")).await
}

fn key(home: &Home, args: &[&str]) -> String {
    let (code, out, error) = home.run(&[&["keys", "new"], args].concat());
    assert_eq!(code, 0, "{error}");
    out.lines().next().expect("a key").trim().to_owned()
}

#[tokio::test]
async fn row21_row113_no_other_path_asks_less_than_the_chat_path_does() {
    let cloud = Fake::start(|_| whole("200 OK", "", r#"{"data":[]}"#));
    let home = Home::new(&format!(
        "upstreams: {{ cloud: {{ url: '{}/', key_env: CLOUD_KEY, models: ['cloud-*', {{ name: renamed, as: theirs }}] }} }}\nmodels: {{ t/a: {{}} }}\n",
        cloud.url()
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    let inference = key(&home, &["--models", "cloud-a,renamed,t/a"]);
    let management = key(&home, &["--management"]);
    let server = serve(&home);
    let (paths, json_kind) = (
        ["/v1/images/generations", "/v1/x", "/v1/responses"],
        "application/json",
    );
    let body = |model: &str| json!({"model": model, "prompt": "p"}).to_string();
    let wrong = format!("{}x", &inference[..inference.len() - 1]);
    for path in paths {
        for (key, status, code) in [
            (None, 401, "invalid_api_key"),
            (Some(wrong.as_str()), 401, "invalid_api_key"),
            (Some(management.as_str()), 403, "wrong_key_class"),
        ] {
            for model in ["cloud-a", "t/a", "nobody"] {
                let told = ask(&server, path, key, json_kind, body(model)).await;
                assert_eq!(
                    (told.status, told.code().as_str()),
                    (status, code),
                    "{path} {told:?}"
                );
            }
        }
        // A name outside the key's set is nowhere, as on the chat path.
        let told = ask(&server, path, Some(&inference), json_kind, body("cloud-b")).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "model_not_found"),
            "{told:?}"
        );
        // The embedded engine has no such path, and nothing is loaded to find that out.
        let told = ask(&server, path, Some(&inference), json_kind, body("t/a")).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "not_found"),
            "{told:?}"
        );
        let told = ask(&server, path, Some(&inference), json_kind, "{}".to_owned()).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "not_found"),
            "{told:?}"
        );
        let told = ask(&server, path, Some(&inference), json_kind, "{".to_owned()).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (400, "invalid_json"),
            "{told:?}"
        );
        let told = ask(
            &server,
            path,
            Some(&inference),
            "text/plain",
            body("cloud-a"),
        )
        .await;
        assert_eq!(told.status, 415, "{told:?}");
    }
    assert_eq!(cloud.connections(), 0, "{:?}", cloud.asked());
    let chat = server.request(Method::POST, "/v1/chat/completions");
    let chat = chat.body(question("cloud-a", "n", false).to_string());
    let chat = chat
        .header("content-type", json_kind)
        .send()
        .await
        .expect("an answer");
    assert_eq!(chat.status(), 401, "as strict as this one");
    for path in paths {
        let sent = format!("{path}?model=nobody");
        let told = ask(&server, &sent, Some(&inference), json_kind, body("renamed")).await;
        assert_eq!(
            (told.status, told.text.as_str()),
            (200, r#"{"data":[]}"#),
            "{told:?}"
        );
        assert_eq!(told.header("x-roundhouse-upstream"), Some("cloud"));
        let asked = cloud.asked().pop().expect("asked");
        assert!(
            asked.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
            "{}",
            asked.head
        );
        assert_eq!(asked.body, body("theirs"));
        assert!(!asked.head.contains(&inference), "{}", asked.head);
    }
    let counters = server.status().await["counters"]["loads"].clone();
    assert_eq!(counters, json!(0), "nothing was loaded");
}

#[tokio::test]
async fn uploads_go_to_upstreams_as_they_come_and_once() {
    let cloud = Fake::start(|asked| match asked.body.contains("fails") {
        true => whole("503 No", "", "{}"),
        false => whole("200 OK", "", r#"{"text":"theirs"}"#),
    });
    let second = Fake::start(|_| whole("200 OK", "", r#"{"text":"second"}"#));
    let home = Home::new(&format!(
        "upstreams:\n  cloud: {{ url: '{}', key_env: CLOUD_KEY, kinds: [audio], models: [{{ name: whisper, as: whisper-1 }}] }}\n  second: {{ url: '{}', kinds: [audio], priority: 1, models: [whisper] }}\n",
        cloud.url(),
        second.url()
    ));
    let server = serve(&home);
    let form = |name: &str, size: usize| {
        let file = "x".repeat(size);
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{name}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n{file}\r\n--b--\r\n"
        )
    };
    let kind = "multipart/form-data; boundary=b";
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        let told = ask(
            &server,
            path,
            Some("sk-caller-canary"),
            kind,
            form("whisper", 3_000_000),
        )
        .await;
        assert_eq!(
            (told.status, told.text.as_str()),
            (200, r#"{"text":"theirs"}"#),
            "{told:?}"
        );
        assert_eq!(told.header("x-roundhouse-upstream"), Some("cloud"));
        assert_eq!(told.header("x-roundhouse-model"), Some("whisper-1"));
        let asked = cloud.asked().pop().expect("asked");
        assert!(
            asked.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
            "{}",
            asked.head
        );
        assert!(
            asked.body == form("whisper-1", 3_000_000),
            "{} bytes",
            asked.body.len()
        );
        assert_eq!(asked.header("content-type"), Some(kind));
        assert!(asked.head.contains(super::KEY) && !asked.head.contains("canary-caller"));
        assert!(!asked.head.contains("sk-caller-canary"), "{}", asked.head);
    }
    // What was passed on is not held, so it is sent to nobody else.
    let failing = form("whisper", 10).replace("xxx", "fails");
    let told = ask(&server, "/v1/audio/transcriptions", None, kind, failing).await;
    assert_eq!(
        (told.status, told.code().as_str()),
        (503, "overloaded"),
        "{told:?}"
    );
    assert_eq!(second.connections(), 0);
}
