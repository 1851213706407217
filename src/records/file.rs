//! A file of lines that only grows: 0600, each append one write under the file's
//! lock, rotated by size. Several processes may share it, and somebody may move
//! or cut it meanwhile: the next append finds out. It knows nothing of what the
//! lines say.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::private;

/// How long to wait for another process that is writing.
const LOCK_TIME: Duration = Duration::from_secs(2);

/// How much of a file's end is read to find its last line, bytes.
const TAIL: u64 = 64 * 1024;

/// When a file is put aside, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// The size that the file does not pass, bytes.
    pub largest: u64,
    /// How many are kept beside it, as `NAME.1` (the youngest) and so on.
    pub kept: u32,
}

/// An open file of lines.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: File,
    rotation: Rotation,
    /// Where our own last append ended.
    end: Option<u64>,
    /// How the file before this one ended, if we wrote to that.
    left: String,
}

/// What stands before the place of an append.
#[derive(Debug, PartialEq, Eq)]
pub enum Before {
    /// Our own last append.
    Ours,
    /// Something else: the end of the file, or of the one put aside before it.
    Others(String),
}

impl LineFile {
    /// Opens the file, which is made if it is not there.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: private::open(path)?,
            rotation,
            end: None,
            left: String::new(),
        })
    }

    /// Appends what `make` answers, whole or not at all. `make` learns what stands
    /// before; it must end its text with a line break, and may be asked again.
    pub fn append<'t>(
        &mut self,
        make: impl FnMut(Before) -> io::Result<Cow<'t, str>>,
    ) -> io::Result<()> {
        self.lock()?;
        let appended = self.append_locked(make);
        if appended.is_err() {
            self.end = None;
        }
        // Closing the file unlocks it too.
        let _ = flock(&self.file, FlockOperation::Unlock);
        appended
    }

    /// Waits until everything appended is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn append_locked<'t>(
        &mut self,
        mut make: impl FnMut(Before) -> io::Result<Cow<'t, str>>,
    ) -> io::Result<()> {
        loop {
            let size = self.file.metadata()?.len();
            let (before, is_torn) = if self.end == Some(size) && size > 0 {
                (Before::Ours, false)
            } else {
                let tail = self.tail(size)?;
                let is_torn = size > 0 && !tail.ends_with('\n');
                (Before::Others(tail), is_torn)
            };
            let mut text = make(before)?;
            if is_torn {
                text.to_mut().insert(0, '\n');
            }
            if size > 0 && size + text.len() as u64 > self.rotation.largest {
                // Others may write to the next one before we do, so ask again.
                self.rotate()?;
                continue;
            }
            return self.write(size, &text);
        }
    }

    /// Adds the text to a file of this size in one write.
    fn write(&mut self, size: u64, text: &str) -> io::Result<()> {
        let written = self.file.write(text.as_bytes());
        if !matches!(written, Ok(count) if count == text.len()) {
            // Half a line is worse than none.
            self.file.set_len(size)?;
            let full = || io::Error::new(io::ErrorKind::StorageFull, "there is no room");
            return Err(written.err().unwrap_or_else(full));
        }
        self.end = Some(size + text.len() as u64);
        Ok(())
    }

    /// Locks the file that has the name now.
    fn lock(&mut self) -> io::Result<()> {
        let patience = Instant::now() + LOCK_TIME;
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if self.has_the_name()? => return Ok(()),
                Ok(()) => self.leave()?,
                Err(Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether nobody moved or removed the file.
    fn has_the_name(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts the file aside and goes on in a new one. The lock of the old one is
    /// held, so nobody else does the same.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.rotation.kept).rev() {
            rename(&self.aside(number), &self.aside(number + 1))?;
        }
        rename(&self.path, &self.aside(1))?;
        self.leave()?;
        self.lock()
    }

    /// Goes from the file that has lost its name to the one that has it now, and
    /// keeps in mind how the old one ended.
    fn leave(&mut self) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        if size > 0 {
            self.left = tail(&self.file, size)?;
        }
        self.file = private::open(&self.path)?;
        self.end = None;
        Ok(())
    }

    /// The name of a file that was put aside.
    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// The end of the file; of an empty one, the end of the one before it.
    fn tail(&self, size: u64) -> io::Result<String> {
        if size > 0 {
            return tail(&self.file, size);
        }
        if !self.left.is_empty() {
            return Ok(self.left.clone());
        }
        match File::open(self.aside(1)) {
            Ok(file) => tail(&file, file.metadata()?.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }
}

/// Renames a file that may not be there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn tail(file: &File, size: u64) -> io::Result<String> {
    let from = size.saturating_sub(TAIL);
    let mut bytes = vec![0; (size - from) as usize];
    match file.read_exact_at(&mut bytes, from) {
        // Cut by somebody in between: nothing is known of what was there.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(String::new()),
        Err(error) => Err(error),
        Ok(()) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Rotation = Rotation {
        largest: 100,
        kept: 2,
    };

    fn line(file: &mut LineFile, text: &str) -> Before {
        let mut seen = None;
        file.append(|before| {
            seen.get_or_insert(before);
            Ok(format!("{text}\n").into())
        })
        .expect("appended");
        seen.expect("asked")
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/lines");
        let mut file = LineFile::open(&path, SMALL).expect("opened");
        for number in 0..10 {
            line(&mut file, &format!("{number:030}"));
        }
        let read = |name: &str| fs::read_to_string(folder.path().join("a/b").join(name));
        let numbers = |name: &str| -> Vec<u64> {
            let text = read(name).expect("text");
            text.lines()
                .map(|line| line.parse().expect("a number"))
                .collect()
        };
        assert_eq!(numbers("lines"), [9]);
        assert_eq!(numbers("lines.1"), [6, 7, 8]);
        assert_eq!(numbers("lines.2"), [3, 4, 5]);
        assert!(read("lines.3").is_err());
    }

    #[test]
    fn what_others_did_to_the_file_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lines");
        let mut file = LineFile::open(&path, SMALL).expect("opened");
        assert_eq!(line(&mut file, "one"), Before::Others(String::new()));
        assert_eq!(line(&mut file, "two"), Before::Ours);
        let mut other = LineFile::open(&path, SMALL).expect("opened");
        assert_eq!(
            line(&mut other, "three"),
            Before::Others("one\ntwo\n".into())
        );
        assert_eq!(
            line(&mut file, "four"),
            Before::Others("one\ntwo\nthree\n".into())
        );
        // Cut to nothing.
        File::create(&path).expect("cut");
        assert_eq!(line(&mut file, "five"), Before::Others(String::new()));
        // Moved away, as a rotating program does.
        fs::rename(&path, folder.path().join("lines.1")).expect("moved");
        assert_eq!(line(&mut file, "six"), Before::Others("five\n".into()));
        // Torn in the middle of a line.
        fs::write(&path, "tor").expect("torn");
        line(&mut file, "seven");
        assert_eq!(fs::read_to_string(&path).expect("text"), "tor\nseven\n");
    }

    #[test]
    fn many_writers_lose_and_mix_nothing() {
        const WRITERS: usize = 4;
        const LINES: usize = 200;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lines");
        let rotation = Rotation {
            largest: 4000,
            kept: 100,
        };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let path = &path;
                scope.spawn(move || {
                    let mut file = LineFile::open(path, rotation).expect("opened");
                    for number in 0..LINES {
                        line(&mut file, &format!("{writer} {number} {}", "x".repeat(40)));
                    }
                });
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        for entry in fs::read_dir(folder.path()).expect("a folder") {
            let text = fs::read_to_string(entry.expect("an entry").path()).expect("text");
            assert!(text.len() <= 4000 && text.ends_with('\n'));
            for line in text.lines() {
                let parts: Vec<_> = line.split(' ').collect();
                assert_eq!((parts.len(), parts[2].len()), (3, 40), "{line}");
                assert!(seen.insert((parts[0].to_owned(), parts[1].to_owned())));
            }
        }
        assert_eq!(seen.len(), WRITERS * LINES);
    }
}
