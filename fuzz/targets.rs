//! What is fuzzed: whatever reads bytes of strangers. Each function takes any
//! bytes and fails only if something promised does not hold.

#[path = "targets/answer.rs"]
mod answer;
#[path = "targets/cache.rs"]
mod cache;
#[path = "targets/config.rs"]
mod config;
#[path = "targets/headers.rs"]
mod headers;
#[path = "targets/stream.rs"]
mod stream;

pub use answer::answer;
pub use cache::cache;
pub use config::config;
pub use headers::headers;
pub use stream::stream;

use std::collections::HashMap;

use roundhouse::api::error::{ApiError, Code};
use roundhouse::api::fields::Endpoint;
use roundhouse::config::request::Rules;
use roundhouse::config::{Counts, Pattern};
use roundhouse::dispatch::peek::{self, Peek};
use roundhouse::dispatch::rules::{self, Naming};
use roundhouse::model::id::{LONGEST, ModelId, Name};
use roundhouse::model::{gguf, safetensors};
use serde_json::Value;
use serde_json::value::RawValue;

/// Bodies: what the router lets through, a parser reads, and as the router did; what
/// it says is no JSON, no parser reads.
pub fn peek(data: &[u8]) {
    let counts = Counts::standard();
    for endpoint in [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings] {
        let seen = match peek::peek(endpoint, data, &counts) {
            Ok(seen) => seen,
            Err(refusal) => {
                refused(data, &refusal);
                continue;
            }
        };
        let fields: Fields<'_> =
            serde_json::from_slice(data).expect("what is let through is an object");
        let read = |name: &str| -> Value {
            let raw = fields.get(name).map(|raw| raw.get());
            raw.map_or(Value::Null, |raw| {
                serde_json::from_str(raw).expect("a value")
            })
        };
        assert_eq!(read("model").as_str(), seen.model.as_deref());
        let streams = endpoint != Endpoint::Embeddings && read("stream") == true;
        assert_eq!(streams, seen.stream);
        named(endpoint, data, &fields);
        // One more field and a few more values than came in.
        if fields.len() < 1000 && data.len() < 100_000 {
            ruled(endpoint, data, &counts, seen);
        }
    }
}

/// The members of a body and their bytes.
type Fields<'b> = HashMap<String, &'b RawValue>;

/// What is refused for what it is, and not for what it holds, is no object to others
/// either, or one that can be read in two ways or is beyond what is looked through.
fn refused(data: &[u8], refusal: &ApiError) {
    let limits = ["stands twice", "more than", "nested"];
    if refusal.code == Code::InvalidJson && !limits.iter().any(|it| refusal.message.contains(it)) {
        let is_object = serde_json::from_slice::<Fields<'_>>(data).is_ok();
        // What is counted is read to its end: half a surrogate pair is no text there.
        let is_whole = serde_json::from_slice::<Value>(data).is_ok();
        assert!(!is_object || !is_whole, "{}", refusal.message);
    }
}

/// The name of the model alone is another: all bytes around it stay.
fn named(endpoint: Endpoint, data: &[u8], fields: &Fields<'_>) {
    let body = data.to_vec().into();
    let apply = |naming: Naming| {
        let ruled = rules::apply(endpoint, &body, &Rules::default(), naming);
        ruled.payload.joined().to_vec()
    };
    assert_eq!(apply(Naming::AsSaid), data);
    if let Some(model) = fields.get("model") {
        let start = model.get().as_ptr() as usize - data.as_ptr() as usize;
        let (before, after) = (&data[..start], &data[start + model.get().len()..]);
        let expected = [before, b"\"/x y\"", after].concat();
        assert_eq!(apply(Naming::Always("/x y")), expected);
        assert_eq!(apply(Naming::IfMissing("/x y")), data);
    }
}

/// Members that no rule of [`ruled`] names, in their order, byte for byte.
fn untouched(body: &[u8]) -> Vec<(String, String)> {
    const RULED: [&str; 11] = [
        "model",
        "messages",
        "temperature",
        "top_k",
        "stop",
        "chat_template_kwargs",
        "enable_thinking",
        "user",
        "seed",
        "max_tokens",
        "max_completion_tokens",
    ];
    let fields: Fields<'_> = serde_json::from_slice(body).expect("an object");
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by_key(|(_, raw)| raw.get().as_ptr());
    let kept = fields.into_iter();
    kept.filter(|(name, _)| !RULED.contains(&name.as_str()))
        .map(|(name, raw)| (name, raw.get().to_owned()))
        .collect()
}

/// A body with every kind of rule applied: the router reads the same in it, the
/// rules hold, and applied again they change no field.
fn ruled(endpoint: Endpoint, data: &[u8], counts: &Counts, seen: Peek) {
    let Value::Object(given) = serde_json::json!({
        "temperature": 0.5, "top_k": 3, "stop": ["x"],
        "chat_template_kwargs": {"a": {"b": 1}, "enable_thinking": true},
    }) else {
        return;
    };
    let mut rules = Rules {
        defaults: given.clone(),
        set: given,
        strip: vec!["user".to_owned(), "seed".to_owned()],
        system_prefix: Some("\"{\n".to_owned()),
        ..Rules::default()
    };
    rules.set.retain(|name, _| name != "top_k");
    rules.limits.insert("max_tokens".to_owned(), 7.into());
    let apply = |body: &[u8], rules: &Rules, missing: Option<&str>| {
        let naming = missing.map_or(Naming::AsSaid, Naming::IfMissing);
        let body = body.to_vec().into();
        rules::apply(endpoint, &body, rules, naming)
            .payload
            .joined()
    };
    let model = seen.model.clone().unwrap_or_else(|| "a/b".to_owned());
    let missing = seen.model.is_none().then_some("a/b");
    let expected = Peek {
        model: Some(model),
        ..seen
    };
    let wider = Counts {
        values: counts.values + 100,
        messages: counts.messages + 1,
        ..counts.clone()
    };
    let once = apply(data, &rules, missing);
    match peek::peek(endpoint, &once, &wider) {
        Ok(again) => assert_eq!(again, expected),
        Err(error) => panic!("{error:?}: {}", String::from_utf8_lossy(&once)),
    }
    assert_eq!(untouched(&once), untouched(data));
    let read = |body: &[u8]| -> HashMap<String, Box<RawValue>> {
        serde_json::from_slice(body).expect("an object")
    };
    let fields = read(&once);
    assert!(!fields.contains_key("user") && !fields.contains_key("seed"));
    if endpoint != Endpoint::Embeddings {
        assert_eq!(fields["temperature"].get(), "0.5");
    }
    let bounds = ["max_tokens", "max_completion_tokens"];
    let bounds = bounds.into_iter().filter_map(|name| fields.get(name));
    for bound in bounds.filter(|bound| bound.get() != "null") {
        // Where it is no field, anything may stand.
        assert!(
            endpoint == Endpoint::Embeddings
                || bound.get().parse::<u64>().is_ok_and(|bound| bound <= 7)
        );
    }
    rules.system_prefix = None;
    let twice = read(&apply(&once, &rules, None));
    let texts = |fields: &HashMap<String, Box<RawValue>>| {
        let texts = fields
            .iter()
            .map(|(name, raw)| (name.clone(), raw.get().to_owned()));
        texts.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(texts(&twice), texts(&fields));
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
