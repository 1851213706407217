//! Which files a snapshot may have: regular ones inside the repository's own
//! folder, directly or through links that stay in it. Nothing is read here.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Reason;

/// Most entries of a snapshot that are looked at.
const MOST_ENTRIES: usize = 10_000;
/// Deepest folder below a snapshot that is looked at.
const DEEPEST: usize = 8;

/// A snapshot folder and the folder that its links may not leave.
#[derive(Debug)]
pub(super) struct Place {
    /// The snapshot folder, without links.
    pub(super) dir: PathBuf,
    /// The repository's folder (or the snapshot folder again), without links.
    within: PathBuf,
    /// Files that were asked for, from `within` on.
    files: RefCell<Vec<PathBuf>>,
}

impl Place {
    /// A snapshot inside `within`, which is taken as it is.
    pub(super) fn new(dir: &Path, within: &Path) -> Result<Self, Reason> {
        let within = fs::canonicalize(within).map_err(|_| Reason::NoSnapshot)?;
        let real = fs::canonicalize(dir).map_err(|_| Reason::NoSnapshot)?;
        if !real.starts_with(&within) {
            let file = name(dir);
            return Err(unsafe_link(&file, "leads out of its repository"));
        }
        match real.is_dir() {
            true => Ok(Self {
                dir: real,
                within,
                files: RefCell::default(),
            }),
            false => Err(Reason::NoSnapshot),
        }
    }

    /// Where a file of the snapshot really is; nothing if it is missing, its
    /// link dangles, or its blob is unfinished.
    pub(super) fn file(&self, name: &str) -> Result<Option<PathBuf>, Reason> {
        let path = self.dir.join(name);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let Some(real) = self.check(&path, name)? else {
            return Ok(None);
        };
        if let Ok(file) = real.strip_prefix(&self.within) {
            self.files.borrow_mut().push(file.to_owned());
        }
        let unfinished = real.extension().is_some_and(|end| end == "incomplete");
        Ok((!unfinished).then_some(real))
    }

    /// The files that were asked for, from the folder that links may not leave on.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.take()
    }

    /// Goes through the whole snapshot and refuses the first link that leaves. Answers
    /// the names of what is there, links to nothing among them.
    pub(super) fn check_all(&self) -> Result<Vec<String>, Reason> {
        let mut names = Vec::new();
        self.check_folder(&self.dir, "", DEEPEST, &mut names)?;
        Ok(names)
    }

    fn check_folder(
        &self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        names: &mut Vec<String>,
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
            if names.len() >= MOST_ENTRIES {
                return Err(Reason::BadFile {
                    file: "the snapshot".to_owned(),
                    problem: format!("has more than {MOST_ENTRIES} files"),
                });
            }
            let kind = entry.file_type().map_err(bad)?;
            if kind.is_dir() && depth > 0 {
                self.check_folder(&entry.path(), &format!("{name}/"), depth - 1, names)?;
            } else {
                self.check(&entry.path(), &name)?;
                names.push(name);
            }
        }
        Ok(())
    }

    /// Where a file is, or a link that stays inside and ends at a file; nothing if it
    /// ends nowhere.
    fn check(&self, path: &Path, name: &str) -> Result<Option<PathBuf>, Reason> {
        match self.real(path) {
            Ok((real, _)) if !real.starts_with(&self.within) => {
                Err(unsafe_link(name, "leads out of its repository"))
            }
            Ok((real, true)) => Ok(Some(real)),
            Ok(_) => Err(Reason::BadFile {
                file: name.to_owned(),
                problem: "is not a regular file".to_owned(),
            }),
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
    /// entry of a folder without links. A link as the hub's client makes them is
    /// followed by hand, since the system goes through every part of the path.
    fn real(&self, path: &Path) -> io::Result<(PathBuf, bool)> {
        let found = fs::symlink_metadata(path)?;
        if !found.is_symlink() {
            return Ok((path.to_owned(), found.is_file()));
        }
        let target = fs::read_link(path)?;
        if let Some(blob) = blob_of(&target).filter(|_| self.is_snapshot(path)) {
            let blob = self.within.join("blobs").join(blob);
            let found = fs::symlink_metadata(&blob)?;
            if found.is_file() && !self.within.join("blobs").is_symlink() {
                return Ok((blob, true));
            }
        }
        let real = fs::canonicalize(path)?;
        let is_file = real.is_file();
        Ok((real, is_file))
    }

    /// Whether an entry stands right in `snapshots/<commit>` of the repository.
    fn is_snapshot(&self, path: &Path) -> bool {
        let snapshots = self.dir.parent();
        path.parent() == Some(&self.dir)
            && snapshots.and_then(Path::parent) == Some(&self.within)
            && snapshots.is_some_and(|folder| folder.ends_with("snapshots"))
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
