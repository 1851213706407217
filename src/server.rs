//! Listeners, connections and drain. It frames HTTP, bounds heads and counts of
//! connections, and knows nothing of what the routes do.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::access::Door;
use crate::config::Listen;
use crate::shutdown::Tasks;

/// Most header fields of a request.
const MOST_HEADERS: usize = 100;

/// Largest head of a request, bytes; the smallest that hyper takes is 8 KiB.
const LARGEST_HEAD: usize = 64 * 1024;

/// How long to wait after the system refused a connection for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// What holds for all connections of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long the head of a request may take.
    pub header_time: Duration,
    /// Connections at once.
    pub connections: usize,
}

impl Bound {
    /// Listens where the configuration says.
    pub async fn bind(listen: &Listen) -> std::io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => Ok(Self::Unix(bind_unix(path)?, path.clone())),
        }
    }

    /// Listens on the control socket, 0600. A socket that still answers belongs
    /// to another server and is left alone.
    pub fn bind_control(path: &std::path::Path) -> std::io::Result<Self> {
        Ok(Self::Control(bind_unix(path)?, path.to_owned()))
    }

    /// The address as a client writes it: `http://127.0.0.1:11440` or `unix:PATH`.
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(
                |error| error.to_string(),
                |address| format!("http://{address}"),
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
    pub fn serve(self, app: Router, limits: Limits, tasks: &Tasks) {
        let server = Connections {
            app,
            seats: Arc::new(Semaphore::new(limits.connections)),
            limits,
            tasks: tasks.clone(),
        };
        let stop = tasks.stop_signal();
        tasks.spawn(async move {
            match self {
                Self::Tcp(listener) => server.accept_tcp(listener, stop).await,
                Self::Unix(listener, path) => {
                    server.accept_unix(listener, Door::UnixSocket, stop).await;
                    remove(&path);
                }
                Self::Control(listener, path) => {
                    server
                        .accept_unix(listener, Door::ControlSocket, stop)
                        .await;
                    remove(&path);
                }
            }
        });
    }
}

/// A Unix listener with mode 0600. What is left of a server that is gone is removed.
fn bind_unix(path: &std::path::Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("{} belongs to a running server", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, message));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn remove(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(?error, "a socket file was not there to remove");
    }
}

/// The connections of one listener.
#[derive(Clone)]
struct Connections {
    app: Router,
    seats: Arc<Semaphore>,
    limits: Limits,
    tasks: Tasks,
}

impl Connections {
    async fn accept_tcp(self, listener: TcpListener, stop: CancellationToken) {
        while let Some(seat) = self.seat(&stop).await {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Some((stream, peer)) = taken(accepted).await else {
                continue;
            };
            // Events are small and must not wait for each other.
            let local = stream.set_nodelay(true).and_then(|()| stream.local_addr());
            let Ok(local) = local else { continue };
            let door = Door::Tcp {
                local: local.ip(),
                peer: peer.ip(),
            };
            self.connect(stream, door, seat, stop.clone());
        }
    }

    async fn accept_unix(self, listener: UnixListener, door: Door, stop: CancellationToken) {
        while let Some(seat) = self.seat(&stop).await {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Some((stream, _)) = taken(accepted).await else {
                continue;
            };
            self.connect(stream, door.clone(), seat, stop.clone());
        }
    }

    /// Waits until one more connection may be taken.
    async fn seat(&self, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            seat = self.seats.clone().acquire_owned() => seat.ok(),
            () = stop.cancelled() => None,
        }
    }

    /// Serves one connection in a task of its own.
    fn connect<S>(&self, stream: S, door: Door, seat: OwnedSemaphorePermit, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let app = TowerToHyperService::new(self.app.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(door.clone());
            app.call(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_time)
            .max_headers(MOST_HEADERS)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        self.tasks.spawn(async move {
            let _seat = seat;
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(?error, "a connection ended early");
            }
        });
    }
}

/// What was accepted; a refusal by the system (no descriptors left) is waited out.
async fn taken<T>(accepted: std::io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(?error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
