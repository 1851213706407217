//! Where things lie, and how a file or a folder comes into being whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The folder of the main package.
pub fn repository() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Everything that the set-up of MLX makes. Inside `target`, so that cargo adds
/// the libraries in it to the search path of what it runs.
pub fn native() -> PathBuf {
    repository().join("target/native")
}

/// The project's own data: the demo models and their configuration.
pub fn data() -> PathBuf {
    repository().join("data")
}

/// The program, which `make build` leaves here.
pub fn program() -> Result<PathBuf> {
    let path = repository().join("target/release/roundhouse");
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is not there; call make build", path.display()).into()),
    }
}

/// Writes `content` so that `path` holds either nothing new or all of it, and
/// leaves an equal file untouched, with its time stamp.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = temporary_beside(path);
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)?;
    Ok(())
}

/// A name beside `path` for what is not complete yet, one per process.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Runs `command` and gives back its standard output; the error holds what it
/// said on standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} failed ({}):\n{}", output.status, said.trim_end()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
