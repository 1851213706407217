//! Bytes of a repository on disk.

use std::fs;
use std::path::Path;

/// Bytes of all blobs, which snapshots share, and of files that stand in
/// snapshots themselves (as the hub's client writes where links are not possible).
pub(super) fn on_disk(repository: &Path) -> u64 {
    let snapshots = fs::read_dir(repository.join("snapshots"));
    let own: u64 = snapshots
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|snapshot| files_in(&snapshot.path()))
        .sum();
    own + files_in(&repository.join("blobs"))
}

/// Bytes of the regular files of a folder; links count nothing.
fn files_in(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
