//! Two texts as one row of tokens, as networks read it that compare them: put together by
//! the tokenizer's own template, and cut where that is too long.
//!
//! As transformers' tokenizers do it for a pair (`truncation="longest_first"`): the longer
//! of the two loses tokens first, the marks of the template none.

use std::path::Path;

use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{Encoding, PostProcessor};

use super::{TextError, Tokenizer, read_json};

/// What transformers calls the row that tells the two texts apart.
const TYPES: &str = "token_type_ids";

/// Makes pairs.
#[derive(Debug)]
pub struct Pairs {
    tokenizer: Tokenizer,
    most: usize,
    direction: TruncationDirection,
    has_types: bool,
}

/// The first text of pairs.
#[derive(Clone, Debug)]
pub struct First(Encoding);

impl Pairs {
    /// Pairs of at most `most` tokens, by the tokenizer of the snapshot in `dir`: what
    /// [`Tokenizer::load`] reads, and of `tokenizer_config.json` from which end texts are
    /// cut (`truncation_side`) and whether the network is told the texts apart
    /// (`model_input_names`).
    ///
    /// # Errors
    /// [`TextError::BadFile`] as there.
    pub fn load(dir: &Path, most: usize) -> Result<Self, TextError> {
        let config = read_json(dir, "tokenizer_config.json")?.unwrap_or_default();
        let names = config["model_input_names"].as_array();
        Ok(Self {
            tokenizer: Tokenizer::load(dir)?,
            most,
            direction: match config["truncation_side"].as_str() {
                Some("left") => TruncationDirection::Left,
                _ => TruncationDirection::Right,
            },
            has_types: names.is_none_or(|names| names.iter().any(|name| name == TYPES)),
        })
    }

    /// The first text of pairs.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer has no token for a part of the text.
    pub fn first(&self, text: &str) -> Result<First, TextError> {
        self.part(text).map(First)
    }

    /// The tokens of a pair, and how many of them, from the start, are of the first text.
    /// All of them are if the network is not told the texts apart.
    ///
    /// # Errors
    /// As [`Self::first`]; or the template mixes the texts.
    pub fn with(&self, first: &First, second: &str) -> Result<(Vec<u32>, usize), TextError> {
        let failed = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let mut second = self.part(second)?;
        second.set_type_ids(vec![1; second.len()]);
        let inner = &self.tokenizer.inner;
        let marks = inner
            .get_post_processor()
            .map_or(0, |template| template.added_tokens(true));
        let cut = TruncationParams {
            direction: self.direction,
            max_length: self.most.saturating_sub(marks),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let parts = truncate_encodings(first.0.clone(), Some(second), &cut);
        let (mut first, mut second) = parts.map_err(failed)?;
        // What was cut off is kept aside, and a template would make pairs of that too.
        first.take_overflowing();
        second.as_mut().map(Encoding::take_overflowing);
        let pair = inner.post_process(first, second, true).map_err(failed)?;
        let (tokens, types) = (pair.get_ids(), pair.get_type_ids());
        if !self.has_types {
            return Ok((tokens.to_vec(), tokens.len()));
        }
        let first = types.iter().position(|of| *of != 0);
        let first = first.unwrap_or(types.len());
        match types[first..].iter().all(|of| *of == 1) {
            true => Ok((tokens.to_vec(), first)),
            false => Err(TextError::Encode(
                "its template puts one text inside the other".to_owned(),
            )),
        }
    }

    /// A text without marks, no longer than it takes to see that it is too long: the cut
    /// is the same.
    fn part(&self, text: &str) -> Result<Encoding, TextError> {
        let encoding = self.tokenizer.inner.encode_fast(text, false);
        let mut encoding = encoding.map_err(|error| TextError::Encode(error.to_string()))?;
        encoding.truncate(self.most + 1, 0, self.direction);
        encoding.take_overflowing();
        Ok(encoding)
    }
}
