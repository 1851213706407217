//! Reading the documents and the sources: sections, tables, commands, names of tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The documents that speak of commands and files.
pub fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in [
        root.to_owned(),
        root.join("docs"),
        root.join("docs/recipes"),
    ] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        found.extend(files.filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    }
    found.sort();
    assert!(found.len() > 6, "the documents were not found");
    found
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("text");
            (path.strip_prefix(root).expect("inside").to_owned(), text)
        })
        .collect()
}

pub fn document(name: &str) -> String {
    let found = documents()
        .into_iter()
        .find(|(path, _)| path == Path::new(name));
    found.unwrap_or_else(|| panic!("there is no {name}")).1
}

/// The text under a heading, up to the next of the same depth or above.
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n"));
    let start = start.unwrap_or_else(|| panic!("there is no section {heading:?}"));
    let body = &text[start + heading.len() + 2..];
    let depth = heading.split(' ').next().unwrap_or_default().len();
    let ends = (1..=depth).filter_map(|depth| body.find(&format!("\n{} ", "#".repeat(depth))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// The rows of the tables in a text, without their heads.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<_> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--") || line.starts_with("| --");
    let mut rows = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let is_head = lines.get(index + 1).is_some_and(|next| is_rule(next));
        if line.starts_with('|') && !is_rule(line) && !is_head {
            let cells = line.trim_matches('|').split(" | ");
            rows.push(cells.map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// What stands between backticks, outside fenced blocks.
pub fn spans(text: &str) -> Vec<String> {
    let outside = text.split("```").step_by(2);
    outside
        .flat_map(|text| text.split('`').skip(1).step_by(2))
        .map(|span| span.replace('\n', " "))
        .collect()
}

/// The names of all test functions.
pub fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests"), root.join("xtask/src")];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                names.extend(test_functions(&text));
            }
        }
    }
    assert!(names.len() > 200, "the tests were not found");
    names
}

/// The functions of a source that have an attribute which makes them tests.
pub fn test_functions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("fn ").or(line.strip_prefix("async fn "));
        if let Some(function) = function {
            if is_test {
                found.extend(function.split('(').next().map(str::to_owned));
            }
            is_test = false;
        }
    }
    found
}

/// The commands of this program in a text: those in blocks stand whole, those in
/// running text may lack what the sentence is not about.
pub fn commands(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 1 {
            let lines = part
                .lines()
                .map(|line| line.trim().trim_start_matches("$ "));
            let ours = lines.filter(|line| line.starts_with("roundhouse "));
            found.extend(ours.map(|line| (line.to_owned(), true)));
        }
    }
    let inline = spans(text).into_iter();
    found.extend(
        inline
            .filter(|span| span.starts_with("roundhouse "))
            .map(|span| (span, false)),
    );
    found
}

/// The words of one command as a shell would hand them on.
pub fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in command.chars() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '|' | '>' | ';' | '&' | '#') => break,
            (None, ' ') => words.push(String::new()),
            (_, letter) => words.last_mut().expect("a word").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
