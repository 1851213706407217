//! How the hub's own client lays a cache folder out, for reading and writing:
//!
//! ```text
//! models--org--repo/blobs/<hash>                  one file per content
//! models--org--repo/snapshots/<commit>/<name>     links to ../../blobs/<hash>
//! models--org--repo/refs/<branch or tag>          a commit, as text
//! ```
//!
//! The hash is SHA-256 for weight files and git's blob SHA-1 for small ones.
//! Source: the cache chapter of `huggingface_hub`'s documentation.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};

use super::id::ModelId;

/// The name git gives to this content, 40 hexadecimal digits.
pub fn git_blob_name(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes one snapshot. Nothing is visible as complete before [`Writer::publish`]:
/// blobs appear whole under their hash, and the ref is written last.
#[derive(Debug)]
pub struct Writer {
    repository: PathBuf,
    commit: String,
    /// Held until the writer is dropped, so that two imports take turns.
    _lock: File,
}

impl Writer {
    /// Makes the folders of a repository below the cache folder `root`, and waits
    /// for another writer of the same repository to finish.
    pub fn begin(root: &Path, id: &ModelId, commit: &str) -> io::Result<Self> {
        let repository = root.join(id.folder());
        fs::create_dir_all(repository.join("blobs"))?;
        fs::create_dir_all(repository.join("refs"))?;
        fs::create_dir_all(repository.join("snapshots").join(commit))?;
        let locks = root.join(".locks").join(id.folder());
        fs::create_dir_all(&locks)?;
        let lock = File::create(locks.join("import.lock"))?;
        lock.lock()?;
        Ok(Self {
            repository,
            commit: commit.to_owned(),
            _lock: lock,
        })
    }

    /// The folder of the snapshot.
    pub fn snapshot(&self) -> PathBuf {
        self.repository.join("snapshots").join(&self.commit)
    }

    /// Length of a file of the snapshot, if it is there.
    pub fn length_of(&self, name: &str) -> Option<u64> {
        fs::metadata(self.snapshot().join(name))
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|found| found.len())
    }

    /// Whether `refs/main` says this commit.
    pub fn is_published(&self) -> bool {
        fs::read_to_string(self.repository.join("refs/main"))
            .is_ok_and(|found| found.trim_end() == self.commit)
    }

    /// Writes a small file, unless it is there.
    pub fn small(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let blob = git_blob_name(content);
        let whole = fs::metadata(self.blob(&blob))
            .is_ok_and(|found| found.is_file() && found.len() == content.len() as u64);
        if !whole {
            let partial = self.partial(&blob);
            fs::write(&partial, content)?;
            fs::rename(&partial, self.blob(&blob))?;
        }
        self.link(name, &blob)
    }

    /// Where a large file grows, named as the hub's client names unfinished ones.
    /// What an interrupted run has left there is overwritten.
    pub fn partial(&self, name: &str) -> PathBuf {
        self.blob(&format!("{name}.incomplete"))
    }

    /// Takes a finished file from [`Writer::partial`] into the snapshot.
    pub fn adopt(&self, partial: &Path, blob: &str, name: &str) -> io::Result<()> {
        fs::rename(partial, self.blob(blob))?;
        self.link(name, blob)
    }

    /// Says that the snapshot is complete: `refs/main` names it from now on.
    pub fn publish(&self) -> io::Result<()> {
        let reference = self.repository.join("refs/main");
        let partial = self.repository.join("refs/.main.incomplete");
        let mut file = File::create(&partial)?;
        file.write_all(self.commit.as_bytes())?;
        file.sync_all()?;
        fs::rename(partial, reference)
    }

    fn blob(&self, hash: &str) -> PathBuf {
        self.repository.join("blobs").join(hash)
    }

    /// Links a name of the snapshot to a blob, replacing what was there.
    fn link(&self, name: &str, blob: &str) -> io::Result<()> {
        // A file in a folder of the snapshot is further from the blobs.
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let mut target = PathBuf::new();
        for _ in folder.split_terminator('/') {
            target.push("..");
        }
        let target = target.join("../../blobs").join(blob);
        let link = self.snapshot().join(name);
        if fs::read_link(&link).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let folder = self.snapshot().join(folder);
        fs::create_dir_all(&folder)?;
        let partial = folder.join(format!(".{file}.incomplete"));
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(&target, &partial)?;
        fs::rename(partial, link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_named_as_git_names_them() {
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(
            git_blob_name(b"hello\n"),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
    }
}
