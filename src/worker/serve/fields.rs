//! Reading the fields of a request body by the table of the API, and what nobody
//! read. It knows JSON; it does not know what a field does.

use indexmap::IndexMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::api::error::{ApiError, Code};
use crate::api::fields::{Endpoint, FIELDS, Takes, known};

/// Most names of ignored fields that are told, and the longest of them, bytes.
const NAMES_TOLD: usize = 32;
const LONGEST_NAME: usize = 64;

/// The fields of a body that are still unread. Each reader takes its field out;
/// `null` is the same as absent. What nobody reads is never looked into.
pub struct Fields<'b> {
    endpoint: Endpoint,
    unread: IndexMap<String, &'b RawValue>,
}

impl<'b> Fields<'b> {
    /// All fields of `body`, which is a JSON object.
    ///
    /// # Errors
    /// `invalid_json` if it is none.
    pub fn parse(endpoint: Endpoint, body: &'b [u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(unread) => Ok(Self { endpoint, unread }),
            Err(error) => Err(ApiError::new(
                Code::InvalidJson,
                format!("the body is not a JSON object: {error}"),
            )),
        }
    }

    /// Takes a field. What the table knows of it holds for the value.
    ///
    /// # Errors
    /// `invalid_json` if the value cannot be held (nested too deeply, half a
    /// surrogate pair), else what [`crate::api::fields::Field::check`] says.
    pub fn take(&mut self, name: &str) -> Result<Option<Value>, ApiError> {
        let Some(raw) = self.unread.swap_remove(name) else {
            return Ok(None);
        };
        let value: Value = serde_json::from_str(raw.get()).map_err(|error| {
            let message = format!("{name}: the value cannot be read: {error}");
            ApiError::new(Code::InvalidJson, message).param(name)
        })?;
        if value.is_null() {
            return Ok(None);
        }
        if let Some(field) = known(self.endpoint, name) {
            field.check(&value)?;
        }
        Ok(Some(value))
    }

    /// Takes a whole number.
    pub fn whole(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        Ok(self.take(name)?.and_then(|value| value.as_u64()))
    }

    /// Takes a whole number whose range fits 32 bits.
    pub fn whole32(&mut self, name: &str) -> Result<Option<u32>, ApiError> {
        let number = self.whole(name)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// Takes a number.
    pub fn number(&mut self, name: &str) -> Result<Option<f32>, ApiError> {
        let number = self.take(name)?.and_then(|value| value.as_f64());
        Ok(number.map(|number| number as f32))
    }

    /// Takes `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        Ok(self.take(name)?.and_then(|value| value.as_bool()))
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        Ok(self.take(name)?.and_then(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        }))
    }

    /// Takes an object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
        Ok(self.take(name)?.and_then(|value| match value {
            Value::Object(map) => Some(map),
            _ => None,
        }))
    }

    /// Takes an array.
    pub fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        Ok(self.take(name)?.and_then(|value| match value {
            Value::Array(list) => Some(list),
            _ => None,
        }))
    }

    /// Takes every field that may only ask for what happens anyway.
    pub fn refuse_what_cannot_be_done(&mut self) -> Result<(), ApiError> {
        let endpoint = self.endpoint;
        FIELDS
            .iter()
            .filter(|field| matches!(field.takes, Takes::Nothing(..)))
            .filter(|field| field.on.contains(&endpoint))
            .try_for_each(|field| self.take(field.name).map(drop))
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
        let names = unread.filter(|(_, value)| value.get() != "null");
        let mut names: Vec<String> = names.map(|(name, _)| name).filter(plain).collect();
        // Taking fields out has mixed up their order.
        names.sort_unstable();
        names.truncate(NAMES_TOLD);
        names
    }
}
