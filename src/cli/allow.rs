//! `roundhouse allow`: adds ids or patterns to the file's `allow`, keeping its
//! comments and its form. A running server follows at its next reload.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{CONFIGURATION, failed};
use crate::config::edit::{self, EditError};
use crate::config::locate::{self, LoadError};
use crate::config::problem::Problems;
use crate::config::{Config, Pattern, walk};
use crate::platform::Folders;

/// What `allow` understands.
#[derive(Debug, Args)]
pub struct AllowArgs {
    /// Repository ids, or patterns such as mlx-community/*
    #[arg(required = true, value_name = "ID|PATTERN", value_parser = walk::parse_pattern)]
    patterns: Vec<Pattern>,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("the configuration has problems\n{0}")]
    Problems(#[from] Problems),
    #[error("{0}")]
    Edit(#[from] EditError),
    #[error("deny has {deny:?}, which wins over allow; remove it from {file} first")]
    Denied { deny: String, file: String },
    #[error("{file} was changed by somebody else in the meantime; try again")]
    Raced { file: String },
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
}

/// Runs the command.
pub fn run(args: &AllowArgs) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    let outcome = locate::find(args.config.as_deref(), &folders)
        .map_err(Failure::from)
        .and_then(|file| add(&file, &args.patterns, &folders));
    match outcome {
        Ok(said) => super::print(&said, 0),
        Err(error @ (Failure::Load(_) | Failure::Problems(_))) => failed(CONFIGURATION, error),
        Err(error) => failed(1, error),
    }
}

/// Adds what is not there yet, all or nothing, and says what it did.
fn add(file: &Path, patterns: &[Pattern], folders: &Folders) -> Result<String, Failure> {
    // A link is followed, so that it stays one.
    let file = &fs::canonicalize(file).map_err(|error| io_failure(file, error))?;
    let config = locate::read(file, folders)?;
    let before = read(file)?;
    let (mut text, mut said) = (before.clone(), String::new());
    for pattern in patterns {
        if let Some(known) = permitted_by(&config, pattern) {
            said += &format!("{} is already allowed by {known:?}\n", pattern.as_str());
            continue;
        }
        refuse_denied(&config, pattern, file)?;
        let edited = edit::allow(&text, pattern)?;
        said += &format!(
            "allowed {} in {} at line {}\n",
            pattern.as_str(),
            file.display(),
            edited.line
        );
        text = edited.text;
    }
    if text == before {
        return Ok(said);
    }
    walk::config(&text, Some(file), &locate::surroundings(file, folders)?)?;
    if read(file)? != before {
        let file = file.display().to_string();
        return Err(Failure::Raced { file });
    }
    replace(file, &text).map_err(|error| io_failure(file, error))?;
    Ok(said + "a running server follows after `kill -HUP` or POST /admin/reload\n")
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
fn refuse_denied(config: &Config, pattern: &Pattern, file: &Path) -> Result<(), Failure> {
    let wins = |deny: &&Pattern| deny.matches(pattern.as_str());
    match config.deny.iter().find(wins) {
        Some(deny) => Err(Failure::Denied {
            deny: deny.as_str().to_owned(),
            file: file.display().to_string(),
        }),
        None => Ok(()),
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    locate::text(file).map_err(|error| io_failure(file, io::Error::other(error)))
}

fn io_failure(file: &Path, error: io::Error) -> Failure {
    Failure::Io {
        file: file.display().to_string(),
        error,
    }
}

/// Writes a new file beside the old one, with its permissions, and puts it in
/// its place: whoever reads sees the old text or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_new(&beside, text, fs::metadata(file)?.permissions())
        .and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // The half-written one is ours; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_new(path: &Path, text: &str, permissions: fs::Permissions) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?;
    file.set_permissions(permissions)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        let said = add(
            &link,
            &patterns(&["b/c", "a/x", "d/*"]),
            &folders(home.path()),
        );
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
            let outcome = add(&file, &patterns(&["b/c"]), &folders(home.path()));
            let error = outcome.expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert_eq!(fs::read_to_string(&file).expect("read"), text);
        };
        check("deny: ['b/*']\n", "deny has \"b/*\"");
        check("{log: info}\n", "no safe place");
        check("alow: []\n", "unknown key \"alow\"");
    }
}
