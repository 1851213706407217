//! What every request passes first, on both ports: its id, the Host it asks for,
//! the page it comes from, the peer behind a listed proxy. A panic behind it
//! costs one request.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::FutureExt;
use rand::RngExt;

use super::error::{ApiError, Code};
use crate::access::keys::hexadecimal;
use crate::access::{Door, web};
use crate::config::Server;
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

/// Keeps pages of other origins from embedding what they may not read (Fetch, CORP).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Which port a request came to. The control socket counts as management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Listed pages may use it.
    Inference,
    /// No page reads it.
    Management,
}

/// What stands before everything else; `next` is that. `route` is the path as the table of
/// routes has it, if it has it.
pub async fn front(
    service: &Service,
    port: Port,
    route: Option<&'static str>,
    mut request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let id = request_id(request.headers());
    let snapshot = service.dispatch.registry.load();
    let server = &snapshot.config.server;
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    believe_listed_proxies(&mut request, server);
    let entry = record(service, &request, id, route, snapshot.generation);
    request.extensions_mut().insert(entry.clone());
    // From here on the request sees this world and no other.
    request.extensions_mut().insert(snapshot.clone());
    let checked = check(port, &request, server);
    let page = match (&checked, port) {
        (Ok(()), Port::Inference) => {
            web::listed_origin(request.headers(), &server.allowed_origins).cloned()
        }
        _ => None,
    };
    let is_head = method == Method::HEAD;
    let preflight = page
        .as_ref()
        .filter(|_| web::is_preflight(&method, request.headers()))
        .map(|_| web::preflight(request.headers()));
    let handled = async {
        service.dispatch.tasks.pass(Place::Handler);
        next(request).await
    };
    let response = match (checked, preflight) {
        (Err(error), _) => error.into_response(),
        (Ok(()), Some(preflight)) => preflight,
        (Ok(()), None) => match AssertUnwindSafe(handled).catch_unwind().await {
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
    let code = response.extensions().get::<Code>().copied();
    if let Some(code) = code {
        entry.failed(code.facts().0);
        service.records.counters.refused(code.facts().0);
    }
    if status.is_client_error() || status.is_server_error() {
        log_refusal(entry.request_id(), &method, &path, status, code);
    }
    entry.answered(status.as_u16());
    if is_head {
        // Its body is never asked for.
        entry.delivered();
    }
    let id = HeaderValue::from_str(entry.request_id());
    let mut response = response.map(|body| Body::new(Counted::new(body, entry)));
    let headers = response.headers_mut();
    if port == Port::Inference {
        web::let_read(headers, page.as_ref(), &server.allowed_origins);
    }
    if let Ok(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// One line for a refusal; of a flood only whoever looks closely wants each.
fn log_refusal(id: &str, method: &Method, path: &str, status: StatusCode, code: Option<Code>) {
    let (path, status) = (redact::path(path), status.as_u16());
    let method = redact::method(method.as_str());
    if code == Some(Code::RateLimitExceeded) {
        tracing::debug!(request.id = id, method, path, status, "refused");
    } else {
        tracing::info!(request.id = id, method, path, status, "refused");
    }
}

/// Begins the record of a request.
fn record(
    service: &Service,
    request: &Request,
    id: String,
    route: Option<&'static str>,
    generation: u64,
) -> Entry {
    let door = request.extensions().get::<Door>();
    let peer = door.map_or_else(String::new, Door::peer);
    let method = redact::method(request.method().as_str());
    let entry = Entry::open(&service.records, id, peer, method, generation);
    if let Some(path) = route {
        entry.path(path);
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

/// From here on the peer of a listed proxy is whom the proxy names.
fn believe_listed_proxies(request: &mut Request, server: &Server) {
    if server.trusted_proxies.is_empty() {
        return;
    }
    if let Some(Door::Tcp { local, peer }) = request.extensions().get::<Door>().cloned() {
        let peer = web::real_peer(peer, request.headers(), &server.trusted_proxies);
        request.extensions_mut().insert(Door::Tcp { local, peer });
    }
}

/// Host before everything; Origin before every effect.
fn check(port: Port, request: &Request, server: &Server) -> Result<(), ApiError> {
    let (method, headers) = (request.method(), request.headers());
    let Some(door) = request.extensions().get::<Door>() else {
        return Err(ApiError::new(
            Code::InternalError,
            "the connection is not known",
        ));
    };
    web::check_host(request.uri(), headers, door, server)?;
    web::check_origin(method, headers, &server.allowed_origins)?;
    match port {
        Port::Inference => Ok(()),
        Port::Management => web::check_site(headers, &server.allowed_origins),
    }
}

/// An id for what came without one.
pub fn new_id() -> String {
    let mut id = String::with_capacity(28);
    id.push_str("req-");
    id.push_str(&hexadecimal(&rand::rng().random::<[u8; 12]>()));
    id
}

/// The id of a request: the client's if it is well formed, else ours.
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
    given.filter(fits).map_or_else(new_id, str::to_owned)
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
