//! What holds because browsers exist: which Host is ours, which pages may cause
//! effects or read answers, and whose word about the caller's address counts.
//! Nothing here knows keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};

use super::Door;
use crate::api::error::{ApiError, Code};
use crate::config::network::Network;
use crate::config::{Listen, Server};

/// Methods that a listed page may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// Headers of our answers that a listed page may read.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "retry-after, x-request-id, x-should-retry, x-roundhouse-model, x-roundhouse-route, \
     x-roundhouse-fallback, x-roundhouse-queue-position, x-roundhouse-wait-ms, \
     x-roundhouse-eta-ms, x-roundhouse-limited, x-roundhouse-ignored",
);

/// How long a browser may remember the answer to a preflight, seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// Longest list of headers that a preflight may ask for, bytes.
const LONGEST_REQUESTED: usize = 4096;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a Host that is neither `localhost`, nor a literal address that is
/// listened on or was dialled, nor listed: a page under a foreign name that
/// resolves to this machine (DNS rebinding) gets nothing. Each Host that is
/// given has to pass, that of the request line too. Unix sockets have none.
pub fn check_host(
    uri: &Uri,
    headers: &HeaderMap,
    door: &Door,
    server: &Server,
) -> Result<(), ApiError> {
    let Door::Tcp { local, .. } = door else {
        return Ok(());
    };
    let mut given = headers.get_all(header::HOST).iter();
    let host = given.next().map(|host| host.to_str().unwrap_or_default());
    if given.next().is_some() {
        return Err(ApiError::new(Code::BadRequest, "more than one Host"));
    }
    let mut hosts = uri
        .authority()
        .map(|authority| authority.as_str())
        .into_iter()
        .chain(host)
        .peekable();
    let fits = |text: &str| host_of(text).is_some_and(|host| is_ours(host, *local, server));
    if hosts.peek().is_some() && hosts.all(fits) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::HostNotAllowed,
        "this Host is not served here; add it to server.allowed_hosts if it should be",
    ))
}

/// A host as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host<'a> {
    /// A DNS name.
    Name(&'a str),
    /// A literal address; IPv4 mapped into IPv6 counts as IPv4.
    Address(IpAddr),
}

/// `host` or `host:port` (RFC 9110, 7.2), strictly: no user, no empty port, IPv4
/// only as four decimal numbers. Other spellings of addresses are names here.
fn host_of(text: &str) -> Option<Host<'_>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (Host::Address(IpAddr::V6(address).to_canonical()), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at(end);
            match name.parse::<Ipv4Addr>() {
                Ok(address) => (Host::Address(address.into()), port),
                Err(_) if is_name(name) => (Host::Name(name), port),
                Err(_) => return None,
            }
        }
    };
    let digits = port.strip_prefix(':');
    let is_port = |digits: &str| {
        digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok()
    };
    (port.is_empty() || digits.is_some_and(is_port)).then_some(host)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

fn is_ours(host: Host<'_>, dialled: IpAddr, server: &Server) -> bool {
    let listed = server.allowed_hosts.iter();
    match host {
        Host::Name(name) => {
            let same = |other: &str| other.eq_ignore_ascii_case(name);
            same("localhost") || listed.into_iter().any(|listed| same(listed))
        }
        Host::Address(address) => {
            let listens = server.listen.iter().chain(&server.management);
            let mut own = listens.filter_map(|listen| match listen {
                Listen::Tcp(own) if !own.ip().is_unspecified() => Some(own.ip().to_canonical()),
                _ => None,
            });
            let mut listed = listed.filter_map(|listed| {
                let bare = listed.trim_start_matches('[').trim_end_matches(']');
                bare.parse::<IpAddr>()
                    .ok()
                    .map(|listed| listed.to_canonical())
            });
            address == dialled.to_canonical()
                || own.any(|own| own == address)
                || listed.any(|listed| listed == address)
        }
    }
}

/// Whether a request may cause effects, as far as pages are concerned: without
/// an Origin it is no page's request, and a page has to be listed.
pub fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    allowed: &[String],
) -> Result<(), ApiError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads || !headers.contains_key(header::ORIGIN) || listed_origin(headers, allowed).is_some() {
        return Ok(());
    }
    Err(foreign())
}

/// Whether a management request, also one that only reads, may have been made by
/// a page: browsers tell (Fetch Metadata), and only typed addresses and pages of
/// the same origin or of a listed one pass. Another port of this machine is
/// another program's page.
pub fn check_site(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    let foreign_site = headers.get_all(FETCH_SITE).iter().any(|site| {
        let site = site.as_bytes();
        site.eq_ignore_ascii_case(b"cross-site") || site.eq_ignore_ascii_case(b"same-site")
    });
    match foreign_site && listed_origin(headers, allowed).is_none() {
        true => Err(foreign()),
        false => Ok(()),
    }
}

fn foreign() -> ApiError {
    ApiError::new(
        Code::OriginNotAllowed,
        "requests from this Origin are not served; add it to server.allowed_origins if they should be",
    )
}

/// The Origin of a request if it is listed; two are none.
pub fn listed_origin<'h>(headers: &'h HeaderMap, allowed: &[String]) -> Option<&'h HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next()?;
    let listed = allowed
        .iter()
        .any(|allowed| allowed.as_bytes() == origin.as_bytes());
    (listed && origins.next().is_none()).then_some(origin)
}

/// Whether this is the question a browser asks before it lets a page ask.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight of a listed page. It has no effect and needs no key,
/// because browsers send none with it.
pub fn preflight(requested: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    // Client libraries send headers of their own; a listed page may send any.
    let asked = requested.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(asked) = asked.filter(|asked| is_list_of_names(asked.as_bytes())) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}

fn is_list_of_names(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
    text.len() <= LONGEST_REQUESTED && text.iter().all(is_part)
}

/// Lets the page of a listed origin read an answer: that origin alone, and no
/// credentials of the browser. While any origin is listed, each answer says that
/// it depends on Origin, so that no cache mixes them up (Fetch, "CORS protocol").
pub fn let_read(answer: &mut HeaderMap, origin: Option<&HeaderValue>, allowed: &[String]) {
    if allowed.is_empty() {
        return;
    }
    answer.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Who asks: the peer of the connection or, if that is a listed proxy, the last
/// address in `X-Forwarded-For` that no listed proxy has. What stands left of it
/// was said by strangers and counts for nothing; neither does any other header.
pub fn real_peer(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    let mut real = peer;
    let mut said = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    while is_trusted(real) {
        match said.next().and_then(|text| forwarded(text.trim())) {
            Some(address) => real = address,
            None => break,
        }
    }
    real
}

/// An address as proxies write it, some with a port.
fn forwarded(text: &str) -> Option<IpAddr> {
    let bare = |text: &str| text.parse::<IpAddr>().ok();
    bare(text)
        .or_else(|| {
            text.parse::<std::net::SocketAddr>()
                .ok()
                .map(|address| address.ip())
        })
        .or_else(|| bare(text.strip_prefix('[')?.strip_suffix(']')?))
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
