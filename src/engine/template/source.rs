//! Where a model keeps its chat template and the special tokens that it uses.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::Value;

use crate::engine::tokenizer::{TextError, read_json, read_text, token_word};

/// The special tokens that transformers hands to a template under these names.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The templates by name, `default` among them; `None` if the model has none.
pub(super) fn templates(dir: &Path) -> Result<Option<BTreeMap<String, String>>, TextError> {
    if let Some(text) = read_text(dir, "chat_template.jinja")? {
        let mut found = BTreeMap::from([("default".to_owned(), text)]);
        // Named ones lie beside it, one file each.
        if let Some(text) = read_text(dir, "additional_chat_templates/tool_use.jinja")? {
            found.insert("tool_use".to_owned(), text);
        }
        return Ok(Some(found));
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let Some(config) = read_json(dir, file)? else {
            continue;
        };
        let found = match &config["chat_template"] {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => {
                BTreeMap::from([("default".to_owned(), text.clone())])
            }
            named => by_name(named).ok_or_else(|| TextError::BadFile {
                file: file.to_owned(),
                reason: "chat_template: expected a text, or a list of {name, template} \
                         with one named default"
                    .to_owned(),
            })?,
        };
        return Ok(Some(found));
    }
    Ok(None)
}

/// A list of named templates.
fn by_name(named: &serde_json::Value) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in named.as_array()? {
        let (name, text) = (entry["name"].as_str()?, entry["template"].as_str()?);
        found.insert(name.to_owned(), text.to_owned());
    }
    found.contains_key("default").then_some(found)
}

/// The special tokens of `tokenizer_config.json`, else of `special_tokens_map.json`. A
/// token that the model has not is left out: undefined in the template.
pub(super) fn special_tokens(dir: &Path) -> Result<BTreeMap<String, Value>, TextError> {
    let mut tokens = BTreeMap::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let Some(config) = read_json(dir, file)? else {
            continue;
        };
        for name in NAMES {
            if let Some(word) = token_word(&config[name]) {
                tokens.insert(name.to_owned(), Value::from(word));
            }
        }
    }
    Ok(tokens)
}
