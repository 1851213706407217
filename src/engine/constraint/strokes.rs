//! A model's tokens, by what they do to a JSON document.

use std::ops::Range;

use crate::engine::guide::Allowed;
use crate::engine::tokenizer::Tokenizer;

/// The tokens.
#[derive(Debug)]
pub(super) struct Strokes {
    /// They end the answer.
    pub ends: Allowed,
    /// Brackets that close, and nothing else.
    pub close: Allowed,
    /// They end a string, and close what may follow.
    pub end_string: Allowed,
    /// A comma, and what may stand before the first letter that comes next.
    pub comma: Allowed,
    /// They open no bracket, and are not all space.
    pub plain: Allowed,
    /// A bracket that opens, and the one that closes it.
    pub empty: Allowed,
    /// One for each kind of letter that a string may want before it may end.
    pub letters: Vec<u32>,
    /// The token that is one letter, for each letter of ASCII.
    single: Vec<Option<u32>>,
    /// The text of all tokens, and where each begins and ends.
    text: Vec<u8>,
    places: Vec<Range<usize>>,
    /// How much each says.
    said: Vec<Said>,
}

/// How much a token says: whether all strings that it begins it ends, and how long it is. A
/// string that is begun has to be ended.
type Said = (bool, u32);

impl Strokes {
    /// Those of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let highest = tokenizer.highest().unwrap_or_default();
        let tokens = (0..=highest).map(|token| (token, tokenizer.token_bytes(token)));
        Self::among(tokens, tokenizer.end_tokens())
    }

    /// Those of tokens with their bytes, from token 0 on.
    pub fn among(tokens: impl Iterator<Item = (u32, Vec<u8>)>, ends: &[u32]) -> Self {
        let (mut text, mut places, mut said) = (Vec::new(), Vec::new(), Vec::new());
        let mut place = |bytes: &[u8]| {
            let from = text.len();
            text.extend(bytes);
            places.push(from..text.len());
            let quotes = bytes.iter().filter(|byte| **byte == b'"').count();
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            said.push((quotes % 2 == 0, length));
        };
        let tokens = tokens.inspect(|(_, bytes)| place(bytes));
        let tokens: Vec<_> = tokens.filter(|(_, bytes)| !bytes.is_empty()).collect();
        let having = |is_one: &dyn Fn(&[u8]) -> bool| {
            let found = tokens.iter().filter(|(_, bytes)| is_one(bytes));
            found.map(|(token, _)| *token).collect()
        };
        let closes = |bytes: &[u8]| bytes.iter().all(|byte| b"}]".contains(byte));
        let opened = |bytes: &[u8]| bytes.iter().filter(|byte| b"{[".contains(byte)).count();
        let mut single = vec![None; 128];
        for (token, bytes) in &tokens {
            if let [byte] = bytes[..]
                && let Some(place) = single.get_mut(usize::from(byte))
            {
                place.get_or_insert(*token);
            }
        }
        let stands_for_all = |byte: &u8| match byte {
            // They would end the string, or begin what stands for another letter.
            b'"' | b'\\' => false,
            _ => byte.is_ascii_punctuation() || b" 0aAZ".contains(byte),
        };
        let letters = (b' '..=b'~').filter(stands_for_all);
        Self {
            ends: ends.iter().copied().collect(),
            close: having(&closes),
            end_string: having(&|bytes| bytes.strip_prefix(b"\"").is_some_and(closes)),
            comma: having(&|bytes| {
                let rest = bytes.strip_prefix(b",");
                let is_space = |byte: &u8| b" \t\n\"".contains(byte);
                rest.is_some_and(|rest| rest.iter().all(is_space))
            }),
            plain: having(&|bytes| {
                opened(bytes) == 0 && !bytes.iter().all(u8::is_ascii_whitespace)
            }),
            empty: having(&|bytes| bytes == b"{}" || bytes == b"[]"),
            letters: letters
                .filter_map(|byte| single[usize::from(byte)])
                .collect(),
            single,
            text,
            places,
            said,
        }
    }

    /// The text of a token.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let place = self.places.get(token as usize);
        place.map_or(&[], |place| &self.text[place.clone()])
    }

    /// Of these tokens the one that says most, but rather one that begins no string that has
    /// to be ended.
    pub fn longest(&self, tokens: &Allowed) -> Option<u32> {
        let said = |token: &u32| self.said.get(*token as usize);
        tokens.tokens().max_by_key(said)
    }

    /// The token that is this letter.
    pub fn letter(&self, byte: u8) -> Option<u32> {
        *self.single.get(usize::from(byte))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_most_begins_no_string_without_need() {
        let texts = ["", "]", "\"", "}]", "\"]", ", \"", "\", \"", "null", "true"];
        let tokens = (0..).zip(texts.map(|text| text.as_bytes().to_vec()));
        let strokes = Strokes::among(tokens, &[0]);
        let check = |of: &[&str], expected: Option<&str>| {
            let tokens = (0..).zip(texts).filter(|(_, text)| of.contains(text));
            let longest = strokes.longest(&tokens.map(|(token, _)| token).collect());
            let longest = longest.map(|token| strokes.bytes(token));
            assert_eq!(longest, expected.map(str::as_bytes), "{of:?}");
        };
        check(&[], None);
        check(&["]", "}]"], Some("}]"));
        check(&["]", "\"", "\"]"], Some("]"));
        check(&["\"", "\"]"], Some("\"]"));
        check(&[", \"", "]"], Some("]"));
        check(&["null", "\", \""], Some("null"));
        check(&["\", \"", "}]", ", \""], Some("\", \""));
        check(&[""], Some(""));
    }
}
