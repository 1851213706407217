//! What is reachable after a start, and what does not start (group A).

use std::os::unix::fs::PermissionsExt;

use reqwest::{Client, Method};
use serde_json::json;

use super::access::{MANAGEMENT, home, manage};
use super::harness::{Answer, Home, Server};
use super::keys::{new_key, until};

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
    check_closed(&home, &server).await;
    let (code, key, _) = home.run(&["keys", "new", "--management"]);
    assert_eq!((code, key.lines().count()), (0, 1));
    check_kept(&home, &server, key.trim()).await;
}

#[tokio::test]
async fn a16_on_a_terminal_the_first_start_is_as_closed_and_shows_no_key_of_itself() {
    let home = home();
    let mut server = home.serve_on_terminal();
    check_closed(&home, &server).await;
    let (well, shown) = home.run_on_terminal(&["keys", "new", "--management"]);
    let words: Vec<_> = shown.split_whitespace().collect();
    let keys: Vec<_> = words
        .iter()
        .filter(|word| word.starts_with("rh-"))
        .collect();
    assert!(well && keys.len() == 1, "{shown}");
    check_kept(&home, &server, keys[0]).await;
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let log = server.log();
    assert!(log.contains("\u{1b}["), "it did not see a terminal: {log}");
    assert!(!log.contains("rh-management"), "{log}");
}

/// Nothing but the control socket opens anything, and no key has been made.
async fn check_closed(home: &Home, server: &Server) {
    let state = home.path().join(".local/state/roundhouse");
    for path in ["/admin/status", "/admin/keys"] {
        for headers in [
            &[][..],
            &[("x-api-key", "")],
            &[("authorization", "Bearer ")],
        ] {
            let answer = manage(server, Method::GET, path, headers).await;
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
}

/// A key that was just made opens management; of it there is a hash, in a file of its
/// owner.
async fn check_kept(home: &Home, server: &Server, key: &str) {
    let state = home.path().join(".local/state/roundhouse");
    let kept = std::fs::read_to_string(state.join("keys.json")).expect("the keys");
    assert!(!kept.contains(key));
    let opened = async || manage(server, Method::GET, "/admin/status", &[("x-api-key", key)]).await;
    until(200, opened).await;
    for file in ["keys.json", "keys.lock", "audit.jsonl"] {
        let mode = std::fs::metadata(state.join(file)).expect("metadata");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let (_, listed, _) = home.run(&["keys", "list"]);
    assert!(!listed.contains(key));
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
