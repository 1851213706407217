//! `models.lock`: which snapshots may be served, by their commit and the lengths of
//! their files. Text to values and back; no disk. What the pins mean for a model is
//! decided in `registry/pins.rs`.
//!
//! ```yaml
//! version: 1
//! snapshots:
//!   org/name:
//!     commit: 0123456789abcdef0123456789abcdef01234567
//!     files:
//!       config.json: 937
//! ```
//!
//! A snapshot has the name of its repository, of the repository at a revision
//! (`org/name@v1`) where an entry names one, or the path of a folder outside the
//! cache, which has no commit. The file is made by a program and sorted, so that two
//! versions of it can be compared by eye.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::PathBuf;

use super::Source;
use super::file::{self, Node, Pair, Value};
use super::problem::{Place, Problem, Problems, Text, both};
use super::walk::quoted;
use crate::model::id::ModelId;

/// The form of the file that is written, and the only one that is read.
const VERSION: &str = "1";

/// Longest commit: git's SHA-256 in hexadecimal digits.
const LONGEST_COMMIT: usize = 64;

/// What stands above the pins.
const HEAD: &str = "\
# The snapshots that may be served, by commit and by the lengths of their files.
# `roundhouse lock` says what is different now; `roundhouse lock --accept NAME` accepts it.
";

/// The pins, by the names of their snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Sorted, as they are written.
    pub pins: BTreeMap<String, Pin>,
}

/// What a snapshot has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Its commit; a folder outside the cache has none.
    pub commit: Option<String>,
    /// Its files with their lengths in bytes.
    pub files: BTreeMap<String, u64>,
}

/// The name of a source's snapshot in the file.
pub fn name_of(source: &Source) -> String {
    match source {
        Source::Repository { id, revision: None } => id.to_string(),
        Source::Repository {
            id,
            revision: Some(revision),
        } => format!("{id}@{revision}"),
        Source::Path(path) => path.display().to_string(),
    }
}

impl Lock {
    /// Reads a lock file. All problems in one go; an empty file is one.
    pub fn parse(text: &Text) -> Result<Self, Problems> {
        let (root, problems) = file::parse(&text.text);
        let mut reader = Reader {
            problems,
            file: text.name(),
        };
        let lock = root.map(|root| reader.lock(&root));
        match lock {
            Some(lock) if reader.problems.is_empty() => Ok(lock),
            _ => Err(Problems::new(std::slice::from_ref(text), reader.problems)),
        }
    }

    /// The pin of a source.
    pub fn pin(&self, source: &Source) -> Option<&Pin> {
        self.pins.get(&name_of(source))
    }

    /// The pinned snapshots' folders, from a cache folder on.
    pub fn snapshots(&self) -> impl Iterator<Item = PathBuf> {
        self.pins.iter().filter_map(|(name, pin)| {
            let id = ModelId::parse(name.split('@').next()?).ok()?;
            let repository = PathBuf::from(id.folder());
            Some(repository.join("snapshots").join(pin.commit.as_ref()?))
        })
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}version: {VERSION}\nsnapshots:");
        if self.pins.is_empty() {
            text += " {}";
        }
        text.push('\n');
        for (name, pin) in &self.pins {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "  {}:", scalar(name));
            if let Some(commit) = &pin.commit {
                let _ = writeln!(text, "    commit: {}", scalar(commit));
            }
            let end = if pin.files.is_empty() { " {}" } else { "" };
            let _ = writeln!(text, "    files:{end}");
            for (file, length) in &pin.files {
                let _ = writeln!(text, "      {}: {length}", scalar(file));
            }
        }
        text
    }
}

/// A text as YAML: in quotes unless it is plainly a word, with escapes for what no
/// file of ours may have.
fn scalar(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./@".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    if is_word && text.chars().all(fits) && !text.eq_ignore_ascii_case("null") {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Walks the tree and gathers what is wrong.
struct Reader {
    problems: Vec<Problem>,
    /// The file, for messages.
    file: String,
}

impl Reader {
    fn lock(&mut self, root: &Node) -> Lock {
        let mut lock = Lock::default();
        let (mut version, mut snapshots) = (false, false);
        for pair in self.pairs("the file", root) {
            match pair.key.as_str() {
                "version" => {
                    version = true;
                    if text(&pair.node) != Some(VERSION) {
                        self.expected(&format!("version {VERSION}"), &pair.node);
                    }
                }
                "snapshots" => {
                    snapshots = true;
                    lock.pins = self.pins(&pair.node);
                }
                _ => self.unknown(pair, "version and snapshots"),
            }
        }
        let keys = [("version", version), ("snapshots", snapshots)];
        for (key, _) in keys.into_iter().filter(|(_, is_there)| !is_there) {
            let message = format!("{key} is missing");
            let help = "remove the file and run roundhouse lock to make it anew";
            self.problems.push(Problem::whole(message).help(help));
        }
        lock
    }

    fn pins(&mut self, node: &Node) -> BTreeMap<String, Pin> {
        let mut pins = BTreeMap::new();
        for pair in self.pairs("snapshots", node) {
            let is_folder = pair.key.starts_with('/');
            if !is_folder && !is_repository(&pair.key) {
                let expected = "org/name, org/name@revision or the path of a folder";
                let message = format!("expected {expected}, found {}", quoted(&pair.key));
                self.problems.push(Problem::at(pair.place, message));
                continue;
            }
            let Value::Map(parts) = &pair.node.value else {
                self.expected("keys with values", &pair.node);
                continue;
            };
            let has = |key: &str| parts.iter().any(|part| part.key == key);
            let wrong = match (is_folder, has("commit"), has("files")) {
                (false, false, _) => Some("a snapshot of a repository has a commit, found none"),
                (true, true, _) => Some("a folder has no commit, found one"),
                (_, _, false) => Some("a snapshot has files, found none"),
                _ => None,
            };
            let pin = self.pin(&pair.node);
            if let Some(wrong) = wrong {
                self.problems.push(Problem::at(pair.place, wrong));
            }
            pins.insert(pair.key.clone(), pin);
        }
        pins
    }

    fn pin(&mut self, node: &Node) -> Pin {
        let mut pin = Pin::default();
        for pair in self.pairs("a snapshot", node) {
            match pair.key.as_str() {
                "commit" => match text(&pair.node).filter(|text| is_commit(text)) {
                    Some(commit) => pin.commit = Some(commit.to_owned()),
                    None => self.expected("a commit", &pair.node),
                },
                "files" => pin.files = self.files(&pair.node),
                _ => self.unknown(pair, "commit and files"),
            }
        }
        pin
    }

    fn files(&mut self, node: &Node) -> BTreeMap<String, u64> {
        let mut files = BTreeMap::new();
        for pair in self.pairs("files", node) {
            let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
            let length = text(&pair.node).filter(digits);
            match length.and_then(|text| text.parse().ok()) {
                Some(length) => drop(files.insert(pair.key.clone(), length)),
                None => self.expected("a length in bytes", &pair.node),
            }
        }
        files
    }

    /// The pairs of a mapping. What is no mapping and what is there twice is reported.
    fn pairs<'n>(&mut self, what: &str, node: &'n Node) -> &'n [Pair] {
        let Value::Map(pairs) = &node.value else {
            if node.place == Place::default() {
                let message = format!("{what}: expected keys with values, found nothing");
                self.problems.push(Problem::whole(message));
            } else {
                self.expected("keys with values", node);
            }
            return &[];
        };
        let mut first: HashMap<&str, Place> = HashMap::new();
        for pair in pairs {
            if let Some(place) = first.insert(&pair.key, pair.place) {
                let places = both(std::slice::from_ref(&self.file), place, pair.place);
                let message = format!("{} is there twice: {places}", quoted(&pair.key));
                self.problems.push(Problem::at(pair.place, message));
            }
        }
        pairs
    }

    fn unknown(&mut self, pair: &Pair, known: &str) {
        let message = format!("unknown key {}; there are {known}", quoted(&pair.key));
        self.problems.push(Problem::at(pair.place, message));
    }

    fn expected(&mut self, expected: &str, node: &Node) {
        let found = match &node.value {
            Value::Refused => return,
            Value::Nothing => "nothing".to_owned(),
            Value::Text(text) => quoted(text),
            Value::List { .. } => "a list".to_owned(),
            Value::Map(_) => "keys with values".to_owned(),
        };
        let message = format!("expected {expected}, found {found}");
        self.problems.push(Problem::at(node.place, message));
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// `org/name` or `org/name@revision`.
fn is_repository(name: &str) -> bool {
    let (id, revision) = match name.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (name, None),
    };
    ModelId::parse(id).is_ok() && revision.is_none_or(|revision| !revision.is_empty())
}

/// Letters and digits only: it is looked for as the name of a folder.
fn is_commit(text: &str) -> bool {
    (1..=LONGEST_COMMIT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
