//! JSON from files that others wrote: bounded in size and depth, and without
//! keys that are there twice, so that no two readers see different things.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a regular file of at most `most` bytes. The error is a phrase that
/// goes after the file's name.
pub(super) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("could not be read: {error}"))?;
    // One byte more than there are, so that the end is met without growing.
    let length = file.metadata().map_or(0, |facts| facts.len());
    let mut bytes = Vec::with_capacity(length.min(most) as usize + 1);
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("could not be read: {error}"))?;
    match bytes.len() as u64 > most {
        true => Err(format!("is larger than {most} bytes")),
        false => Ok(bytes),
    }
}

/// The first bytes of a file, at most 64. The error is a phrase as above.
pub(super) fn start_of(path: &Path) -> Result<Vec<u8>, String> {
    let mut start = Vec::with_capacity(64);
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut start))
        .map_err(|error| format!("could not be read: {error}"))?;
    Ok(start)
}

/// Parses strictly: nesting up to 128, no key twice, nothing after the end.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<Strict>(bytes)
        .map(|strict| strict.0)
        .map_err(|error| format!("is not valid JSON: {error}"))
}

/// A value in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, is: bool) -> Result<Value, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if values.contains_key(&key) {
                let shown: String = key.chars().take(100).collect();
                return Err(A::Error::custom(format!(
                    "the key {shown:?} is there twice"
                )));
            }
            let Strict(value) = object.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_json_passes() {
        let check = |text: &str, expected: Option<&str>| match (parse(text.as_bytes()), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(part)) => assert!(error.contains(part), "{text}: {error}"),
            (got, _) => panic!("{text}: {got:?}, expected {expected:?}"),
        };
        check(r#"{"a": [1, -2, 3.5, "x", null, true, {}]}"#, None);
        check(r#"{"a": 1, "a": 2}"#, Some("twice"));
        check(r#"{"b": [{"a": 1, "a": 1}]}"#, Some("twice"));
        check("{} {}", Some("trailing"));
        check(r#"{"a": NaN}"#, Some("not valid"));
        check(&format!("{}{}", "[".repeat(100), "]".repeat(100)), None);
        check(&"[".repeat(10_000), Some("recursion limit"));
        check(&r#"{"a":"#.repeat(10_000), Some("recursion limit"));
    }
}
