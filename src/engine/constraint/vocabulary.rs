//! A model's tokens as llguidance sees them: the bytes of each, in a trie. Special
//! tokens are marked, so that no text of a grammar is ever made with one.

use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::ConstraintError;
use crate::engine::tokenizer::Tokenizer;

/// A text that shows whether the tokenizer leaves texts as they are: what JSON begins
/// with, spaces in a row, and letters of several bytes.
const PROBE: &str = "{\"a\":  [1.5, \"é\\n\"]}";

/// The tokens.
pub(super) struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
    /// Whether the tokens of a text have the bytes of the text.
    is_exact: bool,
}

impl Vocabulary {
    /// The tokens of a tokenizer.
    ///
    /// # Errors
    /// [`ConstraintError::Unsupported`] if text is not the bytes of its tokens, or
    /// nothing ends an answer.
    pub(super) fn of(tokenizer: Arc<Tokenizer>) -> Result<Self, ConstraintError> {
        let unsupported = |reason: &str| ConstraintError::Unsupported(reason.to_owned());
        if !tokenizer.is_bytewise() {
            return Err(unsupported("its tokens do not tell their bytes"));
        }
        let highest = tokenizer.highest();
        let highest = highest.ok_or_else(|| unsupported("it has no tokens"))?;
        let known = |token: &&u32| **token <= highest;
        let ends: Vec<u32> = tokenizer
            .end_tokens()
            .iter()
            .filter(known)
            .copied()
            .collect();
        let first = *ends
            .first()
            .ok_or_else(|| unsupported("no token ends its answers"))?;
        let words: Vec<Vec<u8>> = (0..=highest).map(|token| word(&tokenizer, token)).collect();
        let info = TokRxInfo::new(highest + 1, first);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let tokens = tokenizer.encode(PROBE, false).unwrap_or_default();
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| tokenizer.token_bytes(*token))
            .collect();
        Ok(Self {
            trie,
            is_exact: bytes == PROBE.as_bytes(),
            tokenizer,
        })
    }
}

/// The bytes of a token, with the mark of special ones; none for an id without a token.
fn word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(token);
    if !tokenizer.is_special(token) || bytes.is_empty() {
        return bytes;
    }
    let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    marked.extend(bytes);
    marked
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(text, |text| {
            let tokens = self.tokenizer.encode(text, false);
            tokens.unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    // Text that a grammar leaves no choice about is then made of the tokens that the
    // model has learnt it in.
    fn tokenize_is_canonical(&self) -> bool {
        self.is_exact
    }
}
