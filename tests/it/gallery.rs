//! A gallery of wrong configurations: for each `tests/fixtures/wrong/NAME.yaml` the
//! exact words of `roundhouse check NAME.yaml` in `NAME.txt` beside it.
//!
//! The one way to take in other words is to run these tests once with
//! `ROUNDHOUSE_ACCEPT=1` and to read what `git diff` shows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::harness::Home;

/// The least number of files.
const FEWEST: usize = 40;

/// The folder of the gallery.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wrong")
}

/// The wrong files, by name.
pub fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the gallery");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    files
}

/// What `check` says of a file, run in the file's folder.
fn said(home: &Home, file: &Path) -> String {
    let name = file.file_name().and_then(|name| name.to_str());
    let mut command = home.command(&["check", name.expect("a name")]);
    let output = command.current_dir(folder()).output().expect("started");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{name:?}: {text}");
    assert!(output.stdout.is_empty(), "{name:?}");
    text
}

/// What differs, line by line: the expected ones with `-`, the found ones with `+`.
fn difference(expected: &str, found: &str) -> String {
    let mark = |sign: char, text: &str, other: &str| {
        let lines = text.lines();
        let missing = lines.filter(|line| !other.lines().any(|known| known == *line));
        missing
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    mark('-', expected, found) + &mark('+', found, expected)
}

/// Holds a text against the one kept in a file, or keeps it.
pub fn hold(kept: &Path, found: &str) -> Result<(), String> {
    if std::env::var_os("ROUNDHOUSE_ACCEPT").is_some() {
        std::fs::write(kept, found).expect("written");
        return Ok(());
    }
    let expected = std::fs::read_to_string(kept).unwrap_or_default();
    match expected == found {
        true => Ok(()),
        false => Err(format!(
            "{} (ROUNDHOUSE_ACCEPT=1 takes it in):\n{}",
            kept.display(),
            difference(&expected, found)
        )),
    }
}

/// What each message has: the file with line and column, the line, a caret.
fn check_form(file: &Path, text: &str) {
    let name = file.file_name().and_then(|name| name.to_str());
    let place = format!("{}:", name.expect("a name"));
    let problems = text.lines().filter(|line| line.starts_with(&place)).count();
    let carets = text.lines().filter(|line| line.ends_with('^')).count();
    assert!(problems > 0 && carets == problems, "{text}");
}

#[test]
fn c03_every_wrong_file_gets_the_words_it_is_known_for() {
    let home = Home::new("");
    let files = files();
    assert!(files.len() >= FEWEST, "{} files", files.len());
    // Starting a process is what takes the time here.
    let next = AtomicUsize::new(0);
    let check = || {
        let mut failures = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = said(&home, file);
            check_form(file, &found);
            failures.extend(hold(&file.with_extension("txt"), &found).err());
        }
        failures
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(check)).collect();
        let found = threads.into_iter().map(|thread| thread.join());
        found.flat_map(|found| found.expect("checked")).collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_text_of_the_gallery_has_its_file() {
    let entries = std::fs::read_dir(folder()).expect("the gallery");
    for path in entries.map(|entry| entry.expect("a file").path()) {
        let has = |end: &str| path.with_extension(end).exists();
        assert!(has("yaml") && has("txt"), "{}", path.display());
    }
}

#[test]
fn a_difference_is_shown_line_by_line() {
    assert_eq!(difference("a\nb\n", "a\nc\n"), "- b\n+ c\n");
}
