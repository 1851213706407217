//! Tokens to text as they come; never half a character. What has been pushed plus
//! what `finish` answers is what [`Tokenizer::decode`] says of all tokens together.
//! It knows no stop strings.
//!
//! Each token costs its own length: the decoder is run piece by piece. Only for
//! decoders that cannot be run so (none of today's generating models has one) a short
//! window of tokens is decoded again.

pub(super) mod pieces;
#[cfg(test)]
mod tests;
pub(super) mod text;

use std::sync::Arc;

use super::tokenizer::Tokenizer;

/// The text of one sequence while it grows.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// Special tokens that are told all the same.
    kept: Vec<u32>,
    /// Used if the decoder tells text token by token.
    text: text::Growing,
    /// Used if it does not.
    window: Window,
}

impl Detokenizer {
    /// A detokenizer whose text leaves special tokens out.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self::with_special(tokenizer, true)
    }

    /// A detokenizer that tells of special tokens these `marks` alone, as far as there
    /// are such: some models write tool calls with them.
    pub fn with_marks(tokenizer: Arc<Tokenizer>, marks: &[&str]) -> Self {
        let kept = marks.iter().filter_map(|mark| tokenizer.token_id(mark));
        Self {
            kept: kept.collect(),
            ..Self::new(tokenizer)
        }
    }

    /// A detokenizer that, with `skip_special` off, also tells the special tokens.
    pub fn with_special(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            kept: Vec::new(),
            text: text::Growing::default(),
            window: Window::default(),
        }
    }

    /// Takes in a token and answers the text that is certain now; often empty.
    pub fn push(&mut self, token: u32) -> String {
        let skip_special = self.skip_special && !self.kept.contains(&token);
        let Some(word) = self.tokenizer.word(token, skip_special) else {
            return String::new();
        };
        match self.tokenizer.pieces() {
            Some(pieces) => self.text.push(pieces, &word),
            None => self.window.push(&self.tokenizer, token),
        }
    }

    /// The tokens have ended: what was held back. Half a character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        match self.tokenizer.pieces() {
            Some(pieces) => self.text.finish(pieces),
            None => self.window.finish(&self.tokenizer),
        }
    }
}

/// For decoders that only tell of a whole: the last tokens are decoded with and
/// without the new one, and the difference is what is new.
#[derive(Debug, Default)]
struct Window {
    tokens: Vec<u32>,
    /// How many of the tokens have been told; they stay as surroundings of the next.
    told: usize,
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        self.tokens.push(token);
        let new = self.new_text(tokenizer);
        if new.is_empty() || new.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        self.tokens.drain(..self.told);
        self.told = self.tokens.len();
        new
    }

    fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        let new = self.new_text(tokenizer);
        self.told = self.tokens.len();
        new
    }

    /// What the tokens not yet told add to the text. Tokens that the decoder refuses
    /// add nothing.
    fn new_text(&self, tokenizer: &Tokenizer) -> String {
        let text = |tokens| tokenizer.decode_whole(tokens, false).unwrap_or_default();
        let before = text(&self.tokens[..self.told]);
        let all = text(&self.tokens[..]);
        all.get(before.len()..).unwrap_or_default().to_owned()
    }
}
