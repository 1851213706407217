//! Which header fields cross the router, either way. Nothing does but what is named
//! here: credentials, cookies, framing and what a side says of its own connection
//! stay where they are, and our own fields are put in by whoever sends. Pure.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::worker::client::Fields;

/// Says what was lowered: by a rule of the entry, or by the engine.
pub const LIMITED: HeaderName = HeaderName::from_static("x-roundhouse-limited");

/// Fields of an engine's answer that reach the client. What its body is, is told by
/// whoever has looked at it.
static PASSED: [HeaderName; 5] = [
    header::RETRY_AFTER,
    SHOULD_RETRY,
    HeaderName::from_static("x-roundhouse-ignored"),
    LIMITED,
    header::CACHE_CONTROL,
];

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// As many fields as an answer has on its way to the client, ours included: the table
/// of them does not grow then.
const USUAL: usize = 12;

/// As many as a request to an engine has.
const USUAL_TO_ENGINE: usize = 6;

/// Longest value of an engine that is passed on, bytes.
const LONGEST: usize = 4096;

/// Longest time after which an answer may send somebody back, seconds.
const LONGEST_RETRY: u64 = 120;

/// All that an engine is told in headers of a request: what its body is, and the id
/// under which it is logged. `host` and what our own workers want besides is the
/// client's to add.
pub fn to_engine(kind: HeaderValue, request_id: &str) -> Fields {
    // With what the client adds.
    let mut headers = Fields::with_room(USUAL_TO_ENGINE);
    headers.set(header::CONTENT_TYPE, kind);
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.set(REQUEST_ID, id);
    }
    headers
}

/// What an engine says in headers that the client is told too: each field once, none
/// that belongs to the connection to the engine.
pub fn to_client(from: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(USUAL);
    // An engine says few fields, and seldom one that is passed on.
    for name in from.keys().filter(|name| PASSED.contains(name)) {
        let value = from.get(name).filter(|value| value.len() <= LONGEST);
        let value = value.filter(|_| !is_nominated(from, name));
        if let Some(value) = value.and_then(|value| sound(name, value)) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The same with what the body is, of an answer that was not looked into: a page that
/// a browser would run is told to be bytes.
pub fn with_media(from: &HeaderMap) -> HeaderMap {
    let mut headers = to_client(from);
    let kind = from.get(header::CONTENT_TYPE).filter(|kind| is_media(kind));
    let bytes = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind.cloned().unwrap_or(bytes));
    headers
}

/// Whether this is a kind of sound, or of plain text.
fn is_media(kind: &HeaderValue) -> bool {
    const PLAIN: [&str; 5] = [
        "application/json",
        "application/x-subrip",
        "text/plain",
        "text/vtt",
        "text/event-stream",
    ];
    let text = kind.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    text.len() <= LONGEST && (essence.starts_with("audio/") || PLAIN.contains(&essence.as_str()))
}

/// A value as it may be passed on, if it may.
fn sound(name: &HeaderName, value: &HeaderValue) -> Option<HeaderValue> {
    match name {
        name if name == header::RETRY_AFTER => {
            let seconds: u64 = value.to_str().ok()?.parse().ok()?;
            Some(seconds.min(LONGEST_RETRY).into())
        }
        name if name == SHOULD_RETRY => ["true", "false"]
            .contains(&value.to_str().ok()?)
            .then(|| value.clone()),
        _ => Some(value.clone()),
    }
}

/// Whether `Connection` names a field as one of its own (RFC 9110, 7.6.1).
fn is_nominated(headers: &HeaderMap, name: &HeaderName) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    options.any(|option| {
        option
            .trim_ascii()
            .eq_ignore_ascii_case(name.as_str().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h10_h12_what_an_engine_says_in_headers_stays_inside_but_for_a_few() {
        let check = |lines: &[(&'static str, &'static str)], expected: &[(&str, &str)]| {
            let mut from = HeaderMap::new();
            for (name, value) in lines {
                from.append(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            let passed = to_client(&from);
            let passed: Vec<_> = passed
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
                .collect();
            assert_eq!(passed, expected, "{lines:?}");
        };
        check(&[], &[]);
        let unsafe_ones = [
            ("set-cookie", "a=b"),
            ("location", "http://elsewhere"),
            ("access-control-allow-origin", "*"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("server", "uvicorn"),
            ("content-type", "text/html"),
        ];
        check(&unsafe_ones, &[]);
        check(
            &[("cache-control", "no-store"), ("cache-control", "public")],
            &[("cache-control", "no-store")],
        );
        check(
            &[
                ("connection", "keep-alive"),
                ("connection", "x, Cache-Control"),
                ("cache-control", "a"),
            ],
            &[],
        );
        check(&[("retry-after", "7")], &[("retry-after", "7")]);
        check(&[("retry-after", "86400")], &[("retry-after", "120")]);
        check(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], &[]);
        check(&[("x-should-retry", "maybe")], &[]);
    }
}
