//! What a snapshot has to hold to be an adapter: its configuration and its matrices, in
//! files of its own. Which layers they stand beside is looked at, whether a base has those
//! layers is for the engine to say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::links::Place;
use super::{Reason, needed, snapshot_of, unfinished_blobs};
use crate::model::adapter::{Adapter, CONFIG, Form};

/// An adapter that a base can be given.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterManifest {
    /// The snapshot folder.
    pub dir: PathBuf,
    /// Its commit, where it is one of a cache.
    pub commit: Option<String>,
    /// Bytes of its numbers on disk.
    pub size: u64,
    /// Bytes of its numbers as the engine holds them.
    pub bytes_held: u64,
    /// What tells it from every other, and from itself before it was changed: a digest of
    /// its configuration, and of where its numbers lie, since when and how many.
    pub mark: u128,
    /// When the snapshot folder was last changed.
    pub modified: Option<SystemTime>,
}

/// Inspects a snapshot of a repository in a cache.
pub fn inspect_snapshot(repository: &Path, commit: &str) -> Result<AdapterManifest, Reason> {
    let place = Place::new(&repository.join("snapshots").join(commit), repository)?;
    inspect(&place, Some(commit), &|| unfinished_blobs(repository))
}

/// Inspects a folder outside a cache. If it is the snapshot of a repository after
/// all, it is inspected as one.
pub fn inspect_folder(dir: &Path) -> Result<AdapterManifest, Reason> {
    let real = fs::canonicalize(dir).map_err(|_| Reason::NoSnapshot)?;
    if let Some((repository, commit)) = snapshot_of(&real) {
        return inspect_snapshot(repository, commit);
    }
    let place = Place::new(&real, &real)?;
    inspect(&place, None, &|| 0)
}

fn inspect(
    place: &Place,
    commit: Option<&str>,
    unfinished: &dyn Fn() -> usize,
) -> Result<AdapterManifest, Reason> {
    let form = Form::of(|name| matches!(place.file(name), Ok(Some(_))));
    let form = form.unwrap_or(Form::MlxLm);
    let mut missing = Vec::new();
    let config = needed(place, CONFIG, &mut missing)?;
    let weights = needed(place, form.weights(), &mut missing)?;
    let (Some(config), Some(weights)) = (config, weights) else {
        return Err(Reason::Missing {
            files: missing,
            unfinished: unfinished(),
        });
    };
    let bad = |file: &str, problem: String| Reason::BadFile {
        file: file.to_owned(),
        problem,
    };
    let adapter = Adapter::read(&config, &weights, form);
    let adapter = adapter.map_err(|error| bad(error.file, error.problem))?;
    let about = fs::metadata(&weights).map_err(|error| bad(form.weights(), error.to_string()))?;
    let said = fs::read(&config).map_err(|error| bad(CONFIG, error.to_string()))?;
    let since = about.modified().unwrap_or(UNIX_EPOCH);
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut sum = Sha256::new();
    sum.update(about.len().to_le_bytes());
    sum.update(since.as_nanos().to_le_bytes());
    sum.update((said.len() as u64).to_le_bytes());
    sum.update(&said);
    sum.update(weights.as_os_str().as_encoded_bytes());
    let digest: [u8; 32] = sum.finalize().into();
    let mut mark = [0; 16];
    mark.copy_from_slice(&digest[..16]);
    Ok(AdapterManifest {
        dir: place.dir.clone(),
        commit: commit.map(str::to_owned),
        size: about.len(),
        bytes_held: adapter.bytes_held(),
        mark: u128::from_le_bytes(mark),
        modified: fs::metadata(&place.dir).and_then(|m| m.modified()).ok(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::model::adapter::tests::write;

    const MATRICES: [(&str, [u64; 2]); 2] = [
        ("model.layers.0.mlp.up_proj.lora_a", [64, 4]),
        ("model.layers.0.mlp.up_proj.lora_b", [4, 128]),
    ];

    #[test]
    fn a_folder_is_an_adapter_or_says_why_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let check = |part: &str| {
            let error = inspect_folder(dir.path()).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        check("adapter_config.json, adapters.safetensors are missing");
        let config = |scale: f32| json!({"lora_parameters": {"scale": scale}});
        write(dir.path(), Form::MlxLm, &config(1.0), &MATRICES);
        let found = inspect_folder(dir.path()).expect("an adapter");
        assert_eq!(found.bytes_held, 4 * 4 * (64 + 128));
        let again = inspect_folder(dir.path()).expect("an adapter");
        assert_eq!(again.mark, found.mark);
        write(dir.path(), Form::MlxLm, &config(2.0), &MATRICES);
        let other = inspect_folder(dir.path()).expect("an adapter");
        assert_ne!(other.mark, found.mark, "another configuration");
        let weights = dir.path().join("adapters.safetensors");
        let bytes = fs::read(&weights).expect("read");
        fs::write(&weights, &bytes[..bytes.len() - 1]).expect("written");
        check("adapters.safetensors the file has");
    }

    #[test]
    fn no_file_of_an_adapter_lies_outside_it() {
        let [dir, elsewhere] = [0; 2].map(|_| tempfile::tempdir().expect("a folder"));
        let config = json!({"lora_parameters": {"scale": 1.0}});
        for folder in [&dir, &elsewhere] {
            write(folder.path(), Form::MlxLm, &config, &MATRICES);
        }
        let weights = dir.path().join("adapters.safetensors");
        fs::remove_file(&weights).expect("removed");
        symlink(elsewhere.path().join("adapters.safetensors"), &weights).expect("linked");
        let error = inspect_folder(dir.path()).expect_err("it leads out");
        assert_eq!(error.code(), "unsafe_link");
    }
}
