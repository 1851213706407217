//! Whether two snapshots have the same tokens: what one model guesses for another has to
//! mean the same to both. Reads `tokenizer.json` as the tokenizers library writes it
//! (`model.vocab`, `added_tokens`), nothing else of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::json;

/// The file with the tokens.
const FILE: &str = "tokenizer.json";

/// The largest file that is read, bytes.
const LARGEST: u64 = 256 << 20;

/// How the tokens of two snapshots differ, or why nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Not as many.
    #[error("it has {draft} tokens, and the model has {model}")]
    Count {
        /// Of the draft model.
        draft: usize,
        /// Of the model that it would guess for.
        model: usize,
    },
    /// One number stands for different texts.
    #[error("its token {id} is {draft:?}, and the model's is {model:?}")]
    Token {
        /// The number.
        id: u64,
        /// What it stands for in the draft model.
        draft: String,
        /// In the model; empty if it has no such token.
        model: String,
    },
    /// A file is not what it should be.
    #[error("{FILE} {0}")]
    File(String),
}

/// Whether the snapshot in `draft` has the tokens of that in `model`. Reads both files.
///
/// # Errors
/// The first difference.
pub fn same(model: &Path, draft: &Path) -> Result<(), Difference> {
    let read = |dir: &Path| json::read_file(&dir.join(FILE), LARGEST).map_err(Difference::File);
    let (model, draft) = (read(model)?, read(draft)?);
    if model == draft {
        return Ok(());
    }
    let (model, draft) = (tokens(&model)?, tokens(&draft)?);
    if model.len() != draft.len() {
        return Err(Difference::Count {
            draft: draft.len(),
            model: model.len(),
        });
    }
    let differs = |(id, text): &(u64, String)| model.get(id) != Some(text);
    match draft.into_iter().find(differs) {
        None => Ok(()),
        Some((id, draft)) => Err(Difference::Token {
            model: model.get(&id).cloned().unwrap_or_default(),
            id,
            draft,
        }),
    }
}

/// Tokens by their numbers.
fn tokens(text: &[u8]) -> Result<BTreeMap<u64, String>, Difference> {
    let bad = |reason: &str| Difference::File(reason.to_owned());
    let file: Value = serde_json::from_slice(text).map_err(|error| bad(&error.to_string()))?;
    let mut tokens = BTreeMap::new();
    match &file["model"]["vocab"] {
        Value::Object(vocabulary) => {
            let known = vocabulary.iter();
            tokens.extend(known.filter_map(|(text, id)| Some((id.as_u64()?, text.clone()))));
        }
        // Texts with their scores, in the order of their numbers.
        Value::Array(vocabulary) => {
            let known = (0u64..).zip(vocabulary);
            tokens.extend(known.filter_map(|(id, token)| Some((id, token[0].as_str()?.into()))));
        }
        _ => return Err(bad("has no vocabulary")),
    }
    let added = file["added_tokens"].as_array().into_iter().flatten();
    tokens.extend(
        added.filter_map(|token| Some((token["id"].as_u64()?, token["content"].as_str()?.into()))),
    );
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(file: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(FILE), file).expect("written");
        dir
    }

    #[test]
    fn tokens_are_the_same_if_each_number_means_the_same() {
        let check = |model: Value, draft: Value, expected: Result<(), &str>| {
            let (model, draft) = (folder(&model.to_string()), folder(&draft.to_string()));
            let found = same(model.path(), draft.path()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned));
        };
        let two = json!({"model": {"vocab": {"a": 0, "b": 1}}});
        check(two.clone(), two.clone(), Ok(()));
        // How texts become tokens, and in which form the file has them, does not matter.
        let other =
            json!({"model": {"vocab": [["a", -1.0]]}, "added_tokens": [{"id": 1, "content": "b"}]});
        check(two.clone(), other, Ok(()));
        let swapped = json!({"model": {"vocab": {"b": 0, "a": 1}}});
        check(
            two.clone(),
            swapped,
            Err("its token 0 is \"b\", and the model's is \"a\""),
        );
        let more = json!({"model": {"vocab": {"a": 0, "b": 1, "c": 2}}});
        check(
            two.clone(),
            more,
            Err("it has 3 tokens, and the model has 2"),
        );
        check(two, json!({}), Err("tokenizer.json has no vocabulary"));
        let nothing = tempfile::tempdir().expect("a folder");
        let missing = same(nothing.path(), nothing.path());
        assert!(matches!(missing, Err(Difference::File(_))));
    }
}
