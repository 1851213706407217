//! Whether the cache folders are worth scanning again: one number over what the
//! system says of the places that change when a download ends or a snapshot goes.
//! Opens no file of a model.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deepest folder below `refs`: branches may have parts (`refs/pr/3`).
const DEEPEST: usize = 4;

/// The state of the folders, to be compared with another. Equal ones are as good as
/// certain to mean that nothing has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of these cache folders, and of folders with weights outside of them.
    pub fn of<'p>(roots: &[PathBuf], folders: impl Iterator<Item = &'p Path>) -> Self {
        let mut fingerprint = Self::default();
        for root in roots {
            for repository in fingerprint.children(root) {
                let name = repository.file_name().and_then(|name| name.to_str());
                if name.is_some_and(|name| name.starts_with("models--")) {
                    fingerprint.repository(&repository);
                }
            }
        }
        for folder in folders {
            for file in fingerprint.children(folder) {
                fingerprint.add(&file);
            }
        }
        fingerprint
    }

    /// What a finished download or a deletion touches: a link in the snapshot, a blob
    /// under its name, a commit in a ref.
    fn repository(&mut self, repository: &Path) {
        self.add(repository);
        self.add(&repository.join("blobs"));
        for snapshot in self.children(&repository.join("snapshots")) {
            self.add(&snapshot);
        }
        let mut folders = vec![(repository.join("refs"), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for child in self.children(&folder) {
                if depth < DEEPEST && self.add(&child).is_some_and(|facts| facts.is_dir()) {
                    folders.push((child, depth + 1));
                }
            }
        }
    }

    /// Adds a folder and answers what lies in it, in no order.
    fn children(&mut self, folder: &Path) -> Vec<PathBuf> {
        self.add(folder);
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    }

    /// Adds what the system says of one place. The order of adding does not count.
    fn add(&mut self, path: &Path) -> Option<Metadata> {
        let facts = fs::metadata(path).ok();
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        if let Some(facts) = &facts {
            (facts.dev(), facts.ino(), facts.size()).hash(&mut hasher);
            (facts.mtime(), facts.mtime_nsec()).hash(&mut hasher);
        }
        self.0 = self.0.wrapping_add(hasher.finish());
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_an_answer_changes_the_fingerprint_and_nothing_else_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("hub");
        let plain = folder.path().join("plain");
        let of = || Fingerprint::of(std::slice::from_ref(&root), [plain.as_path()].into_iter());
        let mut last = of();
        let mut changed = |what: &str| {
            let now = of();
            assert_ne!(now, last, "{what}");
            assert_eq!(now, of(), "nothing changed after {what}");
            last = now;
        };
        let repository = root.join("models--a--b");
        let snapshot = repository.join("snapshots/0123");
        fs::create_dir_all(&root).expect("made");
        changed("a cache folder");
        fs::create_dir_all(&snapshot).expect("made");
        changed("a snapshot");
        fs::create_dir_all(repository.join("blobs")).expect("made");
        changed("a folder of blobs");
        fs::write(repository.join("blobs/x.incomplete"), "x").expect("written");
        changed("a download that begins");
        fs::rename(
            repository.join("blobs/x.incomplete"),
            repository.join("blobs/x"),
        )
        .expect("renamed");
        changed("a download that ends");
        std::os::unix::fs::symlink("../../blobs/x", snapshot.join("config.json")).expect("linked");
        changed("a link in the snapshot");
        fs::create_dir_all(repository.join("refs/pr")).expect("made");
        changed("a folder of refs");
        fs::write(repository.join("refs/pr/1"), "0123").expect("written");
        changed("a ref");
        fs::write(repository.join("refs/pr/1"), "45678").expect("written");
        changed("a ref that moves");
        fs::remove_file(snapshot.join("config.json")).expect("removed");
        changed("a link that goes");
        fs::remove_dir_all(&repository).expect("removed");
        changed("a repository that goes");
        fs::create_dir(&plain).expect("made");
        changed("a folder outside");
        fs::write(plain.join("config.json"), "{}").expect("written");
        changed("a file in it");
        // What was not there and is not there still is no change.
        fs::write(root.join("models--a"), "").expect("written");
        changed("a stranger");
    }
}
