//! What a request may ask an answer to be: the forms of it, and how large it may be. It
//! looks at shapes alone and compiles nothing.

use serde_json::{Map, Value};

use super::{invalid, kind, wrong};
use crate::api::error::ApiError;

/// Longest schema as JSON, bytes.
pub const LONGEST_SCHEMA: usize = 128 * 1024;

/// Deepest schema, levels of JSON.
pub const DEEPEST_SCHEMA: usize = 64;

/// Longest regular expression, bytes.
pub const LONGEST_PATTERN: usize = 16 * 1024;

/// Longest grammar, bytes.
pub const LONGEST_GRAMMAR: usize = 64 * 1024;

/// Most brackets that stand open at once in either.
pub const DEEPEST_PATTERN: usize = 64;

/// Most texts that an answer may be one of.
pub const MOST_CHOICES: usize = 1024;

/// Most bytes of all of them.
pub const LONGEST_CHOICES: usize = 64 * 1024;

/// What `structured_outputs` may hold, one of which does something.
pub const WAYS: [&str; 5] = ["json", "json_object", "regex", "choice", "grammar"];

/// Checks `response_format`.
pub(super) fn format(name: &str, value: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        return Err(wrong(name, "an object", value));
    };
    let place = format!("{name}.type");
    match map.get("type").unwrap_or(&Value::Null).as_str() {
        Some("text") => Ok(()),
        // A schema beside it is how some clients write the third.
        Some("json_object") => match map.get("schema").unwrap_or(&Value::Null) {
            Value::Null => Ok(()),
            value => schema(&format!("{name}.schema"), value),
        },
        Some("json_schema") => {
            let place = format!("{name}.json_schema");
            let found = map.get("json_schema").unwrap_or(&Value::Null);
            let Value::Object(described) = found else {
                return Err(wrong(&place, "an object with a schema", found));
            };
            json_schema(&place, described)
        }
        _ => {
            let found = map.get("type").unwrap_or(&Value::Null);
            let expected = "\"text\", \"json_object\" or \"json_schema\"";
            Err(wrong(&place, expected, found))
        }
    }
}

fn json_schema(place: &str, described: &Map<String, Value>) -> Result<(), ApiError> {
    match described.get("strict").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(_) => {}
        other => return Err(wrong(&format!("{place}.strict"), "true or false", other)),
    }
    let found = described.get("schema").unwrap_or(&Value::Null);
    schema(&format!("{place}.schema"), found)
}

/// Checks a JSON Schema.
fn schema(name: &str, value: &Value) -> Result<(), ApiError> {
    if !matches!(value, Value::Object(_) | Value::Bool(_)) {
        return Err(wrong(name, "a JSON Schema, an object", value));
    }
    bounded(name, value)
}

/// Checks how large and how deep something is that becomes part of a grammar.
pub fn bounded(name: &str, value: &Value) -> Result<(), ApiError> {
    let deepest = depth(value);
    if deepest > DEEPEST_SCHEMA {
        let message = format!("{name}: expected at most {DEEPEST_SCHEMA} levels, found {deepest}");
        return Err(invalid(name, message));
    }
    at_most(name, LONGEST_SCHEMA, value.to_string().len())
}

/// Checks a schema that may also stand as JSON in a string.
pub(super) fn any_schema(name: &str, value: &Value) -> Result<(), ApiError> {
    match value {
        Value::String(text) => {
            at_most(name, LONGEST_SCHEMA, text.len())?;
            match serde_json::from_str(text) {
                Ok(value) => schema(name, &value),
                Err(error) => Err(invalid(
                    name,
                    format!("{name}: expected a JSON Schema, found no JSON: {error}"),
                )),
            }
        }
        value => schema(name, value),
    }
}

/// Checks a regular expression.
pub(super) fn pattern(name: &str, value: &Value) -> Result<(), ApiError> {
    bracketed(name, "a regular expression", LONGEST_PATTERN, value)
}

/// Checks a grammar.
pub(super) fn grammar(name: &str, value: &Value) -> Result<(), ApiError> {
    bracketed(name, "a grammar in Lark's form", LONGEST_GRAMMAR, value)?;
    match value.as_str().is_some_and(|text| text.contains("::=")) {
        true => Err(invalid(
            name,
            format!("{name}: expected a grammar in Lark's form, found GBNF or EBNF (`::=`)"),
        )),
        false => Ok(()),
    }
}

fn bracketed(name: &str, expected: &str, longest: usize, value: &Value) -> Result<(), ApiError> {
    let Value::String(text) = value else {
        return Err(wrong(name, expected, value));
    };
    if text.trim().is_empty() {
        return Err(invalid(
            name,
            format!("{name}: expected {expected}, found nothing"),
        ));
    }
    at_most(name, longest, text.len())?;
    let open = brackets(text);
    if open > DEEPEST_PATTERN {
        let message = format!(
            "{name}: expected at most {DEEPEST_PATTERN} brackets open at once, found {open}"
        );
        return Err(invalid(name, message));
    }
    Ok(())
}

/// Checks the texts that an answer may be one of.
pub(super) fn choice(name: &str, value: &Value) -> Result<(), ApiError> {
    let expected = "an array of strings";
    let Value::Array(choices) = value else {
        return Err(wrong(name, expected, value));
    };
    if !(1..=MOST_CHOICES).contains(&choices.len()) {
        let found = choices.len();
        let message = format!("{name}: expected 1 to {MOST_CHOICES} strings, found {found}");
        return Err(invalid(name, message));
    }
    let mut length = 0;
    for (index, choice) in choices.iter().enumerate() {
        match choice {
            Value::String(text) if !text.is_empty() => length += text.len(),
            Value::String(_) => {
                let place = format!("{name}[{index}]");
                let message = format!("{place}: expected a text, found an empty one");
                return Err(invalid(place, message));
            }
            other => return Err(wrong(&format!("{name}[{index}]"), "a string", other)),
        }
    }
    at_most(name, LONGEST_CHOICES, length)
}

/// Checks `structured_outputs`.
pub(super) fn structured(name: &str, value: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        return Err(wrong(name, "an object", value));
    };
    let mut ways = map
        .iter()
        .filter(|(way, value)| WAYS.contains(&way.as_str()) && !value.is_null());
    let (Some((way, value)), None) = (ways.next(), ways.next()) else {
        let message = format!("{name}: expected one of {}", WAYS.join(", "));
        return Err(invalid(name, message));
    };
    let place = format!("{name}.{way}");
    match (way.as_str(), value) {
        ("json", value) => any_schema(&place, value),
        ("regex", value) => pattern(&place, value),
        ("choice", value) => choice(&place, value),
        ("grammar", value) => grammar(&place, value),
        (_, Value::Bool(true)) => Ok(()),
        (_, other) => Err(invalid(
            &place,
            format!("{place}: expected true, found {}", kind(other)),
        )),
    }
}

fn at_most(name: &str, most: usize, found: usize) -> Result<(), ApiError> {
    match found <= most {
        true => Ok(()),
        false => Err(invalid(
            name,
            format!("{name}: expected at most {most} bytes, found {found}"),
        )),
    }
}

/// Levels of a value; a scalar has one. The value has come through a parser with a
/// bound of its own, so this recursion ends early.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => None,
    };
    1 + below.unwrap_or(0)
}

/// The most brackets that may be open at once, whatever is quoted: more are counted
/// rather than fewer.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'(' | b'[' | b'{' => {
                open += 1;
                most = most.max(open);
            }
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(checked: Result<(), ApiError>, param: Option<&str>) {
        let found = checked.map_err(|error| {
            assert!(error.message.len() < 300, "{}", error.message);
            error.param.unwrap_or_default()
        });
        assert_eq!(found.err().as_deref(), param);
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!(true), |inner, _| json!({"items": inner}))
    }

    #[test]
    fn the_forms_of_a_format() {
        let check = |value: Value, param| check(format("f", &value), param);
        check(json!({"type": "text"}), None);
        check(json!({"type": "json_object"}), None);
        check(
            json!({"type": "json_object", "schema": {"type": "object"}}),
            None,
        );
        check(
            json!({"type": "json_object", "schema": 5}),
            Some("f.schema"),
        );
        check(
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
            None,
        );
        check(
            json!({"type": "json_schema", "json_schema": {"schema": true, "strict": null}}),
            None,
        );
        check(json!({"type": "json_schema"}), Some("f.json_schema"));
        check(
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            Some("f.json_schema.schema"),
        );
        check(
            json!({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}),
            Some("f.json_schema.strict"),
        );
        check(json!({"type": "xml"}), Some("f.type"));
        check(json!({}), Some("f.type"));
        check(json!("json"), Some("f"));
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_refused() {
        check(any_schema("s", &nested(DEEPEST_SCHEMA)), None);
        check(any_schema("s", &nested(DEEPEST_SCHEMA + 1)), Some("s"));
        check(any_schema("s", &json!(nested(5).to_string())), None);
        check(any_schema("s", &json!("{")), Some("s"));
        let long = json!({"title": "x".repeat(LONGEST_SCHEMA)});
        check(any_schema("s", &long), Some("s"));
        check(any_schema("s", &json!(long.to_string())), Some("s"));
        let groups = |count: usize| json!("(".repeat(count) + &")".repeat(count));
        check(pattern("p", &groups(DEEPEST_PATTERN)), None);
        check(pattern("p", &groups(DEEPEST_PATTERN + 1)), Some("p"));
        check(pattern("p", &json!("\\(".repeat(1000))), None);
        check(pattern("p", &json!("()".repeat(1000))), None);
        check(
            pattern("p", &json!("x".repeat(LONGEST_PATTERN + 1))),
            Some("p"),
        );
        check(pattern("p", &json!(" ")), Some("p"));
        check(grammar("g", &json!("start: /x/")), None);
        check(grammar("g", &json!("root ::= \"x\"")), Some("g"));
        check(choice("c", &json!(["a", "b"])), None);
        check(choice("c", &json!([])), Some("c"));
        check(choice("c", &json!(["a", ""])), Some("c[1]"));
        check(choice("c", &json!(["a", 5])), Some("c[1]"));
        check(choice("c", &json!(vec!["a"; MOST_CHOICES + 1])), Some("c"));
        check(
            choice("c", &json!(["a".repeat(LONGEST_CHOICES + 1)])),
            Some("c"),
        );
    }

    #[test]
    fn structured_outputs_say_one_thing() {
        let check = |value: Value, param| check(structured("s", &value), param);
        check(json!({"json": {"type": "object"}}), None);
        check(json!({"json": "{}", "disable_any_whitespace": true}), None);
        check(json!({"json_object": true, "regex": null}), None);
        check(json!({"json_object": false}), Some("s.json_object"));
        check(json!({"regex": "a", "choice": ["b"]}), Some("s"));
        check(json!({}), Some("s"));
        check(json!({"regex": 5}), Some("s.regex"));
        check(json!({"choice": []}), Some("s.choice"));
        check(json!({"grammar": "a ::= b"}), Some("s.grammar"));
        check(json!([]), Some("s"));
    }
}
