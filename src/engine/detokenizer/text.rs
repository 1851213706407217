//! A text that grows by bytes: whole characters go out, the start of one is held, and
//! so is what might be cut from the end. It knows no tokens.

use super::pieces::{Pieces, Strip};

/// The state of a growing text.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Growing {
    /// A token has been pushed.
    going: bool,
    /// Bytes that begin a character; at most three.
    begun: Vec<u8>,
    /// How often the content that is cut may still be cut at the start.
    cut_at_start: usize,
    /// What would be cut if the text ended here.
    tail: String,
}

impl Growing {
    /// Adds a token's text; answers what is certain now.
    pub(in crate::engine) fn push(&mut self, pieces: &Pieces, word: &str) -> String {
        let first = !self.going;
        if first {
            self.going = true;
            self.cut_at_start = pieces.ends.map_or(0, |strip| strip.start);
        } else {
            self.begun.extend_from_slice(pieces.between.as_bytes());
        }
        let piece = pieces.piece(word, first);
        self.begun.extend_from_slice(&piece);
        let text = self.whole_characters(pieces.replaces_each_byte());
        self.cut_ends(pieces.ends, text)
    }

    /// The text has ended: answers what was held, less what is cut from the end.
    pub(in crate::engine) fn finish(&mut self, pieces: &Pieces) -> String {
        let begun = std::mem::take(&mut self.begun);
        let broken = match (begun.len(), pieces.replaces_each_byte()) {
            (0, _) => 0,
            (bytes, true) => bytes,
            (_, false) => 1,
        };
        let text = "\u{fffd}".repeat(broken);
        let text = self.cut_ends(pieces.ends, text);
        self.tail.clear();
        text
    }

    /// Takes whole characters out of the bytes; what can be no character becomes
    /// U+FFFD, once per byte or once per broken character.
    fn whole_characters(&mut self, each_byte: bool) -> String {
        let mut out = String::new();
        let bytes = std::mem::take(&mut self.begun);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some(chunk) = rest.utf8_chunks().next() else {
                break;
            };
            let broken = chunk.invalid();
            let after = &rest[chunk.valid().len() + broken.len()..];
            out.push_str(chunk.valid());
            let unfinished = after.is_empty()
                && std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none());
            if unfinished {
                self.begun = broken.to_vec();
            } else if !broken.is_empty() {
                out.push_str(&"\u{fffd}".repeat(if each_byte { broken.len() } else { 1 }));
            }
            rest = after;
        }
        out
    }

    fn cut_ends(&mut self, ends: Option<Strip>, text: String) -> String {
        let Some(strip) = ends else {
            return text;
        };
        let mut text = text.as_str();
        while self.cut_at_start > 0 && !text.is_empty() {
            match text.strip_prefix(strip.content) {
                Some(rest) => {
                    text = rest;
                    self.cut_at_start -= 1;
                }
                None => self.cut_at_start = 0,
            }
        }
        if strip.stop == 0 {
            return text.to_owned();
        }
        self.tail.push_str(text);
        let keep: usize = self
            .tail
            .chars()
            .rev()
            .take(strip.stop)
            .take_while(|character| *character == strip.content)
            .map(char::len_utf8)
            .sum();
        let tail = self.tail.split_off(self.tail.len() - keep);
        std::mem::replace(&mut self.tail, tail)
    }
}
