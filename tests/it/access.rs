//! Who gets in: keys, Host, Origin, the control socket, and what may not start
//! (groups A and W, the parts of a first version).

use std::os::unix::fs::PermissionsExt;

use reqwest::{Client, Method};
use serde_json::json;

use super::harness::{Answer, Home, Server, question};

fn home() -> Home {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    home
}

/// A management request over TCP with some headers.
async fn manage(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Client::new().request(method, format!("{}{path}", server.management));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

const MANAGEMENT: [(&str, &str); 6] = [
    ("GET", "/admin/status"),
    ("GET", "/admin/models"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/models/load"),
    ("POST", "/admin/models/unload"),
    ("POST", "/admin/models/release"),
];

#[tokio::test]
async fn a01_management_is_closed_until_a_key_is_made() {
    let home = home();
    let server = home.serve();
    for (method, path) in MANAGEMENT {
        let method: Method = method.parse().expect("a method");
        for headers in [
            &[][..],
            &[("authorization", "Bearer rh-management-guess")][..],
        ] {
            let answer = manage(&server, method.clone(), path, headers).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "invalid_api_key"),
                "{path}"
            );
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    assert_eq!(
        server.chat(&question("t/a", "n", false)).await.status,
        200,
        "inference is open"
    );
}

#[tokio::test]
async fn a_management_key_opens_management_after_a_reload_and_nothing_else() {
    let home = home();
    let server = home.serve();
    let (code, key, _) = home.run(&["keys", "new", "--management", "--name", "laptop"]);
    assert_eq!(code, 0);
    let key = key.trim();
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let bearer = format!("Bearer {key}");
    for headers in [[("authorization", bearer.as_str())], [("x-api-key", key)]] {
        let answer = manage(&server, Method::GET, "/admin/status", &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(!server.log().contains(key), "the key is in the log");
    assert_eq!(home.run(&["keys", "revoke", "laptop"]).0, 0);
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let answer = manage(&server, Method::GET, "/admin/status", &[("x-api-key", key)]).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn with_an_inference_key_every_inference_route_asks_for_it() {
    let home = home();
    let key = home.run(&["keys", "new"]).1;
    let management = home.run(&["keys", "new", "--management"]).1;
    let server = home.serve();
    let routes = [
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/models/t/a"),
        (Method::POST, "/v1/chat/completions"),
        (Method::POST, "/v1/completions"),
    ];
    for (method, path) in &routes {
        let ask = async |headers: &[(&str, &str)]| {
            let mut request = server.request(method.clone(), path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            Answer::read(request.send().await.expect("an answer")).await
        };
        let without = ask(&[]).await;
        let wrong = ask(&[("x-api-key", "wrong")]).await;
        assert_eq!(
            (without.status, without.code().as_str()),
            (401, "invalid_api_key"),
            "{path}"
        );
        assert_eq!(without.text, wrong.text, "missing and wrong look alike");
        let other = ask(&[("x-api-key", management.trim())]).await;
        assert_eq!(
            (other.status, other.code().as_str()),
            (403, "wrong_key_class")
        );
        for headers in [
            [("authorization", format!("Bearer {}", key.trim()))],
            [("x-api-key", key.trim().to_owned())],
        ] {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            assert!(![401, 403].contains(&ask(&headers).await.status), "{path}");
        }
    }
    for (path, status) in [("/health", 200), ("/ready", 200)] {
        assert_eq!(server.get(path).await.0, status, "{path} is always open");
    }
    let head = server
        .request(Method::HEAD, "/")
        .send()
        .await
        .expect("an answer");
    assert_eq!(head.status(), 200);
    let answer = manage(
        &server,
        Method::GET,
        "/admin/status",
        &[("x-api-key", key.trim())],
    )
    .await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "wrong_key_class")
    );
}

#[tokio::test]
async fn w02_a_foreign_host_is_refused_before_anything_else() {
    let home = home();
    let server = home.serve();
    for (path, base) in [
        ("/health", &server.inference),
        ("/v1/models", &server.inference),
        ("/admin/status", &server.management),
    ] {
        for host in [
            "attacker.example",
            "localhost.evil.com",
            "127.0.0.1.nip.io:11440",
        ] {
            let request = Client::new()
                .get(format!("{base}{path}"))
                .header("host", host);
            let answer = Answer::read(request.send().await.expect("an answer")).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "host_not_allowed"),
                "{host}"
            );
            assert!(answer.text.contains("allowed_hosts"));
        }
        for host in ["localhost", "LOCALHOST:99", "127.0.0.1"] {
            let request = Client::new()
                .get(format!("{base}{path}"))
                .header("host", host);
            assert_ne!(
                request.send().await.expect("an answer").status(),
                403,
                "{host}"
            );
        }
    }
}

#[tokio::test]
async fn w01_w05_pages_of_other_origins_cause_nothing_and_read_nothing() {
    let home = home();
    let server = home.serve();
    for origin in ["https://attacker.example", "null", "http://localhost:3000"] {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("origin", origin)
            .header("content-type", "application/json")
            .body(question("t/a", "n", false).to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "origin_not_allowed"),
            "{origin}"
        );
        let list = server
            .request(Method::GET, "/v1/models")
            .header("origin", origin);
        let list = list.send().await.expect("an answer");
        let preflight = server
            .request(Method::OPTIONS, "/v1/models")
            .header("origin", origin);
        let preflight = preflight.send().await.expect("an answer");
        for headers in [list.headers(), preflight.headers(), &answer.headers] {
            let names: Vec<_> = headers
                .keys()
                .map(|name| name.as_str().to_owned())
                .collect();
            assert!(
                !names.iter().any(|name| name.starts_with("access-control")),
                "{names:?}"
            );
        }
    }
    assert_eq!(server.status().await["counters"]["loads"], 0);
}

/// Method, path, headers, body; status and code expected.
type Case = (
    Method,
    &'static str,
    &'static [(&'static str, &'static str)],
    String,
    u16,
    &'static str,
);

#[tokio::test]
async fn wrong_kinds_sizes_paths_and_methods_keep_the_contract() {
    let home = Home::new("server: { limits: { body: 1kB } }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    const PATH: &str = "/v1/chat/completions";
    let cases: &[Case] = &[
        (
            Method::POST,
            PATH,
            &[("content-type", "text/plain")],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
            ],
            "{}".into(),
            415,
            "unsupported_media_type",
        ),
        (
            Method::POST,
            PATH,
            &[("content-type", "application/json")],
            "{".into(),
            400,
            "invalid_json",
        ),
        (
            Method::POST,
            PATH,
            &[("content-type", "application/json")],
            "x".repeat(2000),
            413,
            "request_too_large",
        ),
        (
            Method::GET,
            PATH,
            &[],
            String::new(),
            405,
            "method_not_allowed",
        ),
        (
            Method::GET,
            "/v1/nothing",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/v1/%2e%2e/admin/status",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "//v1/models",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/V1/models",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/admin/status",
            &[],
            String::new(),
            404,
            "not_found",
        ),
        (
            Method::GET,
            "/v1/models/%ff",
            &[],
            String::new(),
            400,
            "invalid_model_id",
        ),
    ];
    for (method, path, headers, body, status, code) in cases {
        let mut request = server.request(method.clone(), path).body(body.clone());
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_request_id_goes_in_and_out_and_into_the_log() {
    let home = home();
    let server = home.serve();
    let ask = async |id: &str| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .header("x-request-id", id)
            .header("content-type", "application/json")
            .body(question("t/a", "n", false).to_string());
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        answer.header("x-request-id").expect("an id").to_owned()
    };
    assert_eq!(ask("my-id.1").await, "my-id.1");
    assert!(ask("not an id").await.starts_with("req-"));
    server.logged(&["my-id.1"]);
}

#[tokio::test]
async fn s03_prompts_and_answers_are_in_no_output() {
    let home = Home::new("log: trace\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 2, "text": "canary-completion "}));
    let server = home.serve();
    for stream in [true, false] {
        let mut body = question("t/a", "n", stream);
        body["messages"][0]["content"] = json!("canary-prompt");
        let answer = server.chat(&body).await;
        assert!(answer.content().contains("canary-completion"));
        body["temperature"] = json!("canary-prompt");
        server.chat(&body).await;
    }
    let log = server.log();
    for canary in ["canary-prompt", "canary-completion"] {
        assert!(!log.contains(canary), "{canary} is in the log");
    }
}

#[tokio::test]
async fn management_effects_leave_an_audit_line_before_they_happen() {
    let home = home();
    let server = home.serve();
    let model = json!({"model": "t/a"});
    assert_eq!(
        server
            .control(Method::POST, "/admin/models/load", Some(model.clone()))
            .await
            .0,
        200
    );
    assert_eq!(
        server
            .control(Method::POST, "/admin/models/unload", Some(model))
            .await
            .0,
        200
    );
    manage(&server, Method::POST, "/admin/reload", &[]).await;
    let path = home.path().join(".local/state/roundhouse/audit.jsonl");
    let text = std::fs::read_to_string(&path).expect("an audit");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let said: Vec<_> = lines
        .iter()
        .map(|line| {
            [
                &line["caller"],
                &line["action"],
                &line["target"],
                &line["result"],
            ]
            .map(|v| v.as_str().unwrap_or_default().to_owned())
        })
        .collect();
    assert_eq!(
        said,
        [
            ["owner", "load", "t/a", "allowed"],
            ["owner", "unload", "t/a", "allowed"],
            ["unknown", "POST /admin/reload", "", "invalid_api_key"],
        ]
    );
    let mode = std::fs::metadata(path)
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_control_socket_is_its_owners_alone_and_goes_with_the_server() {
    let home = home();
    let mut server = home.serve();
    let mode = std::fs::metadata(&server.control)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let control = server.control.clone();
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    assert!(!control.exists());
}

#[test]
fn a12_a_reachable_address_without_a_key_does_not_start() {
    let home = home();
    for (flag, hint) in [
        ("--listen", "roundhouse keys new`"),
        ("--management", "roundhouse keys new --management`"),
    ] {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let (code, out, error) = home.run(&["serve", "--json", flag, address]);
            assert_eq!(code, 78, "{flag} {address}: {error}");
            assert!(error.contains(hint) && out.is_empty(), "{error}");
        }
    }
}

#[test]
fn a12_no_port_opens_before_the_refusal() {
    let home = home();
    // Held, so that nobody else takes it: were the server to try, it would fail with 1.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for flag in ["--listen", "--management"] {
        let (code, _, error) = home.run(&["serve", "--json", flag, &address]);
        assert_eq!(code, 78, "{flag}: {error}");
    }
    let insisted = ["--insecure-no-auth", "--management", &address];
    let (code, _, error) = home.run(&[&["serve", "--json"], &insisted[..]].concat());
    assert_eq!(code, 78, "for management nobody may insist: {error}");
}

#[tokio::test]
async fn a13_without_authentication_only_by_insisting_and_it_shows() {
    let home = home();
    let listen = ["--listen", "0.0.0.0:0", "--management", "127.0.0.1:0"];
    let (code, _, error) = home.run(&[&["serve", "--json"], &listen[..]].concat());
    assert_eq!(code, 78, "{error}");
    let server = home.serve_as(&[&listen[..], &["--insecure-no-auth"]].concat(), &[]);
    server.logged(&["--insecure-no-auth"]);
    let url = server.inference.replace("0.0.0.0", "127.0.0.1");
    let health = async || {
        let answer = Client::new().get(format!("{url}/health")).send().await;
        Answer::read(answer.expect("an answer")).await.json()
    };
    assert_eq!(
        health().await,
        json!({"status": "ok", "authentication": "off"})
    );
    let list = Client::new().get(format!("{url}/v1/models")).send().await;
    assert_eq!(list.expect("an answer").status(), 200);
    // With a key it is an ordinary server again.
    assert_eq!(home.run(&["keys", "new"]).0, 0);
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    assert_eq!(health().await, json!({"status": "ok"}));
    let list = Client::new().get(format!("{url}/v1/models")).send().await;
    assert_eq!(list.expect("an answer").status(), 401);
}

#[tokio::test]
async fn a14_management_stays_on_loopback_when_inference_is_reachable() {
    let home = home();
    let key = home.run(&["keys", "new"]).1;
    let listen = ["--listen", "0.0.0.0:0", "--management", "127.0.0.1:0"];
    let server = home.serve_as(&listen, &[]);
    // Another address of the loopback range stands for one that others can reach.
    if cfg!(target_os = "linux") {
        let inference = server.inference.replace("0.0.0.0", "127.0.0.2");
        let list = Client::new().get(format!("{inference}/v1/models"));
        let list = list.header("x-api-key", key.trim()).send().await;
        assert_eq!(list.expect("an answer").status(), 200);
        let management = server.management.replace("127.0.0.1", "127.0.0.2");
        let refused = Client::new()
            .get(format!("{management}/admin/status"))
            .send()
            .await;
        assert!(refused.is_err_and(|error| error.is_connect()));
    }
    let status = manage(&server, Method::GET, "/admin/status", &[]).await;
    assert_eq!(status.status, 401);
}

#[tokio::test]
async fn a14_the_last_key_revoked_on_a_reachable_address_opens_nothing_to_others() {
    let home = home();
    assert_eq!(home.run(&["keys", "new", "--name", "only"]).0, 0);
    let server = home.serve_as(
        &["--listen", "0.0.0.0:0", "--management", "127.0.0.1:0"],
        &[],
    );
    assert_eq!(home.run(&["keys", "revoke", "only"]).0, 0);
    assert_eq!(
        server.control(Method::POST, "/admin/reload", None).await.0,
        200
    );
    let ask = async |host: &str| {
        let url = format!("{}/v1/models", server.inference.replace("0.0.0.0", host));
        let answer = Client::new().get(url).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(
        ask("127.0.0.1").await,
        200,
        "as on any server without a key"
    );
    // Where this machine has an address that others reach, they meet a closed door.
    let own = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    if own.connect("192.0.2.1:9").is_ok() {
        let own = own.local_addr().expect("an address").ip();
        if !own.is_loopback() && !own.is_unspecified() {
            assert_eq!(ask(&own.to_string()).await, 401);
        }
    }
}

#[tokio::test]
async fn a16_the_first_start_in_an_empty_home_is_closed_and_a_key_is_shown_once() {
    let home = home();
    let server = home.serve();
    let state = home.path().join(".local/state/roundhouse");
    for path in ["/admin/status", "/admin/keys"] {
        for headers in [
            &[][..],
            &[("x-api-key", "")],
            &[("authorization", "Bearer ")],
        ] {
            let answer = manage(&server, Method::GET, path, headers).await;
            assert_eq!(answer.code(), "invalid_api_key", "{path}");
        }
    }
    let made = json!({"class": "management"}).to_string();
    let request = Client::new()
        .post(format!("{}/admin/keys", server.management))
        .header("content-type", "application/json")
        .body(made);
    let answer = Answer::read(request.send().await.expect("an answer")).await;
    assert_eq!(
        answer.code(),
        "invalid_api_key",
        "the first key is not made over the network"
    );
    assert!(!state.join("keys.json").exists());
    assert_eq!(
        server.control(Method::GET, "/admin/status", None).await.0,
        200,
        "the owner"
    );
    let (code, key, _) = home.run(&["keys", "new", "--management"]);
    assert_eq!((code, key.lines().count()), (0, 1));
    let kept = std::fs::read_to_string(state.join("keys.json")).expect("the keys");
    assert!(!kept.contains(key.trim()));
    for file in ["keys.json", "keys.lock", "audit.jsonl"] {
        let mode = std::fs::metadata(state.join(file)).expect("metadata");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let (_, listed, _) = home.run(&["keys", "list"]);
    assert!(!listed.contains(key.trim()));
}

#[test]
fn s04_a_key_is_no_argument() {
    let home = home();
    assert_eq!(home.run(&["serve", "--key", "x"]).0, 2);
    assert_eq!(home.run(&["serve", "--api-key", "x"]).0, 2);
}

#[tokio::test]
async fn a18_management_that_is_switched_off_is_not_there() {
    let home = Home::new("server: { management: [] }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let (code, key, _) = home.run(&["keys", "new", "--management", "--name", "owner"]);
    assert_eq!(code, 0);
    let server = home.serve_as(&["--listen", "127.0.0.1:0"], &[]);
    assert_eq!(server.management, "", "no address is told");
    let ask = async |method: &str, path: &str| {
        let request = server.request(method.parse().expect("a method"), path);
        let request = request.header("x-api-key", key.trim());
        Answer::read(request.send().await.expect("an answer")).await
    };
    let unknown = ask("GET", "/no/such/path").await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (404, "not_found")
    );
    for (method, path) in MANAGEMENT.into_iter().chain([("GET", "/metrics")]) {
        let answer = ask(method, path).await;
        assert_eq!(
            (answer.status, &answer.text),
            (404, &unknown.text),
            "{method} {path}"
        );
    }
    assert_eq!(
        server.status().await["counters"]["loads"],
        0,
        "its owner has the socket"
    );
}
