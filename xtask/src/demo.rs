//! The demo models: a small chat model out of a published package, imported in
//! three precisions into a cache in the project's own data folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::packages::DEMO_MODEL;
use crate::place::{self, Profile};

/// The id of each demo model and its bits per weight. Half precision is left
/// out: it answers as the full one does.
pub const MODELS: [(&str, u32); 3] = [
    ("roundhouse/SmolLM2-135M-Instruct-4bit", 4),
    ("roundhouse/SmolLM2-135M-Instruct-8bit", 8),
    ("roundhouse/SmolLM2-135M-Instruct-f32", 32),
];

/// Provides the models and prints the folder of their cache as the last line.
pub fn provide(profile: Profile) -> Result<()> {
    println!("{}", cache(profile)?.display());
    Ok(())
}

/// Imports what is not there yet, by the program of this `profile`; gives back the
/// folder of the cache.
pub fn cache(profile: Profile) -> Result<PathBuf> {
    let cache = place::data().join("hub");
    let file = gguf_file(&DEMO_MODEL.provide(&place::data())?)?;
    for (id, bits) in MODELS {
        // The command finds out itself whether the model is there already.
        let status = Command::new(place::program(profile)?)
            .arg("import")
            .arg(&file)
            .args(["--as", id, "--bits", &bits.to_string(), "--cache"])
            .arg(&cache)
            .status()?;
        if !status.success() {
            return Err(format!("cannot import {id} from {}", file.display()).into());
        }
    }
    Ok(cache)
}

/// The GGUF file that the package holds.
fn gguf_file(package: &Path) -> Result<PathBuf> {
    let mut folders = vec![package.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                return Ok(path);
            }
        }
    }
    Err(format!("{} holds no GGUF file", package.display()).into())
}
