//! Snapshots that are broken or hostile (group M of the security cases): a 404
//! with the reason, no worker, and nothing lost for the models beside them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use super::harness::{Home, question};

/// Puts a file in place of a link or a file of the snapshot.
fn put(snapshot: &Path, name: &str, content: &[u8]) {
    let path = snapshot.join(name);
    let _ = fs::remove_file(&path);
    fs::write(path, content).expect("written");
}

/// Puts a link in place of a file of the snapshot.
fn link(snapshot: &Path, name: &str, target: &str) {
    let path = snapshot.join(name);
    let _ = fs::remove_file(&path);
    symlink(target, path).expect("linked");
}

/// A safetensors file with this header and eight bytes of data.
fn weights(header: &str) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([0; 8]);
    file
}

/// Breaks a model in one way and asks for it: a 404 that says why, no worker
/// started, and the model beside it answers.
async fn check(break_it: impl FnOnce(&Path), reason: &str) {
    let home = Home::new("allow: ['t/*']\n");
    home.scripted("t/whole", json!({"tokens": 1}));
    break_it(&home.scripted("t/broken", json!({"tokens": 1})));
    let server = home.serve();
    let answer = server.chat(&question("t/broken", "n", false)).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "model_not_found"),
        "{answer:?}"
    );
    assert!(
        answer.text.contains(reason),
        "expected {reason:?} in {answer:?}"
    );
    assert!(
        !answer.text.contains(&*home.path().to_string_lossy()),
        "a path is told: {answer:?}"
    );
    assert_eq!(
        server.status().await["counters"]["loads"],
        0,
        "a worker was started"
    );
    assert_eq!(
        server.chat(&question("t/whole", "n", false)).await.status,
        200
    );
}

#[tokio::test]
async fn m11_links_that_leave_the_repository() {
    check(|s| link(s, "config.json", "/etc/hostname"), "unsafe_link").await;
    check(
        |s| link(s, "tokenizer.json", "../../../../x"),
        "unsafe_link",
    )
    .await;
    check(|s| link(s, "model.safetensors", "/dev/zero"), "unsafe_link").await;
    check(|s| link(s, "scripted.json", "scripted.json"), "unsafe_link").await;
    let other = "../../../models--t--whole/blobs/blob-config.json";
    check(|s| link(s, "config.json", other), "unsafe_link").await;
}

#[tokio::test]
async fn m12_what_is_not_downloaded_to_its_end() {
    let missing = "model-00002-of-00002.safetensors is missing";
    let index = json!({"weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors",
    }});
    let whole = weights(r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#);
    let half = |snapshot: &Path| {
        put(
            snapshot,
            "model.safetensors.index.json",
            index.to_string().as_bytes(),
        );
        put(snapshot, "model-00001-of-00002.safetensors", &whole);
        fs::write(snapshot.join("../../blobs/abc.incomplete"), b"half").expect("written");
    };
    check(half, missing).await;
    check(
        |s| put(s, "model.safetensors", b""),
        "model.safetensors (empty)",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", &whole[..whole.len() - 1]),
        "incomplete",
    )
    .await;
    check(
        |s| link(s, "scripted.json", "../../blobs/not-there"),
        "scripted.json is missing",
    )
    .await;
    let empty = |snapshot: &Path| {
        for name in ["config.json", "scripted.json"] {
            fs::remove_file(snapshot.join(name)).expect("removed");
        }
    };
    check(empty, "config.json is missing").await;
}

#[tokio::test]
async fn m15_configurations_that_are_traps() {
    let marker = std::env::temp_dir().join("a-marker-that-code-of-a-model-would-leave");
    let code =
        json!({"model_type": "scripted", "auto_map": {"AutoModel": "evil.Model"}}).to_string();
    let hostile = |snapshot: &Path| {
        put(snapshot, "config.json", code.as_bytes());
        let line = format!("open({marker:?}, 'w')\n");
        put(snapshot, "evil.py", line.as_bytes());
    };
    check(hostile, "untrusted_code").await;
    assert!(!marker.exists());
    check(
        |s| put(s, "config.json", &vec![b' '; 50 << 20]),
        "is larger than",
    )
    .await;
    check(
        |s| put(s, "config.json", &br#"{"a":"#.repeat(10_000)),
        "recursion limit",
    )
    .await;
    let twice = br#"{"model_type": "scripted", "model_type": "llama"}"#;
    check(|s| put(s, "config.json", twice), "twice").await;
}

#[tokio::test]
async fn m17_m18_weights_that_are_none() {
    let overlap = r#"{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}"#;
    check(
        |s| put(s, "model.safetensors", &weights(overlap)),
        "bad_weights",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", &weights("not json")),
        "bad_weights",
    )
    .await;
    let mut huge = weights("{}");
    huge[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    check(
        |s| put(s, "model.safetensors", &huge),
        "claims 9223372036854775808",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", b"GGUF\x03\0\0\0\0\0\0\0"),
        "a GGUF file",
    )
    .await;
    check(
        |s| put(s, "model.safetensors", b"<!DOCTYPE html>"),
        "a web page",
    )
    .await;
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    check(|s| put(s, "model.safetensors", pointer), "git-lfs pointer").await;
}
