//! What the crates may be: licences, sources and versions by cargo-deny, which reads
//! `deny.toml`, and the advisories by our own dated file.

use std::path::Path;
use std::process::Command;

use crate::packages::CARGO_DENY;
use crate::{Result, advisories, place};

/// The packages: the program, its set-up, and what fuzzes it.
const MANIFESTS: &[&str] = &["Cargo.toml", "xtask/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks everything; `database` is a checkout of the advisory database.
pub fn check(database: Option<&Path>) -> Result<()> {
    let program = CARGO_DENY.provide(&place::native())?.join("bin/cargo-deny");
    for manifest in MANIFESTS {
        let status = Command::new(&program)
            // Each of them knows only some of what deny.toml excuses.
            .args(["--log-level", "error", "--locked"])
            .args(["--config", "deny.toml", "--manifest-path", manifest])
            .args(["check", "licenses", "bans", "sources"])
            .current_dir(place::repository())
            .status()?;
        if !status.success() {
            return Err(format!("cargo-deny refuses {manifest}").into());
        }
    }
    advisories::check(database)
}
