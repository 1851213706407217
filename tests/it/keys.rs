//! Keys from their making to their revocation, and what each may do.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, long, question};

/// A home with three models.
fn home() -> Home {
    let home = Home::new("models: { t/a: { aliases: [small] }, t/b: {}, other/c: {} }\n");
    for model in ["t/a", "t/b", "other/c"] {
        home.scripted(model, json!({"tokens": 3}));
    }
    home
}

/// The text of a new key.
fn new_key(home: &Home, args: &[&str]) -> String {
    let (code, out, error) = home.run(&[&["keys", "new"], args].concat());
    assert_eq!(code, 0, "{error}");
    out.trim().to_owned()
}

/// A request with a key.
async fn with_key(
    server: &Server,
    (header, key): (&str, &str),
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let mut request = server.request(method, path).header(header, key);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    Answer::read(request.send().await.expect("an answer")).await
}

async fn models(server: &Server, key: &str) -> Answer {
    with_key(server, ("x-api-key", key), Method::GET, "/v1/models", None).await
}

async fn chat(server: &Server, key: &str, body: &Value) -> Answer {
    let path = "/v1/chat/completions";
    with_key(server, ("x-api-key", key), Method::POST, path, Some(body)).await
}

async fn manage(server: &Server, key: &str, method: Method, path: &str) -> Answer {
    let request = Client::new()
        .request(method, format!("{}{path}", server.management))
        .header("x-api-key", key);
    Answer::read(request.send().await.expect("an answer")).await
}

/// How long until an answer has a status.
async fn until(status: u16, ask: impl AsyncFn() -> Answer) -> Duration {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if answer.status == status {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "never {status}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the keys file is in a home.
fn keys_file(home: &Home) -> std::path::PathBuf {
    home.path().join(".local/state/roundhouse/keys.json")
}

#[tokio::test]
async fn a_key_holds_and_ends_within_two_seconds_of_its_command() {
    let home = home();
    // With one that stays, inference asks for a key all the time.
    new_key(&home, &["--name", "first"]);
    let server = home.serve();
    let bound = Duration::from_secs(2);
    let management = new_key(&home, &["--management", "--name", "laptop"]);
    let opened = async || manage(&server, &management, Method::GET, "/admin/status").await;
    assert!(until(200, opened).await < bound);
    let inference = new_key(&home, &["--name", "chat"]);
    let listed = async || models(&server, &inference).await;
    assert!(until(200, listed).await < bound);
    for name in ["laptop", "chat"] {
        assert_eq!(home.run(&["keys", "revoke", name]).0, 0);
    }
    assert!(until(401, opened).await < bound);
    assert!(until(401, listed).await < bound);
    let log = server.log();
    assert!(!log.contains(&management) && !log.contains(&inference));
}

#[tokio::test]
async fn a_damaged_keys_file_leaves_the_last_good_keys() {
    let home = home();
    let key = new_key(&home, &["--management"]);
    let server = home.serve();
    let status = async |server: &Server| {
        let answer = manage(server, &key, Method::GET, "/admin/status").await;
        answer.status
    };
    assert_eq!(status(&server).await, 200);
    let whole = std::fs::read_to_string(keys_file(&home)).expect("the keys");
    let told = |what: &str| {
        let start = Instant::now();
        while !server.log().contains(what) {
            assert!(start.elapsed() < PATIENCE, "never {what}: {}", server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    std::fs::write(keys_file(&home), &whole[..whole.len() / 2]).expect("written");
    told("is not a keys file");
    assert_eq!(status(&server).await, 200);
    std::fs::remove_file(keys_file(&home)).expect("removed");
    told("is gone");
    assert_eq!(status(&server).await, 200);
    std::fs::write(keys_file(&home), &whole).expect("written");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(keys_file(&home), open).expect("mode");
    told("may be read by others");
    assert_eq!(status(&server).await, 200);
    // Mended, and revoked after that.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(keys_file(&home), private).expect("mode");
    let id = home.run(&["keys", "list", "--json"]).1;
    let id: Value = serde_json::from_str(&id).expect("JSON");
    let id = id[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(home.run(&["keys", "revoke", &id]).0, 0);
    let ask = async || manage(&server, &key, Method::GET, "/admin/status").await;
    until(401, ask).await;
}

#[tokio::test]
async fn management_makes_lists_and_revokes_keys_and_writes_it_down() {
    let home = home();
    let server = home.serve();
    let keys = async |method, path: &str, body| server.control(method, path, body).await;
    let wanted = json!({
        "class": "inference", "name": "chat",
        "scope": {"models": ["t/*"], "rate": 60, "priority": "low", "pool": true},
    });
    let (status, made) = keys(Method::POST, "/admin/keys", Some(wanted.clone())).await;
    assert_eq!(status, 200, "{made}");
    let text = made["key"].as_str().expect("a key").to_owned();
    assert_eq!(models(&server, &text).await.status, 200, "at once");
    let (_, listed) = keys(Method::GET, "/admin/keys", None).await;
    let expected = json!({"keys": [{
        "id": made["id"], "name": "chat", "class": "inference", "models": ["t/*"],
        "rate": 60, "priority": "low", "pool": true, "from": "file",
    }]});
    assert_eq!(listed, expected, "no text and no hash");
    let refused: &[(Value, u16, &str)] = &[
        (wanted, 409, "conflict"),
        (json!({}), 400, "invalid_value"),
        (json!({"class": "root"}), 400, "invalid_value"),
        (
            json!({"class": "inference", "key": "mine"}),
            400,
            "invalid_value",
        ),
        (
            json!({"class": "inference", "scope": {"rates": 1}}),
            400,
            "invalid_value",
        ),
        (
            json!({"class": "inference", "name": "a b"}),
            400,
            "invalid_value",
        ),
        (
            json!({"class": "management", "scope": {"models": []}}),
            400,
            "invalid_value",
        ),
    ];
    for (body, expected, code) in refused {
        let (status, answer) = keys(Method::POST, "/admin/keys", Some(body.clone())).await;
        assert_eq!(
            (status, answer["error"]["code"].as_str()),
            (*expected, Some(*code)),
            "{body}"
        );
    }
    let answer = manage(&server, &text, Method::GET, "/admin/keys").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "wrong_key_class")
    );
    assert_eq!(
        keys(Method::DELETE, "/admin/keys/nobody", None).await.0,
        404
    );
    let path = format!("/admin/keys/{}", made["id"].as_str().expect("an id"));
    assert_eq!(keys(Method::DELETE, &path, None).await.0, 200);
    let after = models(&server, &text).await;
    assert_eq!(
        after.status, 200,
        "the last one is gone, so inference is open again"
    );
    let audit = home.path().join(".local/state/roundhouse/audit.jsonl");
    let audit = std::fs::read_to_string(audit).expect("an audit");
    for line in ["keys.make", "keys.revoke", "wrong_key_class"] {
        assert!(audit.contains(line), "{line}: {audit}");
    }
    assert!(!audit.contains(&text) && !server.log().contains(&text));
}

#[tokio::test]
async fn a03_a_key_of_the_wrong_class_is_refused_by_its_id() {
    let home = home();
    let inference = new_key(&home, &[]);
    let server = home.serve();
    let before = server.status().await["counters"].clone();
    for (method, path) in [
        (Method::GET, "/admin/status"),
        (Method::POST, "/admin/models/release"),
        (Method::DELETE, "/admin/keys/x"),
    ] {
        let answer = manage(&server, &inference, method, path).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "wrong_key_class"),
            "{path}"
        );
    }
    assert_eq!(server.status().await["counters"], before);
    let list = home.run(&["keys", "list", "--json"]).1;
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let audit = home.path().join(".local/state/roundhouse/audit.jsonl");
    let audit = std::fs::read_to_string(audit).expect("an audit");
    let last: Value = serde_json::from_str(audit.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["caller"], list[0]["id"], "{last}");
    assert_eq!(last["action"], "DELETE /admin/keys/x");
    assert_eq!(last["result"], "wrong_key_class");
}

#[tokio::test]
async fn m10_outside_the_set_of_a_key_nothing_exists() {
    let home = home();
    let key = new_key(&home, &["--models", "t/*"]);
    let all = new_key(&home, &[]);
    let server = home.serve();
    let ids = async |key: &str| {
        let list = models(&server, key).await.json();
        let list = list["data"].as_array().expect("a list").iter();
        list.map(|model| model["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&key).await, ["t/a", "t/b", "small"]);
    assert_eq!(ids(&all).await, ["t/a", "t/b", "other/c", "small"]);
    for name in ["t/a", "small"] {
        assert_eq!(
            chat(&server, &key, &question(name, "n", false))
                .await
                .status,
            200
        );
    }
    assert_eq!(
        chat(&server, &all, &question("other/c", "n", false))
            .await
            .status,
        200
    );
    // Served to others, on no disk, of no form that is cached: one answer but for the name.
    let unknown = async |name: &str| {
        let answer = chat(&server, &key, &question(name, "n", false)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "model_not_found")
        );
        let path = format!("/v1/models/{name}");
        let one = with_key(&server, ("x-api-key", &key), Method::GET, &path, None).await;
        assert_eq!((one.status, one.code().as_str()), (404, "model_not_found"));
        (answer.text + &one.text).replace(name, "NAME")
    };
    let expected = unknown("other/x").await;
    assert!(!expected.contains("other/"), "{expected}");
    assert_eq!(unknown("other/c").await, expected);
}

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

/// The outcome of a start that should fail.
fn start(home: &Home, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let listen = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let output = home
        .command(&[&["serve", "--json"], &listen[..]].concat())
        .envs(environment.iter().copied())
        .output()
        .expect("started");
    assert!(output.stdout.is_empty(), "it listens");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), error)
}

#[test]
fn a05_equal_keys_do_not_start() {
    let home = home();
    let key = "equal-equal-equal-equal";
    let both = [
        ("ROUNDHOUSE_INFERENCE_KEY", key),
        ("ROUNDHOUSE_MANAGEMENT_KEY", key),
    ];
    let (code, error) = start(&home, &both);
    assert_eq!(code, Some(78), "{error}");
    let named = |line: &&str| both.iter().all(|(name, _)| line.contains(name));
    assert!(error.lines().any(|line| named(&line)), "{error}");
    assert!(!error.contains(key), "{error}");
    // And one that is in the file already.
    let kept = new_key(&home, &["--name", "laptop"]);
    let (code, error) = start(&home, &[("ROUNDHOUSE_MANAGEMENT_KEY", &kept)]);
    assert_eq!(code, Some(78), "{error}");
    assert!(
        error.contains("laptop and ROUNDHOUSE_MANAGEMENT_KEY"),
        "{error}"
    );
    assert!(!error.contains(&kept), "{error}");
}

#[test]
fn a17_a_key_that_is_easy_to_guess_does_not_start() {
    let home = home();
    let documented = roundhouse::access::keys::given::EXAMPLE;
    let page = include_str!("../../docs/CONFIG.md");
    assert!(page.contains(documented), "the example is documented");
    for key in [
        "nineteen-characters",
        "changeme",
        "changeme-changeme-changeme",
        documented,
        "a blank inside the key-key",
        "nicht-ASCII-\u{fc}-\u{fc}-\u{fc}-\u{fc}-\u{fc}",
        "",
    ] {
        for variable in ["ROUNDHOUSE_INFERENCE_KEY", "ROUNDHOUSE_MANAGEMENT_KEY"] {
            let (code, error) = start(&home, &[(variable, key)]);
            assert_eq!(code, Some(78), "{key}: {error}");
            assert!(error.contains(variable), "{error}");
            assert!(key.is_empty() || !error.contains(key), "{error}");
        }
    }
}

#[tokio::test]
async fn keys_of_the_environment_open_the_ports() {
    let home = home();
    let (inference, management) = ("inference-0123456789", "management-0123456789");
    let file = home.path().join("management-key");
    std::fs::write(&file, format!("{management}\n")).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let file = file.to_str().expect("text");
    let listen = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let environment = [
        ("ROUNDHOUSE_INFERENCE_KEY", inference),
        ("ROUNDHOUSE_MANAGEMENT_KEY_FILE", file),
    ];
    let server = home.serve_as(&listen, &environment);
    assert_eq!(models(&server, inference).await.status, 200);
    assert_eq!(models(&server, "wrong").await.status, 401);
    let listed = manage(&server, management, Method::GET, "/admin/keys").await;
    assert_eq!(listed.status, 200);
    let keys = listed.json()["keys"].clone();
    assert_eq!(keys[0]["name"], "ROUNDHOUSE_INFERENCE_KEY");
    assert_eq!(keys[0]["from"], "environment");
    let path = "/admin/keys/ROUNDHOUSE_INFERENCE_KEY";
    let revoked = manage(&server, management, Method::DELETE, path).await;
    assert_eq!((revoked.status, revoked.code().as_str()), (409, "conflict"));
    // A worker inherits neither.
    let answer = chat(&server, inference, &question("t/a", "n", false)).await;
    let worker = answer.told()["pid"].as_u64();
    if let Some(worker) = worker.filter(|_| cfg!(target_os = "linux")) {
        let environment = std::fs::read(format!("/proc/{worker}/environ")).expect("readable");
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(
            !environment.contains("ROUNDHOUSE_INFERENCE_KEY"),
            "{environment}"
        );
    }
    let log = server.log();
    assert!(
        !log.contains(inference) && !log.contains(management),
        "{log}"
    );
}

#[test]
fn keys_are_listed_for_people_and_programs() {
    let home = home();
    let limits = [
        "--name",
        "chat",
        "--models",
        "t/*,small",
        "--rate",
        "60",
        "--expires",
        "30d",
    ];
    let key = new_key(&home, &limits);
    let (code, out, _) = home.run(&["keys", "list"]);
    assert_eq!(code, 0);
    for piece in [
        "key-",
        "inference",
        "chat",
        "t/*,small; 60 a minute; expires in",
    ] {
        assert!(out.contains(piece), "{piece}: {out}");
    }
    let (_, list, _) = home.run(&["keys", "list", "--json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list[0]["models"], json!(["t/*", "small"]));
    assert!(!out.contains(&key) && !list.to_string().contains(&key));
    let (_, made, _) = home.run(&["keys", "new", "--json", "--management"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert!(
        made["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("rh-management-"))
    );
    for wrong in [
        &["--management", "--models", "t/*"][..],
        &["--rate", "0"],
        &["--expires", "0s"],
        &["--expires", "30"],
        &["--models", "a b"],
        &["--priority", "first"],
    ] {
        let (code, _, error) = home.run(&[&["keys", "new"], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {error}");
    }
    for wrong in [&["--name", "chat"][..], &["--name", "a b"]] {
        assert_eq!(
            home.run(&[&["keys", "new"], wrong].concat()).0,
            1,
            "{wrong:?}"
        );
    }
    assert_eq!(home.run(&["keys", "revoke", "nobody"]).0, 1);
}
