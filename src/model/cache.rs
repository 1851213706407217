//! The index of the Hugging Face cache folders: which ids are there, in the
//! spelling that is on disk, and what is known of each. Scanning never fails:
//! what cannot be served is in the index with its reason. Nothing is written.
//! A second scan looks only at what has changed since the first.

pub mod fingerprint;
mod memory;
mod revision;
mod size;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::id::ModelId;
use super::manifest::adapter::{self, AdapterManifest};
use super::manifest::foreign::{self, Given, Wanted};
use super::manifest::{self, Manifest, Reason, Rules};
use memory::{Judged, Memory};
use size::Size;

/// Most threads that look at repositories at once: it is the disk that is waited for.
const MOST_THREADS: usize = 8;

/// Fewest repositories that are worth a thread.
const WORTH_A_THREAD: usize = 32;

/// What the cache folders hold.
#[derive(Debug, Clone)]
pub struct CacheIndex {
    models: BTreeMap<ModelId, Arc<CachedModel>>,
    /// What lies in the folders and is no model that could be served.
    pub strangers: Vec<Stranger>,
    rules: Rules,
    memory: Memory,
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
        let nothing = Self {
            models: BTreeMap::new(),
            strangers: Vec::new(),
            rules,
            memory: Memory::new(),
        };
        nothing.scan_again(roots)
    }

    /// Looks through cache folders by the same rules, and again only at those
    /// repositories in which something has changed since this index was made.
    pub fn scan_again(&self, roots: &[PathBuf]) -> Self {
        self.scan_at(roots, SystemTime::now())
    }

    /// The same at a moment.
    fn scan_at(&self, roots: &[PathBuf], now: SystemTime) -> Self {
        let mut index = Self {
            models: BTreeMap::new(),
            strangers: Vec::new(),
            rules: self.rules,
            memory: Memory::new(),
        };
        for root in roots {
            index.scan_root(root, &self.memory, now);
        }
        index
    }

    /// Every cached model, sorted by id.
    pub fn models(&self) -> impl Iterator<Item = &CachedModel> {
        self.models.values().map(Arc::as_ref)
    }

    /// The model of exactly this id: no letter case is folded, and no file system
    /// that folds it is asked.
    pub fn get(&self, id: &ModelId) -> Option<&CachedModel> {
        self.models.get(id).map(Arc::as_ref)
    }

    /// The snapshot of a model at a branch, tag or commit, or at what the index
    /// holds, by the index's rules or by others. Nothing if the model is not cached.
    /// Reads the disk for a revision, and where other rules would judge otherwise.
    pub fn snapshot(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        rules: &Rules,
    ) -> Option<Result<Manifest, Reason>> {
        let model = self.get(id)?;
        let is_untrusted = matches!(model.state, Err(Reason::UntrustedCode(_)));
        let is_known = !is_untrusted || *rules == self.rules;
        let is_indexed = revision.is_none() || revision == model.commit.as_deref();
        Some(match revision {
            _ if is_indexed && is_known => model.state.clone(),
            _ => revision::resolve(&model.repository, revision)
                .and_then(|commit| manifest::inspect_snapshot(&model.repository, &commit, rules)),
        })
    }

    /// What a snapshot of a model holds for an engine that is not ours. Nothing if the
    /// model is not cached. Reads the disk.
    pub fn given(
        &self,
        id: &ModelId,
        revision: Option<&str>,
        wanted: Wanted,
    ) -> Option<Result<Given, Reason>> {
        let repository = &self.get(id)?.repository;
        let commit = revision::resolve(repository, revision);
        Some(commit.and_then(|commit| foreign::inspect_snapshot(repository, &commit, wanted)))
    }

    /// What a snapshot of a repository holds as an adapter. Nothing if it is not cached.
    /// Reads the disk.
    pub fn adapter(
        &self,
        id: &ModelId,
        revision: Option<&str>,
    ) -> Option<Result<AdapterManifest, Reason>> {
        let repository = &self.get(id)?.repository;
        let commit = revision::resolve(repository, revision);
        Some(commit.and_then(|commit| adapter::inspect_snapshot(repository, &commit)))
    }

    fn scan_root(&mut self, root: &Path, memory: &Memory, now: SystemTime) {
        // Opened once: what lies below is asked about from here.
        let listed = fs::read_dir(root).and_then(|entries| Ok((entries, File::open(root)?)));
        let (entries, opened) = match listed {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.leave_out(root, format!("could not be read: {error}")),
        };
        let mut repositories = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => repositories.extend(self.repository(&entry)),
                Err(error) => self.leave_out(root, format!("could not be read: {error}")),
            }
        }
        let place = Root {
            path: root,
            real: fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()),
            opened,
        };
        let rules = self.rules;
        let known = memory.get(root);
        let look = |(id, is_folder): &(ModelId, bool)| {
            let judged = known.filter(|_| *is_folder).and_then(|known| known.get(id));
            match judged {
                Some(judged) if judged.still_holds(&place.opened) => judged.clone(),
                _ => look_at(id.clone(), &place, &rules, now),
            }
        };
        let mut known = HashMap::with_capacity(repositories.len());
        for judged in look_at_all(&repositories, &look) {
            known.insert(judged.model.id.clone(), judged.clone());
            self.take_in(judged.model);
        }
        self.memory.insert(root.to_owned(), known);
    }

    /// The id that an entry of a cache folder stands for, and whether it is a folder.
    /// Its name is the spelling on disk.
    fn repository(&mut self, entry: &fs::DirEntry) -> Option<(ModelId, bool)> {
        let name = entry.file_name();
        let name = name.to_str().filter(|name| name.starts_with("models--"))?;
        let id = ModelId::from_folder(name);
        if id.is_none() {
            let why = "its name is not models--org--repo with a valid id".to_owned();
            self.leave_out(&entry.path(), why);
        }
        Some((id?, entry.file_type().is_ok_and(|kind| kind.is_dir())))
    }

    /// Adds a repository, unless an earlier cache folder has its id.
    fn take_in(&mut self, found: Arc<CachedModel>) {
        let before = self.models.get(&found.id);
        if before.is_some_and(|before| before.state.is_ok() || found.state.is_err()) {
            let why = "an earlier cache folder has it".to_owned();
            return self.leave_out(&found.repository, why);
        }
        let passed = self.models.insert(found.id.clone(), found);
        if let Some(passed) = passed {
            let why = "another cache folder has it whole".to_owned();
            self.leave_out(&passed.repository, why);
        }
    }

    fn leave_out(&mut self, path: &Path, why: String) {
        self.strangers.push(Stranger {
            path: path.to_owned(),
            why,
        });
    }
}

/// Looks at repositories, on a few threads where there are many. The answers are in
/// the order of the questions.
fn look_at_all<Q: Sync>(questions: &[Q], look: &(impl Fn(&Q) -> Judged + Sync)) -> Vec<Judged> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let worth = questions.len().div_ceil(WORTH_A_THREAD);
    let threads = processors.min(MOST_THREADS).min(worth);
    if threads <= 1 {
        return questions.iter().map(look).collect();
    }
    std::thread::scope(|scope| {
        let parts = questions.chunks(questions.len().div_ceil(threads));
        let threads: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(look).collect::<Vec<_>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| {
                let answers = thread.join();
                answers.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// A cache folder that is being looked through.
struct Root<'p> {
    /// As it was named.
    path: &'p Path,
    /// Without links.
    real: PathBuf,
    opened: File,
}

/// Looks at one repository.
fn look_at(id: ModelId, root: &Root<'_>, rules: &Rules, now: SystemTime) -> Judged {
    let repository = root.path.join(id.folder());
    // A link here could give one model's folder a second id, past `deny`.
    let refusal = match fs::symlink_metadata(&repository) {
        Ok(found) if found.is_dir() => None,
        Ok(found) if found.is_symlink() => Some(Reason::UnsafeLink {
            file: "its folder".to_owned(),
            problem: "leads out of the cache folder",
        }),
        _ => Some(Reason::NoSnapshot),
    };
    // That the repository itself is a folder is seen when the cache folder is listed.
    let mut places = Vec::new();
    let (commit, state, size) = match refusal {
        Some(reason) => (None, Err(reason), 0),
        None => {
            let commit = revision::resolve(&repository, None);
            let state = commit.clone().and_then(|commit| {
                let real = root.real.join(id.folder());
                let judgement = manifest::judge_snapshot(&real, &commit, rules);
                places.extend(judgement.files);
                judgement.state
            });
            let size = Size::of(&repository);
            // Each by name: a link in the place of one is not gone into.
            places.extend(["blobs", "snapshots", "refs", "refs/main"].map(PathBuf::from));
            places.extend(size.folders);
            (commit.ok(), state, size.bytes)
        }
    };
    let model = CachedModel {
        id,
        repository,
        commit,
        size,
        state,
    };
    Judged::new(model, places, &root.opened, now)
}

#[cfg(test)]
mod tests;
