//! What the router reads of a body: `model` and `stream`, nothing else. The
//! bytes themselves go on unchanged. Pure.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::api::error::{ApiError, Code};

/// Deepest nesting of a body that is forwarded.
pub const DEEPEST: usize = 128;

/// The facts of a request that routing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// `model`, if there is one.
    pub model: Option<String>,
    /// `stream`; absent and null mean false.
    pub stream: bool,
}

/// Reads `model` and `stream` from a JSON object. A body in which the engine
/// might read something else than the router did (a key twice, however it is
/// escaped) is refused, and so is one nested too deeply to be looked through.
pub fn peek(body: &[u8]) -> Result<Peek, ApiError> {
    check_depth(body)?;
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::new(Code::InvalidJson, "the body is not UTF-8"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let seen = json.deserialize_any(PeekVisitor).map_err(invalid_json)?;
    json.end().map_err(invalid_json)?;
    let model = match seen.model {
        None => None,
        Some(serde_json::Value::String(model)) => Some(model),
        Some(other) => {
            let message = format!("model must be a string, found {}", kind(&other));
            return Err(ApiError::new(Code::InvalidModelId, message).param("model"));
        }
    };
    let stream = match seen.stream {
        None | Some(serde_json::Value::Null) => false,
        Some(serde_json::Value::Bool(stream)) => stream,
        Some(other) => {
            let message = format!("stream must be true or false, found {}", kind(&other));
            return Err(ApiError::new(Code::InvalidValue, message).param("stream"));
        }
    };
    Ok(Peek { model, stream })
}

/// Puts a `model` into a body that has none. The rest stays byte for byte.
pub fn insert_model(body: &[u8], model: &str) -> Vec<u8> {
    let start = body
        .iter()
        .position(|&byte| byte == b'{')
        .map_or(0, |at| at + 1);
    let (head, rest) = body.split_at(start);
    let empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let field = serde_json::Value::from(model);
    let comma = if empty { "" } else { "," };
    [head, format!("\"model\":{field}{comma}").as_bytes(), rest].concat()
}

/// Refuses bodies nested more than [`DEEPEST`] levels. Counting brackets outside
/// strings is enough: whatever is no JSON at all is found later.
fn check_depth(body: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let message = format!("the body is nested more than {DEEPEST} levels deep");
            return Err(ApiError::new(Code::InvalidJson, message));
        }
    }
    Ok(())
}

fn invalid_json(error: serde_json::Error) -> ApiError {
    // serde_json's text names a place, never content, except for what this file adds.
    ApiError::new(
        Code::InvalidJson,
        format!("the body is not a JSON object that can be served: {error}"),
    )
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

#[derive(Default)]
struct Seen {
    model: Option<serde_json::Value>,
    stream: Option<serde_json::Value>,
}

struct PeekVisitor;

impl<'de> Visitor<'de> for PeekVisitor {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        let mut seen = Seen::default();
        let mut keys = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let slot = match key.as_ref() {
                "model" => Some(&mut seen.model),
                "stream" => Some(&mut seen.stream),
                _ => None,
            };
            match slot {
                Some(slot) => *slot = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            if let Some(twice) = keys.replace(key) {
                let short: String = twice.chars().take(40).collect();
                return Err(serde::de::Error::custom(format!(
                    "the key {short:?} stands twice"
                )));
            }
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<(Option<&str>, bool), Code>) {
        let got = peek(body.as_bytes())
            .map(|p| (p.model, p.stream))
            .map_err(|e| e.code);
        let expected = expected.map(|(model, stream)| (model.map(str::to_owned), stream));
        assert_eq!(got, expected, "{}", &body[..body.len().min(80)]);
    }

    #[test]
    fn model_and_stream_are_found_wherever_they_stand() {
        check(r#"{"model":"a/b"}"#, Ok((Some("a/b"), false)));
        check(
            r#" {"messages":[{"model":"x"}],"stream":true,"model":"a"} "#,
            Ok((Some("a"), true)),
        );
        check(r#"{"mod\u0065l":"a"}"#, Ok((Some("a"), false)));
        check(r#"{"stream":null}"#, Ok((None, false)));
        check("{}", Ok((None, false)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        check(r#"{"model":"a","model":"b"}"#, Err(Code::InvalidJson));
        check(r#"{"model":"a","mod\u0065l":"b"}"#, Err(Code::InvalidJson));
        check(r#"{"x":1,"x":2,"model":"a"}"#, Err(Code::InvalidJson));
    }

    #[test]
    fn wrong_kinds_are_named() {
        for body in ["null", "1", "[]", "{}", "true"] {
            check(&format!(r#"{{"model":{body}}}"#), Err(Code::InvalidModelId));
        }
        check(r#"{"model":"a","stream":"yes"}"#, Err(Code::InvalidValue));
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for body in [
            "",
            "[]",
            "\"a\"",
            "{",
            "{} x",
            "\u{feff}{}",
            "{\"a\":NaN}",
            "{'a':1}",
        ] {
            check(body, Err(Code::InvalidJson));
        }
        assert!(peek(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |depth: usize| {
            format!(
                "{{\"model\":\"a\",\"x\":{}{}}}",
                "[".repeat(depth),
                "]".repeat(depth)
            )
        };
        check(&nested(127), Ok((Some("a"), false)));
        check(&nested(128), Err(Code::InvalidJson));
        check(&nested(200_000), Err(Code::InvalidJson));
        let text = format!(r#"{{"model":"a","x":"{}\""}}"#, "[".repeat(1000));
        check(&text, Ok((Some("a"), false)));
    }

    #[test]
    fn a_missing_model_is_put_in_and_nothing_else_changes() {
        let check = |body: &str, expected: &str| {
            assert_eq!(
                String::from_utf8(insert_model(body.as_bytes(), "a/b")).expect("text"),
                expected
            );
        };
        check("{}", r#"{"model":"a/b"}"#);
        check(" { } ", r#" {"model":"a/b" } "#);
        check(r#"{ "n": 1e3 }"#, r#"{"model":"a/b", "n": 1e3 }"#);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(body: Vec<u8>) {
            let _ = peek(&body);
        }
    }
}
