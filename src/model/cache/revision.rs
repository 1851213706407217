//! Which snapshot a revision means. Follows no link: a folder or a ref of a
//! repository that is one could lead anywhere.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::super::manifest::Reason;

/// Longest name of a commit: git's SHA-256.
const LONGEST_COMMIT: usize = 64;

/// Longest ref that is read, bytes.
const LONGEST_REF: usize = 256;

/// The commit of a branch, tag or commit; without one what `refs/main` says,
/// and where there is no such ref the only snapshot there is.
pub(super) fn resolve(repository: &Path, revision: Option<&str>) -> Result<String, Reason> {
    let is_link = |folder: &&&str| repository.join(folder).is_symlink();
    if let Some(folder) = ["snapshots", "blobs", "refs"].iter().find(is_link) {
        return Err(Reason::UnsafeLink {
            file: (*folder).to_owned(),
            problem: "stands in place of a folder",
        });
    }
    match revision {
        Some(revision) => named(repository, revision)
            .ok_or_else(|| Reason::Revision(revision.chars().take(100).collect())),
        None => match read_ref(repository, "main") {
            Some(commit) => Ok(commit),
            None => single(repository),
        },
    }
}

/// A ref of that name, else a snapshot of that name.
fn named(repository: &Path, revision: &str) -> Option<String> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if revision.len() > 255 || !revision.split('/').all(plain) {
        return None;
    }
    read_ref(repository, revision).or_else(|| {
        let folder = repository.join("snapshots").join(revision);
        let is_commit = is_commit(revision) && folder.symlink_metadata().is_ok_and(|f| f.is_dir());
        is_commit.then(|| revision.to_owned())
    })
}

/// What a ref says. A ref that is no small regular file, is behind a link, or says
/// no commit, is none.
fn read_ref(repository: &Path, name: &str) -> Option<String> {
    let mut path = repository.join("refs");
    let mut last = None;
    for part in name.split('/') {
        path.push(part);
        let found = fs::symlink_metadata(&path).ok()?.file_type();
        if found.is_symlink() {
            return None;
        }
        last = Some(found);
    }
    if !last?.is_file() {
        return None;
    }
    let mut text = Vec::with_capacity(LONGEST_REF);
    let file = File::open(&path).ok()?;
    file.take(LONGEST_REF as u64).read_to_end(&mut text).ok()?;
    let commit = std::str::from_utf8(&text).ok()?.trim();
    is_commit(commit).then(|| commit.to_owned())
}

/// The only snapshot, where no ref says which.
fn single(repository: &Path) -> Result<String, Reason> {
    let Ok(entries) = fs::read_dir(repository.join("snapshots")) else {
        return Err(Reason::NoSnapshot);
    };
    let mut commits: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_commit(name))
        .collect();
    match (commits.pop(), commits.len()) {
        (Some(commit), 0) => Ok(commit),
        (Some(_), more) => Err(Reason::Ambiguous(more + 1)),
        (None, _) => Err(Reason::NoSnapshot),
    }
}

/// Letters and digits only, so that it is one folder name and nothing else.
fn is_commit(text: &str) -> bool {
    (1..=LONGEST_COMMIT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}
