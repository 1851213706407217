use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::play::{Beat, Play};
use super::*;
use crate::engine::Finish;

fn folder(script: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let config = json!({"model_type": "scripted"}).to_string();
    std::fs::write(dir.path().join("config.json"), config).expect("written");
    std::fs::write(dir.path().join(SCRIPT), script.to_string()).expect("written");
    dir
}

fn loaded(dir: &tempfile::TempDir) -> Arc<Scripted> {
    let script = Script::read(dir.path()).expect("a script");
    Arc::new(Scripted::load(dir.path(), script, 2, |_| {}).expect("loaded"))
}

fn play(engine: &Arc<Scripted>, max_tokens: u64) -> Play {
    let script = engine.script().clone();
    Play::new(Arc::clone(engine), script, "n1".to_owned(), 0, max_tokens)
}

async fn beats(mut play: Play) -> Vec<Beat> {
    let mut beats = Vec::new();
    while let Some(beat) = play.next().await {
        beats.push(beat);
    }
    beats
}

#[test]
fn names_come_from_the_folder() {
    let check = |dir: &str, name: &str| assert_eq!(name_of(Path::new(dir)), name);
    check("/c/models--org--repo/snapshots/abc", "org/repo");
    check("/models/mine", "mine");
    check("/", "");
}

#[test]
fn wrong_scripts_are_refused() {
    let check = |script: Value, words: &str| {
        let dir = folder(script);
        let error = Script::read(dir.path()).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(json!({"token": 3}), "unknown field");
    check(json!({"odd": "upside_down"}), "unknown variant");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), r#"{"model_type":"llama"}"#).expect("written");
    assert!(matches!(
        Script::read(dir.path()),
        Err(EngineError::Unsupported(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn chunks_tell_who_made_them() {
    let dir = folder(json!({"tokens": 2, "token_ms": 1000, "journal": "journal"}));
    let engine = loaded(&dir);
    let heard = beats(play(&engine, 100)).await;
    let [
        Beat::Chunk(first),
        Beat::Chunk(second),
        Beat::End(Finish::Stop),
    ] = heard.as_slice()
    else {
        panic!("{heard:?}");
    };
    let first: Value = serde_json::from_str(first).expect("JSON");
    let name = dir.path().file_name().expect("a name").to_string_lossy();
    assert_eq!(
        first,
        json!({"nonce": "n1", "model": name, "pid": std::process::id(), "chunk": 0})
    );
    assert!(second.contains("\"chunk\":1"), "{second}");
    let journal = std::fs::read_to_string(dir.path().join("journal")).expect("a journal");
    assert_eq!(journal, "started n1\nfinished n1 after 2\n");
}

#[tokio::test(start_paused = true)]
async fn max_tokens_ends_an_answer_early() {
    let dir = folder(json!({"text": "to be or not "}));
    let engine = loaded(&dir);
    let chunk = |text: &str| Beat::Chunk(text.to_owned());
    assert_eq!(
        beats(play(&engine, 5)).await,
        [
            chunk("to "),
            chunk("be "),
            chunk("or "),
            chunk("not "),
            chunk("to "),
            Beat::End(Finish::Length),
        ]
    );
    assert_eq!(engine.tokens(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_answer_frees_its_slot_and_tells() {
    let dir = folder(json!({"tokens": 100, "journal": "journal"}));
    let engine = loaded(&dir);
    let mut first = play(&engine, 100);
    let mut second = play(&engine, 100);
    assert!(matches!(first.next().await, Some(Beat::Chunk(_))));
    assert!(matches!(second.next().await, Some(Beat::Chunk(_))));
    let mut third = play(&engine, 100);
    {
        let waiting = third.next();
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_err(), "two play at once, not three");
    }
    drop(first);
    assert!(matches!(third.next().await, Some(Beat::Chunk(_))));
    assert_eq!(engine.sequences(), (2, 0));
    drop((second, third));
    assert_eq!(engine.sequences(), (0, 0));
    let journal = std::fs::read_to_string(dir.path().join("journal")).expect("a journal");
    assert_eq!(journal.matches("cancelled n1 after 1").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn odd_streams_turn_in_the_middle() {
    let dir = folder(json!({"tokens": 2, "odd": "half_event"}));
    let engine = loaded(&dir);
    let heard = beats(play(&engine, 100)).await;
    assert!(
        matches!(heard[..], [Beat::Chunk(_), Beat::Odd(Odd::HalfEvent)]),
        "{heard:?}"
    );
}

#[test]
fn a_request_may_change_its_own_answer_alone() {
    let script = Script::default();
    let changed = |changes: Value| script.changed(changes.as_object().cloned());
    let expected = Script {
        tokens: 3,
        token_ms: 5,
        ..Script::default()
    };
    assert_eq!(changed(json!({"tokens": 3, "token_ms": 5})), Ok(expected));
    assert!(changed(json!({"load_ms": 5})).is_err());
    assert!(changed(json!({"tokens": "many"})).is_err());
}

#[test]
fn loading_takes_memory_or_fails() {
    let dir = folder(json!({"memory_bytes": 100_000}));
    assert_eq!(loaded(&dir).bytes_held(), 100_000);
    let dir = folder(json!({"load_fail": "no luck"}));
    let script = Script::read(dir.path()).expect("a script");
    let failed = Scripted::load(dir.path(), script, 1, |_| {}).err();
    assert_eq!(failed, Some(EngineError::Unsupported("no luck".to_owned())));
}
