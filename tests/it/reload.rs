//! Editing the file while the server runs: what changed is in force, what did
//! not is untouched, and a broken file changes nothing.

use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Home, Server, long, question};

const BEFORE: &str = "models: { t/a: {}, t/b: {} }\n";

fn home() -> Home {
    let home = Home::new(BEFORE);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

async fn reload(server: &Server) -> (u16, Value) {
    server.control(Method::POST, "/admin/reload", None).await
}

#[tokio::test]
async fn what_changed_is_in_force_and_unedited_models_stay_loaded() {
    let home = home();
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    home.configure("models: { t/a: { aliases: [first] }, t/c: {} }\n");
    let (status, change) = reload(&server).await;
    assert_eq!(status, 200, "{change}");
    assert_eq!(
        server.chat(&question("first", "n", false)).await.told()["pid"],
        pid
    );
    assert_eq!(server.chat(&question("t/c", "n", false)).await.status, 200);
    assert_eq!(server.chat(&question("t/b", "n", false)).await.status, 404);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_says_where() {
    let home = home();
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    home.configure("models:\n  t/a: { idle_unlod: 10m }\n");
    let (status, error) = reload(&server).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (400, Some("invalid_value")),
        "{error}"
    );
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("idle_unload") && message.contains(":2:"),
        "{message}"
    );
    assert_eq!(
        server.get("/health").await,
        (200, json!({"status": "degraded"}))
    );
    assert_eq!(
        server.chat(&question("t/a", "n", false)).await.told()["pid"],
        pid
    );
    home.configure(BEFORE);
    assert_eq!(reload(&server).await.0, 200);
    assert_eq!(server.get("/health").await, (200, json!({"status": "ok"})));
}

#[tokio::test]
async fn a_hang_up_reloads() {
    let home = home();
    let server = home.serve();
    home.configure("models: { t/c: {} }\n");
    server.signal(Signal::HUP);
    server
        .until("reloaded", |status| {
            status["configuration"]["generation"].as_u64() >= Some(2)
        })
        .await;
    assert_eq!(server.chat(&question("t/c", "n", false)).await.status, 200);
}

/// The names that may be asked for.
async fn names(server: &Server) -> Vec<String> {
    let (_, list) = server.get("/v1/models").await;
    let models = list["data"].as_array().expect("a list").iter();
    let name = |model: &Value| model["id"].as_str().map(str::to_owned);
    models.filter_map(name).collect()
}

/// Waits until a name may be asked for, or not any more; answers how long that took.
async fn until_named(server: &Server, name: &str, is_there: bool) -> Duration {
    let start = Instant::now();
    loop {
        let names = names(server).await;
        if names.iter().any(|known| known == name) == is_there {
            return start.elapsed();
        }
        let patience = Duration::from_secs(30);
        assert!(start.elapsed() < patience, "{name}: {is_there}; {names:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reloads that succeeded, as the log tells them.
fn reloads(server: &Server) -> usize {
    server.log().matches("configuration reloaded").count()
}

#[tokio::test]
async fn c05_an_edit_is_in_force_by_itself_and_once_however_the_editor_writes() {
    let home = home();
    let server = home.serve();
    let pid = server.chat(&question("t/a", "n", false)).await.told()["pid"].clone();
    let text = |name: &str| format!("models: {{ t/a: {{ aliases: [{name}] }}, t/b: {{}} }}\n");
    let file = home.config();
    let beside = |name: &str| file.with_file_name(name);

    // An editor's lock and backup files, and a file that is merely touched.
    for name in ["models.yaml~", ".models.yaml.swp", "4913", "#models.yaml#"] {
        std::fs::write(beside(name), text("backup")).expect("written");
    }
    std::fs::write(&file, BEFORE).expect("written");

    std::fs::write(&file, text("written")).expect("written");
    let mut longest = until_named(&server, "written", true).await;

    std::fs::write(beside("new"), text("renamed")).expect("written");
    std::fs::rename(beside("new"), &file).expect("renamed");
    longest = longest.max(until_named(&server, "renamed", true).await);

    // An editor that moves the old file away first: for a while there is none.
    std::fs::rename(&file, beside("backup")).expect("renamed");
    let gone = |status: &Value| status["configuration"]["last_reload_failure"].is_string();
    server.until("told", gone).await;
    assert_eq!(
        server.chat(&question("renamed", "n", false)).await.status,
        200
    );
    std::fs::write(&file, text("moved")).expect("written");
    longest = longest.max(until_named(&server, "moved", true).await);

    // A link to one of two folders, as deployments swap them.
    for version in ["one", "two"] {
        std::fs::create_dir(beside(version)).expect("made");
        let link = beside("next");
        std::fs::write(beside(version).join("models.yaml"), text(version)).expect("written");
        std::os::unix::fs::symlink(beside(version).join("models.yaml"), &link).expect("linked");
        std::fs::rename(&link, &file).expect("renamed");
        longest = longest.max(until_named(&server, version, true).await);
    }

    // Within a second where the machine is nobody else's.
    let patience = if long() { 1 } else { 30 };
    assert!(longest < Duration::from_secs(patience), "{longest:?}");
    let told = server.chat(&question("two", "n", false)).await.told()["pid"].clone();
    assert_eq!(told, pid, "nothing was unloaded");
    let status = server.status().await;
    assert_eq!(status["configuration"]["last_reload_failure"], Value::Null);
    assert_eq!(reloads(&server), 5, "{}", server.log());
    assert_eq!(status["configuration"]["generation"], 6);
    let told = "reload 6: 2 aliases changed, 0 unloads";
    assert!(server.log().contains(told), "{}", server.log());
}

#[tokio::test]
async fn c02_a_file_that_was_saved_half_leaves_the_last_good_one_in_force() {
    let whole = "# The models\n{ models: { t/a: { aliases: [whole] } }, allow: [t/b] }\n";
    let home = Home::new(whole);
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let end = whole.rfind('}').expect("an end");
    for length in 0..=end {
        home.configure(&whole[..length]);
        let (status, error) = reload(&server).await;
        assert_eq!(status, 400, "{length}: {error}");
    }
    assert_eq!(
        server.chat(&question("whole", "n", false)).await.status,
        200
    );
    assert_eq!(
        server.get("/health").await,
        (200, json!({"status": "degraded"}))
    );
    let status = server.status().await;
    assert_eq!(status["configuration"]["generation"], 1);
    let failure = &status["configuration"]["last_reload_failure"];
    assert!(failure.is_string(), "{failure}");
    home.configure(&whole.replace("whole", "again"));
    until_named(&server, "again", true).await;
    assert_eq!(server.get("/health").await, (200, json!({"status": "ok"})));
}

/// Lays something in the place of the configuration that is none.
fn lay(what: &str, file: &std::path::Path) {
    let _ = std::fs::remove_file(file);
    match what {
        "folder" => std::fs::create_dir(file).expect("made"),
        "pipe" => rustix::fs::mknodat(
            rustix::fs::CWD,
            file,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .expect("made"),
        "device" => std::os::unix::fs::symlink("/dev/zero", file).expect("linked"),
        "loop" => std::os::unix::fs::symlink(file, file).expect("linked"),
        "large" => std::fs::write(file, "#".repeat(1_000_001)).expect("written"),
        _ => panic!("{what}"),
    }
}

#[tokio::test]
async fn c08_what_is_no_file_of_text_is_78_at_the_start_and_later_leaves_the_last_good() {
    let home = home();
    let server = home.serve();
    let file = home.config();
    let other = file.with_file_name("other.yaml");
    for kind in ["folder", "pipe", "device", "loop", "large"] {
        lay(kind, &other);
        let path = other.to_str().expect("text");
        let (code, _, error) = home.run(&["serve", "--config", path]);
        assert_eq!(code, 78, "{kind}: {error}");
        std::fs::rename(&file, file.with_file_name("good")).expect("renamed");
        std::fs::rename(&other, &file).expect("renamed");
        let (status, error) = reload(&server).await;
        assert_eq!(status, 400, "{kind}: {error}");
        assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
        let health = server.get("/health").await.1;
        assert_eq!(health["status"], "degraded", "{kind}");
        std::fs::rename(&file, file.with_file_name(format!("was-{kind}"))).expect("renamed");
        std::fs::rename(file.with_file_name("good"), &file).expect("renamed");
        let good = |status: &Value| status["configuration"]["last_reload_failure"].is_null();
        assert_eq!(reload(&server).await.0, 200, "{kind}");
        server.until("good again", good).await;
    }
}

/// Whoever may do anything may read everything: root's tests run this as nobody.
#[tokio::test]
async fn c08_an_unreadable_file_is_78_at_the_start_and_later_leaves_the_last_good() {
    const NOBODY: u32 = 65_534;
    let home = home();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for place in [home.path(), &home.config(), &home.cache()] {
            std::os::unix::fs::chown(place, Some(NOBODY), Some(NOBODY)).expect("given");
        }
    }
    let command = |args: &[&str]| {
        let mut command = home.command(args);
        if is_root {
            std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        }
        command
    };
    let rights = |mode: u32| {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(home.config(), rights).expect("set");
    };
    let listen = ["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
    let serve = [&["serve", "--json", "--scripted-engine"][..], &listen].concat();
    rights(0o000);
    let ended = command(&serve).output().expect("started");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(78), "{error}");
    assert!(error.contains("Permission denied"), "{error}");
    rights(0o600);
    let server = home.start(command(&serve));
    rights(0o000);
    let (status, error) = reload(&server).await;
    assert_eq!(status, 400, "{error}");
    assert_eq!(server.get("/health").await.1["status"], "degraded");
    assert!(names(&server).await.contains(&"t/a".to_owned()));
    rights(0o600);
    assert_eq!(reload(&server).await.0, 200);
    assert_eq!(server.get("/health").await.1["status"], "ok");
}

#[tokio::test]
async fn a_broken_edit_is_told_by_itself_and_mended_by_itself() {
    let home = home();
    let server = home.serve();
    home.configure("models:\n  t/a: { idle_unlod: 10m }\n");
    let status = server
        .until("told", |status| {
            status["configuration"]["last_reload_failure"].is_string()
        })
        .await;
    let failure = status["configuration"]["last_reload_failure"].to_string();
    assert!(failure.contains("idle_unload"), "{failure}");
    assert_eq!(
        server.get("/health").await,
        (200, json!({"status": "degraded"}))
    );
    assert_eq!(server.chat(&question("t/a", "n", false)).await.status, 200);
    home.configure(BEFORE);
    server
        .until("mended", |status| {
            status["configuration"]["last_reload_failure"].is_null()
        })
        .await;
    assert_eq!(server.get("/health").await, (200, json!({"status": "ok"})));
}

#[tokio::test]
async fn a_finished_download_is_offered_and_a_deleted_snapshot_is_not() {
    let home = Home::new("allow: ['t/*']\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    assert_eq!(names(&server).await, ["t/a"]);
    let snapshot = home.scripted("t/new", json!({"tokens": 1}));
    until_named(&server, "t/new", true).await;
    assert_eq!(
        server.chat(&question("t/new", "n", false)).await.status,
        200
    );
    // Half of a download: the link is there, and what it leads to is not yet.
    let half = home.scripted("t/half", json!({"tokens": 1}));
    std::fs::remove_file(half.join("config.json")).expect("removed");
    std::fs::remove_dir_all(snapshot).expect("removed");
    until_named(&server, "t/new", false).await;
    until_named(&server, "t/half", false).await;
    assert_eq!(
        server.chat(&question("t/new", "n", false)).await.status,
        404
    );
}

#[tokio::test]
async fn r17_a_model_removed_in_mid_stream_finishes_and_is_gone() {
    let home = home();
    home.scripted("t/a", json!({"tokens": 30, "token_ms": 20}));
    let server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let edit = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        home.configure("models: { t/b: {} }\n");
        assert_eq!(reload(&server).await.0, 200);
        assert_eq!(
            server.chat(&question("t/a", "late", false)).await.status,
            404
        );
    };
    let (stream, ()) = tokio::join!(stream, edit);
    assert_eq!(
        stream.events().last().map(String::as_str),
        Some("[DONE]"),
        "{stream:?}"
    );
    server
        .until("unloaded", |status| {
            status["counters"]["unloads"]["config"] == 1
        })
        .await;
}

#[tokio::test]
async fn a_hundred_edits_of_an_alias_drop_nothing_and_unload_nothing() {
    let home = home();
    home.scripted("t/a", json!({"tokens": 400, "token_ms": 5}));
    let server = home.serve();
    let body = question("t/a", "n", true);
    let stream = server.chat(&body);
    let edits = async {
        server
            .until("streaming", |status| status["requests"]["running"] == 1)
            .await;
        for round in 0..100 {
            home.configure(&format!(
                "models: {{ t/a: {{ aliases: [name{round}] }} }}\n"
            ));
            assert_eq!(reload(&server).await.0, 200);
        }
    };
    let (stream, ()) = tokio::join!(stream, edits);
    assert_eq!(stream.events().last().map(String::as_str), Some("[DONE]"));
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 1);
    assert_eq!(status["counters"]["unloads"], json!({}));
    let mut short = question("name99", "n", false);
    short["scripted"] = json!({"tokens": 1});
    assert_eq!(server.chat(&short).await.status, 200);
}
