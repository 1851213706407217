//! Cache trees for tests, laid out as the hub's client lays them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Manifest, Reason, Rules, inspect_snapshot};
use crate::model::kind::Kind;
use crate::model::safetensors::{Dtype, header_for};

/// The commit of every tree.
pub(in crate::model) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the engine of the tests has.
pub(in crate::model) const RULES: Rules = Rules {
    architectures: &[
        ("llama", Kind::Chat),
        ("mistral", Kind::Chat),
        ("bert", Kind::Embeddings),
    ],
    trust_remote_code: false,
};

/// A repository in a cache folder that lasts as long as this value.
pub(in crate::model) struct Tree {
    root: tempfile::TempDir,
    repository: PathBuf,
}

impl Tree {
    /// A complete model `good/model` of one weight file.
    pub(in crate::model) fn complete() -> Self {
        let tree = Self::empty();
        tree.put("config.json", config().to_string().as_bytes());
        tree.put("tokenizer.json", b"{}");
        tree.put("model.safetensors", &weights(&["a", "b"]));
        tree.refer("main", COMMIT);
        tree
    }

    /// A repository without files.
    pub(in crate::model) fn empty() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let repository = root.path().join("models--good--model");
        for folder in ["blobs", "refs", &format!("snapshots/{COMMIT}")] {
            fs::create_dir_all(repository.join(folder)).expect("a folder");
        }
        Self { root, repository }
    }

    pub(in crate::model) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(in crate::model) fn repository(&self) -> &Path {
        &self.repository
    }

    pub(in crate::model) fn snapshot(&self) -> PathBuf {
        self.repository.join("snapshots").join(COMMIT)
    }

    /// A blob with a link to it.
    pub(in crate::model) fn put(&self, name: &str, content: &[u8]) {
        let blob = format!("blob-of-{name}");
        fs::write(self.repository.join("blobs").join(&blob), content).expect("written");
        self.link(name, &format!("../../blobs/{blob}"));
    }

    /// A link of the snapshot, replacing what was there.
    pub(in crate::model) fn link(&self, name: &str, target: &str) {
        let link = self.snapshot().join(name);
        let _ = fs::remove_file(&link);
        symlink(target, link).expect("linked");
    }

    pub(in crate::model) fn remove(&self, name: &str) {
        fs::remove_file(self.snapshot().join(name)).expect("removed");
    }

    pub(in crate::model) fn refer(&self, name: &str, commit: &str) {
        fs::write(self.repository.join("refs").join(name), commit).expect("written");
    }

    pub(in crate::model) fn inspect(&self) -> Result<Manifest, Reason> {
        inspect_snapshot(&self.repository, COMMIT, &RULES)
    }
}

/// A configuration with all that is needed.
pub(in crate::model) fn config() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 512,
    })
}

/// A weight file with tensors of these names, 64 bytes each.
pub(in crate::model) fn weights(names: &[&str]) -> Vec<u8> {
    let shape = [4_u64, 4];
    let mut file = header_for(names.iter().map(|name| (*name, Dtype::F32, &shape[..])));
    file.resize(file.len() + 64 * names.len(), 7);
    file
}
