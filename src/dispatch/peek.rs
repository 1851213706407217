//! What the router reads of a body: `model` and `stream`, whether the fields
//! that are known hold what they may, and how much of what counts there is. No
//! tree is built and no byte changed: `rules` does that where the file asks for it,
//! and never to what is read here. Pure.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use self::count::{Spot, Tally, Within};
use super::json::{self, Raw, Text};
use crate::api::error::{ApiError, Code};
use crate::api::fields::{Endpoint, Field, Takes, invalid, known, shortened, stay};
use crate::config::Counts;

mod count;
mod extent;

pub use self::extent::DEEPEST;

/// Most fields of a body.
const MOST_FIELDS: usize = 1024;

/// Longest text of a known field but the prompt, the messages, the tools and what
/// the template is given, bytes: so much of a body may become a tree here.
const LONGEST_FIELD: usize = 256 * 1024;

/// As much of a key as a refusal shows, characters.
const LONGEST_KEY: usize = 40;

/// The facts of a request that routing needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Peek {
    /// `model`, if there is one.
    pub model: Option<String>,
    /// `stream`; absent and null mean false.
    pub stream: bool,
    /// `ttl` or `keep_alive`: how long the model is to stay when this was its last
    /// use; nothing means what its entry says.
    pub idle_unload: Option<Duration>,
    /// Why our own engine refuses it, if it does: another one may know what this one
    /// does not.
    pub beyond_own: Option<ApiError>,
}

/// Reads a JSON object. A body in which the engine might read something else than
/// the router did (a key twice, however it is escaped) is refused, and so is one
/// that is nested too deeply to be looked through, holds more than `counts`
/// permits, or has a value no known field takes.
///
/// # Errors
/// A 400 of the error contract; `param` names the field where one is at fault.
pub fn peek(endpoint: Endpoint, body: &[u8], counts: &Counts) -> Result<Peek, ApiError> {
    extent::check(body, counts.values)?;
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::new(Code::InvalidJson, "the body is not UTF-8"))?;
    let mut reader = Reader {
        endpoint,
        counts,
        tally: Tally::new(counts),
        model: None,
        stream: false,
        stay: None,
        choices: 1,
        beyond_own: None,
    };
    if let Err(error) = json::read(text, &mut reader) {
        return Err(reader.tally.refusal.unwrap_or_else(|| invalid_json(error)));
    }
    reader.check_answers()?;
    Ok(Peek {
        model: reader.model,
        stream: reader.stream,
        idle_unload: reader.stay.flatten(),
        beyond_own: reader.beyond_own,
    })
}

/// What has been read so far.
struct Reader<'c> {
    endpoint: Endpoint,
    counts: &'c Counts,
    tally: Tally<'c>,
    model: Option<String>,
    stream: bool,
    /// `ttl` or `keep_alive`, once it was there; then nothing means as long as may be.
    stay: Option<Option<Duration>>,
    choices: u64,
    beyond_own: Option<ApiError>,
}

impl Reader<'_> {
    /// Reads the value of a field of which only itself is of interest.
    fn field(&mut self, field: &Field, raw: Raw<'_>) -> Result<(), ApiError> {
        if raw.0 == "null" {
            return match field.takes {
                Takes::Name => Err(field.wrong("null")),
                _ => Ok(()),
            };
        }
        let value = value_of(field, raw)?;
        match field.check(&value) {
            Err(refusal) if field.depends_on_engine() => {
                self.beyond_own.get_or_insert(refusal);
                return Ok(());
            }
            checked => checked?,
        }
        match (field.name, value) {
            ("model", Value::String(model)) => self.model = Some(model),
            ("stream", Value::Bool(stream)) => self.stream = stream,
            ("ttl" | "keep_alive", _) if self.stay.is_some() => {
                let message = format!("{}: expected ttl or keep_alive, found both", field.name);
                return Err(invalid(field.name, message));
            }
            ("ttl", value) => self.stay = Some(stay::ttl(&value)?),
            ("keep_alive", value) => self.stay = Some(stay::keep_alive(&value)?),
            ("n", value) => {
                self.choices = value.as_u64().unwrap_or(1);
                if self.choices > self.counts.choices as u64 {
                    let most = self.counts.choices;
                    let message =
                        format!("n: expected a whole number from 1 to {most}, found {value}");
                    return Err(invalid("n", message));
                }
            }
            ("stop", Value::Array(stops)) if stops.len() > self.counts.stops => {
                let (most, found) = (self.counts.stops, stops.len());
                let message = format!("stop: expected at most {most} strings, found {found}");
                return Err(invalid("stop", message));
            }
            _ => {}
        }
        Ok(())
    }

    /// Prompts and answers to each multiply.
    fn check_answers(&self) -> Result<(), ApiError> {
        let answers = (self.tally.prompts.max(1) as u64).saturating_mul(self.choices);
        if answers <= self.counts.answers as u64 {
            return Ok(());
        }
        let param = if self.choices > 1 { "n" } else { "prompt" };
        let most = self.counts.answers;
        let message =
            format!("{param}: expected at most {most} answers over all prompts, found {answers}");
        Err(invalid(param, message))
    }
}

/// The value of a field, or the empty one of its kind where the kind is enough.
fn value_of(field: &Field, raw: Raw<'_>) -> Result<Value, ApiError> {
    let text = raw.0;
    let kind_is_enough = matches!(
        field.takes,
        Takes::Object | Takes::Array | Takes::Whole(..) | Takes::Number(..) | Takes::Flag
    );
    match text.as_bytes().first() {
        Some(b'{') if kind_is_enough => return Ok(Value::Object(serde_json::Map::new())),
        Some(b'[') if kind_is_enough => return Ok(Value::Array(Vec::new())),
        _ => {}
    }
    if text.len() > LONGEST_FIELD {
        let message = format!(
            "{}: expected at most {LONGEST_FIELD} bytes, found {}",
            field.name,
            text.len()
        );
        return Err(invalid(field.name, message));
    }
    // A number that nothing holds, half a surrogate pair, or nesting.
    serde_json::from_str(text).map_err(|_| field.wrong(&shortened(text)))
}

fn invalid_json(error: json::Unread) -> ApiError {
    // It names a place, never content, except for what this file adds.
    ApiError::new(
        Code::InvalidJson,
        format!("the body is not a JSON object that can be served: {error}"),
    )
}

impl<'de> DeserializeSeed<'de> for &mut Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(Text(key)) = map.next_key()? {
            match spot_of(self.endpoint, &key) {
                Some(spot) => map.next_value_seed(Within::new(spot, &mut self.tally))?,
                None => match known(self.endpoint, &key) {
                    None => drop(map.next_value::<IgnoredAny>()?),
                    Some(field) => {
                        let raw = map.next_value::<Raw<'de>>()?;
                        if let Err(refusal) = self.field(field, raw) {
                            return Err(self.tally.refuse(refusal));
                        }
                    }
                },
            }
            if let Some(twice) = keys.replace(key) {
                let short: String = twice.chars().take(LONGEST_KEY).collect();
                return Err(A::Error::custom(format!("the key {short:?} stands twice")));
            }
            if keys.len() > MOST_FIELDS {
                return Err(A::Error::custom(format!("more than {MOST_FIELDS} fields")));
            }
        }
        Ok(())
    }
}

/// The fields in which something is counted.
fn spot_of(endpoint: Endpoint, key: &str) -> Option<Spot> {
    match (endpoint, key) {
        (Endpoint::Chat, "messages") => Some(Spot::Messages),
        (Endpoint::Chat, "tools") => Some(Spot::Tools),
        (Endpoint::Completions, "prompt") => Some(Spot::Prompt),
        (Endpoint::Embeddings, "input") => Some(Spot::Input),
        (Endpoint::Rerank, "documents") => Some(Spot::Documents),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
