//! Brings a JSON answer to its end while it still has tokens: strings end, lists and
//! objects close, nothing is begun that need not be. A small model may write a string or a
//! list that its schema does not end until its tokens run out, and half a document is of no use
//! to anybody. It chooses among what the grammar allows and knows nothing of that: how long
//! the way to the end is, and what leads out of a string that may not end yet, it is told
//! (`way`). A document whose required parts need more tokens than are left stays unfinished.

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

/// A model does not take the shortest way: one token more for so many of it.
const LONGER: u32 = 2;

/// The way is looked for again when so much of the tokens that were left is gone: one part in
/// so many.
const LOOKS: u32 = 4;

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
    /// One for each kind of letter that a string may want before it may end.
    letters: Vec<u32>,
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
            letters: {
                let stands_for_all = |byte: u8| match byte {
                    // They would end the string, or begin what stands for another letter.
                    b'"' | b'\\' => false,
                    _ => byte.is_ascii_punctuation() || b" 0aAZ".contains(&byte),
                };
                let letter = |byte: u8| {
                    let mut found = tokens().filter(|(_, bytes)| **bytes == [byte]);
                    found.next().map(|(token, _)| token)
                };
                let all = (b' '..=b'~').filter(|byte| stands_for_all(*byte));
                all.filter_map(letter).collect()
            },
        }
    }

    /// Tokens of one letter, of which each stands for others of its kind.
    pub fn letters(&self) -> impl Iterator<Item = u32> {
        self.letters.iter().copied()
    }

    /// Whether a string may end where these may follow.
    pub fn may_end_string(&self, allowed: &Allowed) -> bool {
        !allowed.and(&self.end_string).is_empty()
    }
}

/// How far a document has come.
#[derive(Clone)]
pub(super) struct Closing {
    strokes: Arc<Strokes>,
    /// How many tokens the whole answer may have; known with the first.
    total: Option<u32>,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// Something was left out that the grammar allows.
    has_cut: bool,
    /// How long the way to the end was when it was looked for last.
    way: Option<u32>,
    /// By how much a bracket made it longer, at the most.
    detour: u32,
    /// A bracket was opened since.
    has_opened: bool,
    /// With how many tokens left it is to be looked for again.
    look_at: u32,
    /// From so many tokens on the way to the end takes all that are left.
    needed: u32,
}

impl Closing {
    /// Before the first token. `whole` is how many a whole document takes at the least, as
    /// far as that was found.
    pub fn new(strokes: Arc<Strokes>, whole: Option<u32>) -> Self {
        Self {
            strokes,
            way: whole,
            detour: 0,
            has_opened: false,
            look_at: 0,
            needed: 0,
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

    /// Whether it is time to look how long the way to the end is.
    pub fn is_to_look(&mut self, left: u32) -> bool {
        if self.total.is_none() {
            self.total = Some(left);
            self.looked(self.way, left);
            return false;
        }
        let is_due = left <= self.look_at || self.has_opened;
        self.way.is_some() && is_due && left > self.needed
    }

    /// The way to the end was found to have so many tokens, if any was found.
    pub fn looked(&mut self, way: Option<u32>, left: u32) {
        if let (true, Some(before), Some(way)) = (self.has_opened, self.way, way) {
            self.detour = self.detour.max(way.saturating_sub(before));
        }
        self.has_opened = false;
        self.way = way;
        match way.map(|way| with_reserve(way.saturating_add(self.detour))) {
            Some(needed) if needed >= left => self.needed = left,
            Some(needed) => self.look_at = needed.max(left - left.div_ceil(LOOKS)),
            None => {}
        }
    }

    /// Of what may come next, what brings the end nearer, if it is time for that. `left` is
    /// how many tokens there may still be, the next one among them; `out_of_string` is asked in a
    /// string that may not end yet.
    pub fn narrow(
        &mut self,
        allowed: Allowed,
        left: u32,
        out_of_string: impl FnOnce(&Strokes, &Allowed) -> Option<Allowed>,
    ) -> Allowed {
        let total = self.total.unwrap_or(left);
        let kept = (total / PART).clamp(FEWEST, MOST).min(total / 2);
        let kept = kept.saturating_add(self.depth.saturating_mul(LEVEL));
        if left > kept.max(self.needed) {
            return allowed;
        }
        let nearer = self.nearer(&allowed).or_else(|| match self.in_string {
            true => out_of_string(&self.strokes, &allowed),
            false => None,
        });
        match nearer {
            Some(nearer) => {
                self.has_cut |= nearer != allowed;
                nearer
            }
            None => allowed,
        }
    }

    /// Of what may come next, what brings the end nearer by itself.
    pub fn nearer(&self, allowed: &Allowed) -> Option<Allowed> {
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
        let mut nearer = wished.iter().map(|wish| allowed.and(wish));
        nearer.find(|nearer| !nearer.is_empty())
    }

    /// What the model's tokens do.
    pub fn strokes(&self) -> &Strokes {
        &self.strokes
    }

    /// Whether a string has begun and not ended.
    pub fn is_in_string(&self) -> bool {
        self.in_string
    }

    /// Takes in the bytes of a token that has come.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.in_string, byte) {
                (true, _) if self.is_escaped => self.is_escaped = false,
                (true, b'\\') => self.is_escaped = true,
                (_, b'"') => self.in_string = !self.in_string,
                (false, b'{' | b'[') => {
                    self.depth += 1;
                    self.has_opened = true;
                }
                (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// What to keep for a way of so many tokens.
fn with_reserve(way: u32) -> u32 {
    way.saturating_add(way / LONGER).saturating_add(FEWEST)
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
        let strokes = Arc::new(Strokes {
            ends: [END].into_iter().collect(),
            close: of(b"}]"),
            end_string: of(b"\""),
            comma: of(b","),
            plain: plain.collect(),
            letters: Vec::new(),
        });
        Closing::new(strokes, None)
    }

    fn none(_: &Strokes, _: &Allowed) -> Option<Allowed> {
        None
    }

    #[test]
    fn a_long_way_is_begun_early() {
        let mut closing = closing();
        closing.way = Some(200);
        let closes = |closing: &mut Closing, left: u32| {
            let narrowed = closing.narrow(of(b"1]"), left, none);
            narrowed.and(&of(b"1")).is_empty()
        };
        assert!(!closing.is_to_look(1000) && !closes(&mut closing, 1000));
        assert!(!closing.is_to_look(751) && closing.is_to_look(750));
        // Part of the way is gone.
        closing.looked(Some(100), 250);
        assert!(!closes(&mut closing, 250));
        assert!(!closing.is_to_look(188) && closing.is_to_look(187));
        closing.looked(Some(150), 187);
        assert!(closes(&mut closing, 187) && closes(&mut closing, 186));
        assert!(!closing.is_to_look(186));
    }

    #[test]
    fn a_bracket_that_made_the_way_long_may_come_again() {
        let mut closing = closing();
        closing.way = Some(2);
        assert!(!closing.is_to_look(1000));
        closing.take(b"1, ");
        assert!(!closing.is_to_look(997));
        closing.take(b"{");
        assert!(closing.is_to_look(996));
        closing.looked(Some(102), 996);
        closing.looked(Some(2), 600);
        // Room for another one.
        assert_eq!(closing.look_at, 450);
        closing.looked(Some(2), 180);
        assert_eq!(closing.look_at, with_reserve(102));
        closing.looked(Some(2), with_reserve(102));
        assert_eq!(closing.needed, with_reserve(102));
        // Where no way was found it is not looked for again.
        let mut closing = self::closing();
        closing.is_to_look(1000);
        closing.take(b"{");
        assert!(!closing.is_to_look(10));
    }

    #[test]
    fn what_leads_to_the_end_is_all_that_is_left() {
        let check = |text: &[u8], allowed: &[u8], expected: &[u8]| {
            let mut closing = closing();
            closing.is_to_look(100);
            closing.take(text);
            assert_eq!(
                bytes(&closing.narrow(of(allowed), 90, none)),
                bytes(&of(allowed))
            );
            assert!(!closing.has_cut());
            let narrowed = closing.narrow(of(allowed), 16, none);
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
            closing.is_to_look(total);
            closing.take(text);
            let mut left = (1..total).rev();
            left.find(|left| {
                let narrowed = closing.narrow(of(b"1]"), *left, none);
                narrowed.and(&of(b"1")).is_empty()
            })
        };
        assert_eq!(begins(b"[", 1000), Some(127));
        assert_eq!(begins(b"[[[[", 1000), Some(133));
        assert_eq!(begins(b"[", 100_000), Some(258));
        assert_eq!(begins(b"[", 20), Some(12));
    }
}
