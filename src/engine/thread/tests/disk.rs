//! The way of prompts to the disk and back, with a network that can be looked through.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::engine::stored::room::Quota;

/// A place for prompts on disk.
fn place(dir: &Path, quota: u64) -> Place {
    Place {
        folder: dir.join("prompts/a+b"),
        quota: Quota {
            each: quota,
            all: quota,
        },
        form: "form".to_owned(),
    }
}

/// Ends an engine as a model that is unloaded ends.
async fn leave(setup: Setup) {
    let until = Instant::now() + Duration::from_secs(60);
    setup.engine.leave(until);
    setup.ended.await.expect_err("the thread is gone");
}

/// What a sequence says, and how many of its tokens were there.
async fn answered(setup: &Setup, job: Job) -> (u64, Vec<u32>) {
    let mut sequence = setup.engine.begin(job);
    let Some(Said::Began { cached }) = sequence.next().await else {
        panic!("it begins");
    };
    (cached, said(sequence).await.0)
}

/// The files of all pieces.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|end| end == "safetensors") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn d20_what_was_kept_is_there_when_the_model_comes_back_for_its_own_caller_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let begin = |quota| start_at(Some(place(dir.path(), quota)), settings(2000), None, None);
    let first = begin(100_000);
    assert_eq!(answered(&first, job_of(1, 0..200, 5)).await.0, 0);
    let before = answered(&first, job_of(1, 0..200, 5)).await;
    assert_eq!(before, (199, (200..205).collect()));
    leave(first).await;
    let written = files(dir.path());
    assert_eq!(written.len(), 4, "three pieces of 64 tokens and a rest");
    for path in &written {
        let name = path.to_string_lossy().into_owned();
        assert!(!name.contains(&"0".repeat(30)), "the mark is not in {name}");
    }
    let second = begin(100_000);
    assert_eq!(answered(&second, job_of(1, 0..200, 5)).await, before);
    assert_eq!(answered(&second, job_of(2, 0..200, 5)).await.0, 0);
    assert_eq!(answered(&second, job(0..200, 5)).await.0, 0);
    let kept = second.engine.counted().kept;
    assert_eq!((kept.hits, kept.saved, kept.restored), (1, 199, 199));
    // From here on it is in memory, and what is there is not written again.
    assert_eq!(answered(&second, job_of(1, 0..300, 5)).await.0, 204);
    assert_eq!(second.engine.counted().kept.restored, 199);
    let times = |path: &std::path::PathBuf| std::fs::metadata(path).expect("there").ino();
    let inodes: Vec<u64> = written.iter().map(times).collect();
    leave(second).await;
    assert_eq!(written.iter().map(times).collect::<Vec<_>>(), inodes);
    // Little room leaves the beginning, and room for nothing leaves nothing.
    let bytes = |dir: &Path| {
        let files = files(dir);
        files
            .iter()
            .map(|path| std::fs::metadata(path).expect("there").len())
            .sum::<u64>()
    };
    for quota in [bytes(dir.path()) / 2, 0] {
        let tight = begin(quota);
        let had = answered(&tight, job_of(1, 0..300, 5)).await;
        assert_eq!(had.1, (300..305).collect::<Vec<_>>());
        leave(tight).await;
        assert!(
            bytes(dir.path()) <= quota,
            "{} of {quota}",
            bytes(dir.path())
        );
    }
}

#[tokio::test]
async fn d20_damage_is_removed_and_costs_the_time_to_read_the_prompt() {
    let dir = tempfile::tempdir().expect("a folder");
    let begin = || start_at(Some(place(dir.path(), 100_000)), settings(2000), None, None);
    let whole: Vec<u32> = (200..205).collect();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| bytes[700] ^= 1,
        |bytes| *bytes = b"something else".to_vec(),
    ];
    for (round, damage) in damages.iter().enumerate() {
        let setup = begin();
        answered(&setup, job_of(1, 0..200, 5)).await;
        leave(setup).await;
        let files = files(dir.path());
        let second = files
            .iter()
            .find(|path| path.to_string_lossy().contains("/64-64-"))
            .expect("the second piece");
        let mut bytes = std::fs::read(second).expect("there");
        assert!(bytes.len() > 700, "{}", bytes.len());
        damage(&mut bytes);
        std::fs::write(second, bytes).expect("written");
        let setup = begin();
        let had = answered(&setup, job_of(1, 0..200, 5)).await;
        assert_eq!(had, (64, whole.clone()), "round {round}");
        assert!(!second.exists(), "round {round}: it is removed");
        leave(setup).await;
        let setup = begin();
        assert_eq!(
            answered(&setup, job_of(1, 0..200, 5)).await.0,
            199,
            "round {round}"
        );
        leave(setup).await;
    }
}

#[tokio::test]
async fn d20_another_form_finds_nothing_and_forgetting_removes() {
    let dir = tempfile::tempdir().expect("a folder");
    let begin = |form: &str| {
        let place = Place {
            form: form.to_owned(),
            ..place(dir.path(), 100_000)
        };
        start_at(Some(place), settings(2000), None, None)
    };
    let setup = begin("one");
    answered(&setup, job_of(1, 0..200, 5)).await;
    leave(setup).await;
    assert_eq!(files(dir.path()).len(), 4);
    let other = begin("two");
    assert_eq!(answered(&other, job_of(1, 0..200, 5)).await.0, 0);
    assert_eq!(files(dir.path()).len(), 0, "it is removed with the load");
    leave(other).await;
    let again = begin("two");
    assert_eq!(answered(&again, job_of(1, 0..200, 5)).await.0, 199);
    again.engine.forget();
    assert_eq!(answered(&again, job_of(1, 0..200, 5)).await.0, 0);
    assert_eq!(files(dir.path()).len(), 0);
    // A worker that is not asked writes nothing.
    drop(again.engine);
    again.ended.await.expect_err("the thread is gone");
    assert_eq!(files(dir.path()).len(), 0);
}

#[tokio::test]
async fn d20_time_that_is_over_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let setup = start_at(Some(place(dir.path(), 100_000)), settings(2000), None, None);
    answered(&setup, job_of(1, 0..200, 5)).await;
    setup.engine.leave(Instant::now());
    setup.ended.await.expect_err("the thread is gone");
    assert_eq!(files(dir.path()).len(), 0);
}
