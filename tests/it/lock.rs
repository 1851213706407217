//! `models.lock`: what is pinned is served as it was pinned, and a changed snapshot
//! waits until somebody accepts it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Home, PATIENCE, Server, question};

const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
const SECOND: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn home() -> Home {
    let home = Home::new("allow: ['t/*']\nmodels:\n  small: { repo: t/a, aliases: [code] }\n");
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

fn lock_file(home: &Home) -> PathBuf {
    home.path().join("models.lock")
}

/// Lays a second commit of a model and lets `main` point to it, as a download does.
fn update(home: &Home, id: &str) {
    let name = format!("models--{}", id.replace('/', "--"));
    let repository = home.cache().join(name);
    let snapshot = repository.join("snapshots").join(SECOND);
    fs::create_dir(&snapshot).expect("made");
    for name in ["config.json", "scripted.json"] {
        symlink(format!("../../blobs/blob-{name}"), snapshot.join(name)).expect("linked");
    }
    fs::write(repository.join("refs/main"), SECOND).expect("written");
}

async fn reload(server: &Server) -> String {
    let (status, change) = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(status, 200, "{change}");
    change.to_string()
}

/// Asks for a model until the answer has a status.
async fn until_answered(server: &Server, model: &str, status: u16) -> String {
    let start = std::time::Instant::now();
    loop {
        let answer = server.chat(&question(model, "n", false)).await;
        if answer.status == status {
            return answer.text;
        }
        assert!(start.elapsed() < PATIENCE, "{model}: {answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What management says of a model: the reason and what mends it.
async fn why(server: &Server, id: &str) -> (String, String) {
    let (_, told) = server
        .control(Method::GET, "/admin/models?why=1", None)
        .await;
    let mut lines = told["why"].as_array().expect("lines").iter();
    let line = lines.find(|line| line["id"] == id).expect("a line");
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("mend"))
}

#[tokio::test]
async fn what_differs_from_its_pin_is_refused_until_it_is_accepted() {
    let home = home();
    let (code, out, _) = home.run(&["lock"]);
    assert_eq!(code, 0, "{out}");
    let text = fs::read_to_string(lock_file(&home)).expect("written");
    let expected = format!(
        "version: 1\nsnapshots:\n  t/a:\n    commit: {FIRST}\n    files:\n      \
         config.json: 56\n      scripted.json: 12\n  t/b:\n"
    );
    assert!(text.contains(&expected), "{text}");
    let server = home.serve();
    for model in ["small", "t/b"] {
        assert_eq!(server.chat(&question(model, "n", false)).await.status, 200);
    }
    // Another length in the pinned snapshot, and a model that nobody has accepted.
    home.scripted("t/a", json!({"tokens": 22}));
    home.scripted("t/c", json!({"tokens": 1}));
    reload(&server).await;
    let refused = until_answered(&server, "code", 404).await;
    let changed = "changed_snapshot: scripted.json has 13 bytes and was pinned with 12";
    assert!(refused.contains(changed), "{refused}");
    let accept = |name: &str| format!("roundhouse lock --accept {name}");
    assert_eq!(why(&server, "small").await, (changed.into(), accept("t/a")));
    let new = "not_pinned: models.lock has no pin for it";
    assert_eq!(why(&server, "t/c").await, (new.into(), accept("t/c")));
    assert_eq!(server.chat(&question("t/b", "n", false)).await.status, 200);
    // The commands say the same.
    let (_, listed, _) = home.run(&["models", "--why"]);
    assert!(
        listed.contains(changed) && listed.contains(&accept("t/c")),
        "{listed}"
    );
    let (_, checked, _) = home.run(&["check"]);
    assert!(
        checked.contains(changed) && checked.contains(new),
        "{checked}"
    );
    let (_, explained, _) = home.run(&["explain", "small"]);
    assert!(
        explained.contains(changed) && explained.contains(&accept("t/a")),
        "{explained}"
    );
    let (code, out, _) = home.run(&["lock", "--json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    let states: Vec<_> = told["snapshots"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| (it["snapshot"].as_str(), it["state"].as_str()))
        .collect();
    let expected = [
        (Some("t/a"), Some("changed_snapshot")),
        (Some("t/b"), Some("pinned")),
        (Some("t/c"), Some("not_pinned")),
    ];
    assert_eq!((code, states.as_slice()), (1, &expected[..]), "{told}");
    assert_eq!(
        fs::read_to_string(lock_file(&home)).expect("read"),
        text,
        "only looked"
    );
    // Accepting touches what is named, and the server follows.
    let (code, out, _) = home.run(&["lock", "--accept", "code"]);
    assert_eq!(code, 0, "{out}");
    let accepted = fs::read_to_string(lock_file(&home)).expect("read");
    let expected = text.replacen("scripted.json: 12", "scripted.json: 13", 1);
    assert_eq!(accepted, expected);
    until_answered(&server, "small", 200).await;
    server.logged(&["configuration reloaded", "1 pin changed"]);
    assert_eq!(server.chat(&question("t/c", "n", false)).await.status, 404);
    let (code, _, error) = home.run(&["lock", "--accept", "t/nowhere"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("no model that is served and no pin"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(lock_file(&home)).expect("read"),
        accepted
    );
    // Without the file nothing is pinned.
    fs::remove_file(lock_file(&home)).expect("removed");
    until_answered(&server, "t/c", 200).await;
}

#[tokio::test]
async fn a_pin_chooses_the_commit_while_it_is_there() {
    let home = home();
    assert_eq!(home.run(&["lock"]).0, 0);
    update(&home, "t/b");
    let server = home.serve();
    assert_eq!(server.chat(&question("t/b", "n", false)).await.status, 200);
    let commit = async |server: &Server| {
        let status = server.status().await;
        let mut models = status["models"].as_array().expect("models").clone();
        models.retain(|model| model["model"] == "t/b" || model["id"] == "t/b");
        models[0]["commit"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(commit(&server).await, FIRST, "the branch has moved on");
    let (code, out, _) = home.run(&["lock"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("as pinned; fedcba987654 is cached too"),
        "{out}"
    );
    // Gone, and another one there: nobody has accepted that.
    let snapshots = home.cache().join("models--t--b/snapshots");
    fs::remove_dir_all(snapshots.join(FIRST)).expect("removed");
    reload(&server).await;
    let refused = until_answered(&server, "t/b", 404).await;
    let changed = "changed_snapshot: models.lock pins commit 0123456789ab, which is not cached \
                   whole; the cache has fedcba987654";
    assert!(refused.contains(changed), "{refused}");
    assert_eq!(home.run(&["lock", "--accept"]).0, 0);
    until_answered(&server, "t/b", 200).await;
    assert_eq!(commit(&server).await, SECOND);
}

#[tokio::test]
async fn a_broken_lock_file_stops_a_start_and_no_server() {
    let home = home();
    assert_eq!(home.run(&["lock"]).0, 0);
    let server = home.serve();
    fs::write(lock_file(&home), "version: 1\nsnapshots: { t/a: much }\n").expect("written");
    let start = std::time::Instant::now();
    while server.get("/health").await != (200, json!({"status": "degraded"})) {
        assert!(start.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    server.logged(&["configuration not reloaded", "models.lock:2:19"]);
    assert_eq!(
        server.chat(&question("small", "n", false)).await.status,
        200
    );
    for command in [
        &["check"][..],
        &["lock"],
        &["lock", "--accept"],
        &["allow", "t/c"],
    ] {
        let (code, _, error) = home.run(command);
        assert_eq!(code, 78, "{command:?}: {error}");
        assert!(
            error.contains("models.lock:2:19: expected keys with values"),
            "{error}"
        );
    }
}
