//! Bytes of a repository on disk. Follows no link.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deepest folder below `blobs` and `snapshots` that is counted.
const DEEPEST: usize = 10;

/// What lies in a repository.
#[derive(Debug, Default)]
pub(super) struct Size {
    /// Bytes of all blobs, which snapshots share, and of files that stand in
    /// snapshots themselves (as the hub's client writes where links are not
    /// possible). A file that has several names counts once.
    pub(super) bytes: u64,
    /// The folders that were listed, from the repository's folder on.
    pub(super) folders: Vec<PathBuf>,
    /// What was seen of the files that have several names.
    several: HashSet<(u64, u64)>,
}

impl Size {
    pub(super) fn of(repository: &Path) -> Self {
        let mut size = Self::default();
        for folder in ["blobs", "snapshots"] {
            if !repository.join(folder).is_symlink() {
                size.add(repository, PathBuf::from(folder), DEEPEST);
            }
        }
        size
    }

    /// Adds the regular files below a folder; links count nothing.
    fn add(&mut self, repository: &Path, folder: PathBuf, depth: usize) {
        let entries = fs::read_dir(repository.join(&folder));
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_file()
                && let Ok(file) = entry.metadata()
                && (file.nlink() == 1 || self.several.insert((file.dev(), file.ino())))
            {
                self.bytes = self.bytes.saturating_add(file.len());
            } else if kind.is_dir() && depth > 0 {
                self.add(repository, folder.join(entry.file_name()), depth - 1);
            }
        }
        self.folders.push(folder);
    }
}
