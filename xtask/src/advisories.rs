//! The packages of all lock files against published advisories. What is known is
//! a dated file in `xtask/data`, so that the check needs no network; it is made
//! anew from a checkout of the RustSec advisory database. Only facts are taken from
//! there: which versions of which crate an advisory is about.

use std::fs;
use std::path::Path;
use std::process::Command;

use semver::{Version, VersionReq};

use crate::Result;
use crate::lock::{self, Locked};
use crate::place::{self, output_of};

/// The known advisories, one a line.
const FILE: &str = "xtask/data/advisories.txt";

/// The lock files that are checked.
const LOCKS: &[&str] = &[
    "Cargo.lock",
    "xtask/Cargo.lock",
    "fuzz/Cargo.lock",
    "loom/Cargo.lock",
];

/// One advisory.
#[derive(Debug, PartialEq)]
struct Advisory {
    id: String,
    package: String,
    /// `vulnerability`, `unsound`, `unmaintained` or `notice`.
    kind: String,
    /// Versions it is not about: those with the repair and those never affected.
    unaffected: Vec<String>,
}

/// An advisory that holds for a locked package, and the reason to live with it.
struct Hit<'a> {
    advisory: &'a Advisory,
    package: &'a Locked,
    excuse: Option<String>,
}

/// Checks the lock files against the known advisories, or against those of a
/// checkout of the database, which then become the known ones.
pub fn check(database: Option<&Path>) -> Result<()> {
    let file = place::repository().join(FILE);
    if let Some(database) = database {
        place::write_whole(&file, from_database(database)?.as_bytes())?;
    }
    let text = fs::read_to_string(&file)?;
    let known = parse(&text)?;
    let excuses = fs::read_to_string(place::repository().join("deny.toml"))?;
    let mut open = 0;
    let mut packages = 0;
    for lock in LOCKS {
        let locked = lock::read(&place::repository().join(lock))?;
        packages += locked.len();
        for hit in hits(&known, &locked, &excuses)? {
            let Locked { name, version, .. } = hit.package;
            let Advisory { id, kind, .. } = hit.advisory;
            match hit.excuse {
                Some(reason) => {
                    println!("{lock}: {name} {version}: {id} ({kind}), excused: {reason}")
                }
                None => {
                    println!("{lock}: {name} {version}: {id} ({kind})");
                    open += 1;
                }
            }
        }
    }
    let state = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ");
    println!(
        "{packages} packages against {} advisories; {state}",
        known.len()
    );
    match open {
        0 => Ok(()),
        open => Err(format!("{open} advisories without an excuse in deny.toml").into()),
    }
}

/// Which advisories hold for which packages.
fn hits<'a>(known: &'a [Advisory], locked: &'a [Locked], excuses: &str) -> Result<Vec<Hit<'a>>> {
    let mut hits = Vec::new();
    for package in locked.iter().filter(|package| package.source.is_some()) {
        let version = Version::parse(&package.version)?;
        for advisory in known
            .iter()
            .filter(|advisory| advisory.package == package.name)
        {
            if affects(advisory, &version)? {
                let excuse = excuse(excuses, &advisory.id);
                hits.push(Hit {
                    advisory,
                    package,
                    excuse,
                });
            }
        }
    }
    Ok(hits)
}

fn affects(advisory: &Advisory, version: &Version) -> Result<bool> {
    for range in &advisory.unaffected {
        if VersionReq::parse(range)?.matches(version) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The reason in `deny.toml` for living with an advisory; it stands on one line.
fn excuse(text: &str, id: &str) -> Option<String> {
    let quoted = format!("\"{id}\"");
    let line = text.lines().find(|line| line.contains(&quoted))?;
    let reason = line.split_once("reason = \"")?.1.split('"').next()?;
    Some(reason.to_string())
}

/// Lines as [`line`] writes them.
fn parse(text: &str) -> Result<Vec<Advisory>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let advisories = lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, package, kind, unaffected] = words[..] else {
            return Err(format!("{FILE}: expected four words, found {line:?}").into());
        };
        let ranges = unaffected.split('|').filter(|range| *range != "-");
        Ok(Advisory {
            id: id.to_string(),
            package: package.to_string(),
            kind: kind.to_string(),
            unaffected: ranges.map(str::to_string).collect(),
        })
    });
    advisories.collect()
}

fn line(advisory: &Advisory) -> String {
    let unaffected = match advisory.unaffected.is_empty() {
        true => "-".to_string(),
        false => advisory.unaffected.join("|"),
    };
    let Advisory {
        id, package, kind, ..
    } = advisory;
    format!("{id} {package} {kind} {unaffected}\n")
}

/// The facts of a checkout, with its date and commit.
fn from_database(database: &Path) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cs, commit %h"])
        .current_dir(database);
    let state = output_of(&mut git)?;
    let mut advisories = Vec::new();
    for package in fs::read_dir(database.join("crates"))? {
        for file in fs::read_dir(package?.path())? {
            let text = fs::read_to_string(file?.path())?;
            advisories.extend(advisory(&text));
        }
    }
    advisories.sort_by(|a, b| a.id.cmp(&b.id));
    if advisories.is_empty() {
        return Err(format!("{} holds no advisories", database.display()).into());
    }
    let mut text = format!(
        "# the RustSec advisory database as of {state}\
         # id, crate, kind, versions that it is not about\n"
    );
    text.extend(advisories.iter().map(line));
    Ok(text)
}

/// The facts in the front matter of one advisory; nothing if it was withdrawn.
fn advisory(text: &str) -> Option<Advisory> {
    let front = text.split("```").nth(1)?;
    let value = |key: &str| {
        let line = front.lines().find(|line| {
            line.split('=')
                .next()
                .is_some_and(|name| name.trim() == key)
        })?;
        Some(line.split_once('=')?.1.trim().trim_matches('"').to_string())
    };
    if value("withdrawn").is_some() {
        return None;
    }
    let mut unaffected = list(front, "patched");
    unaffected.extend(list(front, "unaffected"));
    Some(Advisory {
        id: value("id")?,
        package: value("package")?,
        kind: value("informational").unwrap_or("vulnerability".to_string()),
        unaffected,
    })
}

/// A list of quoted ranges, which may go over several lines.
fn list(front: &str, key: &str) -> Vec<String> {
    let versions = front.split("[versions]").nth(1).unwrap_or_default();
    let start = versions
        .find(&format!("\n{key} "))
        .or(versions.find(&format!("\n{key}=")));
    let Some(list) = start.and_then(|start| versions[start..].split_once('[')) else {
        return Vec::new();
    };
    let list = list.1.split(']').next().unwrap_or_default();
    let quoted = list.split('"').skip(1).step_by(2);
    quoted.map(|range| range.replace(' ', "")).collect()
}

#[cfg(test)]
mod tests {
    use semver::Version;

    use super::{advisory, affects, check, excuse, line, parse};

    const TEXT: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"lru\"\n\
        date = \"2026-01-01\"\n\n[affected.functions]\n\"x\" = [\"< 9\"]\n\n[versions]\n\
        patched = [\n  \">= 1.2.0\",\n  \">= 0.7.1, < 0.8\",\n]\nunaffected = [\"< 0.2\"]\n```\n# Words\n";

    #[test]
    fn the_facts_of_an_advisory_are_taken_and_kept() {
        let taken = advisory(TEXT).expect("an advisory");
        assert_eq!(
            line(&taken),
            "RUSTSEC-2026-0001 lru vulnerability >=1.2.0|>=0.7.1,<0.8|<0.2\n"
        );
        assert_eq!(parse(&line(&taken)).expect("a line"), [taken]);
        let withdrawn = TEXT.replace("date =", "withdrawn =");
        assert!(advisory(&withdrawn).is_none());
        let unmaintained = TEXT
            .replace("date =", "informational =")
            .replace("2026-01-01", "unmaintained");
        assert_eq!(advisory(&unmaintained).expect("one").kind, "unmaintained");
    }

    #[test]
    fn versions_are_held_against_the_ranges() {
        let taken = advisory(TEXT).expect("an advisory");
        let check = |version: &str, affected: bool| {
            let version = Version::parse(version).expect("a version");
            assert_eq!(
                affects(&taken, &version).expect("ranges"),
                affected,
                "{version}"
            );
        };
        check("0.1.9", false);
        check("0.7.0", true);
        check("0.7.5", false);
        check("1.1.9", true);
        check("1.2.0", false);
    }

    #[test]
    fn an_excuse_has_a_reason() {
        let text = "ignore = [\n  { id = \"RUSTSEC-1\", reason = \"2026-11-21: build only\" },\n  \"RUSTSEC-2\",\n]";
        assert_eq!(
            excuse(text, "RUSTSEC-1").as_deref(),
            Some("2026-11-21: build only")
        );
        assert_eq!(
            excuse(text, "RUSTSEC-2"),
            None,
            "without a reason it is none"
        );
    }

    #[test]
    fn d05_no_package_has_a_known_advisory_without_an_excuse() {
        check(None).expect("no open advisories");
    }
}
