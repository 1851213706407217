//! The key-value pairs of a GGUF file, and typed questions to them.

use std::collections::HashMap;
use std::io::Read;

use super::GgufError;
use super::read::Bounded;

/// Most elements of one array. Vocabularies have some hundred thousand.
const LONGEST_ARRAY: u64 = 4 << 20;

/// All key-value pairs of a file.
#[derive(Debug, Default)]
pub struct Metadata(HashMap<String, Value>);

/// One value. Integers of all widths are one variant; so are floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any integer type. Values above 2⁶³ are refused on reading.
    Integer(i64),
    /// `float32`, or `float64` as the nearest that its shortest spelling names.
    Float(f64),
    /// `bool`
    Bool(bool),
    /// `string`
    Text(String),
    /// An array of integers or booleans.
    Integers(Vec<i64>),
    /// An array of floats.
    Floats(Vec<f64>),
    /// An array of strings.
    Texts(Vec<String>),
}

impl Metadata {
    /// Reads `entries` pairs.
    pub(super) fn read(source: &mut Bounded<impl Read>, entries: u64) -> Result<Self, GgufError> {
        let mut pairs = HashMap::new();
        for _ in 0..entries {
            let key = source.text("a metadata key")?;
            let kind = source.u32("a metadata entry")?;
            let value = match kind {
                ARRAY => read_array(source)?,
                _ => read_scalar(source, kind)?,
            };
            if pairs.contains_key(&key) {
                let text = format!("metadata {key:?} is there twice");
                return Err(GgufError::Malformed(text));
            }
            pairs.insert(key, value);
        }
        Ok(Self(pairs))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A number that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a number that is not negative", |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number; integers count as floats.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(is) => Some(*is),
            _ => None,
        })
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "a list of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.typed(key, "a list of integers", |value| match value {
            Value::Integers(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// An array of floats.
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, GgufError> {
        self.typed(key, "a list of numbers", |value| match value {
            Value::Floats(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// The value of a key as `take` sees it: absent is fine, another type is not.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        match take(value) {
            Some(taken) => Ok(Some(taken)),
            None => Err(GgufError::Metadata {
                key: key.to_owned(),
                expected,
                found: value.describe(),
            }),
        }
    }
}

impl Value {
    /// The value for an error message, short.
    fn describe(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(is) => is.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Self::Integers(list) => format!("a list of {} integers", list.len()),
            Self::Floats(list) => format!("a list of {} numbers", list.len()),
            Self::Texts(list) => format!("a list of {} texts", list.len()),
        }
    }
}

/// The type numbers of the specification that are told apart by name below.
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Reads one value that is no array.
fn read_scalar(source: &mut Bounded<impl Read>, kind: u32) -> Result<Value, GgufError> {
    let what = "a metadata entry";
    Ok(match kind {
        0 => Value::Integer(u8::from_le_bytes(source.array(what)?).into()),
        1 => Value::Integer(i8::from_le_bytes(source.array(what)?).into()),
        2 => Value::Integer(u16::from_le_bytes(source.array(what)?).into()),
        3 => Value::Integer(i16::from_le_bytes(source.array(what)?).into()),
        4 => Value::Integer(u32::from_le_bytes(source.array(what)?).into()),
        5 => Value::Integer(i32::from_le_bytes(source.array(what)?).into()),
        6 => Value::Float(widen(f32::from_le_bytes(source.array(what)?))),
        BOOL => match source.array::<1>(what)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => {
                let text = format!("expected a boolean as 0 or 1, found {other}");
                return Err(GgufError::Malformed(text));
            }
        },
        TEXT => Value::Text(source.text(what)?),
        10 => {
            let number = source.u64(what)?;
            Value::Integer(i64::try_from(number).map_err(|_| {
                GgufError::Malformed(format!("the number {number} in the metadata is too large"))
            })?)
        }
        11 => Value::Integer(i64::from_le_bytes(source.array(what)?)),
        12 => Value::Float(f64::from_le_bytes(source.array(what)?)),
        other => {
            let text = format!("metadata of type {other} is not known");
            return Err(GgufError::Malformed(text));
        }
    })
}

/// Reads an array: the type of its elements, how many, and they.
fn read_array(source: &mut Bounded<impl Read>) -> Result<Value, GgufError> {
    let kind = source.u32("a metadata array")?;
    let length = source.u64("a metadata array")?;
    // Each element has at least one byte, so a length over what is left is a lie.
    if length > LONGEST_ARRAY || length > source.left() {
        let text = format!("a metadata array of {length} elements is too long");
        return Err(GgufError::Malformed(text));
    }
    if kind == TEXT {
        let texts: Result<_, _> = (0..length)
            .map(|_| source.text("a metadata array"))
            .collect();
        return Ok(Value::Texts(texts?));
    }
    let (mut integers, mut floats) = (Vec::new(), Vec::new());
    for _ in 0..length {
        match read_scalar(source, kind)? {
            Value::Integer(number) => integers.push(number),
            Value::Bool(is) => integers.push(is.into()),
            Value::Float(number) => floats.push(number),
            _ => return Err(GgufError::Malformed("a nested metadata array".to_owned())),
        }
    }
    Ok(match floats.is_empty() {
        true => Value::Integers(integers),
        false => Value::Floats(floats),
    })
}

/// The number that the shortest spelling of a float32 names: 1e-5, not 9.99…e-6,
/// so that it is written to `config.json` as its author typed it.
fn widen(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}
