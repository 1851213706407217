//! What engines that are not ours say in other forms than our own workers do: usage
//! inside of the answer, and refusals of many shapes. Pure; bytes that go on to the
//! client are not changed here.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::api::error::{ApiError, Code};

/// Longest word of an engine that a refusal repeats, characters.
const LONGEST: usize = 500;

/// The part of an answer, or of an event, that counts tokens.
#[derive(Deserialize)]
struct Answer {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The usage of a whole answer, as our own workers report it beside theirs.
pub fn usage_of_answer(answer: &[u8]) -> Option<String> {
    let Answer { usage } = serde_json::from_slice(answer).ok()?;
    let Usage {
        prompt_tokens,
        completion_tokens,
    } = usage?;
    Some(format!(
        "prompt={prompt_tokens} completion={completion_tokens}"
    ))
}

/// The same of the data of an event: engines say it when the client asked for it, and
/// some always.
pub fn usage_of_event(data: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"usage\"";
    data.windows(KEY.len())
        .any(|part| part == KEY)
        .then(|| usage_of_answer(data))?
}

/// The refusal of an engine in the form of our API: 400 with what it says. Whatever
/// it said besides may name inner things.
pub fn refusal(model: &str, status: StatusCode, body: &[u8]) -> ApiError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let texts = [
        &body["error"]["message"],
        &body["error"],
        &body["message"],
        &body["detail"],
        &body["detail"][0]["msg"],
    ];
    let text = texts.into_iter().find_map(Value::as_str);
    let message = match text {
        Some(text) => text
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST)
            .collect(),
        None => format!("the engine of {model} refused the request ({status})"),
    };
    let code = match body["error"]["type"].as_str() {
        Some("exceed_context_size_error") => Code::ContextLengthExceeded,
        _ => Code::BadRequest,
    };
    ApiError::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_many_shapes_become_ours() {
        let check = |body: &str, expected: &str, code: Code| {
            let error = refusal("m", StatusCode::UNPROCESSABLE_ENTITY, body.as_bytes());
            assert_eq!((error.message.as_str(), error.code), (expected, code));
        };
        check(
            r#"{"error":{"message":"no","code":400,"type":"x"}}"#,
            "no",
            Code::BadRequest,
        );
        check(r#"{"error":"plain"}"#, "plain", Code::BadRequest);
        check(
            r#"{"detail":[{"msg":"field required"}]}"#,
            "field required",
            Code::BadRequest,
        );
        check(
            r#"{"error":{"message":"long","type":"exceed_context_size_error"}}"#,
            "long",
            Code::ContextLengthExceeded,
        );
        check(
            "<html>",
            "the engine of m refused the request (422 Unprocessable Entity)",
            Code::BadRequest,
        );
    }
}
