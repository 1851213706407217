//! Who may do what: the access class of each route, the keys, and the caller
//! that a credential turns into. It is the only place that reads credentials.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

use crate::api::error::{ApiError, Code};

pub mod audit;
pub mod keys;
pub mod web;

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
    let peer = match door {
        Door::Tcp { peer, .. } => peer.to_string(),
        Door::ControlSocket | Door::UnixSocket => "unix".to_owned(),
    };
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

#[cfg(test)]
mod tests;
