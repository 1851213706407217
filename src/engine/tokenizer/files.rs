//! The small files around a tokenizer, read with bounds: they come from strangers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::Value;

use super::TextError;

/// The largest file that is read, in bytes. The largest tokenizers of today have 35 MB.
const LARGEST: u64 = 256 << 20;

/// The content of a text file of the snapshot; `None` if it is not there.
pub(in crate::engine) fn read_text(dir: &Path, file: &str) -> Result<Option<String>, TextError> {
    let bad = |reason: String| TextError::BadFile {
        file: file.to_owned(),
        reason,
    };
    let opened = match File::open(dir.join(file)) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad(error.to_string())),
    };
    let mut text = String::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    opened
        .take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(|error| bad(error.to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(bad(format!("longer than {} MiB", LARGEST >> 20)));
    }
    Ok(Some(text))
}

/// A JSON file of the snapshot; `None` if it is not there.
pub(in crate::engine) fn read_json(dir: &Path, file: &str) -> Result<Option<Value>, TextError> {
    let Some(text) = read_text(dir, file)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| TextError::BadFile {
            file: file.to_owned(),
            reason: error.to_string(),
        })
}

/// The tokens that end an answer, as mlx-lm gathers them: `eos_token_id` of
/// `generation_config.json`, else of `config.json` (one number or a list), and the
/// `eos_token` of `tokenizer_config.json`.
pub(super) fn end_tokens(
    dir: &Path,
    tokenizer: &tokenizers::Tokenizer,
) -> Result<Vec<u32>, TextError> {
    let mut tokens = BTreeSet::new();
    for file in ["generation_config.json", "config.json"] {
        let Some(config) = read_json(dir, file)? else {
            continue;
        };
        // A model that also sees keeps the language model's settings one level down.
        let ids = [
            &config["eos_token_id"],
            &config["text_config"]["eos_token_id"],
        ];
        tokens.extend(ids.into_iter().flat_map(ids_of));
        if !tokens.is_empty() {
            break;
        }
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(config) = read_json(dir, file)? else {
            continue;
        };
        if let Some(word) = token_word(&config["eos_token"]) {
            tokens.extend(tokenizer.token_to_id(word));
            break;
        }
    }
    Ok(tokens.into_iter().collect())
}

/// One number or a list of them.
fn ids_of(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        value => id(value).into_iter().collect(),
    }
}

/// A special token is written as its text or as an object with `content`.
pub(in crate::engine) fn token_word(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
