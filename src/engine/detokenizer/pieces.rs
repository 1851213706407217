//! A tokenizer's decoder as a rule per token. The decoders that occur in models that
//! generate are covered: byte level (GPT-2 and its many heirs), sentencepiece's
//! (replace, byte fallback, fuse, strip), metaspace, and none at all. It holds no state.
//!
//! Formats and rules are those of the crate `tokenizers` (`decoders/*.rs`, 0.23).

use serde_json::Value;

/// How the texts of tokens become one text.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::engine) struct Pieces {
    /// What happens to each token's text, in this order.
    each: Vec<Rule>,
    form: Form,
    /// What is taken from both ends of the whole.
    pub(super) ends: Option<Strip>,
    /// Put between tokens.
    pub(super) between: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    Replace { from: String, to: String },
    Strip(Strip),
    Metaspace { mark: char, drop_first: bool },
}

/// How a token's text stands for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// Each character is one byte.
    ByteLevel,
    /// `<0x0A>` is one byte, everything else text.
    ByteFallback,
}

/// Takes `content` away, at most `start` times at the start and `stop` at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) content: char,
    pub(super) start: usize,
    pub(super) stop: usize,
}

impl Pieces {
    /// The rules of `decoder`; `None` if it does something that one token does not tell.
    pub(in crate::engine) fn of(decoder: Option<&tokenizers::DecoderWrapper>) -> Option<Self> {
        let mut pieces = Self {
            each: Vec::new(),
            form: Form::Text,
            ends: None,
            between: "",
        };
        let Some(decoder) = decoder else {
            pieces.between = " ";
            return Some(pieces);
        };
        let description = serde_json::to_value(decoder).ok()?;
        let steps = match description["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(&description),
        };
        let mut fused = false;
        for step in steps {
            pieces.add(step, &mut fused)?;
        }
        Some(pieces)
    }

    fn add(&mut self, step: &Value, fused: &mut bool) -> Option<()> {
        let per_token = !*fused && self.form == Form::Text;
        match step["type"].as_str()? {
            "Fuse" => *fused = true,
            "ByteLevel" if per_token => {
                self.form = Form::ByteLevel;
                *fused = true;
            }
            "ByteFallback" if per_token => self.form = Form::ByteFallback,
            "Replace" if per_token => self.each.push(Rule::Replace {
                from: step["pattern"]["String"].as_str()?.to_owned(),
                to: step["content"].as_str()?.to_owned(),
            }),
            "Metaspace" if per_token => self.each.push(Rule::Metaspace {
                mark: step["replacement"].as_str()?.chars().next()?,
                drop_first: step["prepend_scheme"].as_str() != Some("never"),
            }),
            "Strip" => {
                let strip = Strip {
                    content: step["content"].as_str()?.chars().next()?,
                    start: usize::try_from(step["start"].as_u64()?).ok()?,
                    stop: usize::try_from(step["stop"].as_u64()?).ok()?,
                };
                if per_token {
                    self.each.push(Rule::Strip(strip));
                } else if *fused && self.ends.is_none() {
                    self.ends = Some(strip);
                } else {
                    return None;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether a text is the bytes of its tokens and nothing between them.
    pub(in crate::engine) fn is_bytewise(&self) -> bool {
        self.between.is_empty()
    }

    /// The bytes of a token in the middle of a text.
    pub(in crate::engine) fn bytes(&self, word: &str) -> Vec<u8> {
        self.piece(word, false)
    }

    /// Whether a broken character becomes one U+FFFD for each of its bytes.
    pub(super) fn replaces_each_byte(&self) -> bool {
        self.form == Form::ByteFallback
    }

    /// The bytes of a token; the first of a text may differ.
    pub(super) fn piece(&self, word: &str, first: bool) -> Vec<u8> {
        let mut word = word.to_owned();
        for rule in &self.each {
            word = rule.apply(&word, first);
        }
        match self.form {
            Form::Text => word.into_bytes(),
            Form::ByteLevel => word
                .chars()
                .map(byte_of)
                .collect::<Option<Vec<u8>>>()
                .unwrap_or_else(|| word.into_bytes()),
            Form::ByteFallback => fallback_byte(&word)
                .map(|byte| vec![byte])
                .unwrap_or_else(|| word.into_bytes()),
        }
    }
}

impl Rule {
    fn apply(&self, word: &str, first: bool) -> String {
        match self {
            Self::Replace { from, to } => word.replace(from, to),
            Self::Strip(strip) => strip.apply(word).to_owned(),
            Self::Metaspace { mark, drop_first } => {
                let space = if first && *drop_first { "" } else { " " };
                word.replace(*mark, space)
            }
        }
    }
}

impl Strip {
    fn apply(self, word: &str) -> &str {
        let mut word = word;
        for _ in 0..self.start {
            word = word.strip_prefix(self.content).unwrap_or(word);
        }
        for _ in 0..self.stop {
            word = word.strip_suffix(self.content).unwrap_or(word);
        }
        word
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable bytes
/// stand for themselves, the others follow from U+0100 on, in their order (GPT-2's
/// `bytes_to_unicode`).
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The byte of `<0x0A>` and its like.
fn fallback_byte(word: &str) -> Option<u8> {
    let digits = word.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
