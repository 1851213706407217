//! A folder that holds a whole snapshot becomes one in a cache tree: its files as
//! they are, under the names and hashes that the hub's own client would give them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{ImportError, Imported, Progress, write_error};
use crate::engine::supported_architectures;
use crate::model::hub::{self, Writer};
use crate::model::id::ModelId;
use crate::model::manifest::{Rules, inspect_folder};

/// Raised when the commit of the same files would come out differently.
const FORM_VERSION: u32 = 1;

/// What a snapshot is made of; anything else in the folder stays where it is.
const KINDS: [&str; 6] = ["json", "txt", "safetensors", "model", "jinja", "md"];

/// Deepest folder below that is looked into, and most files.
const DEEPEST: usize = 4;
const MOST_FILES: usize = 1000;

/// Largest file that is no weight file, bytes.
const LARGEST: u64 = 256 << 20;

/// A file of the folder.
struct Item {
    path: PathBuf,
    len: u64,
    /// Its name in the blobs: SHA-256 of a weight file, git's SHA-1 of a small one.
    blob: String,
}

/// Brings the snapshot in `folder` into the cache under `id`.
///
/// # Errors
/// It is not whole, or the cache cannot be written.
pub fn import(
    folder: &Path,
    id: &ModelId,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let rules = Rules {
        architectures: supported_architectures(),
        trust_remote_code: false,
    };
    inspect_folder(folder, &rules).map_err(|reason| ImportError::Folder(reason.to_string()))?;
    let mut names = BTreeMap::new();
    list(folder, "", DEEPEST, &mut names).map_err(|error| write_error(folder, error))?;
    let items = hashed(names, progress)?;
    let mut commit = Sha1::new();
    commit.update(format!("folder {FORM_VERSION}\0"));
    for (name, item) in &items {
        commit.update(format!("{name} {}\0", item.blob));
    }
    let commit = hub::hex(&commit.finalize());
    let at = |error| write_error(cache, error);
    let writer = Writer::begin(cache, id, &commit).map_err(at)?;
    let is_there = |(name, item): (&String, &Item)| writer.length_of(name) == Some(item.len);
    let already = writer.is_published() && items.iter().all(is_there);
    let weights = items.iter().filter(|(name, _)| is_weights(name));
    let imported = Imported {
        snapshot: writer.snapshot(),
        commit,
        weight_bytes: weights.map(|(_, item)| item.len).sum(),
        already,
    };
    if already {
        return Ok(imported);
    }
    for (name, item) in &items {
        if is_weights(name) {
            let partial = writer.partial(&item.blob);
            fs::copy(&item.path, &partial).map_err(at)?;
            writer.adopt(&partial, &item.blob, name).map_err(at)?;
        } else {
            writer.small(name, &small(&item.path)?).map_err(at)?;
        }
    }
    writer.publish().map_err(at)?;
    Ok(imported)
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// The files by name, with `/` between folders.
fn list(
    folder: &Path,
    prefix: &str,
    depth: usize,
    into: &mut BTreeMap<String, PathBuf>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let full = format!("{prefix}{name}");
        let kind = path.extension().and_then(|kind| kind.to_str());
        if path.is_dir() && depth > 0 {
            list(&path, &format!("{full}/"), depth - 1, into)?;
        } else if path.is_file() && kind.is_some_and(|kind| KINDS.contains(&kind)) {
            into.insert(full, path);
        }
        if into.len() > MOST_FILES {
            return Err(std::io::Error::other(format!(
                "more than {MOST_FILES} files"
            )));
        }
    }
    Ok(())
}

fn hashed(
    names: BTreeMap<String, PathBuf>,
    progress: &mut dyn FnMut(Progress),
) -> Result<BTreeMap<String, Item>, ImportError> {
    let mut items = BTreeMap::new();
    for (name, path) in names {
        let at = |error| write_error(&path, error);
        let len = fs::metadata(&path).map_err(at)?.len();
        let blob = match is_weights(&name) {
            true => digest(&path, len, progress).map_err(at)?,
            false => hub::git_blob_name(&small(&path)?),
        };
        items.insert(name, Item { path, len, blob });
    }
    Ok(items)
}

/// The content of a file that is no weight file.
fn small(path: &Path) -> Result<Vec<u8>, ImportError> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut content));
    read.map_err(|error| write_error(path, error))?;
    Ok(content)
}

fn digest(path: &Path, len: u64, progress: &mut dyn FnMut(Progress)) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(hub::hex(&hash.finalize()));
        }
        hash.update(&piece[..read]);
        done += read as u64;
        progress(Progress {
            doing: "reading",
            done,
            total: len,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::cache::CacheIndex;
    use crate::model::kind::Kind;
    use crate::model::safetensors::{Dtype, header_for};

    /// A sentence encoder without numbers worth a look.
    fn encoder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("1_Pooling")).expect("a folder");
        let config = json!({"model_type": "bert", "hidden_size": 4, "num_attention_heads": 2,
            "intermediate_size": 8, "vocab_size": 10, "num_hidden_layers": 1,
            "max_position_embeddings": 64});
        let modules = json!([
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]);
        let shape = [2];
        let mut weights = header_for([("w", Dtype::F32, &shape[..])].into_iter());
        weights.extend([0; 8]);
        for (name, content) in [
            ("config.json", config.to_string().into_bytes()),
            ("modules.json", modules.to_string().into_bytes()),
            (
                "1_Pooling/config.json",
                json!({"pooling_mode": "mean"}).to_string().into(),
            ),
            (
                "sentence_bert_config.json",
                json!({"max_seq_length": 32}).to_string().into(),
            ),
            ("tokenizer.json", b"{}".to_vec()),
            ("model.safetensors", weights),
            ("training.py", b"print()".to_vec()),
            (".gitattributes", b"x".to_vec()),
        ] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        dir
    }

    #[test]
    fn a_folder_becomes_a_whole_snapshot_once() {
        let (folder, cache) = (encoder(), tempfile::tempdir().expect("a folder"));
        let id = ModelId::parse("a/encoder").expect("an id");
        let bring = || import(folder.path(), &id, cache.path(), &mut |_| {}).expect("imported");
        let imported = bring();
        assert!(!imported.already && bring().already);
        assert!(imported.weight_bytes > 8);
        for name in ["training.py", ".gitattributes"] {
            assert!(!imported.snapshot.join(name).exists(), "{name}");
        }
        let rules = Rules {
            architectures: supported_architectures(),
            trust_remote_code: false,
        };
        let index = CacheIndex::scan(&[cache.path().to_owned()], rules);
        let found = index.models().next().expect("a model");
        let manifest = found.state.as_ref().expect("whole");
        assert_eq!(
            (manifest.kind, manifest.context),
            (Kind::Embeddings, Some(32))
        );
        let pooling = imported.snapshot.join("1_Pooling/config.json");
        assert!(pooling.is_symlink() && pooling.is_file());
    }

    #[test]
    fn what_is_not_whole_is_not_taken() {
        let (folder, cache) = (encoder(), tempfile::tempdir().expect("a folder"));
        fs::remove_file(folder.path().join("1_Pooling/config.json")).expect("removed");
        let id = ModelId::parse("a/encoder").expect("an id");
        let refused = import(folder.path(), &id, cache.path(), &mut |_| {});
        let message = refused.expect_err("refused").to_string();
        assert!(message.contains("1_Pooling/config.json"), "{message}");
        assert_eq!(fs::read_dir(cache.path()).expect("a folder").count(), 0);
    }
}
