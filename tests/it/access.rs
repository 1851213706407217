//! Who gets in: keys, Host, Origin, the control socket, and what may not start
//! (groups A and W, the parts of a first version).

use std::os::unix::fs::PermissionsExt;

use reqwest::{Client, Method};
use serde_json::json;

use super::harness::{Answer, Home, Server, question};

pub fn home() -> Home {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    home
}

/// A management request over TCP with some headers.
pub async fn manage(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Client::new().request(method, format!("{}{path}", server.management));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

pub const MANAGEMENT: [(&str, &str); 8] = [
    ("GET", "/admin/status"),
    ("GET", "/admin/models"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/models/load"),
    ("POST", "/admin/models/unload"),
    ("POST", "/admin/models/release"),
    ("GET", "/admin/prompts"),
    ("POST", "/admin/prompts/clear"),
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
