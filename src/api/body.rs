//! Reading a request's body: its kind. Its size and pace are `intake.rs`.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::error::{ApiError, Code};
use super::intake::{self, Bodies, Inflow};
use crate::config::Limits;
use crate::dispatch::upload::parts::Unclear;
use crate::dispatch::upload::{self, Upload};
use crate::service::Service;

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

/// The beginning of a body with a file in it, and the rest that is to come. It is
/// refused before it is read if it says itself that it is too large, compressed or
/// something else than `multipart/form-data`.
pub async fn begin_upload(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    bodies: &Bodies,
) -> Result<(Bytes, Upload), ApiError> {
    check_plain(headers)?;
    let kind = headers.get(header::CONTENT_TYPE).cloned();
    let kind = kind.ok_or_else(|| upload::refusal(Unclear::Boundary))?;
    let inflow = Inflow::of(headers, body, limits, bodies)?;
    Upload::begin(kind, inflow).await
}

/// Whether a body says that it is `multipart/form-data`.
pub fn is_form(headers: &HeaderMap) -> bool {
    is_of_kind(headers, b"multipart/form-data")
}

/// Whether a body says that it is of this kind.
fn is_of_kind(headers: &HeaderMap, wanted: &[u8]) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        let kind = kind.as_bytes().split(|&byte| byte == b';');
        let kind = kind.map(<[u8]>::trim_ascii).next().unwrap_or_default();
        kind.eq_ignore_ascii_case(wanted)
    })
}

/// The whole body of a request to management, as what is asked for there.
///
/// # Errors
/// Those of [`read_json`]; `invalid_json` if it is no JSON, `invalid_value` if it is
/// something else than asked for.
pub async fn read<T: DeserializeOwned>(
    service: &Service,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let snapshot = service.dispatch.registry.load();
    let limits = &snapshot.config.server.limits;
    let bytes = read_json(headers, body, limits, &service.bodies).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let code = match error.is_data() {
            true => Code::InvalidValue,
            false => Code::InvalidJson,
        };
        ApiError::new(code, error.to_string())
    })
}

/// JSON, not compressed.
fn check_kind(headers: &HeaderMap) -> Result<(), ApiError> {
    match is_of_kind(headers, b"application/json") {
        true => check_plain(headers),
        false => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the content-type of a request must be application/json",
        )),
    }
}

/// Not compressed.
fn check_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_plain = headers
        .get(header::CONTENT_ENCODING)
        .is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match is_plain {
        true => Ok(()),
        false => Err(ApiError::new(
            Code::UnsupportedMediaType,
            "compressed bodies are not taken",
        )),
    }
}
