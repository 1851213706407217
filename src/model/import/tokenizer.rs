//! `tokenizer.json` and its companions from a GGUF's metadata.
//!
//! Sources: the pre-tokenizers by name in llama.cpp's `llama-vocab.cpp`; the
//! form of the file from the `tokenizers` library; merges of SentencePiece
//! models from scores as `generate_merges` in transformers.

mod bytelevel;
mod sentencepiece;

use serde_json::{Value, json};

use super::ImportError;
use crate::model::gguf::metadata::Metadata;

/// Kinds of token: `llama_token_type` in llama.cpp's `llama.h`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// Tokens that end a turn of a chat, by the names their models give them.
const TURN_ENDS: [&str; 5] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
];

/// What the metadata says of the tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer<'a> {
    tokens: &'a [String],
    kinds: &'a [i64],
    bos: Option<usize>,
    eos: Option<usize>,
    unknown: Option<usize>,
    padding: Option<usize>,
    add_bos: bool,
    add_eos: bool,
    chat_template: Option<&'a str>,
    context: u64,
    file: Value,
}

impl<'a> Tokenizer<'a> {
    /// Reads and checks it. `rows` is the size of the embedding.
    pub(super) fn read(
        metadata: &'a Metadata,
        rows: u64,
        context: u64,
    ) -> Result<Self, ImportError> {
        let missing = ImportError::MissingMetadata;
        let tokens = metadata
            .texts("tokenizer.ggml.tokens")?
            .ok_or(missing("tokenizer.ggml.tokens"))?;
        let kinds = metadata
            .integers("tokenizer.ggml.token_type")?
            .unwrap_or_default();
        if tokens.len() as u64 > rows || (!kinds.is_empty() && kinds.len() != tokens.len()) {
            return Err(ImportError::Tokenizer(format!(
                "{} tokens with {} kinds for an embedding of {rows} rows",
                tokens.len(),
                kinds.len()
            )));
        }
        let special = |key: &str| -> Result<Option<usize>, ImportError> {
            let id = metadata.unsigned(key)?.map(|id| id as usize);
            match id {
                Some(id) if id >= tokens.len() => Err(ImportError::Tokenizer(format!(
                    "{key} is {id} with {} tokens",
                    tokens.len()
                ))),
                id => Ok(id),
            }
        };
        let model = metadata
            .text("tokenizer.ggml.model")?
            .ok_or(missing("tokenizer.ggml.model"))?;
        let (file, add_bos) = match model {
            "gpt2" => bytelevel::tokenizer(metadata, tokens)?,
            "llama" => sentencepiece::tokenizer(metadata, tokens, kinds)?,
            other => {
                let text = format!("expected tokenizer.ggml.model gpt2 or llama, found {other:?}");
                return Err(ImportError::Tokenizer(text));
            }
        };
        Ok(Self {
            tokens,
            kinds,
            bos: special("tokenizer.ggml.bos_token_id")?,
            eos: special("tokenizer.ggml.eos_token_id")?,
            unknown: special("tokenizer.ggml.unknown_token_id")?,
            padding: special("tokenizer.ggml.padding_token_id")?,
            add_bos: metadata
                .bool("tokenizer.ggml.add_bos_token")?
                .unwrap_or(add_bos),
            add_eos: metadata
                .bool("tokenizer.ggml.add_eos_token")?
                .unwrap_or(false),
            chat_template: metadata.text("tokenizer.chat_template")?,
            context,
            file,
        })
    }

    /// `tokenizer.json`
    pub(super) fn json(&self) -> Value {
        let added: Vec<_> = self
            .kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(id, kind)| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect();
        let mut file = self.file.clone();
        file["version"] = "1.0".into();
        file["truncation"] = Value::Null;
        file["padding"] = Value::Null;
        file["added_tokens"] = added.into();
        file["post_processor"] = self.post_processor();
        file
    }

    /// `tokenizer_config.json`
    pub(super) fn config(&self) -> Value {
        json!({
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            "bos_token": self.text(self.bos),
            "chat_template": self.chat_template,
            "clean_up_tokenization_spaces": false,
            "eos_token": self.text(self.eos),
            "model_max_length": self.context,
            "pad_token": self.text(self.padding),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": self.text(self.unknown),
        })
    }

    /// `special_tokens_map.json`
    pub(super) fn special_tokens(&self) -> Value {
        let mut map = json!({});
        for (name, id) in [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ] {
            if let Some(text) = self.text(id) {
                map[name] = text.into();
            }
        }
        map
    }

    /// `generation_config.json`: every token that ends an answer.
    pub(super) fn generation(&self) -> Value {
        let ends = self.ends();
        let eos = match ends.as_slice() {
            [one] => json!(one),
            _ => json!(ends),
        };
        json!({
            "_from_model_config": true,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
            "pad_token_id": self.padding,
        })
    }

    /// The ids that `config.json` repeats.
    pub(super) fn ids(&self) -> [(&'static str, Option<usize>); 3] {
        [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("pad_token_id", self.padding),
        ]
    }

    /// The end token, and the end of a turn where the chat template writes another.
    fn ends(&self) -> Vec<usize> {
        let template = self.chat_template.unwrap_or_default();
        let turn = self.tokens.iter().enumerate().filter_map(|(id, token)| {
            let ends = self.kinds.get(id) == Some(&CONTROL)
                && TURN_ENDS.contains(&token.as_str())
                && template.contains(token.as_str());
            ends.then_some(id)
        });
        let mut ends: Vec<_> = self.eos.into_iter().collect();
        for id in turn {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    fn text(&self, id: Option<usize>) -> Option<&str> {
        id.map(|id| self.tokens[id].as_str())
    }

    /// Puts the first and last token around a text where the model wants them.
    fn post_processor(&self) -> Value {
        let first = self.bos.filter(|_| self.add_bos);
        let last = self.eos.filter(|_| self.add_eos);
        if first.is_none() && last.is_none() {
            return Value::Null;
        }
        let token = |id: Option<usize>, sequence: usize| {
            self.text(id)
                .map(|text| json!({"SpecialToken": {"id": text, "type_id": sequence}}))
        };
        let around = |name: &str, sequence: usize| {
            let body = json!({"Sequence": {"id": name, "type_id": sequence}});
            [token(first, sequence), Some(body), token(last, sequence)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        let mut special = json!({});
        for id in [first, last].into_iter().flatten() {
            let text = &self.tokens[id];
            special[text] = json!({"id": text, "ids": [id], "tokens": [text]});
        }
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": special,
        })
    }
}

/// The vocabulary as the file wants it: token to id. A token that is there
/// twice would take the place of the other in silence.
fn vocabulary(tokens: &[String]) -> Result<Value, ImportError> {
    let mut map = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if map.insert(token.clone(), id.into()).is_some() {
            let text = format!("the token {token:?} is there twice");
            return Err(ImportError::Tokenizer(text));
        }
    }
    Ok(Value::Object(map))
}
