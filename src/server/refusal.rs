//! The refusals that the framing makes by itself, before any route sees a
//! request (a head that is too large or not well formed), in the words of the
//! error contract. hyper answers these with a status and no body.

use crate::api::error::{ApiError, Code};
use crate::api::front;

/// Longest reply that the framing makes by itself, bytes.
const LONGEST: usize = 512;

/// What to send instead, if this is such a refusal: a whole head of HTTP/1.1
/// without a body and without the request id that all other answers have.
pub(super) fn instead_of(written: &[u8]) -> Option<Vec<u8>> {
    if written.len() > LONGEST {
        return None;
    }
    let text = std::str::from_utf8(written).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (line, headers) = head.strip_prefix("HTTP/1.1 ")?.split_once("\r\n")?;
    if !body.is_empty() || headers.contains("x-request-id") {
        return None;
    }
    let error = match line.get(..3)? {
        "400" => ApiError::new(
            Code::BadRequest,
            "the head of the request is not well formed",
        ),
        "414" => ApiError::new(Code::UriTooLong, "the request's path is too long"),
        "431" => ApiError::new(
            Code::HeadersTooLarge,
            "the head of the request is too large or has too many fields",
        ),
        _ => return None,
    };
    let id = front::new_id();
    tracing::info!(request.id = %id, code = error.code.facts().0, "refused");
    let body = error.body().to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         x-request-id: {id}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    );
    Some([head.into_bytes(), body.into_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_framing_says_by_itself_is_replaced() {
        let check = |written: &str, code: Option<&str>| {
            let instead = instead_of(written.as_bytes());
            let Some(code) = code else {
                assert_eq!(instead, None, "{written}");
                return;
            };
            let text = String::from_utf8(instead.expect(written)).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(body["error"]["code"], code);
            assert!(
                head.starts_with(written.split("\r\n").next().expect("a line")),
                "{head}"
            );
        };
        let rest = "content-length: 0\r\nconnection: close\r\n\r\n";
        check(
            &format!("HTTP/1.1 400 Bad Request\r\n{rest}"),
            Some("bad_request"),
        );
        check(
            &format!("HTTP/1.1 414 URI Too Long\r\n{rest}"),
            Some("uri_too_long"),
        );
        check(
            &format!("HTTP/1.1 431 Request Header Fields Too Large\r\n{rest}"),
            Some("headers_too_large"),
        );
        check(&format!("HTTP/1.1 200 OK\r\n{rest}"), None);
        check(&format!("HTTP/1.1 404 Not Found\r\n{rest}"), None);
        check(
            &format!("HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\n{rest}"),
            None,
        );
        check(&format!("HTTP/1.1 400 Bad Request\r\n{rest}{{}}"), None);
        check(&format!("HTTP/1.1 400 Bad Request\r\n\r\n{rest}"), None);
        check("data: HTTP/1.1 400 Bad Request\r\n\r\n", None);
        check("", None);
    }
}
