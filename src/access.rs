//! Who may do what: the access class of each route, the keys, and the caller
//! that a credential turns into. It is the only place that reads credentials.
//! It does not know what the routes do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::api::error::{ApiError, Code};
use crate::config::Limits;
use crate::telemetry::line::push_number;

pub mod keys;
pub mod limit;
pub mod web;

use keys::{Key, KeyClass, KeyRing, Keys, Scope};
use limit::{Exceeded, Limiter, Peer, Seat};

/// What a route asks of the one who calls it. Every route has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Anybody, always; nothing is told but that the service is there.
    Open,
    /// An inference key, or nothing while there is no such key.
    Inference,
    /// A management key, always; the owner of the control socket needs none.
    Management,
}

impl Access {
    /// The word in tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Open => "open",
            Access::Inference => "inference",
            Access::Management => "management",
        }
    }
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
        match self.address() {
            None => "unix".to_owned(),
            // Most are, and each request is recorded with its own.
            Some(IpAddr::V4(address)) => {
                let mut text = String::with_capacity(15);
                for (index, &part) in address.octets().iter().enumerate() {
                    text.push_str(if index > 0 { "." } else { "" });
                    push_number(&mut text, part.into(), 1);
                }
                text
            }
            Some(address) => address.to_string(),
        }
    }

    /// The address of who dialled; users of Unix sockets cannot be told apart.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Door::Tcp { peer, .. } => Some(*peer),
            Door::ControlSocket | Door::UnixSocket => None,
        }
    }

    /// Whether a program of this machine came in. Behind a listed proxy the peer is
    /// whom the proxy names, so what it brings from elsewhere is not local.
    fn is_local(&self) -> bool {
        match self {
            Door::Tcp { local, peer } => [local, peer]
                .iter()
                .all(|address| address.to_canonical().is_loopback()),
            Door::ControlSocket | Door::UnixSocket => true,
        }
    }
}

/// Who asks, once the credential has been checked and the request counted.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What logs and the audit name: a key's id, `local` or `owner`.
    pub id: String,
    /// Where it came from.
    pub door: Door,
    /// What it may use.
    pub scope: Arc<Scope>,
    /// Its place among the requests of its key, held while the request is worked on.
    pub seat: Option<Arc<Seat>>,
}

impl Caller {
    /// A caller without a key.
    pub fn keyless(id: &str, door: &Door) -> Self {
        Self {
            id: id.to_owned(),
            door: door.clone(),
            scope: Arc::default(),
            seat: None,
        }
    }

    /// A mark of who this is, the same whenever they come: 32 hexadecimal digits that
    /// tell nothing else of them. Who has no key is known by the address.
    pub fn mark(&self) -> String {
        let peer = match self.seat {
            Some(_) => String::new(),
            None => self.door.peer(),
        };
        marked(&["caller", &self.id, &peer])
    }

    /// The mark of everybody together.
    pub fn mark_of_all() -> String {
        marked(&["all"])
    }
}

/// The first half of a digest of the parts.
fn marked(parts: &[&str]) -> String {
    keys::hexadecimal(&Sha256::digest(parts.join("\n"))[..16])
}

/// Why somebody was not let in.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told.
    pub error: ApiError,
    /// The id of the key, if there is one: it is of another class, or has no more
    /// of something.
    pub key: Option<String>,
}

/// What decides who gets in; one for all ports.
pub struct Entrance {
    /// The keys in force.
    pub keys: Arc<KeyRing>,
    /// What keys and addresses have done.
    pub limiter: Limiter,
    /// Whether reachable addresses serve inference without a key, because the
    /// owner said so at the start.
    pub insecure: bool,
}

impl Entrance {
    /// Whether everybody who can reach an address is let in for inference.
    pub fn is_open_to_all(&self) -> bool {
        self.insecure && !self.keys.load().any(KeyClass::Inference)
    }

    /// Checks the credential against what the route asks, and counts the request.
    pub fn admit(
        &self,
        access: Access,
        headers: &HeaderMap,
        door: &Door,
        limits: &Limits,
        now: SystemTime,
    ) -> Result<Caller, Refusal> {
        let keys = self.keys.load();
        let peer = Peer::of(door.address());
        let identified = identify(access, headers, door, &keys, self.insecure, now);
        match identified {
            Ok(Known::Anybody) => Ok(Caller::keyless("anybody", door)),
            Ok(Known::Owner) => Ok(Caller::keyless("owner", door)),
            Ok(Known::Local) => {
                let admitted = self.limiter.admit_keyless(peer, limits.address_rate);
                admitted.map_err(|exceeded| Refusal::of(too_many(exceeded)))?;
                // Whoever is at this machine may hold models and unload them.
                let scope = Scope {
                    pool: door.is_local(),
                    ..Scope::default()
                };
                Ok(Caller {
                    scope: Arc::new(scope),
                    ..Caller::keyless("local", door)
                })
            }
            Ok(Known::Holder(key)) => {
                let seat = self.limiter.admit(key, now).map_err(|exceeded| Refusal {
                    error: too_many(exceeded),
                    key: Some(key.id.clone()),
                })?;
                Ok(Caller {
                    id: key.id.clone(),
                    door: door.clone(),
                    scope: key.scope.clone(),
                    seat: Some(seat),
                })
            }
            // A right key always passes; who has none is told so only so often.
            Err(refusal) => match self.limiter.wrong_key(peer, limits.wrong_keys) {
                Ok(()) => Err(refusal),
                Err(exceeded) => Err(Refusal::of(too_many(exceeded))),
            },
        }
    }
}

impl Refusal {
    fn of(error: ApiError) -> Self {
        Self { error, key: None }
    }
}

/// Who somebody turns out to be.
#[derive(Debug)]
enum Known<'k> {
    /// Nobody was asked for.
    Anybody,
    /// A program of this machine, while there are no inference keys.
    Local,
    /// The owner of the control socket.
    Owner,
    /// The holder of a key of the right class.
    Holder(&'k Key),
}

/// Checks the credential against what the route asks.
fn identify<'k>(
    access: Access,
    headers: &HeaderMap,
    door: &Door,
    keys: &'k Keys,
    insecure: bool,
    now: SystemTime,
) -> Result<Known<'k>, Refusal> {
    let wanted = match access {
        Access::Open => return Ok(Known::Anybody),
        Access::Management if *door == Door::ControlSocket => return Ok(Known::Owner),
        // To others it stays closed, also when the last key was revoked while the
        // server runs, and behind a proxy of this machine.
        Access::Inference if !keys.any(KeyClass::Inference) && (door.is_local() || insecure) => {
            return Ok(Known::Local);
        }
        Access::Inference => KeyClass::Inference,
        Access::Management => KeyClass::Management,
    };
    let credential = credential(headers).map_err(Refusal::of)?;
    let key = credential
        .and_then(|text| keys.find(text))
        .filter(|key| !key.scope.has_expired(now))
        .ok_or_else(|| Refusal::of(invalid_key()))?;
    if key.class != wanted {
        let message = format!("this path asks for a key of class {}", wanted.as_str());
        return Err(Refusal {
            error: ApiError::new(Code::WrongKeyClass, message),
            key: Some(key.id.clone()),
        });
    }
    Ok(Known::Holder(key))
}

/// A limit that was reached, in the words of the API. Clients wait for whole
/// seconds, so it is rounded up.
fn too_many(exceeded: Exceeded) -> ApiError {
    let wait = match exceeded {
        Exceeded::Rate { wait, .. }
        | Exceeded::Tokens { wait, .. }
        | Exceeded::Address { wait }
        | Exceeded::WrongKeys { wait } => wait,
        Exceeded::Concurrency(_) => Duration::from_secs(1),
    };
    let whole = Duration::from_secs(wait.as_secs_f64().ceil() as u64);
    ApiError::new(Code::RateLimitExceeded, exceeded.to_string()).retry_after(whole)
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
            let is_blank = |byte| (byte == b' ') | (byte == b'\t');
            // All of it is looked at, many bytes in one step.
            let has_blank = key.bytes().fold(false, |it, byte| it | is_blank(byte));
            if scheme.eq_ignore_ascii_case("bearer") && !has_blank {
                Ok(Some(key))
            } else {
                Err(invalid_key())
            }
        }
    }
}

#[cfg(test)]
mod tests;
