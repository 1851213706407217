//! Fields whose values have a form of their own. Counts that the configuration
//! may set are not checked here.

use serde_json::Value;

use super::{Shape, TEXTS, format, invalid, stay, wrong};
use crate::api::error::ApiError;

/// Longest stop string, bytes.
const LONGEST_STOP: usize = 1024;

/// Most entries of `logit_bias`.
const MOST_BIASES: usize = 4096;

/// Checks a value that is not `null`.
pub(super) fn check(shape: Shape, name: &str, value: &Value) -> Result<(), ApiError> {
    match shape {
        Shape::Stops => stops(name, value),
        Shape::Biases => biases(name, value),
        Shape::StreamOptions => stream_options(name, value),
        Shape::Format => format::format(name, value),
        Shape::Schema => format::any_schema(name, value),
        Shape::Pattern => format::pattern(name, value),
        Shape::Choice => format::choice(name, value),
        Shape::Grammar => format::grammar(name, value),
        Shape::Structured => format::structured(name, value),
        Shape::ToolChoice => tool_choice(name, value),
        Shape::Seconds => stay::ttl(value).map(drop),
        Shape::Duration => stay::keep_alive(value).map(drop),
        Shape::Prompt | Shape::Texts => match value {
            Value::String(_) | Value::Array(_) => Ok(()),
            other => Err(wrong(name, expected(shape), other)),
        },
    }
}

/// What would be right, in words.
pub(super) fn expected(shape: Shape) -> &'static str {
    match shape {
        Shape::Stops => "a string or an array of strings",
        Shape::Biases => "an object of token ids and numbers",
        Shape::StreamOptions => "an object",
        Shape::Format => "an object with a type",
        Shape::Schema => "a JSON Schema",
        Shape::Pattern => "a regular expression",
        Shape::Choice => "an array of strings",
        Shape::Grammar => "a grammar in Lark's form",
        Shape::Structured => "an object",
        Shape::ToolChoice => "\"auto\", \"none\", \"required\" or an object with a function's name",
        Shape::Seconds => stay::SECONDS,
        Shape::Duration => stay::DURATION,
        Shape::Texts => TEXTS,
        Shape::Prompt => "a string, an array of strings, or one or more arrays of token ids",
    }
}

fn stops(name: &str, value: &Value) -> Result<(), ApiError> {
    let one = |value: &Value| match value {
        Value::String(text) if text.len() > LONGEST_STOP => Err(invalid(
            name,
            format!(
                "{name}: expected strings of at most {LONGEST_STOP} bytes, found one of {}",
                text.len()
            ),
        )),
        Value::String(_) => Ok(()),
        other => Err(wrong(name, expected(Shape::Stops), other)),
    };
    match value {
        Value::Array(list) => list.iter().try_for_each(one),
        other => one(other),
    }
}

fn biases(name: &str, value: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        return Err(wrong(name, expected(Shape::Biases), value));
    };
    if map.len() > MOST_BIASES {
        let found = map.len();
        let message = format!("{name}: expected at most {MOST_BIASES} tokens, found {found}");
        return Err(invalid(name, message));
    }
    map.iter().try_for_each(|(token, bias)| {
        if token.parse::<u32>().is_err() {
            let found = Value::from(token.as_str());
            return Err(wrong(name, "token ids as keys", &found));
        }
        match bias.as_f64() {
            Some(bias) if (-100.0..=100.0).contains(&bias) => Ok(()),
            _ => Err(wrong(name, "numbers from -100 to 100", bias)),
        }
    })
}

fn tool_choice(name: &str, value: &Value) -> Result<(), ApiError> {
    let fits = match value {
        Value::String(word) => ["auto", "none", "required"].contains(&word.as_str()),
        Value::Object(_) => value["type"] == "function" && value["function"]["name"].is_string(),
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(wrong(name, expected(Shape::ToolChoice), value)),
    }
}

fn stream_options(name: &str, value: &Value) -> Result<(), ApiError> {
    let Value::Object(map) = value else {
        return Err(wrong(name, expected(Shape::StreamOptions), value));
    };
    match map.get("include_usage") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(other) => Err(wrong(
            &format!("{name}.include_usage"),
            "true or false",
            other,
        )),
    }
}
