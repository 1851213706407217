//! What engines that are not ours say in other forms than our own workers do: usage
//! inside of the answer, and refusals of many shapes. Pure; bytes that go on to the
//! client are not changed here.

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::json::{self, Unread};
use crate::api::error::{ApiError, Code};
use crate::records::usage::Usage;

/// Longest word of an engine that a refusal repeats, characters.
const LONGEST: usize = 500;

/// The part of an answer, or of an event, that counts tokens.
#[derive(Deserialize)]
struct Answer {
    usage: Option<Tokens>,
}

/// An answer is something else than JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no JSON")]
pub struct NoJson;

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

/// The usage of a whole answer, as our own workers report it beside theirs.
pub fn usage_of_answer(answer: &[u8]) -> Option<Usage> {
    usage_of(json::read_bytes(answer).ok()?)
}

/// Whether an answer is JSON, and the same of it, read once.
pub fn usage_if_json(answer: &[u8]) -> Result<Option<Usage>, NoJson> {
    match json::read_bytes(answer) {
        Ok(answer) => Ok(usage_of(answer)),
        Err(Unread::Other(_)) if is_json(answer) => Ok(None),
        Err(_) => Err(NoJson),
    }
}

/// Whether an answer is JSON.
pub fn is_json(answer: &[u8]) -> bool {
    json::read_bytes::<IgnoredAny>(answer).is_ok()
}

fn usage_of(Answer { usage }: Answer) -> Option<Usage> {
    let Tokens {
        prompt_tokens,
        completion_tokens,
    } = usage?;
    Some(Usage::counted(prompt_tokens, completion_tokens))
}

/// The same of the data of an event: engines say it when the client asked for it, and
/// some always.
pub fn usage_of_event(data: &[u8]) -> Option<Usage> {
    // Nearly no event has it, and most of a stream's bytes pass here.
    static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));
    KEY.find(data).and_then(|_| usage_of_answer(data))
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

/// The refusal of an upstream in the form of our API. What it says of the request is
/// passed on; that it does not take our key, redirects, or fails, is between us and it.
pub fn refusal_of_upstream(
    upstream: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> ApiError {
    let message = |what: &str| format!("the upstream {upstream} {what}");
    let wait = headers.get(header::RETRY_AFTER);
    let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let error = match status {
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => refusal(upstream, status, body),
        StatusCode::NOT_FOUND => {
            ApiError::new(Code::ModelNotFound, message("does not have this model")).param("model")
        }
        StatusCode::TOO_MANY_REQUESTS => ApiError::new(
            Code::RateLimitExceeded,
            message("takes no more requests now"),
        ),
        StatusCode::SERVICE_UNAVAILABLE => {
            ApiError::new(Code::Overloaded, message("is overloaded"))
        }
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => {
            ApiError::new(Code::UpstreamTimeout, message("was too slow"))
        }
        _ => ApiError::new(Code::BadUpstreamResponse, message("failed to answer")),
    };
    match (wait, error.retry_after) {
        (Some(seconds), Some(_)) => error.retry_after(Duration::from_secs(seconds)),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json_whatever_its_usage_is() {
        let check = |answer: &str, expected: Result<Option<&str>, NoJson>| {
            let read = usage_if_json(answer.as_bytes());
            let expected = expected.map(|usage| usage.map(Usage::said));
            assert_eq!(read, expected, "{answer}");
            assert_eq!(is_json(answer.as_bytes()), expected.is_ok(), "{answer}");
        };
        let usage = r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
        check(usage, Ok(Some("prompt=3 completion=5")));
        check(r#"{"usage":7}"#, Ok(None));
        check("[1]", Ok(None));
        check("{}", Ok(None));
        check("{\"usage\":7", Err(NoJson));
        check("<html>", Err(NoJson));
        check("", Err(NoJson));
    }

    #[test]
    fn an_upstreams_status_says_whose_fault_it_is() {
        let check = |status: u16, expected: Code, seconds: Option<u64>| {
            let status = StatusCode::from_u16(status).expect("a status");
            let headers = [(header::RETRY_AFTER, "7".parse().expect("a value"))];
            let body = br#"{"error":{"message":"sk-canary 10.0.0.7"}}"#;
            let error = refusal_of_upstream("cloud", status, &headers.into_iter().collect(), body);
            assert_eq!(error.code, expected, "{status}");
            assert_eq!(
                error.retry_after.map(|it| it.as_secs()),
                seconds,
                "{status}"
            );
            let is_said = error.message.contains("canary");
            assert_eq!(is_said, expected == Code::BadRequest, "{status}");
        };
        check(400, Code::BadRequest, None);
        check(422, Code::BadRequest, None);
        check(401, Code::BadUpstreamResponse, None);
        check(403, Code::BadUpstreamResponse, None);
        check(404, Code::ModelNotFound, None);
        check(429, Code::RateLimitExceeded, Some(7));
        check(302, Code::BadUpstreamResponse, None);
        check(500, Code::BadUpstreamResponse, None);
        check(503, Code::Overloaded, Some(7));
        check(504, Code::UpstreamTimeout, None);
    }

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
