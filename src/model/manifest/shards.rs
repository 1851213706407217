//! Which weight files a snapshot has to have, and what their headers say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::links::Place;
use super::{Reason, WeightFile};
use crate::model::json;
use crate::model::safetensors::{Dtype, SafetensorsError, survey};

/// Largest index file, bytes.
const LARGEST_INDEX: u64 = 32 << 20;

/// The one weight file of a snapshot that is not cut.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weight files and their bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Weights {
    pub(super) files: Vec<WeightFile>,
    /// Bytes of all tensors.
    pub(super) bytes: u64,
    /// Of these, bytes in 16-bit float formats.
    pub(super) half_bytes: u64,
}

/// Names of the files that have to be there, and the tensors that the index
/// places in each.
type Wanted = BTreeMap<String, Vec<String>>;

/// Reads the headers of every weight file. Names that are missing are added to
/// `missing`; the rest is checked all the same.
pub(super) fn read(place: &Place, missing: &mut Vec<String>) -> Result<Weights, Reason> {
    let mut weights = Weights::default();
    let mut room = Vec::new();
    for (name, tensors) in wanted(place)? {
        let Some(path) = place.file(&name)? else {
            missing.push(name);
            continue;
        };
        let mut promised: BTreeSet<&[u8]> = tensors.iter().map(String::as_bytes).collect();
        let surveyed = survey(&path, &mut room, |tensor, dtype, len| {
            promised.remove(tensor);
            weights.bytes += len;
            if matches!(dtype, Dtype::F16 | Dtype::Bf16) {
                weights.half_bytes += len;
            }
        });
        let len = match surveyed {
            Ok(len) => len,
            Err(SafetensorsError::Empty) => {
                missing.push(format!("{name} (empty)"));
                continue;
            }
            Err(error @ SafetensorsError::FileLength { .. }) => {
                return Err(Reason::Cut { file: name, error });
            }
            Err(error) => return Err(Reason::Weights { file: name, error }),
        };
        // What the index promises has to be in the file it names.
        if let Some(tensor) = promised.first() {
            return Err(Reason::Tensor {
                tensor: String::from_utf8_lossy(tensor).into_owned(),
                file: name,
            });
        }
        weights.files.push(WeightFile { name, len });
    }
    Ok(weights)
}

/// The files by the index; without one the single file, or all that the
/// numbering of those that are there asks for.
fn wanted(place: &Place) -> Result<Wanted, Reason> {
    let single = || Wanted::from([(SINGLE.to_owned(), Vec::new())]);
    if let Some(path) = place.file(INDEX)? {
        let wanted = index(&path)?;
        // An index that was left behind when the weights were joined into one file.
        let stale = !wanted.contains_key(SINGLE)
            && place.file(SINGLE)?.is_some()
            && wanted.keys().all(|name| !place.dir.join(name).exists());
        return Ok(if stale { single() } else { wanted });
    }
    match numbered(place) {
        Some(names) if place.file(SINGLE)?.is_none() => {
            Ok(names.into_iter().map(|name| (name, Vec::new())).collect())
        }
        _ => Ok(single()),
    }
}

/// Reads the index: each tensor's file, turned round.
fn index(path: &Path) -> Result<Wanted, Reason> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |problem: String| Reason::BadFile {
        file: INDEX.to_owned(),
        problem,
    };
    let bytes = json::read_file(path, LARGEST_INDEX).map_err(bad)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| bad(format!("is not a valid index: {error}")))?;
    if index.weight_map.is_empty() {
        return Err(bad("names no weights".to_owned()));
    }
    let mut wanted = Wanted::new();
    for (tensor, file) in index.weight_map {
        if !is_plain(&file) {
            let shown: String = file.chars().take(100).collect();
            return Err(bad(format!(
                "names the file {shown:?}, expected a plain name"
            )));
        }
        wanted.entry(file).or_default().push(tensor);
    }
    Ok(wanted)
}

/// All names of a series `model-00001-of-0000N.safetensors` of which some are there.
fn numbered(place: &Place) -> Option<BTreeSet<String>> {
    let count = place.names().filter_map(count_of).max()?;
    Some(
        (1..=count)
            .map(|number| format!("model-{number:05}-of-{count:05}.safetensors"))
            .collect(),
    )
}

/// `N` of `model-00001-of-0000N.safetensors`.
fn count_of(name: &str) -> Option<u32> {
    let (_, count) = name
        .strip_prefix("model-")?
        .strip_suffix(".safetensors")?
        .split_once("-of-")?;
    // Five digits, so that a series has no end that nobody could write.
    (count.len() == 5).then(|| count.parse().ok()).flatten()
}

/// A name without folders that ends as weight files do.
fn is_plain(name: &str) -> bool {
    name.len() <= 255
        && name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
