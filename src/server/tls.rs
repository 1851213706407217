//! TLS by a pair of files. A renewed pair is taken up without a restart; a bad
//! one is told and the one before goes on. Handshakes use the certificate that
//! is in force when they begin.

use std::io::Result as IoResult;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Tls;
use crate::follow::{self, Identity};
use crate::shutdown::Tasks;

/// The word for HTTP/2 in a handshake (RFC 9113, 3.1).
pub(super) const HTTP2: &[u8] = b"h2";

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{}: expected {expected} in PEM: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What the reader said.
        reason: String,
    },
    /// Others may read the key.
    #[error("{} may be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    TooOpen {
        /// The file of the key.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// The key is not that of the certificate, or of a kind that is not known.
    #[error("{} and {} do not go together: {source}", cert.display(), key.display())]
    NoPair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

/// A connection as it goes on after the handshake.
pub(super) enum Secured<S> {
    /// In clear text: there is no certificate.
    Plain(S),
    /// Within TLS.
    Tls(Box<TlsStream<S>>),
}

/// What TCP listeners show in handshakes. Cloning gives another handle.
#[derive(Clone)]
pub struct Certificate {
    in_force: Arc<ArcSwapOption<ServerConfig>>,
}

impl Certificate {
    /// Reads the pair, if one is configured.
    pub fn open(pair: Option<&Tls>) -> Result<Self, TlsError> {
        let read = pair.map(read).transpose()?;
        Ok(Self {
            in_force: Arc::new(ArcSwapOption::new(read)),
        })
    }

    /// Looks at the files of the pair in force from now on, and takes up what is new.
    pub fn follow(&self, pair: impl Fn() -> Option<Tls> + Send + 'static, tasks: &Tasks) {
        let (this, stop) = (self.clone(), tasks.stop_signal());
        let mut seen = pair().map(Seen::now);
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(follow::EVERY) => {}
                    () = stop.cancelled() => return,
                }
                let wanted = pair();
                let looked = tokio::task::spawn_blocking(move || {
                    let now = wanted.map(Seen::now);
                    let read = (now != seen).then(|| now.as_ref().map(|now| read(&now.pair)));
                    (now, read)
                });
                let Ok((now, read)) = looked.await else {
                    return;
                };
                seen = now;
                match read {
                    None => {}
                    Some(None) => {
                        tracing::warn!("server.tls is gone; new connections are in clear text");
                        this.in_force.store(None);
                    }
                    Some(Some(Ok(config))) => {
                        tracing::info!("the certificate was renewed");
                        this.in_force.store(Some(config));
                    }
                    Some(Some(Err(error))) => {
                        let error = error.to_string();
                        tracing::error!(error, "the certificate was not renewed");
                    }
                }
            }
        });
    }

    /// Whether there is a certificate.
    pub fn is_there(&self) -> bool {
        self.in_force.load().is_some()
    }

    /// Shakes hands, if there is a certificate.
    pub(super) async fn secure<S>(&self, stream: S) -> IoResult<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(config) = self.in_force.load_full() else {
            return Ok(Secured::Plain(stream));
        };
        let secured = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Secured::Tls(Box::new(secured)))
    }
}

/// A pair and what its files were when they were looked at.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    pair: Tls,
    cert: Identity,
    key: Identity,
}

impl Seen {
    fn now(pair: Tls) -> Self {
        Self {
            cert: Identity::of(&pair.cert),
            key: Identity::of(&pair.key),
            pair,
        }
    }
}

/// Reads and checks a pair.
fn read(pair: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |path: &Path, expected, reason: String| TlsError::Unreadable {
        path: path.to_owned(),
        expected,
        reason,
    };
    let no_certificate = |reason| unreadable(&pair.cert, "a certificate", reason);
    let chain = CertificateDer::pem_file_iter(&pair.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| no_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("there is none".to_owned()));
    }
    let no_key = |reason| unreadable(&pair.key, "a private key", reason);
    let found = std::fs::metadata(&pair.key).map_err(|error| no_key(error.to_string()))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::TooOpen {
            path: pair.key.clone(),
            mode,
        });
    }
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| no_key(error.to_string()))?;
    let no_pair = |source| TlsError::NoPair {
        cert: pair.cert.clone(),
        key: pair.key.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(no_pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(no_pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
