//! Keys from their making to their revocation, and what each may do.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, question};

/// A home with three models.
pub fn home() -> Home {
    let home = Home::new("models: { t/a: { aliases: [small] }, t/b: {}, other/c: {} }\n");
    for model in ["t/a", "t/b", "other/c"] {
        home.scripted(model, json!({"tokens": 3}));
    }
    home
}

/// The text of a new key.
pub fn new_key(home: &Home, args: &[&str]) -> String {
    let (code, out, error) = home.run(&[&["keys", "new"], args].concat());
    assert_eq!(code, 0, "{error}");
    out.trim().to_owned()
}

/// A request with a key.
pub async fn with_key(
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

pub async fn models(server: &Server, key: &str) -> Answer {
    with_key(server, ("x-api-key", key), Method::GET, "/v1/models", None).await
}

pub async fn chat(server: &Server, key: &str, body: &Value) -> Answer {
    let path = "/v1/chat/completions";
    with_key(server, ("x-api-key", key), Method::POST, path, Some(body)).await
}

pub async fn manage(server: &Server, key: &str, method: Method, path: &str) -> Answer {
    let request = Client::new()
        .request(method, format!("{}{path}", server.management))
        .header("x-api-key", key);
    Answer::read(request.send().await.expect("an answer")).await
}

/// How long until an answer has a status.
pub async fn until(status: u16, ask: impl AsyncFn() -> Answer) -> Duration {
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
