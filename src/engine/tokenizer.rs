//! Text to tokens and back: a thin layer over the crate `tokenizers`, which reads
//! `tokenizer.json` as it is. What is added here is what serving needs: the tokens
//! that end an answer, and what one token alone stands for. Text that grows token by
//! token is the detokenizer's.

mod description;
mod files;
pub mod pairs;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;
use std::path::Path;

pub(super) use files::{read_json, read_text, token_word};

use super::detokenizer::{pieces::Pieces, text::Growing};

/// Why text could not become tokens, tokens text, or messages a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A file of the snapshot is missing or broken.
    #[error("{file}: {reason}")]
    BadFile {
        /// The file inside the snapshot.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer refused the text.
    #[error("the text could not be tokenised: {0}")]
    Encode(String),
    /// The tokenizer refused the tokens.
    #[error("the tokens could not be turned into text: {0}")]
    Decode(String),
    /// The chat template refused the messages: what it raised, or where it failed on
    /// them. The caller's request is at fault.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// The chat template itself is broken or asks for more than it may have. The model
    /// is at fault.
    #[error("the chat template is unusable: {0}")]
    BadTemplate(String),
}

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    end: Vec<u32>,
    /// How the text of tokens becomes text; `None` if only the whole tells.
    pieces: Option<Pieces>,
}

impl Tokenizer {
    /// Reads the tokenizer of the snapshot in `dir`: `tokenizer.json`, and for the end
    /// tokens `generation_config.json`, else `config.json`, and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`TextError::BadFile`] if `tokenizer.json` is missing or any of them is broken.
    pub fn load(dir: &Path) -> Result<Self, TextError> {
        let text = read_text(dir, "tokenizer.json")?.ok_or_else(|| TextError::BadFile {
            file: "tokenizer.json".to_owned(),
            reason: "not in the snapshot; a tokenizer in this form is needed".to_owned(),
        })?;
        let bad = |reason: String| TextError::BadFile {
            file: "tokenizer.json".to_owned(),
            reason,
        };
        let mut inner = match description::read(&text) {
            Some(inner) => inner,
            None => text
                .parse()
                .map_err(|error: tokenizers::Error| bad(error.to_string()))?,
        };
        // Both belong to training; a prompt is neither cut nor filled up in silence.
        inner
            .with_truncation(None)
            .map_err(|error| bad(error.to_string()))?;
        inner.with_padding(None);
        let mut tokenizer = Self::from_inner(inner);
        tokenizer.end = files::end_tokens(dir, &tokenizer.inner)?;
        Ok(tokenizer)
    }

    /// A tokenizer without end tokens.
    fn from_inner(inner: tokenizers::Tokenizer) -> Self {
        let special = inner
            .get_added_tokens_decoder()
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| *id)
            .collect();
        let pieces = Pieces::of(inner.get_decoder());
        Self {
            inner,
            special,
            end: Vec::new(),
            pieces,
        }
    }

    /// The tokens of `text`; with `add_special_tokens` also those that the tokenizer
    /// puts around a text (a chat template writes them itself).
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TextError::Encode(error.to_string()))
    }

    /// The text of `tokens`. Tokens that are not in the vocabulary have none.
    ///
    /// Where a byte-fallback tokenizer leaves bytes that are no text, those bytes
    /// become U+FFFD; the crate would spoil the good characters beside them too.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's own decoder fails.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String, TextError> {
        let Some(pieces) = &self.pieces else {
            return self.decode_whole(tokens, skip_special);
        };
        let mut text = Growing::default();
        let mut out = String::new();
        for token in tokens {
            if let Some(word) = self.word(*token, skip_special) {
                out.push_str(&text.push(pieces, &word));
            }
        }
        out.push_str(&text.finish(pieces));
        Ok(out)
    }

    /// As [`Self::decode`], by the crate's own decoder.
    pub(super) fn decode_whole(
        &self,
        tokens: &[u32],
        skip_special: bool,
    ) -> Result<String, TextError> {
        let known: Vec<u32> = tokens
            .iter()
            .copied()
            .filter(|token| self.word(*token, skip_special).is_some())
            .collect();
        // Some decoders of the crate cannot bear an empty list.
        if known.is_empty() {
            return Ok(String::new());
        }
        self.inner
            .decode(&known, false)
            .map_err(|error| TextError::Decode(error.to_string()))
    }

    /// The tokens that end an answer, lowest first; may be empty.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end
    }

    /// The id of a token by its text in the vocabulary, such as `<|im_end|>`.
    pub fn token_id(&self, word: &str) -> Option<u32> {
        self.inner.token_to_id(word)
    }

    /// Whether the token steers the model rather than being text.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// What the token alone reads like: OpenAI's `token` beside a log-probability.
    /// Half a character reads as U+FFFD; [`Self::token_bytes`] tells its bytes.
    pub fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(token)).into_owned()
    }

    /// The bytes that the token adds to a text: OpenAI's `bytes` beside a
    /// log-probability. Empty for a token that is not in the vocabulary.
    pub fn token_bytes(&self, token: u32) -> Vec<u8> {
        let Some(word) = self.inner.id_to_token(token) else {
            return Vec::new();
        };
        match &self.pieces {
            Some(pieces) => pieces.bytes(&word),
            None => word.into_bytes(),
        }
    }

    /// Whether the text of tokens is what [`Self::token_bytes`] tells of each, one after
    /// the other: what a grammar over bytes needs. A space that some tokenizers leave out
    /// at the start of a text is no matter.
    pub fn is_bytewise(&self) -> bool {
        let pieces = self.pieces.as_ref();
        pieces.is_some_and(Pieces::is_bytewise)
    }

    /// The highest token there is, ids without one below it included.
    pub fn highest(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// How many tokens there are. A network's row of logits is often longer, filled up
    /// to a round number.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// How the tokens' texts become one text, if that can be told token by token.
    pub(super) fn pieces(&self) -> Option<&Pieces> {
        self.pieces.as_ref()
    }

    /// The token's text in the vocabulary, unless it is to be skipped or unknown.
    pub(super) fn word(&self, token: u32, skip_special: bool) -> Option<String> {
        if skip_special && self.special.contains(&token) {
            return None;
        }
        self.inner.id_to_token(token)
    }
}
