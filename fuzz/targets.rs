//! What is fuzzed: whatever reads bytes of strangers. Each function takes any
//! bytes and fails only if something promised does not hold.

use roundhouse::api::fields::Endpoint;
use roundhouse::config::Counts;
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

/// Names and ids: what is let through cannot leave its folder.
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
    if let Ok(id) = ModelId::parse(text) {
        assert!(Name::parse(text).is_ok(), "an id is a name");
        let folder = id.folder();
        assert!(!folder.contains('/') && folder.starts_with("models--"));
        assert_eq!(ModelId::from_folder(&folder), Some(id));
    }
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
