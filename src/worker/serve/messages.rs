//! The messages of a chat request, checked place by place. They stay as they came:
//! bringing them into the form for templates is the template's own business.

use serde_json::{Map, Value};

use crate::api::error::ApiError;
use crate::api::fields::{invalid, kind, wrong};

/// Checks the messages. Their number is the router's business.
///
/// # Errors
/// `invalid_value` whose `param` is the place, such as `messages[2].content`.
pub fn check(messages: Option<Vec<Value>>) -> Result<Vec<Value>, ApiError> {
    let list = messages.unwrap_or_default();
    if list.is_empty() {
        let message = "messages: expected at least one message, found none";
        return Err(invalid("messages", message));
    }
    for (index, message) in list.iter().enumerate() {
        check_one(&format!("messages[{index}]"), message)?;
    }
    Ok(list)
}

/// Checks one message at `place`.
fn check_one(place: &str, message: &Value) -> Result<(), ApiError> {
    let Value::Object(message) = message else {
        return Err(wrong(place, "an object", message));
    };
    let role = message.get("role").unwrap_or(&Value::Null);
    let known = ["system", "developer", "user", "assistant", "tool"];
    if !role.as_str().is_some_and(|role| known.contains(&role)) {
        let expected = "system, developer, user, assistant or tool";
        return Err(wrong(&format!("{place}.role"), expected, role));
    }
    check_content(place, message.get("content"), role == "assistant")?;
    calls(place, message)
}

/// Checks the content. Only an assistant may say nothing.
fn check_content(place: &str, content: Option<&Value>, may_lack: bool) -> Result<(), ApiError> {
    let param = format!("{place}.content");
    match content.unwrap_or(&Value::Null) {
        Value::String(_) => Ok(()),
        Value::Null if may_lack => Ok(()),
        Value::Array(parts) => {
            let mut parts = parts.iter().enumerate();
            parts.try_for_each(|(index, part)| check_part(&format!("{param}[{index}]"), part))
        }
        other => Err(wrong(&param, "a string or an array of parts", other)),
    }
}

/// Checks one part of a message: only text can be read.
fn check_part(param: &str, part: &Value) -> Result<(), ApiError> {
    let name = part.get("type").and_then(Value::as_str);
    let text = match name {
        Some("text" | "input_text" | "output_text") => "text",
        Some("refusal") => "refusal",
        Some("image_url" | "input_image" | "image") => {
            return Err(invalid(
                param,
                format!("{param}: this model cannot see images"),
            ));
        }
        Some("input_audio" | "audio_url" | "video_url" | "file") => {
            return Err(invalid(
                param,
                format!("{param}: this model reads text alone"),
            ));
        }
        _ => {
            let expected = "a part of type text";
            return Err(match name {
                Some(name) => wrong(&format!("{param}.type"), expected, &Value::from(name)),
                None => invalid(
                    param,
                    format!("{param}: expected {expected}, found {}", kind(part)),
                ),
            });
        }
    };
    match part.get(text).unwrap_or(&Value::Null) {
        Value::String(_) => Ok(()),
        other => Err(wrong(&format!("{param}.{text}"), "a string", other)),
    }
}

/// Checks earlier tool calls.
fn calls(place: &str, message: &Map<String, Value>) -> Result<(), ApiError> {
    let param = format!("{place}.tool_calls");
    let calls = match message.get("tool_calls").unwrap_or(&Value::Null) {
        Value::Null => return Ok(()),
        Value::Array(calls) => calls,
        other => return Err(wrong(&param, "an array", other)),
    };
    for (index, call) in calls.iter().enumerate() {
        let place = format!("{param}[{index}].function");
        let function = call.get("function").unwrap_or(&Value::Null);
        if !function.is_object() {
            return Err(wrong(&place, "an object", function));
        }
        if let Some(Value::String(text)) = function.get("arguments")
            && !text.trim().is_empty()
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
        {
            let place = format!("{place}.arguments");
            let message = format!("{place}: expected JSON in a string");
            return Err(invalid(place, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_refused(messages: Value, param: &str) {
        let messages = messages.as_array().cloned();
        let error = check(messages).expect_err("refused");
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    }

    #[test]
    fn what_is_right_stays_as_it_came() {
        let messages = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": ""},
            {"content": [{"type": "text", "text": "a"}], "role": "user", "name": "x"},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                {"id": "2", "function": {"name": "g", "arguments": {"a": 1}}},
                {"id": "3", "function": {"name": "h", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]},
            {"role": "assistant", "tool_calls": null},
        ]);
        let checked = check(messages.as_array().cloned());
        assert_eq!(checked.map(Value::from), Ok(messages));
    }

    #[test]
    fn refusals_name_the_place() {
        let user = json!({"role": "user", "content": "hi"});
        check_refused(json!([]), "messages");
        check_refused(json!(null), "messages");
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
            json!([{"role": "user", "content": [{"type": "smell"}]}]),
            "messages[0].content[0].type",
        );
        check_refused(
            json!([{"role": "user", "content": ["text"]}]),
            "messages[0].content[0]",
        );
        check_refused(
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
        );
    }
}
