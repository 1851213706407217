//! Files and folders that are their owner's alone, whatever the umask says, and
//! the repair of those that others were let into.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What group and others may do with a file.
pub const OTHERS: u32 = 0o077;

/// What group and others may do to change a file.
pub const OTHERS_WRITE: u32 = 0o022;

/// Makes a folder and those above it; what is made is 0700.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file for appending and reading, 0600. One that is there already and
/// open to others is closed to them, with a warning. Only regular files are
/// taken: a device or a pipe keeps no lines.
pub fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        let message = format!("{} is not a regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)?;
    take_back(&file, path, OTHERS)?;
    Ok(file)
}

/// Puts a file of these bytes in the place of another, 0600, whole or not at all.
/// Its folder is made if it is not there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// Takes these rights from group and others, if they have any of them, and says
/// so in the log. Fails where the file is somebody else's.
pub fn take_back(file: &File, path: &Path, rights: u32) -> io::Result<()> {
    let before = file.metadata()?.permissions().mode() & 0o777;
    if before & rights == 0 {
        return Ok(());
    }
    let now = before & !rights;
    file.set_permissions(fs::Permissions::from_mode(now))?;
    tracing::warn!(
        ?path,
        "others had rights on this file (mode {before:o}); it is {now:o} now"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_of_others_are_taken_back_and_only_those() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let check = |mode: u32, rights: u32, expected: u32| {
            fs::write(&path, "").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
            let file = File::open(&path).expect("opened");
            take_back(&file, &path, rights).expect("repaired");
            let now = fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(now & 0o777, expected, "{mode:o} {rights:o}");
        };
        check(0o644, OTHERS, 0o600);
        check(0o666, OTHERS, 0o600);
        check(0o600, OTHERS, 0o600);
        check(0o664, OTHERS_WRITE, 0o644);
        check(0o646, OTHERS_WRITE, 0o644);
        check(0o644, OTHERS_WRITE, 0o644);
    }

    #[test]
    fn what_keeps_no_lines_is_refused() {
        for path in ["/dev/null", "/"] {
            assert!(open(Path::new(path)).is_err(), "{path}");
        }
    }
}
