//! Brings a JSON answer to its end while it still has tokens: strings end, lists and
//! objects close, nothing is begun that need not be. A small model may write a string or a
//! list that its schema does not end until its tokens run out, and half a document is of no use
//! to anybody. It chooses among what the grammar allows and knows nothing of that: a
//! document whose required parts need more tokens than are left stays unfinished.

use std::sync::Arc;

use crate::engine::guide::Allowed;
use crate::engine::tokenizer::Tokenizer;

/// The part of an answer's tokens that is kept for its end: one in so many.
const PART: u32 = 8;

/// The fewest and the most of them.
const FEWEST: u32 = 16;
const MOST: u32 = 256;

/// Tokens that a list or object may take to close.
const LEVEL: u32 = 2;

/// A model's tokens, by what they do to a document.
pub(super) struct Strokes {
    /// They end the answer.
    ends: Allowed,
    /// Brackets that close, and nothing else.
    close: Allowed,
    /// They end a string, and close what may follow.
    end_string: Allowed,
    /// They begin with a comma.
    comma: Allowed,
    /// They open no bracket, and are not all space.
    plain: Allowed,
}

impl Strokes {
    /// Those of a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let highest = tokenizer.highest().unwrap_or_default();
        let tokens = || {
            let tokens = (0..=highest).map(|token| (token, tokenizer.token_bytes(token)));
            tokens.filter(|(_, bytes)| !bytes.is_empty())
        };
        let having = |is_one: &dyn Fn(&[u8]) -> bool| {
            let found = tokens().filter(|(_, bytes)| is_one(bytes));
            found.map(|(token, _)| token).collect()
        };
        let closes = |bytes: &[u8]| bytes.iter().all(|byte| b"}]".contains(byte));
        Self {
            ends: tokenizer.end_tokens().iter().copied().collect(),
            close: having(&closes),
            end_string: having(&|bytes| bytes.strip_prefix(b"\"").is_some_and(closes)),
            comma: having(&|bytes| bytes.starts_with(b",")),
            plain: having(&|bytes| {
                let opens = |byte: &u8| b"{[".contains(byte);
                !bytes.iter().any(opens) && !bytes.iter().all(u8::is_ascii_whitespace)
            }),
        }
    }
}

/// How far a document has come.
pub(super) struct Closing {
    strokes: Arc<Strokes>,
    /// How many tokens the whole answer may have; known with the first.
    total: Option<u32>,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// Something was left out that the grammar allows.
    has_cut: bool,
}

impl Closing {
    /// Before the first token.
    pub fn new(strokes: Arc<Strokes>) -> Self {
        Self {
            strokes,
            total: None,
            depth: 0,
            in_string: false,
            is_escaped: false,
            has_cut: false,
        }
    }

    /// Whether the document is shorter than it might have become.
    pub fn has_cut(&self) -> bool {
        self.has_cut
    }

    /// Of what may come next, what brings the end nearer, if it is time for that. `left` is
    /// how many tokens there may still be, the next one among them.
    pub fn narrow(&mut self, allowed: Allowed, left: u32) -> Allowed {
        let total = *self.total.get_or_insert(left);
        let kept = (total / PART).clamp(FEWEST, MOST).min(total / 2);
        if left > kept.saturating_add(self.depth.saturating_mul(LEVEL)) {
            return allowed;
        }
        let strokes = &self.strokes;
        let wished: &[&Allowed] = match self.in_string {
            true => &[&strokes.end_string],
            false => &[
                &strokes.ends,
                &strokes.close,
                &strokes.comma,
                &strokes.plain,
            ],
        };
        let mut narrowed = wished.iter().map(|wish| allowed.and(wish));
        match narrowed.find(|narrowed| !narrowed.is_empty()) {
            Some(narrowed) => {
                self.has_cut |= narrowed != allowed;
                narrowed
            }
            None => allowed,
        }
    }

    /// Takes in the bytes of a token that has come.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.in_string, byte) {
                (true, _) if self.is_escaped => self.is_escaped = false,
                (true, b'\\') => self.is_escaped = true,
                (_, b'"') => self.in_string = !self.in_string,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token for each byte, and one that ends.
    const END: u32 = 256;

    fn of(bytes: &[u8]) -> Allowed {
        bytes.iter().map(|byte| u32::from(*byte)).collect()
    }

    fn bytes(of: &Allowed) -> Vec<u32> {
        (0..=END).filter(|token| of.contains(*token)).collect()
    }

    fn closing() -> Closing {
        let brackets = of(b"{[");
        let plain = (33..=126).filter(|byte| !brackets.contains(*byte));
        Closing::new(Arc::new(Strokes {
            ends: [END].into_iter().collect(),
            close: of(b"}]"),
            end_string: of(b"\""),
            comma: of(b","),
            plain: plain.collect(),
        }))
    }

    #[test]
    fn what_leads_to_the_end_is_all_that_is_left() {
        let check = |text: &[u8], allowed: &[u8], expected: &[u8]| {
            let mut closing = closing();
            closing.narrow(of(b"x"), 100);
            closing.take(text);
            assert_eq!(bytes(&closing.narrow(of(allowed), 90)), bytes(&of(allowed)));
            assert!(!closing.has_cut());
            let narrowed = closing.narrow(of(allowed), 16);
            let shown = String::from_utf8_lossy(text);
            assert_eq!(bytes(&narrowed), bytes(&of(expected)), "{shown}");
            assert_eq!(closing.has_cut(), allowed != expected, "{shown}");
        };
        check(b"[1", b"0123, ]", b"]");
        check(b"{\"a\": 1", b"0, }", b"}");
        check(b"{\"a\": 1", b"0, ", b",");
        check(b"[", b"[{\"1 ", b"\"1");
        check(b"[", b"[{", b"[{");
        // In a string brackets are letters, and what stands behind a backslash ends none.
        check(b"[\"a", b"ab}]\"", b"\"");
        check(b"[\"a\\", b"\"n", b"\"");
        check(b"[\"a\\\"", b"x}\"", b"\"");
        check(b"[\"a\\\\\"", b",]", b"]");
        check(b"[\"a", b"ab", b"ab");
    }

    #[test]
    fn deep_documents_begin_to_close_earlier() {
        let begins = |text: &[u8], total: u32| {
            let mut closing = closing();
            closing.narrow(of(b"x"), total);
            closing.take(text);
            let mut left = (1..total).rev();
            left.find(|left| closing.narrow(of(b"1]"), *left).and(&of(b"1")).is_empty())
        };
        assert_eq!(begins(b"[", 1000), Some(127));
        assert_eq!(begins(b"[[[[", 1000), Some(133));
        assert_eq!(begins(b"[", 100_000), Some(258));
        assert_eq!(begins(b"[", 20), Some(12));
    }
}
