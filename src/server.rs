//! Listeners, connections and drain. It frames HTTP, keeps connections to their
//! pace and number, and knows nothing of what the routes do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use tokio::net::{TcpListener, UnixListener};

use crate::access::Door;
use crate::config::Listen;
use crate::records::counters::Counters;
use crate::shutdown::Tasks;

mod accept;
mod connection;
pub mod descriptors;
mod exchange;
#[cfg(feature = "tls")]
mod http2;
mod offer;
mod pace;
mod refusal;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "server/no_tls.rs"]
pub mod tls;
mod unix;

use accept::{Connections, Listener};
pub use pace::Times;

/// Permission bits of the control socket: its owner alone.
const CONTROL_MODE: u32 = 0o600;

/// What answers requests, of whatever routes it is made.
pub type App = Arc<dyn Fn(Request<Body>) -> Answering + Send + Sync>;

/// An answer that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A socket that listens, not yet served.
#[derive(Debug)]
pub enum Bound {
    /// A TCP address.
    Tcp(TcpListener),
    /// A Unix socket whose owner has no authority by it alone.
    Unix(UnixListener, PathBuf),
    /// The control socket.
    Control(UnixListener, PathBuf),
}

/// What connections are held to; read anew for each.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long things may take.
    pub times: Times,
    /// Connections at once.
    pub connections: usize,
}

/// What holds for all connections of a listener.
#[derive(Clone)]
pub struct Settings {
    /// The limits in force.
    pub limits: Arc<dyn Fn() -> Limits + Send + Sync>,
    /// Most connections at once, whatever the limits say: descriptors end.
    pub room: usize,
    /// What TCP listeners show.
    pub tls: tls::Certificate,
    /// Where panics are counted.
    pub counters: Counters,
}

impl Bound {
    /// Listens where the configuration says; a Unix socket gets these permission bits.
    pub async fn bind(listen: &Listen, mode: u32) -> std::io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => Ok(Self::Unix(unix::bind(path, mode)?, path.clone())),
        }
    }

    /// Listens on the control socket. A socket that still answers belongs to
    /// another server and is left alone.
    pub fn bind_control(path: &Path) -> std::io::Result<Self> {
        Ok(Self::Control(
            unix::bind(path, CONTROL_MODE)?,
            path.to_owned(),
        ))
    }

    /// The address as a client writes it: `http://127.0.0.1:11440`, `https://…`
    /// where TCP listeners speak TLS, or `unix:PATH`.
    pub fn url(&self, tls: bool) -> String {
        let scheme = if tls { "https" } else { "http" };
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(
                |error| error.to_string(),
                |address| format!("{scheme}://{address}"),
            ),
            Self::Unix(_, path) | Self::Control(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// The TCP address, if it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            _ => None,
        }
    }

    /// Serves until the stop signal; then takes no more connections and lets
    /// each running exchange end.
    pub fn serve(self, app: App, settings: Settings, tasks: &Tasks) {
        let connections = Connections::new(app, settings, tasks.clone());
        let stop = tasks.stop_signal();
        let (listener, path) = match self {
            Self::Tcp(listener) => (Listener::Tcp(listener), None),
            Self::Unix(listener, path) => (Listener::Unix(listener, Door::UnixSocket), Some(path)),
            Self::Control(listener, path) => {
                (Listener::Unix(listener, Door::ControlSocket), Some(path))
            }
        };
        tasks.spawn(async move {
            connections.accept(listener, stop).await;
            if let Some(path) = path {
                unix::remove(&path);
            }
        });
    }
}
