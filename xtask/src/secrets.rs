//! Looks for secrets in the tree and in every commit: texts in the shape of keys
//! and tokens that services give out, this program's own among them. A shape is a
//! beginning and enough of the characters that follow it, so that the sums and ids
//! a repository is full of are none.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::place::{self, output_of};

/// How a secret begins, how many characters follow at least, and which.
struct Shape {
    start: &'static str,
    least: usize,
    follows: fn(u8) -> bool,
}

const fn shape(start: &'static str, least: usize, follows: fn(u8) -> bool) -> Shape {
    Shape {
        start,
        least,
        follows,
    }
}

fn hexadecimal(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

fn letter_or_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

/// Sources: what the services document of their keys.
const SHAPES: &[Shape] = &[
    shape("rh-inference-", 64, hexadecimal),
    shape("rh-management-", 64, hexadecimal),
    shape("hf_", 30, letter_or_digit),
    shape("sk-", 32, word),
    shape("AKIA", 16, letter_or_digit),
    shape("ASIA", 16, letter_or_digit),
    shape("AIza", 35, word),
    shape("ghp_", 36, letter_or_digit),
    shape("gho_", 36, letter_or_digit),
    shape("ghs_", 36, letter_or_digit),
    shape("github_pat_", 40, word),
    shape("glpat-", 20, word),
    shape("npm_", 36, letter_or_digit),
    shape("pypi-", 60, word),
    shape("xoxb-", 20, word),
    shape("xoxp-", 20, word),
    shape("eyJhbGciOi", 30, word),
];

/// How a private key in PEM begins; the kind stands between.
const PEM: (&str, &str) = ("-----BEGIN ", "PRIVATE KEY");

/// Scans the tree and the history of this repository.
pub fn scan() -> Result<()> {
    let found = findings(&place::repository())?;
    for finding in &found {
        println!("{finding}");
    }
    match found.len() {
        0 => {
            println!("no secrets in the tree and in its history");
            Ok(())
        }
        count => Err(format!("{count} secrets found").into()),
    }
}

/// Where secrets are, without the secrets: the files of the tree and the commits.
fn findings(repository: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let files = git(repository, &["ls-files", "-z"])?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        // A file that is listed and gone is no finding.
        let bytes = fs::read(repository.join(file)).unwrap_or_default();
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            if let Some(shape) = secret(line) {
                found.push(format!("{file}:{}: {shape}", number + 1));
            }
        }
    }
    let patches = [
        "log",
        "--all",
        "-p",
        "-U0",
        "--no-color",
        "--no-ext-diff",
        "--format=commit %h",
    ];
    let (mut commit, mut file) = (String::new(), String::new());
    for line in git(repository, &patches)?.lines() {
        if let Some(id) = line.strip_prefix("commit ") {
            commit = id.to_string();
        } else if let Some(name) = line.strip_prefix("+++ b/") {
            file = name.to_string();
        } else if let Some(shape) = line.strip_prefix('+').and_then(secret) {
            found.push(format!("{commit} {file}: {shape}"));
        }
    }
    Ok(found)
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(repository);
    let output = git
        .output()
        .map_err(|error| format!("cannot start git: {error}"))?;
    match output.status.success() {
        // Patches hold whatever bytes the files hold.
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => output_of(&mut git),
    }
}

/// The shape of a secret in a line.
fn secret(line: &str) -> Option<&'static str> {
    let is_key = |rest: &str| {
        let kind = rest.split("-----").next().unwrap_or_default();
        let is_kind = |c: char| c.is_ascii_uppercase() || c == ' ';
        kind.len() < rest.len() && kind.ends_with(PEM.1) && kind.chars().all(is_kind)
    };
    if line.split(PEM.0).skip(1).any(is_key) {
        return Some("a private key");
    }
    let found = SHAPES.iter().find(|shape| {
        line.match_indices(shape.start).any(|(at, start)| {
            let before = line[..at].bytes().next_back();
            let follows = line[at + start.len()..]
                .bytes()
                .take_while(|byte| (shape.follows)(*byte));
            !before.is_some_and(letter_or_digit) && follows.count() >= shape.least
        })
    });
    found.map(|shape| shape.start)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{PEM, SHAPES, findings, git, secret};
    use crate::place;

    /// A canary of each shape, made here so that no file holds one.
    fn canary(start: &str, least: usize) -> String {
        format!("key: \"{start}{}\"", "a1".repeat(least / 2 + 1))
    }

    #[test]
    fn every_shape_is_found_and_what_only_begins_like_it_is_not() {
        for shape in SHAPES {
            assert_eq!(secret(&canary(shape.start, shape.least)), Some(shape.start));
            assert_eq!(secret(&format!("{}short", shape.start)), None);
        }
        assert_eq!(
            secret(&format!("{}EC {}-----", PEM.0, PEM.1)),
            Some("a private key")
        );
        assert_eq!(
            secret(&format!("a ta{}", canary("sk-", 40).replace("key: \"", ""))),
            None
        );
        assert_eq!(secret(&"0123456789abcdef".repeat(4)), None);
    }

    #[test]
    fn d06_a_seeded_secret_is_found_once_in_the_tree_and_for_ever_in_the_history() {
        let folder = std::env::temp_dir().join(format!("xtask-secrets-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        let file = folder.join("notes.txt");
        let run = |arguments: &[&str]| git(&folder, arguments).expect("git");
        let commit = |text: &str| {
            fs::write(&file, text).expect("written");
            run(&["add", "."]);
            let who = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
            run(&[&who[..], &["commit", "-q", "-m", "x"][..]].concat());
        };
        run(&["init", "-q"]);
        commit("nothing\n");
        assert!(findings(&folder).expect("scanned").is_empty());
        let key = canary("rh-management-", 64);
        commit(&format!("nothing\n{key}\n"));
        let found = findings(&folder).expect("scanned");
        commit("nothing\n");
        let later = findings(&folder).expect("scanned");
        fs::remove_dir_all(&folder).expect("the test cleans up");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "notes.txt:2: rh-management-");
        assert_eq!(later.len(), 1, "{later:?}");
        assert!(later.iter().all(|finding| !finding.contains(&key)));
    }

    #[test]
    fn d06_the_tree_and_its_history_hold_no_secret() {
        let found = findings(&place::repository()).expect("scanned");
        assert!(found.is_empty(), "{found:#?}");
    }
}
