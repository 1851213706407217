//! A place in a text of JSON, and the ways over what stands there.

use std::borrow::Cow;

use super::Unread;

/// Bytes that are looked at in one step inside of a long string.
pub(super) const STEP: usize = 32;

/// Bytes that are looked at in one step of a short one.
const WORD: usize = 8;

/// A place in a text.
pub(super) struct Json<'t> {
    bytes: &'t [u8],
    /// The same, if it is known to be UTF-8.
    text: Option<&'t str>,
    pub(super) at: usize,
}

impl<'t> Json<'t> {
    pub(super) fn new(bytes: &'t [u8], text: Option<&'t str>) -> Self {
        Self { bytes, text, at: 0 }
    }

    #[cold]
    pub(super) fn expected(&self, what: &'static str) -> Unread {
        Unread::Syntax(what, self.at)
    }

    /// The byte at this place.
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no blank, which is not taken.
    pub(super) fn next(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Takes the next byte that is no blank if it is this one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_it = self.next() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    /// From this place to where the reader is.
    pub(super) fn since(&self, start: usize) -> Result<&'t str, Unread> {
        let slice = match self.text {
            Some(text) => text.get(start..self.at),
            None => std::str::from_utf8(&self.bytes[start..self.at]).ok(),
        };
        slice.ok_or(Unread::Syntax("UTF-8", start))
    }

    /// Passes over the string whose first quote is taken; answers whether it has escapes.
    fn string(&mut self) -> Result<bool, Unread> {
        let mut is_escaped = false;
        loop {
            self.at += plain(&self.bytes[self.at..]);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(is_escaped);
                }
                Some(b'\\') => {
                    is_escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return Err(self.expected("the end of a string")),
            }
        }
    }

    /// Passes over an escape whose backslash is taken.
    fn escape(&mut self) -> Result<(), Unread> {
        let length = match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5);
                match digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    true => 5,
                    false => 0,
                }
            }
            _ => 0,
        };
        self.at += length;
        match length {
            0 => Err(self.expected("an escape")),
            _ => Ok(()),
        }
    }

    /// Takes a string, without its escapes.
    pub(super) fn text(&mut self) -> Result<Cow<'t, str>, Unread> {
        if !self.take(b'"') {
            return Err(self.expected("a string"));
        }
        let quoted = self.at - 1;
        match self.string()? {
            false => {
                let whole = self.since(quoted)?;
                Ok(Cow::Borrowed(&whole[1..whole.len() - 1]))
            }
            // Half a surrogate pair is none.
            true => serde_json::from_str(self.since(quoted)?)
                .map(Cow::Owned)
                .map_err(|_| Unread::Syntax("a text", quoted)),
        }
    }

    /// Passes over digits, one at least.
    fn digits(&mut self) -> Result<(), Unread> {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        match count {
            0 => Err(self.expected("a digit")),
            _ => Ok(()),
        }
    }

    /// Passes over a number; answers whether it is a whole one.
    pub(super) fn number(&mut self) -> Result<bool, Unread> {
        self.at += usize::from(self.byte() == Some(b'-'));
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        let mut is_whole = true;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            is_whole = false;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
            is_whole = false;
        }
        // No digit follows a zero.
        match self.byte() {
            Some(b'0'..=b'9') => Err(self.expected("the end of a number")),
            _ => Ok(is_whole),
        }
    }

    /// Passes over one of the three words.
    pub(super) fn word(&mut self, word: &'static str) -> Result<(), Unread> {
        match self.bytes[self.at..].starts_with(word.as_bytes()) {
            true => {
                self.at += word.len();
                Ok(())
            }
            false => Err(self.expected(word)),
        }
    }

    /// Passes over a value, however deep it is nested.
    pub(super) fn skip(&mut self) -> Result<(), Unread> {
        let mut open = Open::default();
        loop {
            match self.next() {
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(b'{') => {
                    self.at += 1;
                    if !self.take(b'}') {
                        open.push(true);
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.take(b']') {
                        open.push(false);
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => drop(self.number()?),
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return Err(self.expected("a value")),
            }
            // A value has ended: what follows it in what it stands in.
            loop {
                let Some(is_object) = open.last() else {
                    return Ok(());
                };
                match (self.next(), is_object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(self.expected("a comma or the end")),
                }
            }
        }
    }

    /// Passes over the key of a member and the colon after it.
    fn key(&mut self) -> Result<(), Unread> {
        if !self.take(b'"') {
            return Err(self.expected("a key"));
        }
        self.string()?;
        self.colon()
    }

    pub(super) fn colon(&mut self) -> Result<(), Unread> {
        match self.take(b':') {
            true => Ok(()),
            false => Err(self.expected("a colon")),
        }
    }
}

/// What a reader is inside of, the innermost last: whether each is an object. A word holds
/// as many as it has bits, so that usual nesting needs no memory.
#[derive(Default)]
struct Open {
    full: Vec<u64>,
    bits: u64,
    /// How many of the bits count.
    count: u32,
}

impl Open {
    fn push(&mut self, is_object: bool) {
        if self.count == u64::BITS {
            self.full.push(self.bits);
            self.count = 0;
        }
        self.bits = self.bits << 1 | u64::from(is_object);
        self.count += 1;
    }

    fn last(&self) -> Option<bool> {
        (self.count > 0).then_some(self.bits & 1 == 1)
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.count -= 1;
        if self.count == 0
            && let Some(bits) = self.full.pop()
        {
            (self.bits, self.count) = (bits, u64::BITS);
        }
    }
}

/// How many bytes a string goes on without a quote, a backslash or a control character.
fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    // Most strings end within the first words; of a long one steps are looked at.
    while let Some((word, _)) = bytes[at..].split_first_chunk() {
        let before = plain_of(*word);
        at += before;
        if before < WORD {
            return at;
        }
        if at % STEP == 0 {
            let steps = bytes[at..].chunks_exact(STEP);
            at += STEP * steps.take_while(|step| is_plain(step)).count();
        }
    }
    let rest = bytes[at..].iter();
    at + rest.take_while(|&&byte| !is_special(byte)).count()
}

fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

/// Whether nothing special stands in a step. Without a way out early, which lets the whole
/// step be looked at together.
fn is_plain(step: &[u8]) -> bool {
    !step.iter().fold(false, |it, &byte| it | is_special(byte))
}

/// How many bytes of a word stand before the first special one.
///
/// Source: Sean Eron Anderson, "Bit Twiddling Hacks" (which byte of a word is less than a
/// number, or zero). Bytes before the first that is one are never taken for it.
fn plain_of(word: [u8; WORD]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    let less = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word;
    let is = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    let special = (less(word, b' ') | is(b'"') | is(b'\\')) & (ONES << 7);
    special.trailing_zeros() as usize / 8
}
