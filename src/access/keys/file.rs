//! The keys file: read as a whole, changed under a lock, replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{KeyError, Keys};
use crate::config::locate::{self, ReadError};
use crate::records::private;

/// Reads the keys file; nothing if there is none. A file that others may read,
/// or that has anything in it that is not understood, is refused: a limit that
/// was passed over would be a right.
pub fn read(path: &Path) -> Result<Option<Keys>, KeyError> {
    let mode = match fs::metadata(path) {
        Ok(facts) => facts.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(path, error)),
    };
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let text = match locate::text(path) {
        Err(ReadError::System(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        text => text.map_err(|error| io(path, error))?,
    };
    let malformed = |reason: String| KeyError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let keys: Keys = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    keys.check_distinct()
        .map_err(|error| malformed(error.to_string()))?;
    Ok(Some(keys))
}

/// Reads the file, lets it be changed and writes it, while nobody else does.
pub fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Keys) -> Result<T, KeyError>,
) -> Result<T, KeyError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| io(path, error))?;
    }
    // Beside the file, because the file itself is replaced. Freed with the value.
    let lock = lock_file(&path.with_extension("lock")).map_err(|error| io(path, error))?;
    lock.lock().map_err(|error| io(path, error))?;
    let mut keys = read(path)?.unwrap_or_default();
    let changed = change(&mut keys)?;
    write(path, &keys)?;
    Ok(changed)
}

/// Writes the keys file, 0600, whole or not at all.
fn write(path: &Path, keys: &Keys) -> Result<(), KeyError> {
    let text = serde_json::to_string_pretty(keys).map_err(|error| io(path, error))?;
    private::replace(path, text.as_bytes()).map_err(|error| io(path, error))
}

/// The lock, a file of its owner alone, opened for writing.
fn lock_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn io(path: &Path, error: impl std::fmt::Display) -> KeyError {
    KeyError::Io {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
