//! The messages of a chat request: checked, and in the one form that chat
//! templates are written for. It does not render them.
//!
//! The form is the one mlx-lm's server hands to a template: `content` is always a
//! text (parts joined, `null` empty) and the arguments of earlier tool calls are
//! objects, not JSON in a string.

use serde_json::{Map, Value};

use super::fields::{invalid, kind, wrong};
use crate::api::error::ApiError;

/// Most messages of one request.
const MOST_MESSAGES: usize = 4096;

/// Most parts of one message.
const MOST_PARTS: usize = 1024;

/// Most tool calls in all messages together.
const MOST_TOOL_CALLS: usize = 4096;

/// Checks the messages and brings them into the form for templates.
///
/// # Errors
/// `invalid_value` whose `param` is the place, such as `messages[2].content`.
pub fn check(messages: Option<Value>) -> Result<Vec<Value>, ApiError> {
    let list = match messages {
        None => {
            return Err(invalid(
                "messages",
                "messages: expected an array, found nothing",
            ));
        }
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages", "an array", &other)),
    };
    if !(1..=MOST_MESSAGES).contains(&list.len()) {
        return Err(invalid(
            "messages",
            format!(
                "messages: expected 1 to {MOST_MESSAGES} messages, found {}",
                list.len()
            ),
        ));
    }
    let mut tool_calls = 0;
    list.into_iter()
        .enumerate()
        .map(|(index, message)| one(&format!("messages[{index}]"), message, &mut tool_calls))
        .collect()
}

/// One message at `place`.
fn one(place: &str, message: Value, tool_calls: &mut usize) -> Result<Value, ApiError> {
    let Value::Object(mut message) = message else {
        return Err(wrong(place, "an object", &message));
    };
    let role = role(place, &message)?;
    let calls = calls(place, &mut message, tool_calls)?;
    let content = content(place, message.shift_remove("content"), role == "assistant")?;
    // Role and content first: some templates print what they do not know.
    let mut formed = Map::new();
    formed.insert("role".to_owned(), role.into());
    formed.insert("content".to_owned(), content.into());
    if let Some(calls) = calls {
        formed.insert("tool_calls".to_owned(), calls);
    }
    message.shift_remove("role");
    formed.extend(message.into_iter().filter(|(_, value)| !value.is_null()));
    Ok(Value::Object(formed))
}

/// The role, with `developer` as the `system` that templates know.
fn role(place: &str, message: &Map<String, Value>) -> Result<&'static str, ApiError> {
    let param = format!("{place}.role");
    let expected = "system, developer, user, assistant or tool";
    match message.get("role").unwrap_or(&Value::Null) {
        Value::String(role) => match role.as_str() {
            "system" | "developer" => Ok("system"),
            "user" => Ok("user"),
            "assistant" => Ok("assistant"),
            "tool" => Ok("tool"),
            _ => Err(wrong(&param, expected, &Value::from(role.as_str()))),
        },
        other => Err(wrong(&param, expected, other)),
    }
}

/// The content as one text. Only an assistant may say nothing.
fn content(place: &str, content: Option<Value>, may_be_empty: bool) -> Result<String, ApiError> {
    let param = format!("{place}.content");
    match content.unwrap_or(Value::Null) {
        Value::String(text) => Ok(text),
        Value::Null if may_be_empty => Ok(String::new()),
        Value::Array(parts) if parts.len() > MOST_PARTS => Err(invalid(
            &param,
            format!(
                "{param}: expected at most {MOST_PARTS} parts, found {}",
                parts.len()
            ),
        )),
        Value::Array(parts) => parts
            .iter()
            .enumerate()
            .map(|(index, part)| part_text(&format!("{param}[{index}]"), part))
            .collect(),
        other => Err(wrong(&param, "a string or an array of parts", &other)),
    }
}

/// The text of one part of a message.
fn part_text<'a>(param: &str, part: &'a Value) -> Result<&'a str, ApiError> {
    let name = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match name {
        "text" | "refusal" => match part.get(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(wrong(
                &format!("{param}.{name}"),
                "a string",
                other.unwrap_or(&Value::Null),
            )),
        },
        "image_url" | "input_image" | "image" => Err(invalid(
            param,
            format!("{param}: this model cannot see images"),
        )),
        "input_audio" | "audio_url" | "video_url" | "file" => Err(invalid(
            param,
            format!("{param}: this model reads text alone, found a part of type {name}"),
        )),
        _ => Err(invalid(
            param,
            format!(
                "{param}: expected a part of type text, found {}",
                kind(part)
            ),
        )),
    }
}

/// Earlier tool calls, their arguments as objects.
fn calls(
    place: &str,
    message: &mut Map<String, Value>,
    counted: &mut usize,
) -> Result<Option<Value>, ApiError> {
    let param = format!("{place}.tool_calls");
    let mut calls = match message.shift_remove("tool_calls").unwrap_or(Value::Null) {
        Value::Null => return Ok(None),
        Value::Array(calls) => calls,
        other => return Err(wrong(&param, "an array", &other)),
    };
    *counted += calls.len();
    if *counted > MOST_TOOL_CALLS {
        return Err(invalid(
            &param,
            format!("{param}: expected at most {MOST_TOOL_CALLS} tool calls in a request"),
        ));
    }
    for (index, call) in calls.iter_mut().enumerate() {
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            let place = format!("{param}[{index}].function");
            return Err(wrong(&place, "an object", &Value::Null));
        };
        let Some(arguments) = function.get_mut("arguments") else {
            continue;
        };
        if let Value::String(text) = arguments {
            let place = format!("{param}[{index}].function.arguments");
            let parsed = match text.trim() {
                "" => Value::Object(Map::new()),
                json => serde_json::from_str(json)
                    .map_err(|_| invalid(&place, format!("{place}: expected JSON in a string")))?,
            };
            *arguments = parsed;
        }
    }
    // An empty list is no call, and templates ask whether the field is there.
    Ok((!calls.is_empty()).then_some(Value::Array(calls)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_formed(messages: Value, expected: Value) {
        assert_eq!(check(Some(messages)).map(Value::from), Ok(expected));
    }

    #[track_caller]
    fn check_refused(messages: Value, param: &str) {
        let error = check(Some(messages)).expect_err("refused");
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    }

    #[test]
    fn content_becomes_text() {
        check_formed(
            json!([{"role": "developer", "content": "be brief"}]),
            json!([{"role": "system", "content": "be brief"}]),
        );
        check_formed(
            json!([{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "role": "user", "name": "x"}]),
            json!([{"role": "user", "content": "ab", "name": "x"}]),
        );
        check_formed(
            json!([{"role": "assistant", "content": null, "tool_calls": []}]),
            json!([{"role": "assistant", "content": ""}]),
        );
        check_formed(
            json!([
                {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]},
            ]),
            json!([
                {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
                {"role": "tool", "content": "ok", "tool_call_id": "1"},
            ]),
        );
    }

    #[test]
    fn refusals_name_the_place() {
        let user = json!({"role": "user", "content": "hi"});
        check_refused(json!([]), "messages");
        check_refused(json!("hi"), "messages");
        check_refused(json!([user, 3]), "messages[1]");
        check_refused(json!([{"content": "hi"}]), "messages[0].role");
        check_refused(
            json!([{"role": "king", "content": "hi"}]),
            "messages[0].role",
        );
        check_refused(json!([{"role": "user"}]), "messages[0].content");
        check_refused(
            json!([user, user, {"role": "user", "content": 7}]),
            "messages[2].content",
        );
        check_refused(
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
            "messages[0].content[1]",
        );
        check_refused(
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "messages[0].content[0].text",
        );
        check_refused(
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
        );
        check_refused(
            json!([{"role": "assistant", "tool_calls": vec![json!({"function": {}}); 5000]}]),
            "messages[0].tool_calls",
        );
    }

    #[test]
    fn messages_are_counted() {
        let user = json!({"role": "user", "content": "hi"});
        assert_eq!(
            check(Some(vec![user.clone(); 4096].into())).map(|m| m.len()),
            Ok(4096)
        );
        check_refused(vec![user; 10_000].into(), "messages");
        assert!(check(None).is_err());
    }
}
