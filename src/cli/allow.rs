//! `roundhouse allow`, `deny` and `alias`: add to the file's lists, keeping its
//! comments and its form.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::change::{self, Change, Failure};
use crate::config::{Config, Pattern, edit, walk};
use crate::model::id::Name;

/// What `allow` understands.
#[derive(Debug, Args)]
pub struct AllowArgs {
    /// Repository ids, or patterns such as mlx-community/*
    #[arg(required = true, value_name = "ID|PATTERN", value_parser = walk::parse_pattern)]
    patterns: Vec<Pattern>,
    /// Another name for the one id that is allowed
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `deny` understands.
#[derive(Debug, Args)]
pub struct DenyArgs {
    /// Repository ids, or patterns such as mlx-community/*-bf16
    #[arg(required = true, value_name = "ID|PATTERN", value_parser = walk::parse_pattern)]
    patterns: Vec<Pattern>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `alias` understands.
#[derive(Debug, Args)]
pub struct AliasArgs {
    /// The new name
    name: String,
    /// What it leads to: an entry, an alias of one, or an id that allow permits
    #[arg(value_parser = Name::parse)]
    model: Name,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs `allow`.
pub fn allow(args: &AllowArgs) -> ExitCode {
    change::run(args.config.as_deref(), |change| {
        add(change, &args.patterns, args.alias.as_deref())
    })
}

/// Runs `deny`.
pub fn deny(args: &DenyArgs) -> ExitCode {
    change::run(args.config.as_deref(), |change| {
        refuse(change, &args.patterns)
    })
}

/// Runs `alias`.
pub fn alias(args: &AliasArgs) -> ExitCode {
    change::run(args.config.as_deref(), |change| {
        name(change, &args.name, &args.model)
    })
}

/// Adds what is not there yet, all or nothing.
fn add(change: &mut Change, patterns: &[Pattern], alias: Option<&str>) -> Result<(), Failure> {
    for pattern in patterns {
        if let Some(known) = permitted_by(&change.config, pattern) {
            let known = known.to_owned();
            change.say(&format!(
                "{} is already allowed by {known:?}",
                pattern.as_str()
            ));
            continue;
        }
        refuse_denied(change, pattern)?;
        let done = format!("allowed {}", pattern.as_str());
        change.edit(&done, |text| edit::allow(text, pattern))?;
    }
    let Some(alias) = alias else { return Ok(()) };
    let id = match patterns {
        [only] => Name::parse(only.as_str())
            .ok()
            .filter(|name| name.as_id().is_some()),
        _ => None,
    };
    let id = id.ok_or_else(|| {
        Failure::Name("--alias needs exactly one repository id such as org/name".to_owned())
    })?;
    add_alias(change, &id, alias)
}

/// Adds patterns to `deny`; what is denied already is left.
fn refuse(change: &mut Change, patterns: &[Pattern]) -> Result<(), Failure> {
    for pattern in patterns {
        let covers = |known: &&Pattern| *known == pattern || known.matches(pattern.as_str());
        if let Some(known) = change.config.deny.iter().find(covers) {
            let known = known.as_str().to_owned();
            change.say(&format!(
                "{} is already denied by {known:?}",
                pattern.as_str()
            ));
            continue;
        }
        let done = format!("denied {}", pattern.as_str());
        change.edit(&done, |text| edit::deny(text, pattern))?;
    }
    Ok(())
}

/// Gives a model another name.
fn name(change: &mut Change, alias: &str, model: &Name) -> Result<(), Failure> {
    let config = &change.config;
    let leads_here = |entry: &&crate::config::Entry| {
        entry.name == *model
            || entry
                .aliases
                .iter()
                .any(|alias| alias.name.exact() == Some(model))
    };
    let entry = config
        .models
        .iter()
        .find(leads_here)
        .map(|entry| &entry.name);
    let permitted = model.as_id().is_some_and(|id| config.permits(id.as_str()));
    let entry = match entry {
        Some(entry) => entry.clone(),
        None if permitted => model.clone(),
        None => {
            let advice = match model.as_id() {
                Some(id) => format!("`roundhouse allow {id} --alias {alias}` adds both"),
                None => "`roundhouse models` lists what there is".to_owned(),
            };
            return Err(Failure::Name(format!(
                "{:?} is no entry, no alias and no id that allow permits; {advice}",
                model.as_str()
            )));
        }
    };
    add_alias(change, &entry, alias)
}

/// Adds an alias to an entry, unless it has it.
fn add_alias(change: &mut Change, entry: &Name, alias: &str) -> Result<(), Failure> {
    let mut entries = change.config.models.iter();
    let known = entries.find(|known| known.name == *entry);
    if known.is_some_and(|known| {
        known
            .aliases
            .iter()
            .any(|known| known.name.as_str() == alias)
    }) {
        change.say(&format!("{alias} already leads to {entry}"));
        return Ok(());
    }
    let done = format!("{alias} leads to {entry}, written");
    change.edit(&done, |text| edit::alias(text, entry.as_str(), alias))
}

/// The pattern of `allow` that permits this already.
fn permitted_by<'a>(config: &'a Config, pattern: &Pattern) -> Option<&'a str> {
    let permits = |known: &&Pattern| *known == pattern || known.matches(pattern.as_str());
    let is_denied = config
        .deny
        .iter()
        .any(|deny| deny.matches(pattern.as_str()));
    let known = config.allow.iter().find(permits)?;
    (!is_denied).then(|| known.as_str())
}

/// An id that `deny` matches would not be served; saying it is allowed would be a lie.
fn refuse_denied(change: &Change, pattern: &Pattern) -> Result<(), Failure> {
    let wins = |deny: &&Pattern| deny.matches(pattern.as_str());
    match change.config.deny.iter().find(wins) {
        Some(deny) => Err(Failure::Denied {
            deny: deny.as_str().to_owned(),
            file: change.file(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Folders;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn folders(home: &Path) -> Folders {
        Folders {
            config: home.join("config"),
            state: home.join("state"),
            runtime: home.join("run"),
            hub_cache: home.join("hub"),
        }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts
            .iter()
            .map(|text| Pattern::parse(text).expect("a pattern"))
            .collect()
    }

    #[test]
    fn a_file_gains_a_line_and_keeps_all_else() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (file, link) = (
            home.path().join("real.yaml"),
            home.path().join("models.yaml"),
        );
        fs::write(&file, "# mine\nallow:\n  - a/* # all\n").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        symlink(&file, &link).expect("linked");
        let said = change::make(&link, &folders(home.path()), |change| {
            add(change, &patterns(&["b/c", "a/x", "d/*"]), None)
        });
        let said = said.expect("added");
        assert!(
            said.contains("allowed b/c") && said.contains("already allowed by \"a/*\""),
            "{said}"
        );
        let text = fs::read_to_string(&link).expect("read");
        assert_eq!(text, "# mine\nallow:\n  - a/* # all\n  - b/c\n  - d/*\n");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(
            fs::read_dir(home.path()).expect("read").count(),
            2,
            "nothing is left over"
        );
    }

    #[test]
    fn a_file_that_cannot_take_it_stays_as_it_is() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let file = home.path().join("models.yaml");
        let check = |text: &str, expected: &str| {
            fs::write(&file, text).expect("written");
            let outcome = change::make(&file, &folders(home.path()), |change| {
                add(change, &patterns(&["b/c"]), None)
            });
            let error = outcome.expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert_eq!(fs::read_to_string(&file).expect("read"), text);
        };
        check("deny: ['b/*']\n", "deny has \"b/*\"");
        check("allow: ~\n", "no safe place");
        check("alow: []\n", "unknown key \"alow\"");
    }
}
