//! Reading the fields of a request body: kinds, ranges and what nobody read.
//! It knows JSON and the words of a refusal; it does not know what a field does.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::api::error::{ApiError, Code};

/// Largest whole number a field may hold.
pub const LARGEST: u64 = i32::MAX as u64;

/// Longest piece of a wrong value that a refusal repeats, characters.
const SHOWN: usize = 60;

/// Most names of ignored fields that are told, and the longest of them, bytes.
const NAMES_TOLD: usize = 32;
const LONGEST_NAME: usize = 64;

/// The fields of a body that are still unread. Each reader takes its field out;
/// `null` is the same as absent.
pub struct Fields {
    unread: Map<String, Value>,
}

impl Fields {
    /// All fields of `body`, which is a JSON object.
    ///
    /// # Errors
    /// `invalid_json` if it is not JSON (or nests too deeply for the parser),
    /// `bad_request` if it is no object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::new(
                Code::InvalidJson,
                format!("the body is not valid JSON: {error}"),
            )
        })?;
        match value {
            Value::Object(unread) => Ok(Self { unread }),
            other => Err(ApiError::new(
                Code::BadRequest,
                format!("expected a JSON object as body, found {}", kind(&other)),
            )),
        }
    }

    /// Takes a field of any kind.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.unread.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a whole number inside `range`.
    pub fn whole(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(
                name,
                &format!("a whole number from {} to {}", range.start(), range.end()),
                &value,
            )),
        }
    }

    /// Takes a whole number inside `range` that fits 32 bits.
    pub fn whole32(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u32>, ApiError> {
        debug_assert!(*range.end() <= LARGEST);
        let number = self.whole(name, range)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// Takes a number inside `range`.
    pub fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number as f32)),
            None => Err(wrong(
                name,
                &format!("a number from {} to {}", range.start(), range.end()),
                &value,
            )),
        }
    }

    /// Takes `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(value) => Err(wrong(name, "true or false", &value)),
        }
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(wrong(name, "a string", &value)),
        }
    }

    /// Takes an object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(wrong(name, "an object", &value)),
        }
    }

    /// Takes an array of at most `most` elements.
    pub fn array(&mut self, name: &str, most: usize) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= most => Ok(Some(list)),
            Some(Value::Array(list)) => Err(invalid(
                name,
                format!(
                    "{name}: expected at most {most} elements, found {}",
                    list.len()
                ),
            )),
            Some(value) => Err(wrong(name, "an array", &value)),
        }
    }

    /// Refuses the field if it asks for something: neither absent nor one of the
    /// `harmless` values that ask for what happens anyway.
    pub fn refuse(&mut self, name: &str, harmless: &[Value], why: &str) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !harmless.contains(&value) => {
                Err(invalid(name, format!("{name}: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// The names of the fields that nobody read, as far as they can stand in a
    /// header: they have no effect, and the answer says so.
    pub fn ignored(self) -> Vec<String> {
        let plain = |name: &String| {
            (1..=LONGEST_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let unread = self.unread.into_iter();
        let names = unread.filter(|(_, value)| !value.is_null());
        let mut names: Vec<String> = names.map(|(name, _)| name).filter(plain).collect();
        // Taking fields out has mixed up their order.
        names.sort_unstable();
        names.truncate(NAMES_TOLD);
        names
    }
}

/// A refusal that names the field.
pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidValue, message).param(param)
}

/// A refusal that says what was expected and what was found.
pub fn wrong(param: &str, expected: &str, found: &Value) -> ApiError {
    invalid(
        param,
        format!("{param}: expected {expected}, found {}", shown(found)),
    )
}

/// A value as a refusal may repeat it: scalars shortened, others by kind.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        scalar => {
            let text = scalar.to_string();
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// What kind of JSON value this is.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
