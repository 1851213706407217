//! Reading a request's body: its kind. Its size and pace are `intake.rs`.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};
use super::intake::{self, Bodies};
use crate::config::Limits;

/// The whole body of a JSON request. It is refused before it is read if it says
/// itself that it is too large, compressed or something else than JSON.
pub async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    bodies: &Bodies,
) -> Result<Bytes, ApiError> {
    check_kind(headers)?;
    intake::take(headers, body, limits, bodies).await
}

/// What a body of management says.
///
/// # Errors
/// `invalid_json` if it is no JSON, `invalid_value` if it is something else than asked for.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let code = match error.is_data() {
            true => Code::InvalidValue,
            false => Code::InvalidJson,
        };
        ApiError::new(code, error.to_string())
    })
}

/// JSON, not compressed.
fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes());
    let is_json = kind.is_some_and(|kind| {
        let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
    });
    let plain = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match (is_json, plain) {
        (true, true) => Ok(()),
        (false, _) => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the content-type of a request must be application/json",
        )),
        (true, false) => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "compressed bodies are not taken",
        )),
    }
}
