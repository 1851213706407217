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

/// Which of cargo's folders the program is taken from.
#[derive(Clone, Copy)]
pub enum Profile {
    /// What the tests run: ready soonest.
    Debug,
    /// What people run: optimised, left by `make build`.
    Release,
}

/// The program, which cargo has left here.
pub fn program(profile: Profile) -> Result<PathBuf> {
    let (folder, command) = match profile {
        Profile::Debug => ("debug", "cargo build"),
        Profile::Release => ("release", "make build"),
    };
    let path = repository().join(format!("target/{folder}/roundhouse"));
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is not there; call {command}", path.display()).into()),
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

/// Removes what earlier processes began beside `path` and did not finish.
pub fn remove_abandoned(path: &Path) -> Result<()> {
    let own = temporary_beside(path);
    let start = own.with_extension("");
    let Some(Ok(entries)) = path.parent().map(fs::read_dir) else {
        return Ok(());
    };
    for entry in entries {
        let found = entry?.path();
        let process = found.extension().map(|pid| Path::new("/proc").join(pid));
        let gone = process.is_some_and(|process| found == own || !process.exists());
        if found.with_extension("") == start && gone {
            fs::remove_dir_all(found)?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::write_whole;
    #[cfg(target_os = "linux")]
    use super::{remove_abandoned, temporary_beside};

    // Elsewhere there is no /proc to ask, and what is found counts as abandoned.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_abandoned_goes_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("xtask-place-{}", std::process::id()));
        let package = folder.join("mlx-cpu-0.32.2");
        // No process has this id: it is beyond what Linux gives.
        let abandoned = folder.join(".mlx-cpu-0.32.2.99999999");
        let running = folder.join(".mlx-cpu-0.32.2.1");
        let other = folder.join("libclang-18.1.1");
        for path in [&abandoned, &running, &other, &temporary_beside(&package)] {
            fs::create_dir_all(path).expect("a folder for the test");
        }
        remove_abandoned(&package).expect("abandoned folders go");
        let left = fs::read_dir(&folder).expect("the folder is there");
        let mut left: Vec<_> = left.flatten().map(|entry| entry.path()).collect();
        left.sort();
        fs::remove_dir_all(&folder).expect("the test cleans up");
        assert_eq!(left, [running, other]);
    }

    #[test]
    fn an_equal_file_is_left_alone() {
        let file = std::env::temp_dir().join(format!("xtask-file-{}", std::process::id()));
        write_whole(&file, b"one").expect("a file for the test");
        let before = fs::metadata(&file).and_then(|data| data.modified());
        write_whole(&file, b"one").expect("nothing to write");
        let after = fs::metadata(&file).and_then(|data| data.modified());
        write_whole(&file, b"two").expect("written anew");
        let content = fs::read(&file);
        fs::remove_file(&file).expect("the test cleans up");
        assert_eq!(before.ok(), after.ok());
        assert_eq!(content.ok().as_deref(), Some(b"two".as_slice()));
    }
}
