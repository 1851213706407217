//! Several upstreams for one name: which is asked, who is asked after one that fails, and
//! when a request leaves a machine where it would have to wait.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::super::harness::{Answer, Home, PATIENCE, Server, question};
use super::fake::{Asked, Fake, Reply, chat, whole};
use super::{said, serve};

/// A port where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9/v1";

fn upstream(answer: &Answer) -> &str {
    answer.header("x-roundhouse-upstream").expect("away")
}

/// Whether it was a request, and no look at what is up.
fn is_request(asked: &Asked) -> bool {
    asked.head.starts_with("POST ")
}

#[tokio::test]
async fn row40_what_one_upstream_does_not_answer_another_does_and_no_request_is_wrong_twice() {
    static STATUS: AtomicU16 = AtomicU16::new(503);
    let first = Fake::start(|_| match STATUS.load(Ordering::SeqCst) {
        0 => Reply::Cut(String::new()),
        status => whole(
            &format!("{status} No"),
            "Retry-After: 9\r\n",
            r#"{"error":{"message":"no"}}"#,
        ),
    });
    let second = Fake::start(|asked| chat(asked, "second"));
    let home = Home::new(&format!(
        "upstreams:\n  dead: {{ url: '{NOWHERE}', models: [x] }}\n  first: {{ url: '{}', models: [{{ name: x, as: theirs }}] }}\n  second: {{ url: '{}', priority: 1, models: [x], key_env: CLOUD_KEY }}\n",
        first.url(),
        second.url()
    ));
    let server = serve(&home);
    for stream in [false, true] {
        for status in [503, 429, 500, 401, 0] {
            STATUS.store(status, Ordering::SeqCst);
            let answer = server.chat(&question("x", "n", stream)).await;
            assert_eq!(said(&answer), "second", "{status}");
            assert_eq!(upstream(&answer), "second");
            assert_eq!(answer.header("x-roundhouse-model"), Some("x"));
        }
    }
    // What is wrong with the request is wrong anywhere. Those that failed may rest.
    let asked = second.asked().len();
    assert_eq!(asked, 10);
    STATUS.store(400, Ordering::SeqCst);
    let start = Instant::now();
    while server.chat(&question("x", "n", false)).await.status != 400 {
        assert!(start.elapsed() < PATIENCE, "the first is not asked again");
    }
    for asked in first.asked() {
        assert!(!asked.head.contains("canary"), "{}", asked.head);
        let body: Value = serde_json::from_str(&asked.body).expect("JSON");
        assert_eq!(body["model"], "theirs");
    }
    server.logged(&["another is asked"]);
}

#[tokio::test]
async fn row38_of_several_with_a_name_each_gets_its_share() {
    let light = Fake::start(|asked| chat(asked, "light"));
    let heavy = Fake::start(|asked| chat(asked, "heavy"));
    let later = Fake::start(|asked| chat(asked, "later"));
    let home = Home::new(&format!(
        "upstreams:\n  light: {{ url: '{}', models: ['x-*'] }}\n  heavy: {{ url: '{}', weight: 3, models: ['x-*'] }}\n  later: {{ url: '{}', priority: 1, models: ['x-*'] }}\n",
        light.url(),
        heavy.url(),
        later.url()
    ));
    let server = serve(&home);
    for _ in 0..40 {
        said(&server.chat(&question("x-1", "n", false)).await);
    }
    let counts = [&light, &heavy, &later].map(|fake| fake.asked().len());
    // Counting begins anew when one is asked for the first time.
    assert!(matches!(counts, [10 | 11, 29 | 30, 0]), "{counts:?}");
    let (code, told, _) = home.run(&["explain", "x-1"]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("light, heavy, later"), "{told}");
}

#[tokio::test]
async fn row38_an_upstream_that_breaks_off_in_its_answers_is_left_alone_after_a_while() {
    for stream in [true, false] {
        let cloud = Fake::start(|asked| {
            Reply::Cut(match asked.body.contains("\"stream\":true") {
                true => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".to_owned(),
                false => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{".to_owned(),
            })
        });
        let (_home, server) = super::with_cloud(&cloud.url(), "");
        for _ in 0..5 {
            let answer = server.chat(&question("cloud-x", "n", stream)).await;
            assert!(answer.text.contains("bad_upstream_response"), "{answer:?}");
            assert!(!answer.text.contains("[DONE]"), "{answer:?}");
        }
        let start = Instant::now();
        loop {
            let answer = server.chat(&question("cloud-x", "n", stream)).await;
            if answer.status == 503 {
                assert_eq!(answer.code(), "overloaded");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "it is asked on and on");
        }
    }
}

#[tokio::test]
async fn row38_a_request_that_would_wait_too_long_leaves_and_one_that_finds_nobody_waits() {
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let home = Home::new(&format!(
        "upstreams:\n  cloud: {{ url: '{}', models: [{{ name: there, as: theirs }}] }}\n  dead: {{ url: '{NOWHERE}', models: [gone] }}\n\
         models:\n  t/slow: {{ fallback: there, spill_after: 0s }}\n  t/alone: {{ fallback: gone, spill_after: 0s }}\n  t/patient: {{ fallback: there, spill_after: 1h }}\n",
        cloud.url()
    ));
    for id in ["t/slow", "t/alone", "t/patient"] {
        home.scripted(id, json!({"tokens": 2, "load_ms": 400}));
    }
    let server = serve(&home);
    for stream in [false, true] {
        let answer = server.chat(&question("t/slow", "n", stream)).await;
        if answer.header("x-roundhouse-upstream").is_none() {
            // It had come up in the meantime.
            assert!(stream, "{answer:?}");
            continue;
        }
        assert_eq!(said(&answer), "theirs");
        assert_eq!(answer.header("x-roundhouse-route"), Some("spill"));
        assert_eq!(answer.header("x-roundhouse-fallback"), Some("there"));
        assert_eq!(answer.header("x-roundhouse-model"), Some("theirs"));
        assert_eq!(upstream(&answer), "cloud");
    }
    for model in ["t/alone", "t/patient"] {
        let answer = server.chat(&question(model, "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-roundhouse-upstream"), None, "{answer:?}");
        assert_eq!(answer.header("x-roundhouse-route"), Some("exact"));
    }
    // A model that is up answers itself.
    let answer = server.chat(&question("t/alone", "n", true)).await;
    assert_eq!(answer.header("x-roundhouse-route"), Some("exact"));
}

#[tokio::test]
async fn row38_a_request_goes_where_its_model_already_stands() {
    let list = |asked: &Asked| match is_request(asked) {
        true => chat(asked, "empty"),
        false => whole(
            "200 OK",
            "",
            r#"{"object":"list","data":[{"id":"t/a","state":"unloaded","cached":true}]}"#,
        ),
    };
    let empty = Fake::start(list);
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 2}));
    let other = serve(&home);
    assert_eq!(other.chat(&question("t/a", "n", false)).await.status, 200);
    let port = other.inference.rsplit(':').next().expect("a port");
    let front = Home::new(&format!(
        "upstreams:\n  empty: {{ url: '{}', roundhouse: true, weight: 100, models: [t/a] }}\n  other: {{ url: 'http://127.0.0.1:{port}/v1', roundhouse: true, models: [t/a] }}\n",
        empty.url()
    ));
    let server: Server = serve(&front);
    let start = Instant::now();
    // The first look is waited for, but not for ever.
    loop {
        let answer = server.chat(&question("t/a", "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if upstream(&answer) == "other" {
            break;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "it never goes where the model is"
        );
    }
    let asked = empty.asked();
    assert!(
        asked
            .iter()
            .any(|asked| asked.head.starts_with("GET /v1/models ")),
        "{asked:?}"
    );
}
