//! Services elsewhere: what leads to them, what they are told, what becomes of what
//! they answer, and when they answer in the place of a model of this machine.

mod anywhere;
mod fake;
mod rest;
mod targets;

use std::time::Instant;

use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, question};
use super::records::until_metric;
use fake::{Asked, Authority, Canary, Fake, OldTls, Reply, chat, whole};

/// What the upstream is shown, and what the caller shows us.
const KEY: &str = "sk-provider-canary";

/// A server whose one upstream answers `cloud-*`.
fn with_cloud(url: &str, more: &str) -> (Home, Server) {
    let home = Home::new(&format!(
        "upstreams: {{ cloud: {{ url: '{url}', key_env: CLOUD_KEY, models: ['cloud-*', {{ name: renamed, as: 'Their/Name v2' }}] }} }}\n{more}\n"
    ));
    home.scripted("t/a", json!({"tokens": 2}));
    let server = serve(&home);
    (home, server)
}

fn serve(home: &Home) -> Server {
    let ports = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    home.serve_as(&ports, &[("CLOUD_KEY", KEY)])
}

/// What is said by whoever answers.
fn said(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.content()
}

#[tokio::test]
async fn u00_a_name_of_an_upstream_is_answered_there_with_our_key_and_the_callers_bytes() {
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let (home, server) = with_cloud(&cloud.url(), "models: { t/a: {} }");
    for stream in [false, true] {
        let body = format!(
            r#"{{ "model" : "cloud-big","stream":{stream}, "odd":1e5,"messages":[{{"role":"user","content":"\u0068i"}}] }}"#
        );
        let response = server
            .request(reqwest::Method::POST, "/v1/chat/completions")
            .header("content-type", "application/json")
            .header("authorization", "Bearer sk-caller-canary")
            .header("x-api-key", "sk-caller-canary")
            .header("cookie", "caller=canary")
            .header("x-request-id", "req-mine")
            .body(body.clone())
            .send()
            .await
            .expect("an answer");
        let answer = Answer::read(response).await;
        assert_eq!(said(&answer), "theirs");
        for (name, expected) in [
            ("x-roundhouse-model", Some("cloud-big")),
            ("x-roundhouse-route", Some("wildcard")),
            ("x-roundhouse-upstream", Some("cloud")),
            ("x-roundhouse-fallback", None),
            ("set-cookie", None),
            ("server", None),
        ] {
            assert_eq!(answer.header(name), expected, "{name}: {answer:?}");
        }
        let asked = cloud.asked().pop().expect("asked");
        assert!(asked.head.starts_with("POST /v1/chat/completions HTTP/1.1"));
        assert_eq!(asked.body, body, "byte for byte");
        let bearer = format!("Bearer {KEY}");
        assert_eq!(asked.header("authorization"), Some(bearer.as_str()));
        let host = format!("127.0.0.1:{}", cloud.port);
        assert_eq!(asked.header("host"), Some(host.as_str()));
        assert_eq!(asked.header("transfer-encoding"), None);
        for word in ["caller", "cookie", "x-api-key", "x-roundhouse-secret"] {
            assert!(!asked.head.contains(word), "{word}: {}", asked.head);
        }
    }
    assert_eq!(cloud.connections(), 1, "the connection is kept");
    let answer = server.chat(&question("renamed", "n", false)).await;
    assert_eq!(answer.header("x-roundhouse-model"), Some("Their/Name v2"));
    let asked: Value = serde_json::from_str(&cloud.asked()[2].body).expect("JSON");
    assert_eq!(
        (&asked["model"], &asked["nonce"]),
        (&json!("Their/Name v2"), &json!("n"))
    );
    let of_machine = server.chat(&question("t/a", "n", false)).await;
    assert_eq!(of_machine.header("x-roundhouse-upstream"), None);
    // What is told of it.
    let (_, listed) = server.get("/v1/models").await;
    let listed = listed["data"].as_array().expect("a list").clone();
    let renamed = listed
        .iter()
        .find(|model| model["id"] == "renamed")
        .expect("listed");
    assert_eq!(
        (&renamed["owned_by"], &renamed["upstream"]),
        (&json!("cloud"), &json!("cloud"))
    );
    assert!(
        listed.iter().all(|model| model["id"] != "cloud-*"),
        "{listed:?}"
    );
    let (code, told, _) = home.run(&["explain", "cloud-big"]);
    assert_eq!(code, 0, "{told}");
    assert!(
        told.contains("upstream") && told.contains("cloud"),
        "{told}"
    );
    let (_, told, _) = home.run(&["models"]);
    assert!(told.contains("cloud-*"), "{told}");
    let (_, told, _) = home.run(&["check", "models.yaml"]);
    assert!(told.contains("renamed"), "{told}");
    let tokens = "upstream_tokens_total{upstream=\"cloud\",kind=\"completion\"}";
    until_metric(&server, tokens, |seen| seen == 15.0).await;
    let requests = "upstream_requests_total{upstream=\"cloud\",ending=\"complete\"}";
    until_metric(&server, requests, |seen| seen == 3.0).await;
    // No request makes a label.
    let labelled = "requests_total{model=\"cloud-*\",ending=\"complete\"}";
    until_metric(&server, labelled, |seen| seen == 2.0).await;
    assert!(!server.log().contains("canary"), "{}", server.log());
}

#[tokio::test]
async fn u01_u02_nothing_in_a_request_says_where_it_goes() {
    let canary = Canary::new();
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let (_home, server) = with_cloud(&cloud.url(), "models: { t/a: {} }");
    let fields = [
        "api_base",
        "base_url",
        "endpoint",
        "proxy",
        "provider",
        "url",
        "host",
        "x-upstream",
        "x-portkey-custom-host",
        "x-forwarded-host",
        "forwarded",
    ];
    for model in ["cloud-x", "t/a"] {
        let mut body = question(model, "n", false);
        for field in fields {
            body[field] = json!(canary.url());
        }
        let query: Vec<_> = fields
            .iter()
            .map(|field| format!("{field}={}", canary.url()))
            .collect();
        let path = format!("/v1/chat/completions?{}", query.join("&"));
        let mut request = server
            .request(reqwest::Method::POST, &path)
            .header("content-type", "application/json")
            .body(body.to_string());
        for field in fields.iter().filter(|field| **field != "host") {
            request = request.header(*field, canary.url());
        }
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        // An engine of our own refuses what no field takes.
        assert!([200, 400].contains(&answer.status), "{answer:?}");
        let as_model = server.chat(&question(&canary.url(), "n", false)).await;
        assert_eq!(as_model.status, 400, "{as_model:?}");
    }
    for path in ["/v1/completions", "/v1/embeddings"] {
        for field in ["model", "prompt", "input", "user", "suffix"] {
            let mut body = json!({"model": "cloud-x", "prompt": "p", "input": "i"});
            body[field] = json!(canary.url());
            let answer = server.post(path, &body).await;
            drop(Answer::read(answer).await);
        }
    }
    canary.assert_untouched();
    assert!(!cloud.asked().is_empty());
}

#[tokio::test]
async fn u03_a_redirect_is_not_followed_and_nothing_of_it_is_passed_on() {
    let canary = std::sync::Arc::new(Canary::new());
    let target = canary.clone();
    let cloud = Fake::start(move |asked| {
        let status = asked
            .body
            .split("cloud-")
            .nth(1)
            .map_or("302", |text| &text[..3]);
        let location = format!("Location: {}\r\n", target.url());
        whole(&format!("{status} Elsewhere"), &location, "{}")
    });
    let (_home, server) = with_cloud(&cloud.url(), "");
    for status in [301, 302, 303, 307, 308] {
        for stream in [false, true] {
            let body = question(&format!("cloud-{status}"), "n", stream);
            let answer = server.chat(&body).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (502, "bad_upstream_response")
            );
            assert_eq!(answer.header("location"), None);
            assert!(!answer.text.contains(&canary.url()), "{answer:?}");
        }
    }
    assert_eq!(cloud.asked().len(), 10);
    canary.assert_untouched();
}

#[tokio::test]
async fn u04_an_upstream_that_is_the_server_itself_or_no_service_is_refused_at_the_start() {
    let refused = |url: &str, listen: &str, words: &str| {
        let home = Home::new(&format!(
            "upstreams: {{ a: {{ url: '{url}', models: [x] }} }}\n"
        ));
        let args = ["serve", "--listen", listen, "--management", "127.0.0.1:0"];
        let (code, _, told) = home.run(&args);
        assert_eq!(code, 78, "{url}: {told}");
        assert!(told.contains(words), "{url}: {told}");
    };
    refused(
        "http://127.0.0.1:11440/v1",
        "127.0.0.1:0",
        "this server itself",
    );
    refused(
        "http://localhost:11441/v1",
        "127.0.0.1:0",
        "this server itself",
    );
    refused(
        "http://localhost:20999/v1",
        "127.0.0.1:20999",
        "this server itself",
    );
    for url in [
        "https://0.0.0.0/v1",
        "https://[::]/v1",
        "http://169.254.169.254/v1",
        "https://169.254.169.254/v1",
        "http://[::ffff:127.0.0.1]:8000/v1",
    ] {
        refused(url, "127.0.0.1:0", "upstreams.a.url");
    }
}

#[tokio::test]
async fn u06_who_cannot_prove_its_name_is_told_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let answer = |asked: &Asked| chat(asked, "proven");
    let sound = Fake::secured(authority.server("localhost", 2090), answer);
    let expired = Fake::secured(authority.server("localhost", 2010), answer);
    let misnamed = Fake::secured(authority.server("elsewhere.example", 2090), answer);
    let unknown = Fake::secured(stranger.server("localhost", 2090), answer);
    // It hangs up on whoever begins a handshake.
    let cut = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let cut_port = cut.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in cut.incoming() {
            drop(stream);
        }
    });
    // SSL 3.0, TLS 1.0 and 1.1.
    let old = [[3, 0], [3, 1], [3, 2]].map(OldTls::start);
    let all = [
        ("old0", old[0].port),
        ("old1", old[1].port),
        ("old2", old[2].port),
        ("sound", sound.port),
        ("expired", expired.port),
        ("misnamed", misnamed.port),
        ("unknown", unknown.port),
        ("cut", cut_port),
    ];
    let upstreams = all.map(|(name, port)| {
        format!("  {name}: {{ url: 'https://localhost:{port}/v1', ca: ca.pem, key_env: CLOUD_KEY, models: [{name}] }}\n")
    });
    let system = format!(
        "  system: {{ url: 'https://localhost:{}/v1', models: [system] }}\n",
        sound.port
    );
    let home = Home::new(&format!("upstreams:\n{}{system}", upstreams.concat()));
    std::fs::write(home.path().join("ca.pem"), &authority.pem).expect("written");
    let server = serve(&home);
    assert_eq!(
        said(&server.chat(&question("sound", "n", false)).await),
        "proven"
    );
    assert_eq!(
        said(&server.chat(&question("sound", "n", true)).await),
        "proven"
    );
    assert_eq!((sound.asked().len(), sound.connections()), (2, 1));
    let names = ["expired", "misnamed", "unknown", "cut", "system"];
    for name in ["old0", "old1", "old2"].iter().chain(&names).copied() {
        let answer = server.chat(&question(name, "n", false)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "bad_upstream_response"),
            "{name}"
        );
        assert!(
            !answer.text.contains("127.0.0.1") && !answer.text.contains("ertificate"),
            "{answer:?}"
        );
    }
    for fake in [&expired, &misnamed, &unknown] {
        assert!(fake.asked().is_empty(), "told {:?}", fake.asked());
    }
    for old in &old {
        let start = Instant::now();
        while old.told().0.is_empty() {
            assert!(start.elapsed() < PATIENCE, "nobody shook hands");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // A handshake (0x16) that is given up with an alert (0x15), and no data.
        let (kinds, told) = old.told();
        assert!(
            kinds.iter().all(|kind| [0x16, 0x15].contains(kind)),
            "{kinds:?}"
        );
        assert!(kinds.contains(&0x15), "{kinds:?}");
        let holds = |words: &str| told.windows(words.len()).any(|it| it == words.as_bytes());
        assert!(!holds(KEY) && !holds("POST"), "{kinds:?}");
    }
    assert_eq!(
        sound.asked().len(),
        2,
        "the system does not know our authority"
    );
    assert!(!server.log().contains(KEY), "{}", server.log());
}

#[tokio::test]
async fn u07_no_proxy_of_the_environment_is_asked() {
    let canary = Canary::new();
    let cloud = Fake::start(|asked| chat(asked, "direct"));
    let home = Home::new(&format!(
        "upstreams: {{ cloud: {{ url: '{}', models: ['cloud-*'] }} }}\nmodels: {{ t/a: {{}} }}\n",
        cloud.url()
    ));
    home.scripted("t/a", json!({"tokens": 2}));
    let proxy = canary.url();
    let names = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let variables = names.map(|name| (name, proxy.as_str()));
    let ports = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let server = home.serve_as(&ports, &variables);
    assert_eq!(
        said(&server.chat(&question("cloud-x", "n", false)).await),
        "direct"
    );
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    canary.assert_untouched();
}

#[tokio::test]
async fn u08_without_a_fallback_nothing_leaves_the_machine() {
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let (home, server) = with_cloud(&cloud.url(), "models: { t/a: {}, t/broken: {} }");
    home.scripted("t/broken", json!({"load_fail": "as told"}));
    server
        .control(reqwest::Method::POST, "/admin/reload", None)
        .await;
    for stream in [false, true] {
        let answer = server.chat(&question("t/broken", "n", stream)).await;
        assert!(answer.status >= 500, "{answer:?}");
        let mut body = question("t/a", "n", stream);
        body["scripted"] = json!({"crash": {"at": "headers"}});
        let answer = server.chat(&body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "worker_crashed")
        );
    }
    assert_eq!(cloud.connections(), 0);
}

#[tokio::test]
async fn u09_a_fallback_answers_before_the_first_byte_says_so_and_never_after_it() {
    let cloud = Fake::start(|asked| chat(asked, "theirs"));
    let (_home, server) = with_cloud(
        &cloud.url(),
        "models: { t/a: { fallback: cloud-big, request: { set: { temperature: 0 } } }, t/y: { path: other } }",
    );
    let mut body = question("t/a", "n", true);
    body["scripted"] = json!({"tokens": 9, "token_ms": 5, "crash": {"at": "token", "token": 3}});
    let answer = server.chat(&body).await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer.text.contains("[DONE]") && !answer.text.contains("theirs"),
        "{answer:?}"
    );
    assert!(answer.text.contains("worker_crashed"), "{answer:?}");
    assert_eq!(cloud.connections(), 0);
    for (stream, crash) in [
        (false, json!({"at": "headers"})),
        (true, json!({"at": "headers"})),
        (false, json!({"at": "token", "token": 1})),
    ] {
        let mut body = question("t/a", "n", stream);
        body["scripted"] = json!({"tokens": 3, "crash": crash});
        let request = server.request(reqwest::Method::POST, "/v1/chat/completions");
        let request = request.header("authorization", "Bearer sk-caller-canary");
        let request = request.header("content-type", "application/json");
        let request = request
            .header("cookie", "caller=canary")
            .body(body.to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        assert_eq!(said(&answer), "theirs");
        for (name, expected) in [
            ("x-roundhouse-route", "fallback"),
            ("x-roundhouse-fallback", "cloud-big"),
            ("x-roundhouse-upstream", "cloud"),
            ("x-roundhouse-model", "cloud-big"),
        ] {
            assert_eq!(answer.header(name), Some(expected), "{answer:?}");
        }
        let asked = cloud.asked().pop().expect("asked");
        let bearer = format!("Bearer {KEY}");
        assert_eq!(asked.header("authorization"), Some(bearer.as_str()));
        assert!(!asked.head.contains("caller"), "{}", asked.head);
        let body: Value = serde_json::from_str(&asked.body).expect("JSON");
        assert_eq!(body["model"], "cloud-big");
        assert_eq!(body["temperature"], 0, "the rules of the entry hold");
    }
    let before = cloud.asked().len();
    // What is wrong with the request itself is wrong anywhere.
    let mut wrong = question("t/a", "n", false);
    wrong["temperature"] = json!("hot");
    assert_eq!(server.chat(&wrong).await.status, 400);
    // Another entry says nothing of leaving.
    assert!(server.chat(&question("t/y", "n", false)).await.status >= 400);
    assert_eq!(cloud.asked().len(), before, "nothing else left");
}

#[tokio::test]
async fn u10_refusals_and_silence_of_an_upstream_are_told_as_ours() {
    let cloud = Fake::start(|asked| {
        let body = r#"{"error":{"message":"canary of 10.0.0.7"}}"#;
        let status = asked
            .body
            .split("cloud-")
            .nth(1)
            .map_or("500", |text| &text[..3]);
        match status {
            "han" => Reply::Hang,
            "cut" => Reply::Cut(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
                    .to_owned(),
            ),
            "pag" => Reply::Bytes(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
                    .to_owned(),
            ),
            status => whole(&format!("{status} No"), "Retry-After: 7\r\n", body),
        }
    });
    let (_home, server) = with_cloud(&cloud.url(), "server: { limits: { first_token: 1s } }");
    for (name, status, code, wait, is_said) in [
        ("429", 429, "rate_limit_exceeded", Some("7"), false),
        ("503", 503, "overloaded", Some("7"), false),
        ("500", 502, "bad_upstream_response", None, false),
        ("401", 502, "bad_upstream_response", None, false),
        ("404", 404, "model_not_found", None, false),
        ("400", 400, "bad_request", None, true),
        ("cut", 502, "bad_upstream_response", None, false),
        ("page", 502, "bad_upstream_response", None, false),
        ("hang", 504, "first_token_timeout", Some("1"), false),
    ] {
        for stream in [false, true] {
            let answer = server
                .chat(&question(&format!("cloud-{name}"), "n", stream))
                .await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (status, code),
                "{name} {stream}"
            );
            assert_eq!(answer.header("retry-after"), wait, "{name} {stream}");
            assert_eq!(answer.text.contains("canary"), is_said, "{answer:?}");
        }
    }
    let nowhere = Home::new(
        "upstreams: { a: { url: 'http://127.0.0.1:9/v1', key_env: NOT_SET, models: [a] }, b: { url: 'http://127.0.0.1:9/v1', models: [b] } }",
    );
    let server = serve(&nowhere);
    server.logged(&["NOT_SET is not set"]);
    for name in ["a", "b"] {
        let answer = server.chat(&question(name, "n", false)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "bad_upstream_response")
        );
    }
    // One that fails again and again is left alone for a while.
    let start = Instant::now();
    loop {
        let answer = server.chat(&question("b", "n", false)).await;
        if answer.status == 503 {
            assert_eq!(answer.code(), "overloaded");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            break;
        }
        assert_eq!(answer.code(), "bad_upstream_response");
        assert!(start.elapsed() < PATIENCE, "it is asked on and on");
    }
}

#[tokio::test]
async fn u10_servers_that_name_each_other_make_no_circle() {
    let port = |server: &Server| {
        server
            .inference
            .rsplit(':')
            .next()
            .expect("a port")
            .to_owned()
    };
    // The second learns where the first is when that has begun.
    let second = Home::new("models: { t/a: {} }\n");
    second.scripted("t/a", json!({"tokens": 2}));
    let second_server = serve(&second);
    let first = Home::new(&format!(
        "upstreams: {{ next: {{ url: 'http://127.0.0.1:{}/v1', models: [there, 'far-*', t/a] }} }}\nmodels: {{ t/b: {{ fallback: there }} }}\n",
        port(&second_server)
    ));
    first.scripted("t/b", json!({"load_fail": "as told"}));
    let first_server = serve(&first);
    second.configure(&format!(
        "upstreams: {{ next: {{ url: 'http://127.0.0.1:{}/v1', models: [there, 'far-*', t/b] }} }}\nmodels: {{ t/a: {{}} }}\n",
        port(&first_server)
    ));
    let (status, told) = second_server
        .control(reqwest::Method::POST, "/admin/reload", None)
        .await;
    assert_eq!(status, 200, "{told}");
    // One step is what it is for.
    let answer = first_server.chat(&question("t/a", "n", false)).await;
    assert_eq!(said(&answer), answer.content());
    assert_eq!(answer.header("x-roundhouse-upstream"), Some("next"));
    // A second one is refused where it would begin.
    let refused = (502, "bad_upstream_response");
    for (server, model, expected) in [
        (&first_server, "there", refused),
        (&second_server, "far-x", refused),
        (&first_server, "t/b", refused),
        // The first does not fall back for the second.
        (&second_server, "t/b", (503, "overloaded")),
    ] {
        let answer = server.chat(&question(model, "n", false)).await;
        assert_eq!((answer.status, answer.code().as_str()), expected, "{model}");
    }
}
