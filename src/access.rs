//! Who may do what: the access class of each route, the keys, and the caller
//! that a credential turns into. It is the only place that reads credentials.

use std::net::IpAddr;

use axum::http::{HeaderMap, header, uri::Authority};

use crate::api::error::{ApiError, Code};

pub mod keys;

use keys::{KeyClass, Keys};

/// What a route asks of the one who calls it. Every route has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, always; nothing is told but that the service is there.
    Open,
    /// An inference key, or nothing while there is no such key.
    Inference,
    /// A management key, always; the owner of the control socket needs none.
    Management,
}

/// How a request came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// A TCP connection to this address of the machine.
    Tcp {
        /// The address that was dialled.
        local: IpAddr,
        /// Who dialled it.
        peer: IpAddr,
    },
    /// The control socket: the owner of the file is the authority.
    ControlSocket,
    /// A Unix socket for inference or management; keys hold as on TCP.
    UnixSocket,
}

impl Door {
    /// Where it came from, for records: an address, or `unix`.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp { peer, .. } => peer.to_string(),
            Self::ControlSocket | Self::UnixSocket => "unix".to_owned(),
        }
    }
}

/// Who asks, once the credential has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What logs and the audit name: a key's id, `local` or `owner`.
    pub id: String,
    /// Where it came from.
    pub peer: String,
}

/// Checks the credential against what the route asks.
pub fn authorise(
    access: Access,
    headers: &HeaderMap,
    door: &Door,
    keys: &Keys,
) -> Result<Caller, ApiError> {
    let peer = door.peer();
    let caller = |id: &str| Caller {
        id: id.to_owned(),
        peer: peer.clone(),
    };
    let wanted = match access {
        Access::Open => return Ok(caller("anybody")),
        Access::Management if *door == Door::ControlSocket => return Ok(caller("owner")),
        Access::Inference if !keys.any(KeyClass::Inference) => return Ok(caller("local")),
        Access::Inference => KeyClass::Inference,
        Access::Management => KeyClass::Management,
    };
    let credential = credential(headers)?.ok_or_else(invalid_key)?;
    let key = keys.find(credential).ok_or_else(invalid_key)?;
    if key.class != wanted {
        return Err(ApiError::new(
            Code::WrongKeyClass,
            format!("this path asks for a key of class {}", wanted.as_str()),
        ));
    }
    Ok(caller(&key.id))
}

/// The one answer to a missing and to a wrong key.
fn invalid_key() -> ApiError {
    ApiError::new(
        Code::InvalidApiKey,
        "a valid API key is required, as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"",
    )
}

/// The key a request carries: `Authorization: Bearer KEY` (RFC 6750; the scheme
/// in any case) or `x-api-key: KEY`. Any other form is a wrong key; two are an error.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let single = |name: header::HeaderName| {
        let mut values = headers.get_all(&name).iter();
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(ApiError::new(
                Code::BadRequest,
                format!("more than one {name} header"),
            )),
        }
    };
    let bearer = single(header::AUTHORIZATION)?;
    let api_key = single(header::HeaderName::from_static("x-api-key"))?;
    match (bearer, api_key) {
        (Some(_), Some(_)) => Err(ApiError::new(
            Code::BadRequest,
            "both an authorization and an x-api-key header",
        )),
        (None, None) => Ok(None),
        (None, Some(value)) => value.to_str().map(Some).map_err(|_| invalid_key()),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| invalid_key())?;
            let (scheme, key) = text.split_once(' ').ok_or_else(invalid_key)?;
            if scheme.eq_ignore_ascii_case("bearer") && !key.contains([' ', '\t']) {
                Ok(Some(key))
            } else {
                Err(invalid_key())
            }
        }
    }
}

/// Refuses a Host that is neither `localhost`, nor the literal address that was
/// dialled, nor listed: a page under a foreign name that resolves to this
/// machine (DNS rebinding) gets nothing.
pub fn check_host(host: Option<&str>, door: &Door, allowed: &[String]) -> Result<(), ApiError> {
    let Door::Tcp { local, .. } = door else {
        return Ok(());
    };
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let plain = authority
        .as_ref()
        .filter(|authority| !authority.as_str().contains('@'));
    let fits = plain.is_some_and(|authority| {
        let name = authority.host();
        let literal = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost")
            || literal.is_ok_and(|address| address.to_canonical() == local.to_canonical())
            || allowed
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(name))
    });
    if fits {
        return Ok(());
    }
    Err(ApiError::new(
        Code::HostNotAllowed,
        "this Host is not served here; add it to server.allowed_hosts if it should be",
    ))
}

/// Refuses effects asked for by a web page that is not listed.
pub fn check_origin(origin: Option<&str>, allowed: &[String]) -> Result<(), ApiError> {
    match origin {
        None => Ok(()),
        Some(origin) if allowed.iter().any(|allowed| allowed == origin) => Ok(()),
        Some(_) => Err(ApiError::new(
            Code::OriginNotAllowed,
            "requests from this Origin are not served; add it to server.allowed_origins if they should be",
        )),
    }
}

#[cfg(test)]
mod tests;
