//! Has the system read a file into its page cache, a piece at a time and without copying
//! anything. It only asks: the system may read less.
//!
//! Sources: posix_fadvise(2), `POSIX_FADV_WILLNEED`, of which Linux says that it begins to read and
//! does not wait, mm/readahead.c; fcntl(2) of macOS, `F_RDADVISE`.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

/// What is asked for at once, bytes. After each piece the caller may call it off. Linux reads no
/// more for one call than the device's read-ahead window or its largest transfer and says
/// nothing of the rest (`force_page_cache_ra` of mm/readahead.c), so a piece is as
/// large as the window that a device has by default.
const PIECE: u64 = 128 * 1024;

/// Asks for a file's pages until all were asked for or `goes_on` says no. Answers how many
/// bytes were asked for. What is no regular file is not touched.
pub fn read_ahead(path: &Path, mut goes_on: impl FnMut() -> bool) -> io::Result<u64> {
    // A pipe in its place would make an ordinary open wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut asked = 0;
    while let Some(left) = NonZeroU64::new(metadata.len() - asked)
        && goes_on()
    {
        let piece = left.min(NonZeroU64::new(PIECE).unwrap_or(left));
        will_need(&file, asked, piece)?;
        asked += piece.get();
    }
    Ok(asked)
}

#[cfg(target_os = "macos")]
fn will_need(file: &File, offset: u64, len: NonZeroU64) -> io::Result<()> {
    Ok(rustix::fs::fcntl_rdadvise(file, offset, len.get())?)
}

#[cfg(not(target_os = "macos"))]
fn will_need(file: &File, offset: u64, len: NonZeroU64) -> io::Result<()> {
    let advice = rustix::fs::Advice::WillNeed;
    Ok(rustix::fs::fadvise(file, offset, Some(len), advice)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_asked_for_whole_or_until_it_is_called_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights");
        let file = File::create(&path).expect("a file");
        assert_eq!(read_ahead(&path, || true).expect("it is there"), 0);
        file.set_len(2 * PIECE + 1).expect("a length");
        assert_eq!(
            read_ahead(&path, || true).expect("it is there"),
            2 * PIECE + 1
        );
        let mut pieces = 0;
        let one = || {
            pieces += 1;
            pieces == 1
        };
        assert_eq!(read_ahead(&path, one).expect("it is there"), PIECE);
        assert_eq!(read_ahead(&path, || false).expect("it is there"), 0);
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        for path in [&pipe, folder.path(), Path::new("/dev/zero")] {
            assert!(read_ahead(path, || true).is_err(), "{path:?}");
        }
        assert!(read_ahead(&folder.path().join("none"), || true).is_err());
    }
}
