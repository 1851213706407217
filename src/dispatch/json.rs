//! A reader of JSON that passes quickly over what nobody asks for, behind the interface of
//! `serde`. It reads what `serde_json` reads, and as that does; tests and the fuzzing of bodies hold
//! the two against each other. It makes no values, and bounds no nesting: what is passed over
//! needs no stack, and what is asked for here has few levels. Pure.
//!
//! Source of the grammar: RFC 8259.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

mod scan;

use scan::Json;

/// The name under which [`Raw`] asks for bytes as they stand.
const RAW: &str = "$roundhouse::raw";

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is no JSON: what was expected, and before which byte.
    #[error("expected {0} at byte {1}")]
    Syntax(&'static str, usize),
    /// It is, and holds something else than was asked for.
    #[error("{0}")]
    Other(String),
}

impl de::Error for Unread {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }
}

/// A value as it stands in the text, which has been looked through.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'t>(pub &'t str);

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Raw<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Raw<'de>, E> {
                Ok(Raw(text))
            }
        }
        json.deserialize_newtype_struct(RAW, Whole)
    }
}

/// A text, borrowed if it has no escapes.
#[derive(Debug)]
pub struct Text<'t>(pub Cow<'t, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        json.deserialize_str(Borrowed)
    }
}

/// Reads all of a text as one value.
///
/// # Errors
/// It is no JSON, or not what is asked for.
pub fn read<'t, S: DeserializeSeed<'t>>(text: &'t str, seed: S) -> Result<S::Value, Unread> {
    read_all(Json::new(text.as_bytes(), Some(text)), seed)
}

/// The same of bytes of which not all have to be UTF-8: no more than `serde_json` asks for.
///
/// # Errors
/// As those of [`read`].
pub fn read_bytes<'t, T: Deserialize<'t>>(bytes: &'t [u8]) -> Result<T, Unread> {
    read_all(Json::new(bytes, None), std::marker::PhantomData)
}

fn read_all<'t, S: DeserializeSeed<'t>>(mut json: Json<'t>, seed: S) -> Result<S::Value, Unread> {
    let value = seed.deserialize(&mut json)?;
    match json.next() {
        None => Ok(value),
        Some(_) => Err(json.expected("nothing more")),
    }
}

impl<'de> Deserializer<'de> for &mut Json<'de> {
    type Error = Unread;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        match self.next() {
            Some(b'"') => match self.text()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            Some(b'{') => {
                self.at += 1;
                let mut within = Within::of(self, b'}');
                let value = visitor.visit_map(&mut within)?;
                within.finish()?;
                Ok(value)
            }
            Some(b'[') => {
                self.at += 1;
                let mut within = Within::of(self, b']');
                let value = visitor.visit_seq(&mut within)?;
                within.finish()?;
                Ok(value)
            }
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                let is_whole = self.number()?;
                let text = self.since(start)?;
                if is_whole {
                    if let Ok(number) = text.parse::<u64>() {
                        return visitor.visit_u64(number);
                    }
                    // Zero has a sign as a float alone.
                    if let Some(number) = text.parse::<i64>().ok().filter(|&number| number != 0) {
                        return visitor.visit_i64(number);
                    }
                }
                match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => visitor.visit_f64(number),
                    _ => Err(Unread::Syntax("a number in its range", start)),
                }
            }
            Some(b't') => {
                self.word("true")?;
                visitor.visit_bool(true)
            }
            Some(b'f') => {
                self.word("false")?;
                visitor.visit_bool(false)
            }
            Some(b'n') => {
                self.word("null")?;
                visitor.visit_unit()
            }
            _ => Err(self.expected("a value")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        self.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        match self.next() {
            Some(b'n') => {
                self.word("null")?;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unread> {
        if name != RAW {
            return visitor.visit_newtype_struct(self);
        }
        self.next();
        let start = self.at;
        self.skip()?;
        visitor.visit_borrowed_str(self.since(start)?)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct enum identifier
    }
}

/// Inside of an object or an array.
struct Within<'j, 't> {
    json: &'j mut Json<'t>,
    /// What ends it.
    end: u8,
    is_first: bool,
    has_ended: bool,
}

impl<'j, 't> Within<'j, 't> {
    fn of(json: &'j mut Json<'t>, end: u8) -> Self {
        Self {
            json,
            end,
            is_first: true,
            has_ended: false,
        }
    }

    /// Whether there is one more, before which the reader is then.
    fn goes_on(&mut self) -> Result<bool, Unread> {
        if self.has_ended || self.json.take(self.end) {
            self.has_ended = true;
            return Ok(false);
        }
        let is_first = std::mem::replace(&mut self.is_first, false);
        match is_first || self.json.take(b',') {
            true => Ok(true),
            false => Err(self.json.expected("a comma or the end")),
        }
    }

    /// Whoever visited it has to have seen all of it.
    fn finish(&mut self) -> Result<(), Unread> {
        match self.goes_on()? {
            true => Err(Unread::Other("there is more than is asked for".to_owned())),
            false => Ok(()),
        }
    }
}

impl<'t> SeqAccess<'t> for &mut Within<'_, 't> {
    type Error = Unread;

    fn next_element_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Unread> {
        match self.goes_on()? {
            true => seed.deserialize(&mut *self.json).map(Some),
            false => Ok(None),
        }
    }
}

impl<'t> MapAccess<'t> for &mut Within<'_, 't> {
    type Error = Unread;

    fn next_key_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Unread> {
        if !self.goes_on()? {
            return Ok(None);
        }
        let key = match self.json.text()? {
            Cow::Borrowed(key) => seed.deserialize(BorrowedStrDeserializer::new(key))?,
            Cow::Owned(key) => seed.deserialize(de::IntoDeserializer::into_deserializer(key))?,
        };
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Unread> {
        self.json.colon()?;
        seed.deserialize(&mut *self.json)
    }
}

#[cfg(test)]
mod tests;
