//! Which files a snapshot may have: regular ones inside the repository's own
//! folder, directly or through links that stay in it. No file is read here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, FileType};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Reason;

/// Most entries of a snapshot that are looked at.
pub(super) const MOST_ENTRIES: usize = 10_000;
/// Deepest folder below a snapshot that is looked at.
pub(super) const DEEPEST: usize = 8;

/// A snapshot folder and the folder that its links may not leave, gone through once.
#[derive(Debug)]
pub(super) struct Place {
    /// The snapshot folder, without links.
    pub(super) dir: PathBuf,
    /// The repository's folder (or the snapshot folder again), without links.
    within: PathBuf,
    /// The repository's folder of blobs, if this is a snapshot of one that has such.
    blobs: Option<PathBuf>,
    /// What lies in the snapshot folder and below, by the names from there on.
    entries: HashMap<String, Entry>,
    /// Files that were asked for, from `within` on.
    files: RefCell<Vec<PathBuf>>,
}

/// An entry of a snapshot folder.
#[derive(Debug)]
enum Entry {
    /// A folder, which stands in the way of a file.
    Folder,
    /// A file and where it really is; nothing for a link to nothing.
    File(Option<PathBuf>),
}

impl Place {
    /// A snapshot inside `within`, which is taken as it is. The whole snapshot is gone
    /// through, and the first link that leaves is refused.
    pub(super) fn new(dir: &Path, within: &Path) -> Result<Self, Reason> {
        let within = fs::canonicalize(within).map_err(|_| Reason::NoSnapshot)?;
        let real = fs::canonicalize(dir).map_err(|_| Reason::NoSnapshot)?;
        if !real.starts_with(&within) {
            let file = name(dir);
            return Err(unsafe_link(&file, "leads out of its repository"));
        }
        match real.is_dir() {
            true => Self::list(real, within),
            false => Err(Reason::NoSnapshot),
        }
    }

    /// The snapshot of a commit in a repository whose path has no links.
    pub(super) fn of_commit(repository: &Path, commit: &str) -> Result<Self, Reason> {
        let snapshots = repository.join("snapshots");
        let dir = snapshots.join(commit);
        let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
        match is_folder(&snapshots) && is_folder(&dir) {
            true => Self::list(dir, repository.to_owned()),
            false => Self::new(&dir, repository),
        }
    }

    /// Goes through a snapshot folder.
    fn list(dir: PathBuf, within: PathBuf) -> Result<Self, Reason> {
        let snapshots = dir.parent().filter(|folder| folder.ends_with("snapshots"));
        let is_commit = snapshots.and_then(Path::parent) == Some(&within);
        let blobs = is_commit.then(|| within.join("blobs"));
        let mut place = Self {
            blobs: blobs.filter(|blobs| blobs.symlink_metadata().is_ok_and(|it| it.is_dir())),
            dir,
            within,
            entries: HashMap::new(),
            files: RefCell::default(),
        };
        let mut entries = HashMap::new();
        let mut left = MOST_ENTRIES;
        place.check_folder(&place.dir, "", DEEPEST, &mut left, &mut entries)?;
        place.entries = entries;
        Ok(place)
    }

    /// The names of what lies right in the snapshot folder.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.entries.keys().map(String::as_str);
        names.filter(|name| !name.contains('/'))
    }

    /// Where a file of the snapshot really is; nothing if it is missing, its
    /// link dangles, or its blob is unfinished.
    pub(super) fn file(&self, name: &str) -> Result<Option<PathBuf>, Reason> {
        let real = match self.entries.get(name) {
            None | Some(Entry::File(None)) => return Ok(None),
            Some(Entry::Folder) => return Err(no_file(name)),
            Some(Entry::File(Some(real))) => real,
        };
        if let Ok(file) = real.strip_prefix(&self.within) {
            self.files.borrow_mut().push(file.to_owned());
        }
        let unfinished = real.extension().is_some_and(|end| end == "incomplete");
        Ok((!unfinished).then(|| real.clone()))
    }

    /// The files that were asked for, from the folder that links may not leave on.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.take()
    }

    fn check_folder(
        &self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        left: &mut usize,
        entries: &mut HashMap<String, Entry>,
    ) -> Result<(), Reason> {
        let bad = |error: io::Error| Reason::BadFile {
            file: if prefix.is_empty() {
                "the snapshot"
            } else {
                prefix
            }
            .to_owned(),
            problem: format!("could not be read: {error}"),
        };
        for entry in fs::read_dir(folder).map_err(bad)? {
            let entry = entry.map_err(bad)?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            *left = left.checked_sub(1).ok_or_else(|| Reason::BadFile {
                file: "the snapshot".to_owned(),
                problem: format!("has more than {MOST_ENTRIES} files"),
            })?;
            let kind = entry.file_type().map_err(bad)?;
            let found = if kind.is_dir() && depth > 0 {
                let prefix = format!("{name}/");
                self.check_folder(&entry.path(), &prefix, depth - 1, left, entries)?;
                Entry::Folder
            } else {
                Entry::File(self.check(&entry.path(), &name, kind)?)
            };
            entries.insert(name, found);
        }
        Ok(())
    }

    /// Where a file is, or a link that stays inside and ends at a file; nothing if it
    /// ends nowhere.
    fn check(&self, path: &Path, name: &str, kind: FileType) -> Result<Option<PathBuf>, Reason> {
        match self.real(path, kind) {
            Ok((real, _)) if !real.starts_with(&self.within) => {
                Err(unsafe_link(name, "leads out of its repository"))
            }
            Ok((real, true)) => Ok(Some(real)),
            Ok(_) => Err(no_file(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_dangling(path, name).map(|()| None)
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Err(unsafe_link(name, "leads in a circle"))
            }
            Err(error) => Err(Reason::BadFile {
                file: name.to_owned(),
                problem: format!("could not be read: {}", error.kind()),
            }),
        }
    }

    /// The path without links, and whether a regular file is there. `path` is an
    /// entry of this kind of a folder without links. A link as the hub's client makes
    /// them is followed by hand, since the system goes through every part of the path.
    fn real(&self, path: &Path, kind: FileType) -> io::Result<(PathBuf, bool)> {
        if !kind.is_symlink() {
            return Ok((path.to_owned(), kind.is_file()));
        }
        let target = fs::read_link(path)?;
        if let Some(blobs) = &self.blobs
            && let Some(blob) = blob_of(&target).filter(|_| path.parent() == Some(&self.dir))
        {
            let blob = blobs.join(blob);
            if fs::symlink_metadata(&blob)?.is_file() {
                return Ok((blob, true));
            }
        }
        let real = fs::canonicalize(path)?;
        let is_file = real.is_file();
        Ok((real, is_file))
    }

    /// A link to nothing is an unfinished download if it would stay inside.
    fn check_dangling(&self, path: &Path, name: &str) -> Result<(), Reason> {
        let target = match fs::read_link(path) {
            Ok(target) => target,
            // Gone since it was listed.
            Err(_) => return Ok(()),
        };
        let folder = path.parent().unwrap_or(&self.dir);
        match lexically_absolute(folder, &target).starts_with(&self.within) {
            true => Ok(()),
            false => Err(unsafe_link(name, "leads out of its repository")),
        }
    }
}

/// The blob that a link of a snapshot names, if it is such a link.
fn blob_of(target: &Path) -> Option<&Path> {
    let name = target.strip_prefix("../../blobs").ok()?;
    let mut parts = name.components();
    let is_plain = matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none();
    is_plain.then_some(name)
}

fn no_file(name: &str) -> Reason {
    Reason::BadFile {
        file: name.to_owned(),
        problem: "is not a regular file".to_owned(),
    }
}

fn unsafe_link(file: &str, problem: &'static str) -> Reason {
    Reason::UnsafeLink {
        file: file.to_owned(),
        problem,
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `target` as seen from `folder` (which has no links), by its text alone.
fn lexically_absolute(folder: &Path, target: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}
