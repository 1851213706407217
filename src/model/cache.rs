//! The index of the Hugging Face cache folders: which ids are there, in the
//! spelling that is on disk, and what is known of each. Scanning never fails:
//! what cannot be served is in the index with its reason. Nothing is written.

pub mod fingerprint;
mod revision;
mod size;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::id::ModelId;
use super::manifest::{self, Manifest, Reason, Rules};

/// What the cache folders hold.
#[derive(Debug, Clone)]
pub struct CacheIndex {
    models: BTreeMap<ModelId, CachedModel>,
    /// What lies in the folders and is no model that could be served.
    pub strangers: Vec<Stranger>,
    rules: Rules,
}

/// A repository in a cache folder.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedModel {
    /// Its id, spelled as on disk.
    pub id: ModelId,
    /// Its folder, `…/models--org--repo`.
    pub repository: PathBuf,
    /// The commit that a request without a revision gets, where one is found.
    pub commit: Option<String>,
    /// Bytes on disk; blobs that several snapshots share count once.
    pub size: u64,
    /// What that commit holds, or why it is not served.
    pub state: Result<Manifest, Reason>,
}

/// An entry of a cache folder that is no model, or a folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Where it is.
    pub path: PathBuf,
    /// Why it is left out.
    pub why: String,
}

impl CacheIndex {
    /// Looks through the cache folders. If two have the same id, the first that
    /// can be served wins. A folder that is not there is an empty one.
    pub fn scan(roots: &[PathBuf], rules: Rules) -> Self {
        let mut index = Self {
            models: BTreeMap::new(),
            strangers: Vec::new(),
            rules,
        };
        for root in roots {
            index.scan_root(root);
        }
        index
    }

    /// Every cached model, sorted by id.
    pub fn models(&self) -> impl Iterator<Item = &CachedModel> {
        self.models.values()
    }

    /// The model of exactly this id: no letter case is folded, and no file system
    /// that folds it is asked.
    pub fn get(&self, id: &ModelId) -> Option<&CachedModel> {
        self.models.get(id)
    }

    /// The snapshot of a model at a branch, tag or commit, or at what the index
    /// holds. Nothing if the model is not cached. Reads the disk for a revision.
    pub fn snapshot(
        &self,
        id: &ModelId,
        revision: Option<&str>,
    ) -> Option<Result<Manifest, Reason>> {
        let model = self.get(id)?;
        Some(match revision {
            None => model.state.clone(),
            Some(_) => revision::resolve(&model.repository, revision).and_then(|commit| {
                manifest::inspect_snapshot(&model.repository, &commit, &self.rules)
            }),
        })
    }

    /// The rules that snapshots are held against.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn scan_root(&mut self, root: &Path) {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.leave_out(root, format!("could not be read: {error}")),
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.scan_entry(&entry),
                Err(error) => self.leave_out(root, format!("could not be read: {error}")),
            }
        }
    }

    /// One entry of a cache folder. Its name is the spelling on disk.
    fn scan_entry(&mut self, entry: &fs::DirEntry) {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("models--")) else {
            return;
        };
        let Some(id) = ModelId::from_folder(name) else {
            let why = "its name is not models--org--repo with a valid id".to_owned();
            return self.leave_out(&entry.path(), why);
        };
        let found = look_at(id, &entry.path(), &self.rules);
        match self.models.get(&found.id) {
            Some(before) if before.state.is_ok() || found.state.is_err() => {
                self.leave_out(&entry.path(), "an earlier cache folder has it".to_owned());
            }
            _ => {
                self.models.insert(found.id.clone(), found);
            }
        }
    }

    fn leave_out(&mut self, path: &Path, why: String) {
        self.strangers.push(Stranger {
            path: path.to_owned(),
            why,
        });
    }
}

/// Looks at one repository.
fn look_at(id: ModelId, repository: &Path, rules: &Rules) -> CachedModel {
    let refused = |reason| CachedModel {
        id: id.clone(),
        repository: repository.to_owned(),
        commit: None,
        size: 0,
        state: Err(reason),
    };
    // A link here could give one model's folder a second id, past `deny`.
    match fs::symlink_metadata(repository) {
        Ok(found) if found.is_dir() => {}
        Ok(found) if found.is_symlink() => {
            return refused(Reason::UnsafeLink {
                file: "its folder".to_owned(),
                problem: "leads out of the cache folder",
            });
        }
        _ => return refused(Reason::NoSnapshot),
    }
    let commit = revision::resolve(repository, None);
    CachedModel {
        state: commit
            .clone()
            .and_then(|commit| manifest::inspect_snapshot(repository, &commit, rules)),
        commit: commit.ok(),
        size: size::on_disk(repository),
        repository: repository.to_owned(),
        id,
    }
}

#[cfg(test)]
mod tests;
