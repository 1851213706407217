//! Unix sockets as files: who may use them, and what is left of a server that
//! is gone.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Mode;
use tokio::net::UnixListener;

/// Listens with these permission bits. A socket that still answers belongs to
/// another server and is left alone, and so is any file that is no socket.
pub(super) fn bind(path: &Path, mode: u32) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("{} belongs to a running server", path.display());
        return Err(Error::new(ErrorKind::AddrInUse, message));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{} is there and is no socket", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The file is born closed, and opened only as far as it is to be.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Removes the file of a socket that nobody listens on any more.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(?error, "a socket file was not there to remove");
    }
}
