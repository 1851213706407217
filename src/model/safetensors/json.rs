//! The JSON of a safetensors header, read entry by entry so that a hostile one
//! is refused early and what it says never held as a whole.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use super::{Dtype, MOST_TENSORS, SafetensorsError, TensorInfo, tensor_error};

/// One entry as typed in the header.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// An entry under its name.
#[derive(Debug)]
struct Named {
    name: String,
    entry: Entry,
}

/// The tensors of a header, each checked by itself.
pub(super) fn tensors(text: &[u8]) -> Result<Vec<TensorInfo>, SafetensorsError> {
    read(text)?.into_iter().map(Named::check).collect()
}

/// Reads a header to its end. The entries still have to be checked.
fn read(text: &[u8]) -> Result<Vec<Named>, SafetensorsError> {
    let bad = |error: serde_json::Error| SafetensorsError::Json(error.to_string());
    let mut json = serde_json::Deserializer::from_slice(text);
    let entries = Entries.deserialize(&mut json).map_err(bad)?;
    json.end().map_err(bad)?;
    Ok(entries)
}

impl Named {
    /// Shape times size has to be the span, without overflow.
    fn check(self) -> Result<TensorInfo, SafetensorsError> {
        let Self { name, entry } = self;
        let Some(dtype) = Dtype::parse(entry.dtype.as_bytes()) else {
            let found: String = entry.dtype.chars().take(20).collect();
            return Err(tensor_error(
                &name,
                format!("unknown number format {found:?}"),
            ));
        };
        let (start, end) = entry.data_offsets;
        let needed = entry
            .shape
            .iter()
            .try_fold(dtype.bytes(), |product, &size| product.checked_mul(size));
        match (end.checked_sub(start), needed) {
            (Some(span), Some(needed)) if span == needed => Ok(TensorInfo {
                name,
                dtype,
                shape: entry.shape,
                offset: start,
                len: span,
            }),
            (Some(span), Some(needed)) => {
                let reason = format!("its shape needs {needed} bytes, its offsets span {span}");
                Err(tensor_error(&name, reason))
            }
            (None, _) => Err(tensor_error(
                &name,
                "its end is before its start".to_owned(),
            )),
            (_, None) => Err(tensor_error(&name, "its shape is too large".to_owned())),
        }
    }
}

/// The whole header: names to entries, and `__metadata__`, which is texts.
struct Entries;

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vec<Named>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Vec<Named>, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<Named>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Named>, A::Error> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let shown: String = name.chars().take(100).collect();
                return Err(A::Error::custom(format!("{shown:?} is there twice")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if entries.len() == MOST_TENSORS {
                return Err(A::Error::custom(format!(
                    "more than {MOST_TENSORS} tensors"
                )));
            }
            let entry = map.next_value()?;
            entries.push(Named { name, entry });
        }
        Ok(entries)
    }
}
