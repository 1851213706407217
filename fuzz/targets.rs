//! What is fuzzed: whatever reads bytes of strangers. Each function takes any
//! bytes and fails only if something promised does not hold.

#[path = "targets/cache.rs"]
mod cache;
#[path = "targets/config.rs"]
mod config;

pub use cache::cache;
pub use config::config;

use roundhouse::api::fields::Endpoint;
use roundhouse::config::{Counts, Pattern};
use roundhouse::dispatch::peek::{self, Peek};
use roundhouse::model::id::{LONGEST, ModelId, Name};
use roundhouse::model::{gguf, safetensors};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Bodies: what the router lets through, a parser reads, and as the router did.
pub fn peek(data: &[u8]) {
    let counts = Counts::standard();
    for endpoint in [Endpoint::Chat, Endpoint::Completions] {
        let Ok(seen) = peek::peek(endpoint, data, &counts) else {
            continue;
        };
        let fields: std::collections::HashMap<String, &RawValue> =
            serde_json::from_slice(data).expect("what is let through is an object");
        let read = |name: &str| -> Value {
            let raw = fields.get(name).map(|raw| raw.get());
            raw.map_or(Value::Null, |raw| {
                serde_json::from_str(raw).expect("a value")
            })
        };
        assert_eq!(read("model").as_str(), seen.model.as_deref());
        assert_eq!(read("stream").as_bool().unwrap_or_default(), seen.stream);
        if seen.model.is_none() && fields.len() < 1000 {
            let named = peek::insert_model(data, "a/b");
            let expected = Peek {
                model: Some("a/b".to_owned()),
                ..seen
            };
            match peek::peek(endpoint, &named, &counts) {
                Ok(again) => assert_eq!(again, expected),
                Err(error) => assert!(error.message.contains("values"), "{error:?}"),
            }
        }
    }
    // Whatever it is, it is an answer.
    drop(serde_json::from_slice::<Map<String, Value>>(data));
}

/// Names, ids and patterns: what is let through cannot leave its folder, and is what
/// the grammar says, no more and no less.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(name) = Name::parse(text) {
        assert_eq!(name.as_str(), text);
        assert!((1..=LONGEST).contains(&text.len()) && text.is_ascii());
        assert!(
            text.split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.'))
        );
    }
    assert_eq!(ModelId::parse(text).is_ok(), is_id(text), "{text:?}");
    if let Ok(id) = ModelId::parse(text) {
        let name = Name::parse(text).expect("an id is a name");
        assert_eq!(name.as_id().as_ref(), Some(&id));
        let folder = id.folder();
        assert!(!folder.contains('/') && folder.starts_with("models--"));
        assert_eq!(ModelId::from_folder(&folder), Some(id));
    }
    if let Ok(pattern) = Pattern::parse(text) {
        assert_eq!(pattern.as_str(), text);
        assert!(pattern.matches(&text.replace('*', "")), "{text:?}");
        let filled = text.replace('*', "x/y");
        assert_eq!(pattern.matches(&filled), filled == text, "{text:?}");
    }
}

/// The grammar of ids, said a second time: `org "/" repo`, by characters.
fn is_id(text: &str) -> bool {
    let is_part = |part: &str| {
        let mut before = None;
        for (index, character) in part.char_indices() {
            let is_end = index + character.len_utf8() == part.len();
            let fits = match character {
                'a'..='z' | 'A'..='Z' | '0'..='9' => true,
                '_' => !is_end,
                '-' | '.' => index > 0 && !is_end && before != Some(character),
                _ => false,
            };
            if !fits {
                return false;
            }
            before = Some(character);
        }
        let ending = part.rsplit_once('.').map(|(_, ending)| ending);
        before.is_some() && !matches!(ending, Some("git" | "lock" | "incomplete"))
    };
    let parts: Vec<&str> = text.split('/').collect();
    text.len() <= LONGEST && parts.len() == 2 && parts.into_iter().all(is_part)
}

/// Headers of safetensors: tensors lie in the file, one after the other.
pub fn safetensors(data: &[u8]) {
    if let Ok(header) = safetensors::Header::read(data, data.len() as u64) {
        assert!(header.weight_bytes() <= data.len() as u64);
    }
}

/// Headers of GGUF: tensors lie in the file.
pub fn gguf(data: &[u8]) {
    if let Ok(header) = gguf::Header::read(data, data.len() as u64) {
        for tensor in &header.tensors {
            let end = tensor.offset.checked_add(tensor.len);
            assert!(end.is_some_and(|end| end <= data.len() as u64));
        }
    }
}
