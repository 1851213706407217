//! One JSON object of a trace, read field by field, so that an error names the
//! field and what was found there. It knows no line numbers.

use serde_json::{Map, Value};

use crate::units::ByteSize;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It has to be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It is not what it has to be.
    #[error("{name}: expected {expected}, found {found}")]
    Unfit {
        /// The field.
        name: &'static str,
        /// What it takes.
        expected: String,
        /// What stands there, cut short.
        found: String,
    },
    /// Nobody asked for it.
    #[error("{0} is not a field of this record")]
    Unknown(String),
}

/// The fields that have not been read yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of an object.
    pub fn new(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// A text, which has to be there.
    pub fn text(&mut self, name: &'static str) -> Result<String, FieldError> {
        match self.0.remove(name) {
            None => Err(FieldError::Missing(name)),
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(other) => Err(unfit(name, "a text", &other)),
        }
    }

    /// A list of texts; none if nothing is said.
    pub fn texts(&mut self, name: &'static str) -> Result<Vec<String>, FieldError> {
        let Some(value) = self.present(name) else {
            return Ok(Vec::new());
        };
        let text = |value: &Value| {
            value
                .as_str()
                .filter(|it| !it.is_empty())
                .map(str::to_owned)
        };
        let texts = value.as_array().map(|all| all.iter().map(text).collect());
        texts
            .flatten()
            .ok_or_else(|| unfit(name, "a list of texts", &value))
    }

    /// A whole number of at most `most`, if it is there.
    pub fn number(&mut self, name: &'static str, most: u64) -> Result<Option<u64>, FieldError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|number| *number <= most) {
                Some(number) => Ok(Some(number)),
                None => Err(unfit(name, &format!("a whole number up to {most}"), &value)),
            },
        }
    }

    /// A rate above zero, if it is there.
    pub fn rate(&mut self, name: &'static str) -> Result<Option<f64>, FieldError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|rate| (1e-3..=1e9).contains(rate)) {
                Some(rate) => Ok(Some(rate)),
                None => Err(unfit(name, "a number from 0.001 to 1000000000", &value)),
            },
        }
    }

    /// A size with its unit, if it is there.
    pub fn size(&mut self, name: &'static str) -> Result<Option<ByteSize>, FieldError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => match value.as_str().map(ByteSize::parse) {
                Some(Ok(size)) => Ok(Some(size)),
                _ => Err(unfit(name, "a size such as \"12GB\"", &value)),
            },
        }
    }

    /// One of some words, if it is there.
    pub fn word<T: std::str::FromStr>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, FieldError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => match value.as_str().map(str::parse) {
                Some(Ok(word)) => Ok(Some(word)),
                _ => Err(unfit(name, expected, &value)),
            },
        }
    }

    /// A list of objects, which has to be there.
    pub fn objects(&mut self, name: &'static str) -> Result<Vec<Self>, FieldError> {
        let objects = match self.0.remove(name) {
            None => return Err(FieldError::Missing(name)),
            Some(Value::Array(objects)) if !objects.is_empty() => objects,
            Some(other) => return Err(unfit(name, "a list of objects", &other)),
        };
        let object = |value| match value {
            Value::Object(map) => Ok(Self(map)),
            other => Err(unfit(name, "a list of objects", &other)),
        };
        objects.into_iter().map(object).collect()
    }

    /// Fails if something is left that nobody asked for.
    pub fn end(self) -> Result<(), FieldError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(FieldError::Unknown(format!("{name:?}"))),
            None => Ok(()),
        }
    }

    /// A field that says something.
    fn present(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }
}

/// The error, with at most forty characters of what stands there.
fn unfit(name: &'static str, expected: &str, found: &Value) -> FieldError {
    FieldError::Unfit {
        name,
        expected: expected.to_owned(),
        found: found.to_string().chars().take(40).collect(),
    }
}
