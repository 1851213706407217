//! SentencePiece BPE, `tokenizer.ggml.model` llama: merges from scores, bytes
//! for what the vocabulary has no piece for.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::ImportError;
use super::{BYTE, CONTROL, UNKNOWN, vocabulary};
use crate::model::gguf::metadata::Metadata;

/// How a space is written inside a piece.
const SPACE: &str = "\u{2581}";

/// The file without added tokens and post-processor; a text begins with the
/// first token unless the metadata says otherwise.
pub(super) fn tokenizer(
    metadata: &Metadata,
    tokens: &[String],
    kinds: &[i64],
) -> Result<(Value, bool), ImportError> {
    let scores = metadata
        .floats("tokenizer.ggml.scores")?
        .ok_or(ImportError::MissingMetadata("tokenizer.ggml.scores"))?;
    if scores.len() != tokens.len() || kinds.len() != tokens.len() {
        let text = format!("{} tokens with {} scores", tokens.len(), scores.len());
        return Err(ImportError::Tokenizer(text));
    }
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN);
    let prefix = metadata
        .bool("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let file = json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers(prefix)},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders(prefix)},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| &tokens[id]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary(tokens)?,
            "merges": merges(tokens, kinds, scores),
        },
    });
    Ok((file, true))
}

fn normalizers(prefix: bool) -> Vec<Value> {
    let mut list = Vec::new();
    if prefix {
        list.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    list.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
    list
}

fn decoders(prefix: bool) -> Vec<Value> {
    let mut list = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        list.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    list
}

/// Every way to cut a piece into two pieces, best piece first: SentencePiece
/// joins the neighbours that make the piece with the highest score.
fn merges(tokens: &[String], kinds: &[i64], scores: &[f64]) -> Vec<[String; 2]> {
    let is_piece = |id: usize| !matches!(kinds[id], UNKNOWN | CONTROL | BYTE);
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| is_piece(*id))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut cuts = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)) {
        let borders = token.char_indices().map(|(at, _)| at).filter(|at| *at > 0);
        let mut local: Vec<_> = borders
            .filter_map(|at| {
                let (left, right) = token.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?, at))
            })
            .collect();
        local.sort_unstable();
        cuts.extend(local.into_iter().map(|(_, _, at)| (id, at)));
    }
    // Stable: cuts of one score stay in the order in which they were found.
    cuts.sort_by(|a, b| {
        let key = |cut: &(usize, usize)| {
            let (left, right) = tokens[cut.0].split_at(cut.1);
            Reverse((left.chars().count(), right.chars().count()))
        };
        scores[b.0]
            .total_cmp(&scores[a.0])
            .then_with(|| key(a).cmp(&key(b)))
    });
    cuts.into_iter()
        .map(|(id, at)| {
            let (left, right) = tokens[id].split_at(at);
            [left.to_owned(), right.to_owned()]
        })
        .collect()
}
