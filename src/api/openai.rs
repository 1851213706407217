//! The OpenAI dialect. It is the inner language too, so a request goes on as it
//! came: read, dispatched, answered.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, Uri, header};

use super::body::{begin_upload, is_form, read_json};
use super::error::{ApiError, Code};
use super::fields::Endpoint;
use crate::access::Caller;
use crate::dispatch::Request;
use crate::pool::{CallerId, Terms};
use crate::records::entry::Entry;
use crate::registry::Snapshot;
use crate::service::Service;
use crate::upstream::HOP_HEADER;

const EXPLAIN: HeaderName = HeaderName::from_static("x-roundhouse-explain");
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// What the front knows of a request: who asks, where it is recorded, and the world that
/// it sees.
struct Known {
    caller: Caller,
    entry: Entry,
    snapshot: Arc<Snapshot>,
}

impl Known {
    /// Takes it out of what came with the request.
    fn of(given: &mut Extensions) -> Option<Self> {
        Some(Self {
            caller: given.remove()?,
            entry: given.remove()?,
            snapshot: given.remove()?,
        })
    }
}

/// The front was passed by.
fn not_known() -> ApiError {
    ApiError::new(Code::InternalError, "the request is not known")
}

/// `POST /v1/chat/completions`
pub async fn chat_completions(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Chat, &service, request).await
}

/// `POST /v1/completions`
pub async fn completions(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Completions, &service, request).await
}

/// `POST /v1/embeddings`
pub async fn embeddings(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Embeddings, &service, request).await
}

/// `POST /v1/rerank`
pub async fn rerank(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Rerank, &service, request).await
}

/// `POST /v1/audio/speech`
pub async fn speech(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Speech, &service, request).await
}

/// `POST /v1/audio/transcriptions`
pub async fn transcriptions(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Transcriptions, &service, request).await
}

/// `POST /v1/audio/translations`
pub async fn translations(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    forward(Endpoint::Translations, &service, request).await
}

/// `POST` to `/tokenize` and its like and to any other path under `/v1/`: if its body names a model, whatever runs that
/// may know the path.
pub async fn rest(
    State(service): State<Service>,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    match kind.map(HeaderValue::as_bytes) {
        // Without a body there is no model.
        None => Err(nothing_here()),
        Some(_) => forward(Endpoint::Other, &service, request).await,
    }
}

/// Nobody knows the path.
pub fn nothing_here() -> ApiError {
    ApiError::new(
        Code::NotFound,
        "there is nothing at this path without a model that an engine of the file or an \
         upstream answers for",
    )
}

async fn forward(
    endpoint: Endpoint,
    service: &Service,
    request: HttpRequest,
) -> Result<Response<Body>, ApiError> {
    let (mut head, body) = request.into_parts();
    let known = Known::of(&mut head.extensions).ok_or_else(not_known)?;
    let Known {
        caller,
        entry,
        snapshot,
    } = known;
    let (uri, headers) = (head.uri, head.headers);
    let terms = terms(&uri, &headers, &caller)?;
    let explain = headers
        .get(EXPLAIN)
        .is_some_and(|value| value.as_bytes() == b"1");
    let is_passed_on = headers.contains_key(HOP_HEADER);
    let limits = &snapshot.config.server.limits;
    let is_upload = endpoint.is_upload() || endpoint == Endpoint::Other && is_form(&headers);
    let (body, upload) = match is_upload {
        true => {
            let (beginning, upload) = begin_upload(&headers, body, limits, &service.bodies).await?;
            (beginning, Some(upload))
        }
        false => (
            read_json(&headers, body, limits, &service.bodies).await?,
            None,
        ),
    };
    entry.received(body.len());
    let request = Box::new(Request {
        endpoint,
        path: match endpoint {
            Endpoint::Other => uri.path().to_owned().into(),
            known => known.path().into(),
        },
        snapshot,
        body,
        upload,
        caller,
        entry,
        terms,
        explain,
        is_passed_on,
    });
    // They are slices of what was read from the connection, whose place for more is free
    // again once nobody has any of it.
    drop((uri, headers));
    service.dispatch.answer(request).await
}

/// On what terms a request waits: `x-priority` and `?autoload=`. Other words of
/// the query are left to whoever reads them.
fn terms(uri: &Uri, headers: &HeaderMap, caller: &Caller) -> Result<Terms, ApiError> {
    let invalid = |param: &str, expected: &str| {
        ApiError::new(Code::InvalidValue, format!("{param}: expected {expected}")).param(param)
    };
    let asked = match headers.get(PRIORITY) {
        None => None,
        Some(value) => {
            let text = value.to_str().ok().and_then(|text| text.parse().ok());
            Some(text.ok_or_else(|| invalid("x-priority", "high, normal or low"))?)
        }
    };
    let priority = caller.scope.priority(asked);
    let mut autoload = true;
    for pair in uri.query().unwrap_or_default().split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("autoload", "true") => autoload = true,
            ("autoload", "false") => autoload = false,
            ("autoload", _) => return Err(invalid("autoload", "true or false")),
            _ => {}
        }
    }
    Ok(Terms {
        priority,
        caller: turns(headers, caller),
        autoload,
        idle_unload: None,
    })
}

/// Headers in which clients name the session that a request belongs to.
const SESSION_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-session-affinity"),
];

/// With whom a request takes turns: everything with its key; without a key
/// everything of its session, and without that everything from its address.
fn turns(headers: &HeaderMap, caller: &Caller) -> CallerId {
    if caller.seat.is_some() {
        return CallerId::of(&[&caller.id]);
    }
    let session = SESSION_HEADERS
        .into_iter()
        .find_map(|name| headers.get(name));
    let session = session.and_then(|value| value.to_str().ok());
    let peer = caller.door.peer();
    CallerId::of(&[&caller.id, &peer, session.unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Door;
    use crate::access::keys::Scope;
    use crate::pool::Priority;

    fn local(scope: Scope) -> Caller {
        Caller {
            scope: scope.into(),
            ..Caller::keyless("local", &Door::UnixSocket)
        }
    }

    #[test]
    fn sessions_and_addresses_take_turns() {
        let ask = |session: Option<&'static str>, peer: &str| {
            let headers = session.map(|session| {
                let value = HeaderValue::from_static(session);
                (axum::http::HeaderName::from_static("x-session-id"), value)
            });
            let caller = Caller {
                door: Door::Tcp {
                    local: peer.parse().expect("an address"),
                    peer: peer.parse().expect("an address"),
                },
                ..local(Scope::default())
            };
            turns(&headers.into_iter().collect(), &caller)
        };
        assert_eq!(ask(None, "10.0.0.1"), ask(None, "10.0.0.1"));
        assert_ne!(ask(None, "10.0.0.1"), ask(None, "::2"));
        assert_ne!(ask(None, "10.0.0.1"), ask(Some("s"), "10.0.0.1"));
        assert_ne!(ask(Some("s"), "10.0.0.1"), ask(Some("t"), "10.0.0.1"));
    }

    #[test]
    fn terms_come_from_a_header_and_the_query() {
        let check = |uri: &str, header: Option<&str>, expected: Option<(Priority, bool)>| {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert("x-priority", HeaderValue::from_str(text).expect("a value"));
            }
            let uri: Uri = uri.parse().expect("a path");
            let got = terms(&uri, &headers, &local(Scope::default())).ok();
            let got = got.map(|terms| (terms.priority, terms.autoload));
            assert_eq!(got, expected, "{uri} {header:?}");
        };
        check("/v1", None, Some((Priority::Normal, true)));
        check(
            "/v1?autoload=false",
            Some("high"),
            Some((Priority::High, false)),
        );
        check(
            "/v1?x&autoload=true&y=1",
            Some("low"),
            Some((Priority::Low, true)),
        );
        let low = Scope {
            priority: Some(Priority::Low),
            ..Scope::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-priority", HeaderValue::from_static("high"));
        let got = terms(&Uri::from_static("/v1"), &headers, &local(low));
        assert_eq!(got.map(|terms| terms.priority), Ok(Priority::Low));
        check("/v1?autoload=no", None, None);
        check("/v1?autoload", None, None);
        check("/v1", Some("urgent"), None);
    }
}
