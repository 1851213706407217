//! In place of `tls.rs` in builds without it: the same words, clear text alone.

use std::io::Result as IoResult;

use crate::config::Tls;
use crate::shutdown::Tasks;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("server.tls: this build has no TLS; put a proxy in front, or build with the feature tls")]
pub struct TlsError;

/// A connection as it goes on.
pub(super) enum Secured<S> {
    /// In clear text.
    Plain(S),
}

/// No certificate.
#[derive(Clone)]
pub struct Certificate;

impl Certificate {
    /// Refuses a pair.
    pub fn open(pair: Option<&Tls>) -> Result<Self, TlsError> {
        match pair {
            None => Ok(Self),
            Some(_) => Err(TlsError),
        }
    }

    /// There is nothing to follow.
    pub fn follow(&self, _pair: impl Fn() -> Option<Tls> + Send + 'static, _tasks: &Tasks) {}

    /// Never.
    pub fn is_there(&self) -> bool {
        false
    }

    /// Goes on in clear text.
    pub(super) async fn secure<S>(&self, stream: S) -> IoResult<Secured<S>> {
        Ok(Secured::Plain(stream))
    }
}
