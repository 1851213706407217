//! Stop strings across chunk borders. Pure: text in, text that may go out.
//!
//! It holds back only what could still become a stop string, so each letter
//! leaves as early as is safe. The outcome depends on the text alone, never on
//! how it was cut: the first stop string to be complete ends the text, and of
//! those that are complete at the same place the longest. It knows no tokens.

#[cfg(test)]
mod tests;

/// Watches a text for stop strings while it grows.
///
/// Each stop string is followed by its own Knuth-Morris-Pratt automaton, so the
/// cost per byte is the number of stop strings, whatever they look like.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    /// What has come in and not gone out: the longest tail that begins a stop string.
    held: String,
    stopped: bool,
}

/// What one piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Text that is safe to pass on; the stop string itself is never in it.
    pub text: String,
    /// A stop string is complete. What is pushed from here on is dropped.
    pub stopped: bool,
}

impl StopStrings {
    /// Watches for any of `stops`; empty ones are left out, since they would
    /// match everywhere.
    pub fn new(stops: Vec<String>) -> Self {
        let patterns = stops
            .into_iter()
            .filter(|stop| !stop.is_empty())
            .map(Pattern::new)
            .collect();
        Self {
            patterns,
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes in the next piece of text and answers what may go out.
    pub fn push(&mut self, text: &str) -> Pushed {
        if self.stopped {
            return Pushed {
                text: String::new(),
                stopped: true,
            };
        }
        if self.patterns.is_empty() {
            return Pushed {
                text: text.to_owned(),
                stopped: false,
            };
        }
        let already = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            if let Some(length) = self.step(byte) {
                self.stopped = true;
                self.held.truncate(already + at + 1 - length);
                return Pushed {
                    text: std::mem::take(&mut self.held),
                    stopped: true,
                };
            }
        }
        // A stop string begins with the first byte of a character, so does the
        // tail that is kept, and the cut is between characters.
        let keep = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        Pushed {
            text: std::mem::replace(&mut self.held, tail),
            stopped: false,
        }
    }

    /// The text has ended: what was held back is no stop string after all.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Moves every automaton by one byte; the length of the longest stop string
    /// that is complete now.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let mut longest = None;
        for pattern in &mut self.patterns {
            if pattern.step(byte) {
                longest = longest.max(Some(pattern.bytes.len()));
            }
        }
        longest
    }
}

/// One stop string and how much of it the text ends with.
#[derive(Debug, Clone)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length matched, the longest shorter one that ends the same way.
    fallback: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(stop: String) -> Self {
        let bytes = stop.into_bytes();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = fallback[length];
            }
            if bytes[at] == bytes[length] {
                length += 1;
            }
            fallback[at + 1] = length;
        }
        Self {
            bytes,
            fallback,
            matched: 0,
        }
    }

    /// True when the text now ends with the whole stop string.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.bytes.len()
    }
}
