//! The way to another machine: its name is looked up at each connection, addresses
//! where no service can be are passed over, and TLS is verified. No proxy is asked.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::config::upstream::{BaseUrl, forbidden};

/// A place that is named by a URL.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    host: String,
    port: u16,
    /// Whether it says that it is this machine: then it is looked for nowhere else, in
    /// clear text least of all.
    is_local: bool,
    /// With whom to shake hands; nothing means clear text, to this machine alone.
    #[cfg(feature = "tls")]
    tls: Option<tls::Handshake>,
}

/// Why a place cannot be reached, whoever asks.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The certificates of `ca`, or the system's, cannot be read.
    #[error("no certificates to verify it with: {0}")]
    NoRoots(String),
    /// The host is none that a certificate can name.
    #[error("no certificate can name {0}")]
    Name(String),
}

impl Elsewhere {
    /// The place of a URL. `ca` holds certificates in PEM that stand in the place of the
    /// system's.
    ///
    /// # Errors
    /// If there is nothing to verify its certificate with.
    pub fn of(url: &BaseUrl, ca: Option<&std::path::Path>) -> Result<Self, Unusable> {
        #[cfg(feature = "tls")]
        let tls = match url.is_secure {
            true => Some(tls::Handshake::with(&url.host, ca)?),
            false => None,
        };
        #[cfg(not(feature = "tls"))]
        let _ = ca;
        Ok(Self {
            host: url.host.clone(),
            port: url.port,
            is_local: url.is_loopback(),
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// A connection to the first of its addresses that accepts one.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no usable address");
        for address in usable(addresses, self.is_local) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The handshake over it, if there is to be one.
    #[cfg(feature = "tls")]
    pub(super) fn handshake(&self) -> Option<&tls::Handshake> {
        self.tls.as_ref()
    }
}

/// Those where a service can be; of the names of this machine, those that are of it. A
/// name may lead anywhere, whoever owns it, and `localhost` where the resolver says.
fn usable(
    addresses: impl Iterator<Item = SocketAddr>,
    is_local: bool,
) -> impl Iterator<Item = SocketAddr> {
    addresses.filter(move |address| {
        let ip = address.ip();
        forbidden(ip).is_none() && (ip.is_loopback() || !is_local)
    })
}

#[cfg(feature = "tls")]
mod tls {
    use std::path::Path;
    use std::sync::{Arc, OnceLock};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::{TcpStream, Unusable, io};

    /// What is shown and wanted in a handshake.
    #[derive(Clone)]
    pub(in super::super) struct Handshake {
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    }

    impl std::fmt::Debug for Handshake {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Handshake")
                .field("name", &self.name)
                .finish_non_exhaustive()
        }
    }

    impl Handshake {
        pub(super) fn with(host: &str, ca: Option<&Path>) -> Result<Self, Unusable> {
            let name = ServerName::try_from(host.to_owned());
            let name = name.map_err(|_| Unusable::Name(host.to_owned()))?;
            let roots = match ca {
                Some(path) => Arc::new(of_file(path)?),
                None => of_system()?,
            };
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| Unusable::NoRoots(error.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(Self {
                config: Arc::new(config),
                name,
            })
        }

        /// Shakes hands; nothing has been said to the other side if that fails.
        pub(in super::super) async fn over(
            &self,
            stream: TcpStream,
        ) -> io::Result<TlsStream<TcpStream>> {
            let connector = TlsConnector::from(Arc::clone(&self.config));
            connector.connect(self.name.clone(), stream).await
        }
    }

    /// The certificates of a file.
    fn of_file(path: &Path) -> Result<RootCertStore, Unusable> {
        let unreadable =
            |reason: String| Unusable::NoRoots(format!("{}: {reason}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| unreadable(error.to_string()))?;
        }
        match roots.is_empty() {
            true => Err(unreadable("there is no certificate".to_owned())),
            false => Ok(roots),
        }
    }

    /// The certificates that the owner of the machine trusts, read once.
    fn of_system() -> Result<Arc<RootCertStore>, Unusable> {
        static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
        let roots = ROOTS.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // What cannot be read is passed over: others may do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        });
        match roots.is_empty() {
            true => Err(Unusable::NoRoots("the system has none; set ca".to_owned())),
            false => Ok(Arc::clone(roots)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_the_metadata_of_a_cloud_leads_nowhere() {
        let addresses = [
            "169.254.169.254:80",
            "0.0.0.0:80",
            "10.0.0.1:80",
            "[fe80::1]:80",
        ];
        let addresses = addresses.map(|text| text.parse().expect("an address"));
        let left: Vec<SocketAddr> = usable(addresses.into_iter(), false).collect();
        assert_eq!(left, [SocketAddr::from(([10, 0, 0, 1], 80))]);
    }

    #[test]
    fn u04_localhost_is_this_machine_whatever_the_resolver_says() {
        let addresses = [
            "10.0.0.1:80",
            "127.0.0.2:80",
            "[2001:db8::1]:80",
            "[::1]:80",
        ];
        let addresses = addresses.map(|text| text.parse().expect("an address"));
        let left: Vec<SocketAddr> = usable(addresses.into_iter(), true).collect();
        assert_eq!(left, [addresses[1], addresses[3]]);
    }
}
