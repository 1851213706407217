//! Pins against a shelf of known contents.

use super::*;
use crate::registry::Snapshot;
use crate::registry::build;
use crate::registry::fixture::{Shelf, config, machine};
use crate::registry::why::explain;

/// The world that a text and a lock make of a shelf.
fn snapshot(text: &str, lock: Lock, shelf: &Shelf) -> Snapshot {
    let config = Config {
        lock: Some(lock),
        ..config(text)
    };
    build::snapshot(config, &machine(), shelf, None).expect("a snapshot")
}

/// Pins of snapshots of one file each.
fn lock(pins: &[(&str, Option<&str>, u64)]) -> Lock {
    let pins = pins.iter().map(|(name, commit, length)| {
        let pin = Pin {
            commit: commit.map(str::to_owned),
            files: [("weights".to_owned(), *length)].into(),
        };
        ((*name).to_owned(), pin)
    });
    Lock {
        pins: pins.collect(),
    }
}

const WHOLE: u64 = 4_000_000_000;

#[test]
fn what_is_as_it_was_pinned_is_served_and_all_else_says_what_differs() {
    let text = "
allow: ['a/*']
models:
  coder: { repo: c/coder, aliases: [code] }
  old: { repo: c/coder, revision: v1 }
  new: { repo: c/coder, revision: v2 }
  folder: { path: /w }
";
    let shelf = Shelf::of(&["a/long", "a/one", "a/two", "c/coder", "/w"]).broken("a/broken");
    let lock = lock(&[
        ("a/one", Some("c0ffee"), WHOLE),
        ("a/long", Some("c0ffee"), WHOLE - 1),
        ("c/coder", Some("c0ffee"), WHOLE),
        ("c/coder@v1", Some("0123456789abcdef"), WHOLE),
        ("/w", None, 7),
    ]);
    let snapshot = snapshot(text, lock, &shelf);
    let shown: Vec<String> = explain(&snapshot)
        .into_iter()
        .map(|line| {
            let (reason, mend) = (
                line.reason.unwrap_or_default(),
                line.mend.unwrap_or_default(),
            );
            format!("{} {:?} {reason} | {mend}", line.id, line.served_as)
        })
        .collect();
    let expected = [
        "coder [\"coder\", \"code\"]  | ",
        "old [\"old\"]  | ",
        "new [] not_pinned: models.lock has no pin for it | roundhouse lock --accept c/coder@v2",
        "folder [] changed_snapshot: weights has 4000000000 bytes and was pinned with 7 | \
         roundhouse lock --accept folder",
        "a/broken [] incomplete: model.safetensors is missing | hf download a/broken",
        "a/long [] changed_snapshot: weights has 4000000000 bytes and was pinned with 3999999999 | \
         roundhouse lock --accept a/long",
        "a/one [\"a/one\"]  | ",
        "a/two [] not_pinned: models.lock has no pin for it | roundhouse lock --accept a/two",
        "c/coder [\"coder\", \"old\"]  | ",
    ];
    assert_eq!(shown, expected);
    let plan = snapshot.served["old"].plan.as_ref().expect("served");
    let commit = plan.commit.as_deref();
    assert_eq!(commit, Some("0123456789abcdef"), "the pin chooses");
}

#[test]
fn a_pin_that_cannot_be_had_says_what_is_there_instead() {
    let check = |text: &str, expected: &str| {
        let shelf = Shelf::of(&["a/one"]).only("a/one", "fedcba9876543210");
        let lock = lock(&[
            ("a/one", Some("0123456789abcdef"), WHOLE),
            ("b/gone", Some("01"), 1),
        ]);
        let snapshot = snapshot(text, lock, &shelf);
        let lines = explain(&snapshot);
        let (reason, mend) = (lines[0].reason.clone(), lines[0].mend.clone());
        let told = format!(
            "{} | {}",
            reason.unwrap_or_default(),
            mend.unwrap_or_default()
        );
        assert_eq!(told, expected);
    };
    check(
        "allow: ['a/*']",
        "changed_snapshot: models.lock pins commit 0123456789ab, which is not cached whole; \
         the cache has fedcba987654 | roundhouse lock --accept a/one",
    );
    check(
        "models: {b/gone: {}}",
        "it is not cached | hf download b/gone --revision 01",
    );
}

#[test]
fn files_are_told_by_what_became_of_them() {
    let files = |list: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let pairs = list
            .iter()
            .map(|(name, length)| ((*name).to_owned(), *length));
        pairs.collect()
    };
    let old = files(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let new = files(&[("a", 1), ("b", 9), ("d", 5), ("e", 0)]);
    let told = Difference::Files(between(&old, &new)).to_string();
    let expected = "changed_snapshot: b has 9 bytes and was pinned with 2, c is missing, \
                    d has 5 bytes and was pinned with 4 and 1 more";
    assert_eq!(told, expected);
    assert!(between(&old, &old).is_empty());
}
