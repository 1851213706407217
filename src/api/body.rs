//! Reading a request's body: its kind, its size, its pace.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::{ApiError, Code};
use crate::config::Limits;

/// The whole body of a JSON request. It is refused before it is read if it says
/// itself that it is too large, compressed or something else than JSON.
pub async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> Result<Bytes, ApiError> {
    check_kind(headers)?;
    let too_large = || {
        let message = format!("the body has more than {}", limits.body);
        ApiError::new(Code::RequestTooLarge, message)
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.body.0) {
        return Err(too_large());
    }
    let mut body = body;
    let mut bytes = BytesMut::new();
    loop {
        let frame = timeout(limits.body_idle, body.frame()).await.map_err(|_| {
            let message = format!("nothing of the body came for {:?}", limits.body_idle);
            ApiError::new(Code::RequestTimeout, message)
        })?;
        match frame {
            None => return Ok(bytes.freeze()),
            Some(Err(_)) => {
                return Err(ApiError::new(
                    Code::BadRequest,
                    "the body broke off or is not well framed",
                ));
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if (bytes.len() + data.len()) as u64 > limits.body.0 {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
    }
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
