//! What one key and one address may do: requests in a minute, requests at once,
//! tokens in a day, and how many wrong keys are answered as such.

use std::time::Instant;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, long, question};
use super::keys::{chat, home, manage, models, new_key, until, with_key};
use super::records::{lines, state};

#[tokio::test]
async fn l10_a07_one_key_is_limited_by_its_rate_however_it_is_given() {
    let home = home();
    let slow = new_key(&home, &["--rate", "60"]);
    let other = new_key(&home, &["--rate", "60"]);
    let server = home.serve();
    let bearer = format!("Bearer {slow}");
    let forms = [
        ("authorization", bearer.as_str()),
        ("x-api-key", slow.as_str()),
    ];
    let tries = if long() { 6000 } else { 600 };
    let start = Instant::now();
    let mut passed = 0u64;
    for turn in 0..tries {
        let answer = with_key(&server, forms[turn % 2], Method::GET, "/v1/models", None).await;
        if answer.status == 200 {
            passed += 1;
            continue;
        }
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (429, "rate_limit_exceeded")
        );
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    }
    // A minute's worth at once, and one for each second that passed.
    let expected = 60 + start.elapsed().as_secs();
    assert!(
        (expected - 1..=expected + 1).contains(&passed),
        "{passed}, not {expected}"
    );
    for _ in 0..30 {
        assert_eq!(models(&server, &other).await.status, 200, "the other key");
    }
}

#[tokio::test]
async fn a_key_has_so_many_requests_at_once() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 2, "token_ms": 60_000}));
    let key = new_key(&home, &["--concurrency", "2"]);
    let server = home.serve();
    let begin = async || {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .body(question("t/a", "n", true).to_string());
        request.send().await.expect("an answer")
    };
    let (one, two) = (begin().await, begin().await);
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    let third = models(&server, &key).await;
    assert_eq!(
        (third.status, third.code().as_str()),
        (429, "rate_limit_exceeded")
    );
    assert!(third.header("retry-after").is_some());
    // A client that leaves gives its place back.
    drop(one);
    until(200, async || models(&server, &key).await).await;
    drop(two);
}

#[tokio::test]
async fn a_key_has_so_many_tokens_a_day() {
    let home = home();
    let key = new_key(&home, &["--tokens-per-day", "5"]);
    let other = new_key(&home, &[]);
    let server = home.serve();
    // Three tokens an answer, streamed or not, and those of the prompt.
    for stream in [false, true] {
        let answer = chat(&server, &key, &question("t/a", "n", stream)).await;
        assert!(stream || answer.status == 200, "{answer:?}");
    }
    // A stream's tokens are counted a moment after its last event.
    until(429, async || models(&server, &key).await).await;
    let refused = models(&server, &key).await;
    assert_eq!(refused.code(), "rate_limit_exceeded");
    assert!(refused.text.contains("5 tokens"), "{}", refused.text);
    assert_eq!(
        chat(&server, &other, &question("t/a", "n", true))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn an_answer_that_is_broken_off_is_counted_by_what_was_sent() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1000, "token_ms": 20}));
    let key = new_key(&home, &["--tokens-per-day", "2"]);
    let server = home.serve();
    let request = server
        .request(Method::POST, "/v1/chat/completions")
        .header("x-api-key", &key)
        .header("content-type", "application/json")
        .body(question("t/a", "n", true).to_string());
    let mut answer = request.send().await.expect("an answer");
    for _ in 0..3 {
        assert!(answer.chunk().await.expect("a piece").is_some());
    }
    assert_eq!(
        models(&server, &key).await.status,
        200,
        "it is not counted yet"
    );
    drop(answer);
    until(429, async || models(&server, &key).await).await;
}

#[tokio::test]
async fn a_request_waits_in_the_class_of_its_key_at_most() {
    let models = "models: { t/a: {}, t/b: {}, other/c: {} }";
    let home = Home::new(&format!(
        "pool: {{ max_models: 1, switch_after: 10m }}\n{models}\n"
    ));
    home.scripted("t/a", json!({"tokens": 1000, "token_ms": 50}));
    for model in ["t/b", "other/c"] {
        home.scripted(model, json!({"tokens": 1}));
    }
    let low = new_key(&home, &["--priority", "low"]);
    let normal = new_key(&home, &["--priority", "normal"]);
    let server = home.serve();
    let ask = |key: &str, model: &str, stream: bool| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("x-api-key", key)
            .header("x-priority", "high")
            .header("content-type", "application/json")
            .body(question(model, "n", stream).to_string());
        request.send()
    };
    let holder = ask(&normal, "t/a", true).await.expect("an answer");
    let waits = async |number: u64| {
        let is_so = |status: &Value| status["requests"]["waiting"] == number;
        server.until("in the line", is_so).await;
    };
    let first = ask(&low, "t/b", false);
    let second = ask(&normal, "other/c", false);
    let positions = async {
        let one = async { first.await.expect("an answer") };
        let two = async {
            waits(1).await;
            let leave = async {
                waits(2).await;
                drop(holder);
            };
            tokio::join!(second, leave).0.expect("an answer")
        };
        let (one, two) = tokio::join!(one, two);
        [one, two].map(|answer| {
            let position = answer.headers().get("x-roundhouse-queue-position");
            position
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        })
    };
    // The second stood before the first, although both called themselves urgent.
    assert_eq!(
        positions.await,
        [Some("0".to_owned()), Some("0".to_owned())]
    );
}

#[tokio::test]
async fn l11_a_flood_without_a_key_is_limited_and_management_stays() {
    let home = Home::new("server: { limits: { address_rate: 60 } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let key = new_key(&home, &["--management"]);
    let server = home.serve();
    let start = Instant::now();
    let mut passed = 0;
    for _ in 0..300 {
        let (status, answer) = server.get("/v1/models").await;
        match status {
            200 => passed += 1,
            _ => assert_eq!(answer["error"]["code"], "rate_limit_exceeded"),
        }
        assert_eq!(server.get("/health").await.0, 200);
    }
    let expected = 60 + start.elapsed().as_secs();
    assert!(
        (expected - 1..=expected + 1).contains(&passed),
        "{passed}, not {expected}"
    );
    let answer = manage(&server, &key, Method::GET, "/admin/status").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn h15_behind_a_listed_proxy_limits_are_those_of_the_real_peer() {
    let limits = "limits: { address_rate: 5, wrong_keys: 5 }";
    let home = Home::new(&format!(
        "server: {{ trusted_proxies: [127.0.0.1], {limits} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let ask = async |peer: &str| {
        let request = server
            .request(Method::GET, "/v1/models")
            .header("x-forwarded-for", peer);
        Answer::read(request.send().await.expect("an answer")).await
    };
    let statuses = async |peer: &str| {
        let mut statuses = Vec::new();
        for _ in 0..8 {
            statuses.push(ask(peer).await.status);
        }
        statuses.dedup();
        statuses
    };
    assert_eq!(statuses("127.0.0.7").await, [200, 429], "a local program");
    // From elsewhere there is nothing without a key, though the proxy is local.
    assert_eq!(statuses("192.0.2.1").await, [401, 429]);
    assert_eq!(
        ask("192.0.2.2").await.status,
        401,
        "another one has its own count"
    );
    let key = new_key(&home, &[]);
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let request = server
        .request(Method::GET, "/v1/models")
        .header("x-api-key", &key);
    let answer = request.header("x-forwarded-for", "192.0.2.1").send().await;
    assert_eq!(
        answer.expect("an answer").status(),
        200,
        "a right key always passes"
    );
}

#[tokio::test]
async fn l12_wrong_keys_are_answered_so_often_and_the_right_one_always() {
    let home = home();
    let inference = new_key(&home, &[]);
    let management = new_key(&home, &["--management"]);
    let server = home.serve();
    let start = Instant::now();
    let mut refused = 0;
    for _ in 0..1000 {
        let answer = models(&server, "wrong-wrong-wrong-wrong").await;
        match answer.code().as_str() {
            "invalid_api_key" => refused += 1,
            "rate_limit_exceeded" => assert!(answer.header("retry-after").is_some()),
            code => panic!("{code}"),
        }
    }
    // A hundred at once, and a hundred in each minute.
    let expected = 100 + start.elapsed().as_secs() * 100 / 60;
    assert!(
        (expected - 2..=expected + 2).contains(&refused),
        "{refused}, not {expected}"
    );
    assert_eq!(models(&server, &inference).await.status, 200, "the owner");
    let status = manage(&server, &management, Method::GET, "/admin/status").await;
    assert_eq!(status.status, 200, "the owner");
    // Another address of this machine has its own count.
    // Elsewhere than on Linux this machine has one loopback address.
    for (key, expected) in [(inference.as_str(), 200), ("wrong", 401)] {
        if cfg!(target_os = "linux") {
            let from = Client::builder().local_address(std::net::IpAddr::from([127, 0, 0, 9]));
            let from = from.build().expect("a client");
            let request = from.get(format!("{}/v1/models", server.inference));
            let answer = request
                .header("x-api-key", key)
                .send()
                .await
                .expect("an answer");
            assert_eq!(answer.status(), expected);
        }
    }
    let audit = home.path().join(".local/state/roundhouse/audit.jsonl");
    let before = std::fs::read_to_string(&audit).unwrap_or_default();
    let (flood, mut told) = (Instant::now(), 0);
    for _ in 0..50 {
        let answer = manage(&server, "wrong", Method::GET, "/admin/status").await;
        told += u64::from(answer.status == 401);
    }
    let expected = flood.elapsed().as_secs() * 100 / 60;
    assert!(told <= expected + 2, "{told}, not {expected}");
    let after = std::fs::read_to_string(&audit).unwrap_or_default();
    assert!(
        after.len() < before.len() + 1000,
        "a flood does not fill the audit"
    );
}

#[tokio::test]
async fn o01_refusals_for_their_rate_are_summed_and_their_counts_add_up() {
    let home = Home::new("server: { limits: { wrong_keys: 5 } }\n");
    let mut server = home.serve();
    let (start, mut told, mut refused) = (Instant::now(), 0, 0);
    for number in 0..if long() { 20_000 } else { 300 } {
        // Names made up for a part of a path are no routes of their own.
        let (method, path) = match number % 3 {
            0 => (Method::GET, "/admin/status".to_owned()),
            1 => (Method::POST, "/admin/reload".to_owned()),
            _ => (Method::DELETE, format!("/admin/keys/{number}")),
        };
        match manage(&server, "wrong", method, &path).await.status {
            401 => told += 1,
            429 => refused += 1,
            status => panic!("{status}"),
        }
    }
    assert!(refused > 200, "{refused}");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let lines = lines(&state(&home, "audit.jsonl"));
    let of = |result: &str| {
        let those = lines.iter().filter(|line| line["result"] == result);
        those.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("invalid_api_key").len(), told);
    let summed = of("rate_limit_exceeded");
    let counts = summed
        .iter()
        .map(|line| line["count"].as_u64().unwrap_or(1));
    assert_eq!(counts.sum::<u64>(), refused, "{summed:#?}");
    // The first of each at once and one line a minute for the rest.
    let minutes = start.elapsed().as_secs() / 60 + 1;
    assert!(summed.len() as u64 <= 3 * (1 + minutes), "{summed:#?}");
    let mut actions: Vec<_> = summed
        .iter()
        .map(|line| line["action"].to_string())
        .collect();
    actions.sort();
    actions.dedup();
    let routes = [
        "DELETE /admin/keys/{id}",
        "GET /admin/status",
        "POST /admin/reload",
    ];
    assert_eq!(actions, routes.map(|route| format!("{route:?}")));
    assert!(
        summed
            .iter()
            .all(|line| line["caller"] == "unknown" && line["peer"] == "127.0.0.1")
    );
    let sequence = lines.iter().map(|line| line["sequence"].as_u64());
    assert!(sequence.eq((0..lines.len() as u64).map(Some)), "{lines:#?}");
}
