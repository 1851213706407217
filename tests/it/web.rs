//! The browser as attacker (group W), as far as the server's answers go: Host,
//! Origin, what pages may read, and whose word about the caller's address counts.

use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, question};
use super::raw::Raw;

const UI: &str = "https://chat.example.com";
const EVIL: &str = "https://attacker.example";

fn home(server: &str) -> Home {
    let home = Home::new(&format!(
        "server: {{ {server} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    home
}

async fn ask(base: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let method: Method = method.parse().expect("a method");
    let mut request = Client::new()
        .request(method, format!("{base}{path}"))
        .body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.send().await.expect("an answer")).await
}

/// The headers that let a page read or send.
fn cors(headers: &HeaderMap) -> Vec<String> {
    let names = headers.keys().map(|name| name.as_str().to_owned());
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

async fn loads(server: &Server) -> Value {
    server.status().await["counters"]["loads"].clone()
}

#[tokio::test]
async fn w01_no_answer_has_cors_headers_by_default() {
    let home = home("");
    home.run(&["keys", "new"]);
    let server = home.serve();
    let (inference, management) = (&server.inference, &server.management);
    for origin in [
        EVIL,
        "null",
        "http://localhost:3000",
        UI,
        "http://127.0.0.1:11440",
    ] {
        let with =
            |more: &[(&'static str, &'static str)]| [&[("origin", origin)][..], more].concat();
        let preflight = [
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        for (base, method, path, headers, status) in [
            (inference, "GET", "/health", with(&[]), 200),
            (inference, "GET", "/v1/models", with(&[]), 401),
            (inference, "GET", "/nothing", with(&[]), 404),
            (inference, "GET", "/v1/chat/completions", with(&[]), 401),
            (inference, "GET", "/", with(&[]), 405),
            (inference, "POST", "/v1/chat/completions", with(&[]), 403),
            (
                inference,
                "OPTIONS",
                "/v1/chat/completions",
                with(&preflight),
                403,
            ),
            (
                inference,
                "GET",
                "/health",
                with(&[("host", "attacker.example")]),
                403,
            ),
            (management, "GET", "/admin/status", with(&[]), 401),
            (management, "GET", "/nothing", with(&[]), 404),
            (
                management,
                "OPTIONS",
                "/admin/status",
                with(&preflight),
                403,
            ),
        ] {
            let answer = ask(base, method, path, &headers, "").await;
            assert_eq!(
                answer.status, status,
                "{method} {path} {origin}: {answer:?}"
            );
            assert_eq!(cors(&answer.headers), [""; 0], "{method} {path} {origin}");
            let policy = answer.header("cross-origin-resource-policy");
            assert_eq!(policy, Some("same-origin"), "{method} {path}");
        }
    }
}

/// What cannot be audited is refused with 500, which is the way to one from outside.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn w01_not_even_an_internal_error_has_them() {
    let home = home("");
    // No file may grow; a write is an error then, not a signal.
    let server = home.serve_after("trap '' XFSZ; ulimit -f 0");
    let headers = [("origin", EVIL)];
    let answer = ask(&server.management, "GET", "/admin/status", &headers, "").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (500, "internal_error")
    );
    assert_eq!(cors(&answer.headers), [""; 0]);
}

#[tokio::test]
async fn w01_a_listed_page_may_read_inference_and_no_other_page() {
    let home = home(&format!(
        "allowed_origins: [\"{UI}\", \"http://other.example\"]"
    ));
    let key = home.run(&["keys", "new"]).1;
    let bearer = format!("Bearer {}", key.trim());
    let server = home.serve();
    let path = "/v1/chat/completions";
    let wanted = "authorization, content-type, x-stainless-os";
    let asked = [
        ("origin", UI),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", wanted),
    ];
    // Browsers send no key with a preflight.
    let answer = ask(&server.inference, "OPTIONS", path, &asked, "").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(UI));
    assert_eq!(answer.header("access-control-allow-headers"), Some(wanted));
    let methods = answer
        .header("access-control-allow-methods")
        .expect("methods");
    assert!(methods.contains("POST"), "{methods}");
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    assert_eq!(loads(&server).await, 0, "a preflight has no effect");

    let body = question("t/a", "n", false).to_string();
    let json = ("content-type", "application/json");
    let mine = [("origin", UI), json, ("authorization", bearer.as_str())];
    for (headers, status) in [(&mine[..], 200), (&mine[..2], 401)] {
        let answer = ask(&server.inference, "POST", path, headers, &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(UI));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let theirs = [("origin", EVIL), json, ("authorization", bearer.as_str())];
    let answer = ask(&server.inference, "POST", path, &theirs, &body).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (403, "origin_not_allowed")
    );
    assert_eq!(cors(&answer.headers), [""; 0]);
    assert_eq!(answer.header("vary"), Some("Origin"));
    for (base, path, origin) in [
        (&server.inference, "/v1/models", EVIL),
        (&server.management, "/admin/status", UI),
    ] {
        let answer = ask(base, "GET", path, &[("origin", origin)], "").await;
        assert_eq!(cors(&answer.headers), [""; 0], "{path} {origin}");
    }
    let answer = ask(&server.management, "OPTIONS", "/admin/reload", &asked, "").await;
    assert_eq!(cors(&answer.headers), [""; 0], "{answer:?}");
}

#[test]
fn w05_a_star_is_no_origin() {
    for origins in [
        "'*'",
        "['*']",
        "[\"https://*\"]",
        "['https://*.example.com']",
        "['null']",
    ] {
        let home = home(&format!("allowed_origins: {origins}"));
        let (code, _, error) = home.run(&["serve", "--json"]);
        assert_eq!(code, 78, "{origins}: {error}");
        assert!(error.contains("server.allowed_origins"), "{error}");
    }
}

#[tokio::test]
async fn w02_a_foreign_host_gets_nothing_on_any_route_with_any_key() {
    let home = home("");
    let inference = home.run(&["keys", "new"]).1;
    let management = home.run(&["keys", "new", "--management"]).1;
    let server = home.serve();
    let routes = [
        (&server.inference, &inference, "HEAD", "/"),
        (&server.inference, &inference, "GET", "/health"),
        (&server.inference, &inference, "GET", "/ready"),
        (&server.inference, &inference, "GET", "/v1/models"),
        (&server.inference, &inference, "GET", "/v1/models/t/a"),
        (
            &server.inference,
            &inference,
            "POST",
            "/v1/chat/completions",
        ),
        (&server.inference, &inference, "POST", "/v1/completions"),
        (&server.inference, &inference, "GET", "/nothing"),
        (&server.management, &management, "GET", "/admin/status"),
        (&server.management, &management, "GET", "/admin/models"),
        (&server.management, &management, "POST", "/admin/reload"),
        (
            &server.management,
            &management,
            "POST",
            "/admin/models/release",
        ),
    ];
    let body = question("t/a", "n", false).to_string();
    for (base, key, method, path) in routes {
        for host in [
            "attacker.example",
            "attacker.example:11440",
            "localhost.evil.com",
        ] {
            for key in [key.trim(), "wrong"] {
                let headers = [
                    ("host", host),
                    ("x-api-key", key),
                    ("content-type", "application/json"),
                ];
                let answer = ask(base, method, path, &headers, &body).await;
                assert_eq!(answer.status, 403, "{method} {path} {host}");
                if method != "HEAD" {
                    assert_eq!(answer.code(), "host_not_allowed", "{path}");
                    assert!(answer.text.contains("server.allowed_hosts"), "{answer:?}");
                }
            }
        }
    }
    assert_eq!(loads(&server).await, 0);
}

#[tokio::test]
async fn w03_hosts_that_are_ours_pass_with_any_port_and_no_other_spelling_does() {
    let home = home("allowed_hosts: [ai.example.internal]");
    let server = home.serve();
    let check = async |line: &str, hosts: &[&str], status: u16| {
        for base in [&server.inference, &server.management] {
            let mut raw = Raw::connect(base).await;
            let hosts: String = hosts
                .iter()
                .map(|host| format!("Host: {host}\r\n"))
                .collect();
            raw.send(format!("GET {line} HTTP/1.1\r\n{hosts}\r\n"))
                .await;
            let reply = raw.reply().await;
            // Management has no such path and no key, which it says after the Host has passed.
            let got = if reply.status == 404 {
                200
            } else {
                reply.status
            };
            assert_eq!(got, status, "{line} {hosts:?}: {reply:?}");
        }
    };
    for host in [
        "localhost",
        "LOCALHOST",
        "LocalHost:1",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::ffff:127.0.0.1]",
        "[::ffff:127.0.0.1]:80",
        "ai.example.internal",
        "AI.Example.Internal:443",
    ] {
        check("/health", &[host], 200).await;
    }
    for host in [
        "",
        "localhost.evil.com",
        "127.0.0.1.nip.io",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "localhost.",
        "user@localhost",
        "localhost@attacker.example",
        "localhost:port",
        "[::1]",
        "0.0.0.0",
        "10.0.0.1",
        "xai.example.internal",
    ] {
        check("/health", &[host], 403).await;
    }
    check("/health", &[], 403).await;
    check("/health", &["localhost", "localhost"], 400).await;
    check("http://localhost/health", &["localhost"], 200).await;
    check("http://attacker.example/health", &["localhost"], 403).await;
    check("http://localhost/health", &["attacker.example"], 403).await;
}

#[tokio::test]
async fn w05_pages_cause_nothing_whatever_they_send_even_with_a_key() {
    let home = home("");
    let inference = home.run(&["keys", "new"]).1;
    let management = home.run(&["keys", "new", "--management"]).1;
    let server = home.serve();
    let chat = question("t/a", "n", false).to_string();
    let load = r#"{"model":"t/a"}"#.to_owned();
    for (base, key, path, body) in [
        (&server.inference, &inference, "/v1/chat/completions", &chat),
        (&server.inference, &inference, "/v1/completions", &chat),
        (&server.management, &management, "/admin/models/load", &load),
        (
            &server.management,
            &management,
            "/admin/reload",
            &String::new(),
        ),
    ] {
        for origin in [
            EVIL,
            "null",
            "",
            "http://localhost:3000",
            "http://127.0.0.1",
        ] {
            for kind in [
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
                "application/json",
            ] {
                let headers = [
                    ("origin", origin),
                    ("content-type", kind),
                    ("x-api-key", key.trim()),
                ];
                let answer = ask(base, "POST", path, &headers, body).await;
                let got = (answer.status, answer.code());
                assert_eq!(
                    got,
                    (403, "origin_not_allowed".into()),
                    "{path} {origin} {kind}"
                );
                assert!(answer.text.contains("server.allowed_origins"), "{answer:?}");
            }
        }
    }
    for path in ["/v1/models", "/v1/models/t/a", "/health", "/ready"] {
        let headers = [("origin", EVIL), ("x-api-key", inference.trim())];
        let answer = ask(&server.inference, "GET", path, &headers, "").await;
        assert_eq!(cors(&answer.headers), [""; 0], "no page can read {path}");
    }
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 0, "{status}");
    assert_eq!(status["requests"]["running"], 0, "{status}");
}

#[tokio::test]
async fn w05_management_answers_no_page_of_another_site() {
    let home = home(&format!("allowed_origins: [\"{UI}\"]"));
    let key = home.run(&["keys", "new", "--management"]).1;
    let server = home.serve();
    for (site, origin, status) in [
        (None, None, 200),
        (Some("none"), None, 200),
        (Some("same-origin"), None, 200),
        (Some("cross-site"), None, 403),
        (Some("same-site"), None, 403),
        (Some("cross-site"), Some(EVIL), 403),
        (Some("cross-site"), Some(UI), 200),
    ] {
        let mut headers = vec![("x-api-key", key.trim())];
        headers.extend(site.map(|site| ("sec-fetch-site", site)));
        headers.extend(origin.map(|origin| ("origin", origin)));
        let answer = ask(&server.management, "GET", "/admin/status", &headers, "").await;
        assert_eq!(answer.status, status, "{site:?} {origin:?}");
    }
}

/// The peers in the audit, oldest first.
fn peers(home: &Home) -> Vec<String> {
    let path = home.path().join(".local/state/roundhouse/audit.jsonl");
    let text = std::fs::read_to_string(path).expect("an audit");
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    text.lines()
        .map(|text| line(text)["peer"].as_str().expect("a peer").to_owned())
        .collect()
}

#[tokio::test]
async fn h11_headers_of_proxies_count_only_from_listed_ones() {
    let said = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "attacker.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.8;host=attacker.example"),
        ("x-real-ip", "203.0.113.7"),
        ("x-original-url", "/health"),
        ("x-http-method-override", "POST"),
    ];
    for (trusted, peer) in [
        ("", "127.0.0.1"),
        ("trusted_proxies: [127.0.0.0/8]", "203.0.113.9"),
    ] {
        let home = home(trusted);
        let server = home.serve();
        let answer = ask(&server.management, "GET", "/admin/status", &said, "").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "invalid_api_key")
        );
        assert_eq!(peers(&home), [peer], "{trusted}");
    }
}
