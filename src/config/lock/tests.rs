//! The lock file: what is written is read back, and nothing else is.

use super::*;

fn parse(text: &str) -> Result<Lock, Problems> {
    Lock::parse(&Text {
        file: Some("models.lock".into()),
        text: text.to_owned(),
    })
}

fn pin(commit: Option<&str>, files: &[(&str, u64)]) -> Pin {
    Pin {
        commit: commit.map(str::to_owned),
        files: files
            .iter()
            .map(|(name, length)| ((*name).to_owned(), *length))
            .collect(),
    }
}

#[test]
fn what_is_written_is_sorted_and_read_back() {
    let pins = [
        (
            "b/two",
            pin(Some("c0ffee"), &[("z.json", 1), ("a.json", 0)]),
        ),
        ("a/one@refs/pr/1", pin(Some("0123"), &[])),
        (
            "/srv/a folder: new",
            pin(None, &[("null", 3), ("-x\u{85}\"\\\n#ü", u64::MAX)]),
        ),
    ];
    let lock = Lock {
        pins: pins
            .into_iter()
            .map(|(name, pin)| (name.to_owned(), pin))
            .collect(),
    };
    let text = lock.text();
    assert_eq!(parse(&text), Ok(lock), "{text}");
    let end = "
  b/two:
    commit: c0ffee
    files:
      a.json: 0
      z.json: 1
";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(parse(&Lock::default().text()), Ok(Lock::default()));
}

#[test]
fn a_broken_lock_file_says_where_and_is_none() {
    let check = |text: &str, expected: &[&str]| {
        let problems = parse(text).expect_err(text).to_string();
        for part in expected {
            assert!(problems.contains(part), "{text}: {problems}");
        }
    };
    let with = |snapshots: &str| format!("version: 1\nsnapshots:\n{snapshots}");
    check("", &["models.lock: the file: expected keys with values"]);
    check("version: 1\n", &["snapshots is missing"]);
    check("snapshots: {}\n", &["version is missing"]);
    check(
        "version: 2\nsnapshots: {}\n",
        &["models.lock:1:10: expected version 1, found \"2\""],
    );
    check("version: 1\nsnapshots: [\n", &["models.lock:"]);
    check(
        &with("  a/b: {commit: c, files: {x: 1k, y: -1}, more: 1}\n"),
        &[
            "models.lock:3:31: expected a length in bytes, found \"1k\"",
            "found \"-1\"",
            "unknown key \"more\"; there are commit and files",
        ],
    );
    check(
        &with("  a/b: {commit: ../x, files: {}}\n"),
        &["expected a commit, found \"../x\""],
    );
    check(
        &with("  a/b: {files: {}}\n  /a: {commit: c, files: {}}\n  c/d: {commit: c}\n"),
        &[
            ":3:3: a snapshot of a repository has a commit, found none",
            ":4:3: a folder has no commit, found one",
            ":5:3: a snapshot has files, found none",
        ],
    );
    check(
        &with("  small: {commit: c}\n  a/b@: {commit: c}\n"),
        &[
            "expected org/name, org/name@revision or the path of a folder, found \"small\"",
            ":4:3:",
        ],
    );
    check(
        &with("  a/b: {commit: c}\n  a/b: {commit: d}\n"),
        &["\"a/b\" is there twice: at line 3 and at line 4"],
    );
    check(
        &with("  a/b: {commit: c, files: {x: 1, x: 2}}\n"),
        &["twice"],
    );
    check(&with("  a/b: {commit: c, files: [x]}\n"), &["found a list"]);
    check("- a\n", &["expected keys with values, found a list"]);
}
