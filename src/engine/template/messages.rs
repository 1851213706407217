//! Messages as callers send them, made into what templates expect. Pure; it renders
//! nothing.

use serde_json::{Map, Value, json};

use crate::engine::tokenizer::TextError;

/// Names under which callers send reasoning; the first is what templates read
/// (transformers, `_alias_reasoning_fields`).
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The messages in the shape that templates are written for:
///
/// - content is a text: parts are joined, nothing becomes empty (as in mlx-lm's server);
/// - a tool call's arguments are an object rather than the text of one (as in mlx-lm's
///   server: templates turn them into JSON themselves);
/// - `developer` reads `system`, unless the template knows that role;
/// - reasoning is found under the name that templates use.
///
/// # Errors
/// [`TextError::Template`] naming the place, for anything but text in the content.
pub(super) fn normalised(messages: &Value, knows_developer: bool) -> Result<Vec<Value>, TextError> {
    let Some(messages) = messages.as_array() else {
        return Err(TextError::Template(
            "messages: expected a list of messages".to_owned(),
        ));
    };
    messages
        .iter()
        .enumerate()
        .map(|(at, message)| {
            let Value::Object(message) = message else {
                return Err(TextError::Template(format!(
                    "messages[{at}]: expected an object"
                )));
            };
            normalised_one(message.clone(), at, knows_developer)
        })
        .collect()
}

fn normalised_one(
    mut message: Map<String, Value>,
    at: usize,
    knows_developer: bool,
) -> Result<Value, TextError> {
    if !knows_developer && message.get("role").is_some_and(|role| role == "developer") {
        message.insert("role".to_owned(), json!("system"));
    }
    let text = match message.get("content") {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::Array(parts)) => Some(joined(parts, at)?),
        Some(_) => None,
    };
    if let Some(text) = text {
        message.insert("content".to_owned(), Value::String(text));
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().for_each(open_arguments);
    }
    // Templates branch on whether the key is there, so none that says nothing stays.
    if message.get("tool_calls").is_some_and(Value::is_null) {
        message.shift_remove("tool_calls");
    }
    let reasoning = REASONING
        .iter()
        .find_map(|name| message.get(*name).filter(|value| !value.is_null()))
        .cloned();
    if let Some(reasoning) = reasoning {
        message
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(Value::Object(message))
}

/// The text of content that is given in parts.
fn joined(parts: &[Value], at: usize) -> Result<String, TextError> {
    let mut text = String::new();
    for (number, part) in parts.iter().enumerate() {
        let piece = match part["type"].as_str() {
            Some("text" | "input_text" | "output_text") => part["text"].as_str(),
            Some("refusal") => part["refusal"].as_str(),
            _ => part.as_str(),
        };
        let Some(piece) = piece else {
            let kind = part["type"].as_str().unwrap_or("unknown");
            return Err(TextError::Template(format!(
                "messages[{at}].content[{number}]: this model takes text only, found a part of type {kind:?}"
            )));
        };
        text.push_str(piece);
    }
    Ok(text)
}

/// Makes the arguments of a call an object, if they are the text of one.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return;
    };
    if let Some(text) = arguments.as_str()
        && let Ok(opened @ Value::Object(_)) = serde_json::from_str(text)
    {
        *arguments = opened;
    }
}

/// Puts `mark` at the end of the last message's text, and answers that text.
///
/// # Errors
/// [`TextError::Template`] if there is no last message.
pub(super) fn mark_last(messages: &mut [Value], mark: &str) -> Result<String, TextError> {
    let content = messages
        .last_mut()
        .and_then(|message| message.get_mut("content"));
    let Some(Value::String(text)) = content else {
        return Err(TextError::Template(
            "continue_final_message: there is no final message to continue".to_owned(),
        ));
    };
    let before = text.clone();
    text.push_str(mark);
    Ok(before)
}
