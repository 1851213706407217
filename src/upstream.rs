//! Upstreams while the server runs: one client each with its kept connections, the key
//! that it is shown, and whether it is asked at all (`health`). What is sent and what an
//! answer means is decided in `dispatch`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use bytes::Bytes;

use crate::config::upstream::{KeySource, Upstream};
use crate::follow::Identity;
use crate::worker::client::elsewhere::{Elsewhere, Unusable};
use crate::worker::client::{Body, Client, Failure};
use health::Health;

mod health;

/// Says that a server like this one sent the request, so that whoever gets it does not
/// send it on: an answer is one step away at most, and no request runs in a circle.
pub const HOP_HEADER: &str = "x-roundhouse-hop";

/// What every path of the API begins with; the URL of an upstream says what stands there.
const PREFIX: &str = "/v1";

/// Largest file of a key, bytes.
const LARGEST_KEY: u64 = 16 * 1024;

/// The ways to all that were asked since the start, by name. One that no configuration
/// names any more stays, unused; one that is named anew with other words is replaced.
#[derive(Debug, Default)]
pub struct Upstreams {
    links: Mutex<HashMap<String, Arc<Link>>>,
}

/// The way to one of them.
#[derive(Debug)]
struct Link {
    upstream: Arc<Upstream>,
    client: Client,
    /// The key as it was read last, with what its file was then.
    key: Mutex<Option<(Identity, HeaderValue)>>,
    health: Mutex<Health>,
}

/// Why an upstream has not answered.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It cannot be asked with what is configured; nothing was connected to.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Its key is not there; nothing was connected to.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It failed too often lately; nothing was connected to.
    #[error("it failed again and again and rests for {0:?}")]
    Rests(Duration),
    /// It cannot be reached, or broke off.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The variable is not set.
    #[error("{0} is not set in the environment of the server")]
    NotSet(String),
    /// The file cannot be read.
    #[error("{file} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Others may read the file.
    #[error("{file} may be read by others (mode {mode:o}); run chmod 600 on it")]
    TooOpen {
        /// The file.
        file: String,
        /// Its mode bits.
        mode: u32,
    },
    /// What is there is no key.
    #[error("expected a key of one line in {0}")]
    NoKey(String),
}

impl Upstreams {
    /// Sends a request with nothing of its caller but the body, to this path of the API.
    /// Answers when the headers are there. No redirect is followed and no proxy asked.
    ///
    /// # Errors
    /// If it cannot be asked, or breaks off.
    pub async fn send(
        &self,
        upstream: &Arc<Upstream>,
        path: &str,
        request_id: &str,
        body: impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    ) -> Result<Response<Body>, Failed> {
        let link = self.link(upstream)?;
        let mut headers = HeaderMap::new();
        headers.insert(
            axum::http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let agent = concat!("roundhouse/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        headers.insert(HOP_HEADER, HeaderValue::from_static("1"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert("x-request-id", id);
        }
        if let Some(key) = link.key()? {
            headers.insert(AUTHORIZATION, key);
        }
        lock(&link.health)
            .ask(Instant::now())
            .map_err(Failed::Rests)?;
        let below = path.strip_prefix(PREFIX).unwrap_or(path);
        let path = format!("{}{below}", upstream.url.path);
        let sent = link.client.send(Method::POST, &path, headers, body).await;
        let mut health = lock(&link.health);
        match &sent {
            Ok(response) if !response.status().is_server_error() => health.answered(),
            _ => health.failed(Instant::now()),
        }
        Ok(sent?)
    }

    /// It took a request and said nothing for too long.
    pub fn fell_silent(&self, upstream: &Upstream) {
        if let Some(link) = lock(&self.links).get(&upstream.name) {
            lock(&link.health).failed(Instant::now());
        }
    }

    /// The way to it, made anew if it is another than it was.
    fn link(&self, upstream: &Arc<Upstream>) -> Result<Arc<Link>, Failed> {
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&upstream.name)
            && (Arc::ptr_eq(&link.upstream, upstream) || link.upstream == *upstream)
        {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::open(upstream)?);
        links.insert(upstream.name.clone(), Arc::clone(&link));
        Ok(link)
    }
}

impl Link {
    fn open(upstream: &Arc<Upstream>) -> Result<Self, Failed> {
        let place = Elsewhere::of(&upstream.url, upstream.ca.as_deref())?;
        Ok(Self {
            client: Client::of_upstream(place, &upstream.url.authority())?,
            upstream: Arc::clone(upstream),
            key: Mutex::default(),
            health: Mutex::default(),
        })
    }

    /// The key as it goes out, read again if its file is another than it was.
    fn key(&self) -> Result<Option<HeaderValue>, KeyError> {
        let Some(source) = &self.upstream.key else {
            return Ok(None);
        };
        let now = match source {
            KeySource::Variable(_) => Identity::default(),
            KeySource::File(path) => Identity::of(path),
        };
        let mut key = lock(&self.key);
        if let Some((seen, key)) = key.as_ref()
            && *seen == now
        {
            return Ok(Some(key.clone()));
        }
        let read = read_key(source)?;
        *key = Some((now, read.clone()));
        Ok(Some(read))
    }
}

/// Whether each upstream has what it is to be shown: for the log at the start, since
/// the key may come later.
pub fn missing_keys<'u>(
    upstreams: impl Iterator<Item = &'u Arc<Upstream>>,
) -> Vec<(String, KeyError)> {
    let keys = upstreams.filter_map(|upstream| Some((upstream, upstream.key.as_ref()?)));
    keys.filter_map(|(upstream, key)| Some((upstream.name.clone(), read_key(key).err()?)))
        .collect()
}

/// `Bearer KEY`, which prints as nothing.
fn read_key(source: &KeySource) -> Result<HeaderValue, KeyError> {
    let (shown, text) = match source {
        KeySource::Variable(name) => {
            let text = std::env::var(name).map_err(|_| KeyError::NotSet(name.clone()))?;
            (name.clone(), text)
        }
        KeySource::File(path) => (path.display().to_string(), read_file(path)?),
    };
    let key = text.trim();
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let value = is_key.then(|| HeaderValue::from_str(&format!("Bearer {key}")).ok());
    let mut value = value.flatten().ok_or(KeyError::NoKey(shown))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_file(path: &Path) -> Result<String, KeyError> {
    let file = || path.display().to_string();
    let unreadable = |reason: String| KeyError::Unreadable {
        file: file(),
        reason,
    };
    let found = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { file: file(), mode });
    }
    if !found.is_file() || found.len() > LARGEST_KEY {
        return Err(KeyError::NoKey(file()));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line_of_a_file_that_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let source = KeySource::File(path.clone());
        assert!(matches!(
            read_key(&source),
            Err(KeyError::Unreadable { .. })
        ));
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("set");
        };
        write("sk-canary\n", 0o644);
        let Err(error @ KeyError::TooOpen { .. }) = read_key(&source) else {
            panic!("it may be read by others");
        };
        assert!(error.to_string().contains("chmod 600"), "{error}");
        for text in ["", "\n", "two\nlines", "a b"] {
            write(text, 0o600);
            assert!(
                matches!(read_key(&source), Err(KeyError::NoKey(_))),
                "{text:?}"
            );
        }
        write("sk-canary\n", 0o600);
        let key = read_key(&source).expect("a key");
        assert_eq!(key.as_bytes(), b"Bearer sk-canary");
        assert!(!format!("{key:?}").contains("canary"));
    }
}
