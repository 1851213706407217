//! The weights of the model that will probably be loaded next are read ahead, through the
//! true binary, as the system's own count of cached pages shows it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use super::harness::{Home, Server, question};
use super::records::{metric, scrape, until_metric, value};

/// Bytes of a weight file; more than one piece of reading.
const WEIGHTS: u64 = 20_000_000;

/// A model of one tensor, outside the cache: on the disk of the build, for where temporary
/// folders are kept in memory no page can be put out.
fn model() -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let config = json!({"model_type": "scripted", "max_position_embeddings": 4096});
    for (name, content) in [
        ("config.json", config),
        ("scripted.json", json!({"tokens": 1})),
    ] {
        std::fs::write(folder.path().join(name), content.to_string()).expect("written");
    }
    let header = json!({"w": {"dtype": "U8", "shape": [WEIGHTS], "data_offsets": [0, WEIGHTS]}});
    let header = header.to_string();
    let mut file = File::create(weights(folder.path())).expect("a file");
    let length = (header.len() as u64).to_le_bytes();
    file.write_all(&length).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.write_all(&vec![1; WEIGHTS as usize]).expect("written");
    file.sync_all().expect("on the disk");
    folder
}

fn weights(folder: &Path) -> std::path::PathBuf {
    folder.join("model.safetensors")
}

/// Bytes of a model's weights that are in memory, as the system tells.
fn cached(folder: &Path) -> u64 {
    let told = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(weights(folder))
        .output()
        .expect("fincore");
    let told = String::from_utf8(told.stdout).expect("text");
    told.trim().parse().expect("a number")
}

/// Puts a model's weights out of memory.
fn forget(folder: &Path) {
    let file = File::open(weights(folder)).expect("it is there");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
    assert_eq!(cached(folder), 0, "the pages cannot be put out");
}

/// Two models of which one at a time has room.
fn yaml(models: [&Path; 2], prefetch: bool) -> String {
    let [a, b] = models.map(Path::display);
    format!(
        "pool: {{ max_models: 1, min_residency: 0s, prefetch: {prefetch} }}\n\
         models:\n  a: {{ path: {a} }}\n  b: {{ path: {b} }}\n"
    )
}

async fn ask(server: &Server, models: &str) {
    for model in models.split_whitespace() {
        let answer = server.chat(&question(model, "n", false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn the_weights_of_the_next_model_are_read_ahead() {
    let (a, b) = (model(), model());
    let home = Home::new(&yaml([a.path(), b.path()], true));
    let server = home.serve();
    let guesses = |outcome: &str| format!("prefetches_total{{outcome=\"{outcome}\"}}");
    // Before there is anything to tell it from, nothing is guessed.
    ask(&server, "a b a b").await;
    assert_eq!(metric(&server, "prefetched_bytes_total").await, 0.0);
    forget(b.path());
    ask(&server, "a").await;
    let whole = File::open(weights(b.path())).expect("it is there");
    let whole = whole.metadata().expect("it is there").len();
    until_metric(&server, "prefetched_bytes_total", |bytes| {
        bytes == whole as f64
    })
    .await;
    // The system was asked; it reads beside.
    let start = std::time::Instant::now();
    while cached(b.path()) < whole {
        assert!(start.elapsed() < super::harness::PATIENCE, "never read");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    ask(&server, "b").await;
    until_metric(&server, &guesses("right"), |count| count == 1.0).await;
    let status = server.status().await;
    assert_eq!(status["counters"]["loads"], 6, "nothing is loaded for it");

    // Switched off, nothing is read.
    home.configure(&yaml([a.path(), b.path()], false));
    let reload = server.control(reqwest::Method::POST, "/admin/reload", None);
    assert_eq!(reload.await.0, 200);
    let before = metric(&server, "prefetched_bytes_total").await;
    forget(a.path());
    forget(b.path());
    ask(&server, "a b a b a").await;
    let after = scrape(&server).await;
    assert_eq!(value(&after, "prefetched_bytes_total"), before);
    assert_eq!(cached(a.path()) + cached(b.path()), 0);
}
