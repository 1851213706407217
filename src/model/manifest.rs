//! What a snapshot folder holds, and whether it can be served: every weight
//! file there with the length its header says, configuration and tokenizer
//! there, no link that leaves the repository, no code, an architecture that the
//! engine has. Weights are not read, templates and tokenizers not parsed.

pub mod adapter;
mod config;
pub mod foreign;
mod lengths;
mod links;
mod reason;
mod shards;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use lengths::lengths;
use links::Place;
pub use reason::Reason;

use crate::engine::scripted;
use crate::model::json;
use crate::model::kind::{Architectures, Kind};
use crate::model::safetensors::stand_in;
use crate::model::sentence::{MODULES, Recipe, RecipeError};

/// What a snapshot is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The architectures that the engine has.
    pub architectures: Architectures,
    /// Whether a model that comes with code of its own may be served.
    pub trust_remote_code: bool,
}

/// A snapshot that can be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The snapshot folder.
    pub dir: PathBuf,
    /// Its commit, where it is one of a cache.
    pub commit: Option<String>,
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// `architectures` of `config.json`.
    pub architectures: Vec<String>,
    /// What it is for.
    pub kind: Kind,
    /// Whether its network is a decoder: no token sees one after it.
    pub is_decoder: bool,
    /// Whether it is a play for the scripted engine.
    pub scripted: bool,
    /// Most tokens of a sequence, as the checkpoint says.
    pub context: Option<u32>,
    /// The measures of the network; a play has none.
    pub geometry: Option<Geometry>,
    /// The weight files. A play may have none.
    pub weight_files: Vec<WeightFile>,
    /// Bytes of all tensors, or what a play says it will touch.
    pub weight_bytes: u64,
    /// Of these, bytes in 16-bit float formats.
    pub half_bytes: u64,
    /// The common numbers of quantised weights.
    pub quantization: Option<Quantization>,
    /// Whether it comes with a chat template.
    pub has_chat_template: bool,
    /// When the snapshot folder was last changed.
    pub modified: Option<SystemTime>,
}

/// A weight file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Its name in the snapshot.
    pub name: String,
    /// Its length, bytes.
    pub len: u64,
}

/// The measures of a network that memory follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Numbers that stand for one token between layers.
    pub hidden: u64,
    /// Numbers inside the feed-forward part of a layer.
    pub intermediate: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Layers.
    pub layers: u64,
    /// Heads of queries.
    pub heads: u64,
    /// Heads that have keys and values of their own.
    pub kv_heads: u64,
    /// Numbers of one head.
    pub head_dim: u64,
    /// Rows of a head that a cache keeps of a token: its key and its value, or one that
    /// is both.
    pub kept: u64,
    /// Numbers that layers which convolve instead of attending keep of a token, all
    /// together; they are not among `layers`.
    pub convolved: u64,
    /// Numbers of matrices that are unpacked at load, whatever their form on disk.
    pub unpacked: u64,
    /// Experts that a token takes in a layer that has them; 0 if none has.
    pub experts: u64,
    /// Numbers inside one expert.
    pub expert_intermediate: u64,
    /// Attention scores are bent to stay within a cap.
    pub caps_scores: bool,
}

/// How quantised weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits of a weight.
    pub bits: u32,
    /// Weights that share a scale.
    pub group_size: u32,
}

/// A snapshot's state, and what that rests on.
#[derive(Debug)]
pub struct Judgement {
    /// What it holds, or why it is not served.
    pub state: Result<Manifest, Reason>,
    /// The files that were looked into, from the repository's folder on.
    pub files: Vec<PathBuf>,
}

/// Inspects a snapshot of a repository in a cache: `repository` is the folder
/// `models--org--name`, which no link of the snapshot may leave; its path has no links.
pub fn judge_snapshot(repository: &Path, commit: &str, rules: &Rules) -> Judgement {
    let place = match Place::of_commit(repository, commit) {
        Ok(place) => place,
        Err(reason) => {
            return Judgement {
                state: Err(reason),
                files: Vec::new(),
            };
        }
    };
    let unfinished = || unfinished_blobs(repository);
    Judgement {
        state: inspect(&place, Some(commit), &unfinished, rules),
        files: place.files(),
    }
}

/// The same without what it rests on, by any path of the repository.
pub fn inspect_snapshot(
    repository: &Path,
    commit: &str,
    rules: &Rules,
) -> Result<Manifest, Reason> {
    let repository = fs::canonicalize(repository).map_err(|_| Reason::NoSnapshot)?;
    judge_snapshot(&repository, commit, rules).state
}

/// Inspects a folder outside a cache. If it is the snapshot of a repository after
/// all, it is inspected as one.
pub fn inspect_folder(dir: &Path, rules: &Rules) -> Result<Manifest, Reason> {
    let real = fs::canonicalize(dir).map_err(|_| Reason::NoSnapshot)?;
    if let Some((repository, commit)) = snapshot_of(&real) {
        return inspect_snapshot(repository, commit, rules);
    }
    let place = Place::new(&real, &real)?;
    inspect(&place, None, &|| 0, rules)
}

fn inspect(
    place: &Place,
    commit: Option<&str>,
    unfinished: &dyn Fn() -> usize,
    rules: &Rules,
) -> Result<Manifest, Reason> {
    let mut missing = Vec::new();
    let Some(config) = needed(place, "config.json", &mut missing)? else {
        return Err(Reason::Missing {
            files: missing,
            unfinished: unfinished(),
        });
    };
    let config = config::read(&config, rules.trust_remote_code)?;
    let scripted = config.model_type == scripted::MODEL_TYPE;
    // A bad link is told; those of other files are looked at with the recipe.
    place.file(MODULES)?;
    let made = Recipe::made(&|name| place.file(name).ok().flatten());
    let kind = Kind::of(&config.model_type, made, rules.architectures);
    let supported = kind.made_by(made, rules.architectures);
    if !scripted && !supported.clone().any(|name| name == config.model_type) {
        return Err(Reason::Architecture {
            found: config.model_type.chars().take(100).collect(),
            purpose: reason::purpose(kind, made),
            supported: supported.map(str::to_owned).collect(),
        });
    }
    if !scripted && config.geometry.is_none() {
        return Err(Reason::BadFile {
            file: "config.json".to_owned(),
            problem: "lacks measures of the network".to_owned(),
        });
    }
    let script = match scripted {
        true => needed(place, scripted::SCRIPT, &mut missing)?,
        false => {
            needed(place, "tokenizer.json", &mut missing)?;
            None
        }
    };
    let most = match kind != Kind::Chat && !scripted {
        true => recipe(place, &mut missing)?.and_then(|recipe| recipe.tokens),
        false => None,
    };
    let weights = match scripted && !has_weights(place) {
        true => shards::Weights::default(),
        false => shards::read(place, &mut missing)?,
    };
    if !missing.is_empty() {
        return Err(Reason::Missing {
            files: missing,
            unfinished: unfinished(),
        });
    }
    Ok(Manifest {
        dir: place.dir.clone(),
        commit: commit.map(str::to_owned),
        is_decoder: Kind::Chat
            .made_by(None, rules.architectures)
            .any(|name| name == config.model_type),
        model_type: config.model_type,
        architectures: config.architectures,
        kind,
        scripted,
        context: match (config.context, most) {
            (Some(context), Some(most)) => Some(context.min(most)),
            (context, most) => context.or(most),
        },
        geometry: config.geometry,
        weight_bytes: weights.bytes + script.map_or(0, |path| touched(&path)),
        half_bytes: weights.half_bytes,
        weight_files: weights.files,
        quantization: config.quantization,
        has_chat_template: has_chat_template(place)?,
        modified: fs::metadata(&place.dir).and_then(|m| m.modified()).ok(),
    })
}

/// A file that has to be there and have content of its own.
fn needed(place: &Place, name: &str, missing: &mut Vec<String>) -> Result<Option<PathBuf>, Reason> {
    let found = place.file(name)?;
    let Some(path) = &found else {
        missing.push(name.to_owned());
        return Ok(None);
    };
    let start = json::start_of(path).map_err(|problem| Reason::BadFile {
        file: name.to_owned(),
        problem,
    })?;
    if start.is_empty() {
        missing.push(format!("{name} (empty)"));
        return Ok(None);
    }
    match stand_in(&start) {
        Some(what) => Err(Reason::BadFile {
            file: name.to_owned(),
            problem: format!("is {what}"),
        }),
        None => Ok(found),
    }
}

/// How the vectors of a model for embeddings are made.
fn recipe(place: &Place, missing: &mut Vec<String>) -> Result<Option<Recipe>, Reason> {
    // Links were looked at before.
    match Recipe::read(&|name| place.file(name).ok().flatten()) {
        Ok(recipe) => Ok(Some(recipe)),
        Err(RecipeError::Missing(file)) => {
            missing.push(file);
            Ok(None)
        }
        Err(RecipeError::Bad { file, problem }) => Err(Reason::BadFile { file, problem }),
    }
}

/// Whether a play comes with weight files, which are then held to the same rules.
fn has_weights(place: &Place) -> bool {
    place.names().any(|name| name.contains(".safetensors"))
}

/// The memory a play says it will touch, bytes. One that cannot be read is for
/// the worker to refuse.
fn touched(path: &Path) -> u64 {
    let script = json::read_file(path, 1 << 20).and_then(|bytes| json::parse(&bytes));
    script
        .ok()
        .and_then(|script| script.get("memory_bytes")?.as_u64())
        .unwrap_or(0)
}

fn has_chat_template(place: &Place) -> Result<bool, Reason> {
    if place.file("chat_template.jinja")?.is_some() || place.file("chat_template.json")?.is_some() {
        return Ok(true);
    }
    Ok(place
        .file("tokenizer_config.json")?
        .is_some_and(|path| config::has_chat_template(&path)))
}

/// The repository and the commit, if a folder is `models--…/snapshots/<commit>`.
fn snapshot_of(dir: &Path) -> Option<(&Path, &str)> {
    let commit = dir.file_name()?.to_str()?;
    let snapshots = dir.parent()?;
    let repository = snapshots.parent()?;
    let is_one = snapshots.file_name()? == "snapshots"
        && repository.file_name()?.to_str()?.starts_with("models--");
    is_one.then_some((repository, commit))
}

/// Downloads that were begun and not finished.
fn unfinished_blobs(repository: &Path) -> usize {
    let Ok(entries) = fs::read_dir(repository.join("blobs")) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".incomplete"))
        .count()
}

#[cfg(test)]
pub(in crate::model) mod fixture;
#[cfg(test)]
mod tests;
