//! Official client libraries against the server. They are installed by
//! `make test` into `target/python`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::harness::{Home, PATIENCE};

/// Runs a client's script; fails with what it said unless that is `ok`.
pub fn run(script: &str, args: &[&str]) {
    let said = say(script, args);
    assert_eq!(said.trim(), "ok", "{script}");
}

/// Runs a client's script and answers what it said.
pub fn say(script: &str, args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/python");
    assert!(
        packages.join("openai").is_dir(),
        "the clients are not installed; run `make clients`"
    );
    let output = Command::new("python3")
        .arg(root.join("tests/clients").join(script))
        .args(args)
        .env("PYTHONPATH", &packages)
        .output()
        .expect("python3 starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_openai_client_finds_everything_it_expects() {
    let home = Home::new("models: { t/a: {}, t/e: {} }\n");
    let snapshot = home.scripted("t/a", json!({"tokens": 20, "journal": "journal"}));
    super::embeddings::embedder(&home, "t/e", json!({}));
    let server = home.serve();
    let inference = server.inference.clone();
    tokio::task::spawn_blocking(move || run("openai_client.py", &[&inference, "t/a", "t/e"]))
        .await
        .expect("the client's script");
    let left = Instant::now();
    let journal = || std::fs::read_to_string(snapshot.join("journal")).expect("a journal");
    let made: u64 = loop {
        let journal = journal();
        let cancelled = "cancelled left-by-openai after ";
        let found = journal
            .lines()
            .find_map(|line| line.strip_prefix(cancelled));
        if let Some(made) = found {
            break made.parse().expect("a number of tokens");
        }
        assert!(left.elapsed() < PATIENCE, "never cancelled: {journal}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(made <= 2, "it left at the first of {made} tokens");
    server
        .until("free", |status| status["requests"]["running"] == 0)
        .await;
}
