//! Which files a snapshot may have: regular ones inside the repository's own
//! folder, directly or through links that stay in it. Nothing is read here.

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
            true => Ok(Self { dir: real, within }),
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
        self.check(&path, name)?;
        let Ok(real) = fs::canonicalize(&path) else {
            return Ok(None);
        };
        let unfinished = real.extension().is_some_and(|end| end == "incomplete");
        Ok((!unfinished).then_some(real))
    }

    /// Goes through the whole snapshot and refuses the first link that leaves.
    pub(super) fn check_all(&self) -> Result<(), Reason> {
        let mut left = MOST_ENTRIES;
        self.check_folder(&self.dir, "", DEEPEST, &mut left)
    }

    fn check_folder(
        &self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        left: &mut usize,
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
            if kind.is_dir() && depth > 0 {
                self.check_folder(&entry.path(), &format!("{name}/"), depth - 1, left)?;
            } else {
                self.check(&entry.path(), &name)?;
            }
        }
        Ok(())
    }

    /// A file, or a link that stays inside and ends at a file or nowhere.
    fn check(&self, path: &Path, name: &str) -> Result<(), Reason> {
        match fs::canonicalize(path) {
            Ok(real) if !real.starts_with(&self.within) => {
                Err(unsafe_link(name, "leads out of its repository"))
            }
            Ok(real) if real.is_file() => Ok(()),
            Ok(_) => Err(Reason::BadFile {
                file: name.to_owned(),
                problem: "is not a regular file".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_dangling(path, name)
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
