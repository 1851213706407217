//! The private folder for the sockets of one run: 0700, with a short random name,
//! held by a lock for as long as the run lives, so that the next run can tell
//! what a dead one left behind from what belongs to a living stranger.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::{hex, random};

/// What the names of private folders begin with.
const PREFIX: &str = "roundhouse-";

/// The longest path of a socket, bytes: macOS has room for 104 with the final zero.
const LONGEST_SOCKET: usize = 103;

/// The length of what a socket adds to the folder: a slash, eight digits and `.sock`.
const SOCKET_NAME: usize = 14;

/// A folder younger than this without a lock may be one that is just being made.
const YOUNG: Duration = Duration::from_secs(60);

/// The private folder; removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Held as long as the folder is in use.
    _lock: File,
}

/// A folder for one process to work in; removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Workplace(PathBuf);

/// The path of one socket; what is there is removed when dropped.
#[derive(Debug)]
pub struct Socket(PathBuf);

impl Folder {
    /// Makes the folder inside `parent`, or in `$XDG_RUNTIME_DIR`, or in the folder
    /// for temporary files, and sweeps what dead runs left in the same place.
    pub fn create(parent: Option<&Path>) -> io::Result<Self> {
        let parent = match parent {
            Some(parent) => parent.to_owned(),
            None => usual_parent(),
        };
        sweep(&parent);
        let path = parent.join(format!("{PREFIX}{}", hex(&random::<4>()?)));
        if path.as_os_str().len() + SOCKET_NAME > LONGEST_SOCKET {
            return Err(io::Error::other(format!(
                "{} is too long for a socket: at most {LONGEST_SOCKET} bytes; set XDG_RUNTIME_DIR to a shorter folder",
                path.display()
            )));
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::create_new(path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder, 0700, that nothing else has.
    pub fn workplace(&self) -> io::Result<Workplace> {
        let path = self.path.join(format!("{}.d", hex(&random::<4>()?)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Workplace(path))
    }

    /// A path for a socket that nothing else has.
    pub fn socket(&self) -> io::Result<Socket> {
        // By this ending llama.cpp's server tells a socket from a host.
        let name = format!("{}.sock", hex(&random::<4>()?));
        Ok(Socket(self.path.join(name)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Workplace {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Socket {
    /// Where it is to be.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// `$XDG_RUNTIME_DIR` if it is a folder, else the folder for temporary files.
pub fn usual_parent() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .filter(|path| path.is_absolute() && path.is_dir())
        .unwrap_or_else(std::env::temp_dir)
}

/// Removes the folders of runs that have ended without doing so.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if is_ours(&entry.file_name()) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a name is one that [`Folder::create`] gives.
fn is_ours(name: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|rest| rest.len() == 8 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// Whether a folder is this user's, is a real folder, and nobody holds its lock.
fn is_abandoned(path: &Path) -> bool {
    let Ok(about) = fs::symlink_metadata(path) else {
        return false;
    };
    if !about.is_dir() || about.uid() != rustix::process::geteuid().as_raw() {
        return false;
    }
    match File::open(path.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => {
            let age = about.modified().ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age > YOUNG)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_private_and_goes_with_its_run() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = Folder::create(Some(parent.path())).expect("a private folder");
        let mode = fs::metadata(folder.path()).expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o700);
        let socket = folder.socket().expect("a path");
        assert!(socket.path().as_os_str().len() <= LONGEST_SOCKET);
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn f21_dead_runs_are_swept_and_living_strangers_are_not() {
        let parent = tempfile::tempdir().expect("a folder");
        let dead = parent.path().join("roundhouse-0000dead");
        fs::create_dir(&dead).expect("made");
        fs::write(dead.join("lock"), "").expect("written");
        fs::write(dead.join("1234abcd"), "a socket").expect("written");
        let being_made = parent.path().join("roundhouse-00000a0a");
        fs::create_dir(&being_made).expect("made");
        let foreign = parent.path().join("roundhouse-notes");
        fs::create_dir(&foreign).expect("made");
        let alive = Folder::create(Some(parent.path())).expect("a private folder");
        let second = Folder::create(Some(parent.path())).expect("another");
        assert!(!dead.exists());
        assert!(alive.path().exists() && second.path().exists());
        assert!(being_made.exists() && foreign.exists());
    }

    #[test]
    fn a_parent_that_is_too_deep_is_refused_in_words() {
        let deep = tempfile::tempdir().expect("a folder");
        let deep = deep.path().join("x".repeat(90));
        let error = Folder::create(Some(&deep)).expect_err("too long");
        assert!(error.to_string().contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
