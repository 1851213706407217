//! What was probably meant by a key that is not known, or by a value that is no
//! section. Pure. A misspelt key is read as the one it resembles, so that what is
//! wrong below it is told in the same go.

use std::collections::HashMap;

use super::values::quoted;
use crate::config::file::{Node, Value};
use crate::config::keys::{self, NAME};
use crate::config::problem::Place;
use crate::config::suggest;

/// Keys of other programs, and what to write here instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("host", "server.listen, such as 127.0.0.1:11440"),
    ("port", "server.listen, such as 127.0.0.1:11440"),
    ("bind", "server.listen, such as 127.0.0.1:11440"),
    (
        "model",
        "models.NAME.repo, or models.NAME.path for a folder",
    ),
    ("model_path", "models.NAME.path"),
    ("model_dir", "models.NAME.path"),
    ("hf_repo", "models.NAME.repo"),
    ("ttl", "models.NAME.idle_unload, such as 10m"),
    (
        "keep_alive",
        "models.NAME.idle_unload, such as 10m, or keep: always",
    ),
    ("max_model_len", "models.NAME.context"),
    ("max_context", "models.NAME.context"),
    ("ctx_size", "models.NAME.context"),
    ("num_ctx", "models.NAME.context"),
    ("n_ctx", "models.NAME.context"),
    ("dtype", "models.NAME.compute"),
    ("served_model_name", "models.NAME.aliases"),
    ("concurrency", "models.NAME.parallel"),
    ("max_num_seqs", "models.NAME.parallel"),
    ("log_level", "log"),
    ("timeout", "server.limits.first_token or pool.queue_timeout"),
    ("cors", "server.allowed_origins"),
];

/// Keys that would hold a secret, which never stands in the file.
const SECRETS: &[&str] = &[
    "api_key", "api_keys", "key", "keys", "token", "tokens", "password",
];

/// Shortest piece by which a key is known.
const PIECE: usize = 3;

/// Most unknown keys for which a known one is looked for: more than are told, so that a
/// file of nothing else costs no noticeable time.
const MOST_SOUGHT: usize = 200;

/// Renames misspelt keys to what they resemble. Answers the tree and what was
/// written at the places that were changed.
pub fn rename(mut root: Node) -> (Node, HashMap<Place, String>) {
    let (mut renamed, mut left) = (HashMap::new(), MOST_SOUGHT);
    section(&mut root, "", &mut renamed, &mut left);
    (root, renamed)
}

/// One mapping and those below it; `path` is its path in the table of keys.
fn section(node: &mut Node, path: &str, renamed: &mut HashMap<Place, String>, left: &mut usize) {
    let Value::Map(pairs) = &mut node.value else {
        return;
    };
    let known = keys::children(path);
    if known.is_empty() {
        return;
    }
    let written: Vec<String> = pairs.iter().map(|pair| pair.key.clone()).collect();
    for pair in pairs {
        if known != [NAME] && !known.contains(&pair.key.as_str()) && *left > 0 {
            *left -= 1;
            let near = nearest(&pair.key, &known);
            // One that is there as well was not meant by this.
            if let Some(near) = near.filter(|near| !written.iter().any(|key| key == near)) {
                let written = std::mem::replace(&mut pair.key, near.to_owned());
                renamed.insert(pair.place, written);
            }
        }
        let name = match known.as_slice() {
            [NAME] => NAME,
            _ => pair.key.as_str(),
        };
        let below = match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        section(&mut pair.node, &below, renamed, left);
    }
}

/// The known key that a key resembles: by slips, by case and marks, or by its beginning.
fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    // Blanks that do not show, such as a non-breaking one, are part of a key.
    let written = written.trim();
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let same = known.iter().find(|key| plain(key) == plain(written));
    same.copied()
        .or_else(|| suggest::nearest(written, known.iter().copied()))
        .or_else(|| {
            let begins = |key: &&&str| written.len() >= PIECE && key.starts_with(written);
            known.iter().find(begins).copied()
        })
}

/// What to do about an unknown key of the section `shown`.
pub fn help(written: &str, shown: &str, known: &[&str]) -> String {
    if written.chars().any(|c| c.is_whitespace() && c != ' ') {
        return "there is a blank in it that is no plain one, such as a non-breaking blank; \
                write plain ones"
            .to_owned();
    }
    let plain = written.replace('-', "_").to_ascii_lowercase();
    if let Some(nearest) = nearest(written, known) {
        return format!("did you mean {nearest:?}");
    }
    if SECRETS.contains(&plain.as_str()) {
        if shown.starts_with("upstreams.") {
            return "write key_env or key_file: where the key lies, never the key itself"
                .to_owned();
        }
        return "keys are made by `roundhouse keys new` and never stand in this file".to_owned();
    }
    if let Some((_, place)) = ELSEWHERE.iter().find(|(key, _)| *key == plain) {
        // The name of the entry at hand, where it is one.
        let place = match shown.starts_with("models.") {
            true => place.replace(&format!("models.{NAME}."), ""),
            false => (*place).to_owned(),
        };
        return format!("write {place}");
    }
    match keys::elsewhere(written).as_slice() {
        [] => format!("expected one of {}", known.join(", ")),
        paths => format!("it belongs at {}", paths.join(" or ")),
    }
}

/// What to do about a value where keys with values are expected.
pub fn value(path: &str, node: &Node) -> Option<String> {
    match (path, &node.value) {
        ("models", Value::List { .. }) => {
            Some("write each model as a key, without the dash: org/name: {}".to_owned())
        }
        ("models", Value::Text(text)) => Some(format!("write it as a key: {}: {{}}", plain(text)?)),
        ("server", Value::Text(text)) => {
            Some(format!("write server: {{listen: {}}}", plain(text)?))
        }
        (_, Value::Text(text)) if text.contains('\u{a0}') => {
            Some("there is a non-breaking blank in it; write a plain one".to_owned())
        }
        ("", Value::List { .. }) => {
            Some("write allow: before the list, or models: with each model as a key".to_owned())
        }
        ("", Value::Text(text)) => Some(match text.split_once(':') {
            Some((key, rest)) if !rest.starts_with(' ') => format!(
                "write a blank after the colon: {}: {}",
                plain(key)?,
                plain(rest)?
            ),
            _ => format!("write allow: [{}]", quoted(text)),
        }),
        (path, Value::Text(text)) if path.starts_with("models.") => {
            let key = match text.starts_with(['/', '~', '.']) {
                true => "path",
                false => "repo",
            };
            Some(format!("write {{{key}: {}}}", plain(text)?))
        }
        (path, _) => match keys::children(path).as_slice() {
            [] | [NAME] => None,
            known => Some(format!("its keys are {}", known.join(", "))),
        },
    }
}

/// A short text that can be repeated as it is.
fn plain(text: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:/-~*".contains(c);
    (text.len() <= 100 && text.chars().all(fits)).then_some(text)
}
