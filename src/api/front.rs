//! What every request passes first, on both ports: its id, the Host it asks for,
//! the Origin it comes from. A panic behind it costs one request.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use rand::RngExt;

use super::error::{ApiError, Code};
use crate::access::{Door, check_host, check_origin};
use crate::records::body::Counted;
use crate::records::entry::Entry;
use crate::records::redact;
use crate::service::Service;
use crate::shutdown::Place;

/// Longest id that is taken from a client.
const LONGEST_ID: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names a fail point to arm; see `shutdown::FailPoints`.
const FAIL: HeaderName = HeaderName::from_static("x-roundhouse-fail");

/// The id of a request: the client's if it is well formed, else ours.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The outermost layer.
pub async fn front(State(service): State<Service>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let entry = record(&service, &request, &id);
    request.extensions_mut().insert(entry.clone());
    let checked = check(&service, &request);
    let is_head = method == Method::HEAD;
    let handled = async {
        service.dispatch.tasks.pass(Place::Handler);
        next.run(request).await
    };
    let response = match checked {
        Err(error) => error.into_response(),
        Ok(()) => match AssertUnwindSafe(handled).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                entry.panicked(Place::Handler);
                ApiError::new(
                    Code::InternalError,
                    "an internal error; the log has it under the request id",
                )
                .into_response()
            }
        },
    };
    let status = response.status();
    if let Some(code) = response.extensions().get::<Code>() {
        entry.failed(code.facts().0);
        service.records.counters.refused(code.facts().0);
    }
    if status.is_client_error() || status.is_server_error() {
        tracing::info!(
            request.id = id,
            ?method,
            path = redact::path(&path),
            status = status.as_u16(),
            "refused"
        );
    }
    entry.answered(status.as_u16());
    if is_head {
        // Its body is never asked for.
        entry.delivered();
    }
    let mut response = response.map(|body| Body::new(Counted::new(body, entry)));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Begins the record of a request.
fn record(service: &Service, request: &Request, id: &str) -> Entry {
    let door = request.extensions().get::<Door>();
    let peer = door.map_or_else(String::new, Door::peer);
    let entry = Entry::open(&service.records, id, peer, request.method().as_str());
    if let Some(path) = request.extensions().get::<MatchedPath>() {
        entry.path(path.as_str());
    }
    if let Some(place) = request
        .headers()
        .get(FAIL)
        .and_then(|name| name.to_str().ok())
    {
        service.dispatch.tasks.arm(place);
    }
    entry
}

/// Host before everything; Origin before every effect.
fn check(service: &Service, request: &Request) -> Result<(), ApiError> {
    let server = &service.dispatch.registry.load().config.server;
    let Some(door) = request.extensions().get::<Door>() else {
        return Err(ApiError::new(
            Code::InternalError,
            "the connection is not known",
        ));
    };
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    check_host(host.or(text(header::HOST)), door, &server.allowed_hosts)?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        // An Origin that is no text is no listed one.
        let present = request.headers().contains_key(header::ORIGIN);
        let origin = text(header::ORIGIN).or(present.then_some(""));
        check_origin(origin, &server.allowed_origins)?;
    }
    Ok(())
}

fn request_id(headers: &HeaderMap) -> String {
    let fits = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    given.filter(fits).map_or_else(
        || format!("req-{:024x}", rand::rng().random::<u128>() >> 32),
        str::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_only_if_it_can_stand_in_any_log() {
        let check = |given: &str, taken: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(given).expect("a value"));
            assert_eq!(request_id(&headers) == given, taken, "{given}");
        };
        check("abc-123_x.y", true);
        check(&"a".repeat(128), true);
        check(&"a".repeat(129), false);
        check("a b", false);
        check("a\"b", false);
        check("", false);
        let ours = request_id(&HeaderMap::new());
        assert!(ours.starts_with("req-") && ours.len() == 28, "{ours}");
        assert_ne!(ours, request_id(&HeaderMap::new()));
    }
}
