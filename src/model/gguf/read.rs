//! A reader that knows how many bytes are left and never asks for more.

use std::io::Read;

use super::GgufError;

/// Longest single text in a file, bytes. Chat templates have some ten thousand.
const LONGEST_TEXT: u64 = 16 << 20;

/// Little-endian numbers and texts out of a source of known length.
pub(super) struct Bounded<R> {
    source: R,
    position: u64,
    length: u64,
}

impl<R: Read> Bounded<R> {
    /// Begins at the start of a source that has `length` bytes.
    pub(super) fn new(source: R, length: u64) -> Self {
        Self {
            source,
            position: 0,
            length,
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// The next `N` bytes; `what` names the thing for the error.
    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        if (N as u64) > self.left() {
            return Err(GgufError::Short(what));
        }
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// The next 32-bit number.
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number.
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next text: its length, then that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &'static str) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        if length > self.left() {
            return Err(GgufError::Short(what));
        }
        if length > LONGEST_TEXT {
            let text = format!("{what} has {length} bytes, expected at most {LONGEST_TEXT}");
            return Err(GgufError::Malformed(text));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(GgufError::Short(what));
        }
        self.position += length;
        String::from_utf8(bytes)
            .map_err(|_| GgufError::Malformed(format!("{what} is not valid UTF-8")))
    }
}
