//! What a snapshot has to hold for an engine that is not ours: the files that its
//! command names, whole as far as one can see from outside. Whether it can run the
//! model is for the engine to say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::links::Place;
use super::{Reason, config, shards, snapshot_of, unfinished_blobs};
use crate::model::gguf::{self, GgufError};
use crate::model::json;
use crate::model::safetensors::stand_in;

/// Endings of weight files, the likeliest meant first.
const ENDINGS: [&str; 5] = ["gguf", "safetensors", "onnx", "bin", "pt"];

/// What a command takes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'e> {
    /// Nothing; what lies there is the engine's business.
    Nothing,
    /// The folder.
    Folder,
    /// One file: this one, or the only one that could be meant.
    File(Option<&'e str>),
}

/// A snapshot that an engine can be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The snapshot folder.
    pub dir: PathBuf,
    /// Its commit, where it is one of a cache.
    pub commit: Option<String>,
    /// The file, if one was wanted.
    pub file: Option<PathBuf>,
    /// Bytes of the weights; of all parts if they are cut into several files.
    pub weight_bytes: u64,
    /// Most tokens of a sequence, where the files say.
    pub context: Option<u32>,
    /// When the snapshot folder was last changed.
    pub modified: Option<SystemTime>,
}

/// Inspects a snapshot of a repository in a cache.
pub fn inspect_snapshot(repository: &Path, commit: &str, wanted: Wanted) -> Result<Given, Reason> {
    let place = Place::new(&repository.join("snapshots").join(commit), repository)?;
    let unfinished = || unfinished_blobs(repository);
    inspect(&place, Some(commit), &unfinished, wanted)
}

/// Inspects a folder outside a cache. If it is the snapshot of a repository after
/// all, it is inspected as one.
pub fn inspect_folder(dir: &Path, wanted: Wanted) -> Result<Given, Reason> {
    let real = fs::canonicalize(dir).map_err(|_| Reason::NoSnapshot)?;
    if let Some((repository, commit)) = snapshot_of(&real) {
        return inspect_snapshot(repository, commit, wanted);
    }
    let place = Place::new(&real, &real)?;
    inspect(&place, None, &|| 0, wanted)
}

fn inspect(
    place: &Place,
    commit: Option<&str>,
    unfinished: &dyn Fn() -> usize,
    wanted: Wanted,
) -> Result<Given, Reason> {
    let names = place.files_of_all_folders();
    let missing = |files| Reason::Missing {
        files,
        unfinished: unfinished(),
    };
    let (file, weight_bytes, context) = match wanted {
        Wanted::Nothing => (None, 0, None),
        Wanted::Folder => {
            let (bytes, context) = folder(place, &names, &missing)?;
            (None, bytes, context)
        }
        Wanted::File(named) => {
            let name = match named {
                Some(name) => name.to_owned(),
                None => only(&names).map_err(|several| {
                    several.unwrap_or_else(|| {
                        missing(vec![
                            "a file with weights (.gguf, .safetensors, .onnx, .bin, .pt)"
                                .to_owned(),
                        ])
                    })
                })?,
            };
            let parts = parts(&name).unwrap_or_else(|| vec![name.clone()]);
            let bytes = whole(place, &parts, &missing)?;
            let context = match name.ends_with(".gguf") {
                true => gguf_context(place, &name)?,
                false => None,
            };
            (Some(place.dir.join(&name)), bytes, context)
        }
    };
    Ok(Given {
        dir: place.dir.clone(),
        commit: commit.map(str::to_owned),
        file,
        weight_bytes,
        context,
        modified: fs::metadata(&place.dir).and_then(|m| m.modified()).ok(),
    })
}

/// A whole folder: every file there, and the weight files as long as they say.
fn folder(
    place: &Place,
    names: &[String],
    missing: &dyn Fn(Vec<String>) -> Reason,
) -> Result<(u64, Option<u32>), Reason> {
    if names.is_empty() {
        return Err(missing(vec!["every file".to_owned()]));
    }
    let all = whole(place, names, missing)?;
    let has = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let mut gone = Vec::new();
    let cut = match has(".safetensors") || has(".safetensors.index.json") {
        true => shards::read(place, &mut gone)?.bytes,
        false => 0,
    };
    // Files of other names are the engine's to know.
    gone.retain(|name| name != "model.safetensors");
    if !gone.is_empty() {
        return Err(missing(gone));
    }
    let weights: Vec<String> = names
        .iter()
        .filter(|name| ENDINGS.iter().any(|end| has_ending(name, end)))
        .cloned()
        .collect();
    let bytes = match (cut, weights.is_empty()) {
        (0, false) => whole(place, &weights, missing)?,
        (0, true) => all,
        (cut, _) => cut,
    };
    let says = place.file("config.json")?;
    let says = says.and_then(|path| config::read(&path, true).ok());
    Ok((bytes, says.and_then(|config| config.context)))
}

/// The bytes of files that all have to be there with content of their own.
fn whole(
    place: &Place,
    names: &[String],
    missing: &dyn Fn(Vec<String>) -> Reason,
) -> Result<u64, Reason> {
    let (mut bytes, mut gone) = (0_u64, Vec::new());
    for name in names {
        let Some(path) = place.file(name)? else {
            gone.push(name.clone());
            continue;
        };
        let bad = |problem: String| Reason::BadFile {
            file: name.clone(),
            problem,
        };
        if let Some(what) = stand_in(&json::start_of(&path).map_err(bad)?) {
            return Err(bad(format!("is {what}")));
        }
        let about = fs::metadata(&path).map_err(|error| bad(error.to_string()))?;
        bytes = bytes.saturating_add(about.len());
    }
    match gone.is_empty() {
        true => Ok(bytes),
        false => Err(missing(gone)),
    }
}

/// The one file that could be meant; an error without a reason if there is none.
fn only(names: &[String]) -> Result<String, Option<Reason>> {
    for ending in ENDINGS {
        let mut meant: Vec<&String> = names
            .iter()
            .filter(|name| has_ending(name, ending) && is_first_part(name) && !is_beside(name))
            .collect();
        meant.sort();
        match meant.as_slice() {
            [] => continue,
            [only] => return Ok((*only).clone()),
            several => {
                let files = several.iter().map(|name| (*name).clone()).collect();
                return Err(Some(Reason::Several { files }));
            }
        }
    }
    Err(None)
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end == ending)
}

/// What stands beside weights and is never meant alone: the eyes of a model that sees.
fn is_beside(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.starts_with("mmproj")
}

/// The name of a file cut into parts, the number of this one and of all, as
/// `gguf-split` and the hub write them: `model-00001-of-00003.gguf`.
fn cut(name: &str) -> Option<(&str, u32, u32, &str)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let (rest, all) = stem.rsplit_once("-of-")?;
    let (base, this) = rest.rsplit_once('-')?;
    let number = |digits: &str| (digits.len() == 5).then(|| digits.parse().ok())?;
    Some((base, number(this)?, number(all)?, ending))
}

fn is_first_part(name: &str) -> bool {
    cut(name).is_none_or(|(_, this, ..)| this == 1)
}

/// Every part of a file that is cut into some.
fn parts(name: &str) -> Option<Vec<String>> {
    let (base, _, all, ending) = cut(name)?;
    let part = |this: u32| format!("{base}-{this:05}-of-{all:05}.{ending}");
    Some((1..=all).map(part).collect())
}

/// The context that a GGUF file says; that it is one, and not cut off.
fn gguf_context(place: &Place, name: &str) -> Result<Option<u32>, Reason> {
    let Some(path) = place.file(name)? else {
        return Ok(None);
    };
    let header = match gguf::Header::open(&path) {
        Ok((header, _)) => header,
        Err(error @ (GgufError::Magic(_) | GgufError::Short(_))) => {
            return Err(Reason::BadFile {
                file: name.to_owned(),
                problem: format!("is no whole GGUF file: {error}"),
            });
        }
        // Newer than what is known here; the engine may know it.
        Err(_) => return Ok(None),
    };
    let says = header.metadata.text("general.architecture").ok().flatten();
    let context = says.and_then(|name| {
        let key = format!("{name}.context_length");
        header.metadata.unsigned(&key).ok().flatten()
    });
    Ok(context.and_then(|tokens| u32::try_from(tokens).ok()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{COMMIT, Tree};
    use super::*;

    fn inspect(tree: &Tree, wanted: Wanted) -> Result<Given, Reason> {
        inspect_snapshot(tree.repository(), COMMIT, wanted)
    }

    /// The smallest file that begins as GGUF does: version 3, no tensors, no metadata.
    fn gguf() -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.resize(24, 0);
        file
    }

    #[test]
    fn the_one_file_is_found_or_asked_for() {
        let check = |files: &[&str], named: Option<&str>, expected: Result<&str, &str>| {
            let tree = Tree::empty();
            for name in files {
                tree.put(name, &gguf());
            }
            let given = inspect(&tree, Wanted::File(named));
            match (given, expected) {
                (Ok(given), Ok(name)) => {
                    let file = given.file.expect("a file");
                    assert_eq!(file, given.dir.join(name), "{files:?}");
                }
                (Err(reason), Err(part)) => {
                    assert!(reason.to_string().contains(part), "{reason}");
                }
                (given, _) => panic!("{files:?} {named:?}: {given:?}"),
            }
        };
        check(&["a.gguf", "README.md"], None, Ok("a.gguf"));
        check(&["a.gguf", "mmproj-a.gguf"], None, Ok("a.gguf"));
        check(&["a.gguf", "b.bin"], None, Ok("a.gguf"));
        check(&["a.gguf", "b.gguf"], None, Err("a.gguf, b.gguf"));
        check(&["a.gguf", "b.gguf"], Some("b.gguf"), Ok("b.gguf"));
        check(
            &["a.gguf"],
            Some("c.gguf"),
            Err("incomplete: c.gguf is missing"),
        );
        check(&["README.md"], None, Err("a file with weights"));
        check(
            &["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
            None,
            Ok("m-00001-of-00002.gguf"),
        );
        check(
            &["m-00001-of-00002.gguf"],
            None,
            Err("m-00002-of-00002.gguf is missing"),
        );
    }

    #[test]
    fn what_is_no_whole_file_is_refused() {
        let check = |content: &[u8], part: &str| {
            let tree = Tree::empty();
            tree.put("a.gguf", content);
            let reason = inspect(&tree, Wanted::File(None)).expect_err("refused");
            assert!(reason.to_string().contains(part), "{reason}");
        };
        check(b"PK\x03\x04 an archive of something", "no whole GGUF file");
        check(b"<html>", "web page");
        check(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "pointer",
        );
        let tree = Tree::empty();
        tree.put("a.gguf", &gguf());
        tree.link("b.json", "../../blobs/never-finished");
        let reason = inspect(&tree, Wanted::Folder).expect_err("refused");
        assert!(reason.to_string().contains("b.json is missing"), "{reason}");
        assert!(inspect(&tree, Wanted::File(None)).is_ok(), "not asked for");
        tree.link("c.json", "/etc/passwd");
        let reason = inspect(&tree, Wanted::File(None)).expect_err("refused");
        assert_eq!(reason.code(), "unsafe_link");
    }

    #[test]
    fn a_folder_is_whole_without_what_only_our_engine_asks_for() {
        let tree = Tree::empty();
        tree.put("model.onnx", &[7; 100]);
        tree.put("voices.json", b"{}");
        let given = inspect(&tree, Wanted::Folder).expect("whole");
        assert_eq!((given.weight_bytes, given.file), (100, None));
        let complete = Tree::complete();
        let given = inspect(&complete, Wanted::Folder).expect("whole");
        assert_eq!((given.weight_bytes, given.context), (128, Some(512)));
        complete.put("model.safetensors", b"cut");
        assert!(inspect(&complete, Wanted::Folder).is_err());
        assert!(inspect(&Tree::empty(), Wanted::Folder).is_err());
        assert!(inspect(&Tree::empty(), Wanted::Nothing).is_ok());
    }
}
