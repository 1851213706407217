//! Byte-level BPE, `tokenizer.ggml.model` gpt2: the pre-tokenizer by its name.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::ImportError;
use crate::model::gguf::metadata::Metadata;

/// Llama 3: words, up to three digits, punctuation with its line ends.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2: as Llama 3 with single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's Tekken: words are cut where lower case turns to upper.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What stands before the merges.
struct Before {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Whole words of the vocabulary are taken without looking at merges.
    ignore_merges: bool,
    add_bos: bool,
}

/// The file without added tokens and post-processor, and whether a text begins
/// with the first token unless the metadata says otherwise.
pub(super) fn tokenizer(
    metadata: &Metadata,
    tokens: &[String],
) -> Result<(Value, bool), ImportError> {
    let name = metadata
        .text("tokenizer.ggml.pre")?
        .ok_or(ImportError::MissingMetadata("tokenizer.ggml.pre"))?;
    let before = before(name).ok_or_else(|| {
        ImportError::Tokenizer(format!("the pre-tokenizer {name:?} is not known"))
    })?;
    let decoder = json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
    });
    let file = json!({
        "normalizer": before.normalizer,
        "pre_tokenizer": before.pre_tokenizer,
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": before.ignore_merges,
            "vocab": super::vocabulary(tokens)?,
            "merges": merges(metadata, tokens)?,
        },
    });
    Ok((file, before.add_bos))
}

/// The pre-tokenizer of that name. Source: the table of names and regular
/// expressions in llama.cpp's `llama-vocab.cpp`.
fn before(name: &str) -> Option<Before> {
    let plain = |pre_tokenizer: Value| Before {
        normalizer: Value::Null,
        pre_tokenizer,
        ignore_merges: false,
        add_bos: false,
    };
    Some(match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "gigachat" => plain(byte_level(true)),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(json!({
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)],
            }))
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" => Before {
            ignore_merges: true,
            add_bos: true,
            ..plain(split(LLAMA3))
        },
        "qwen2" | "deepseek-r1-qwen" | "megrez" => Before {
            normalizer: json!({"type": "NFC"}),
            ..plain(split(QWEN2))
        },
        "tekken" => Before {
            ignore_merges: true,
            ..plain(split(TEKKEN))
        },
        _ => return None,
    })
}

/// Bytes as visible letters, with GPT-2's own splitting before or not.
fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": use_regex,
    })
}

/// Splitting by a regular expression, then bytes as letters.
fn split(regex: &str) -> Value {
    json!({
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ],
    })
}

/// The merges as pairs; both halves and what they make have to be tokens.
fn merges(metadata: &Metadata, tokens: &[String]) -> Result<Vec<Value>, ImportError> {
    let merges = metadata
        .texts("tokenizer.ggml.merges")?
        .ok_or(ImportError::MissingMetadata("tokenizer.ggml.merges"))?;
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    merges
        .iter()
        .map(|merge| {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                [*left, *right, &format!("{left}{right}")]
                    .iter()
                    .all(|part| known.contains(part))
            });
            match pair {
                Some((left, right)) => Ok(json!([left, right])),
                None => Err(ImportError::Tokenizer(format!(
                    "the merge {merge:?} is not of two tokens that make a third"
                ))),
            }
        })
        .collect()
}
