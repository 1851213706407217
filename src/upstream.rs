//! Upstreams while the server runs: one client each with its kept connections, the key
//! that it is shown, whether it is asked at all (`health`), which of several is (`choice`,
//! by what is up there: `residents`), and how often another one is after that
//! (`retries`). What is sent and what an answer means is decided in `dispatch`.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::{HeaderName, HeaderValue, Method, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use tokio::time::timeout;

use crate::config::engine::Use;
use crate::config::upstream::{KeySource, Upstream};
use crate::follow::Identity;
use crate::registry::Remote;
use crate::registry::remote::Target;
use crate::shutdown::Tasks;
use crate::worker::client::elsewhere::{Elsewhere, Unusable};
use crate::worker::client::{Body, Client, Failure, Fields, Unfinished};
use choice::{Candidate, Standing, best};
use health::Health;
use residents::{Listed, Look, Residents};
use retries::Retries;

pub mod choice;
mod health;
mod residents;
mod retries;

/// Says that a server like this one sent the request, so that whoever gets it does not
/// send it on: an answer is one step away at most, and no request runs in a circle.
pub const HOP_HEADER: HeaderName = HeaderName::from_static("x-roundhouse-hop");

/// What every path of the API begins with; the URL of an upstream says what stands there.
const PREFIX: &str = "/v1";

/// Largest file of a key, bytes.
const LARGEST_KEY: u64 = 16 * 1024;

/// Longest list of models that is read, bytes.
const LONGEST_LIST: usize = 4 * 1024 * 1024;

/// How long another server may take to tell its list. Who waits for it is a request that
/// could be answered without.
const LIST_TIME: Duration = Duration::from_secs(1);

/// The ways to all that were asked, by name. One that is named anew with other words is
/// replaced; one that is named no more is dropped by [`Upstreams::keep`].
#[derive(Debug)]
pub struct Upstreams {
    links: Mutex<HashMap<String, Arc<Link>>>,
    retries: Mutex<Retries>,
}

/// The way to one of them.
#[derive(Debug)]
struct Link {
    upstream: Arc<Upstream>,
    client: Client,
    /// The key as it was read last, with what its file was then.
    key: Mutex<Option<(Identity, HeaderValue)>>,
    health: Mutex<Health>,
    /// Requests that it is working on.
    busy: AtomicUsize,
    /// Requests that it has got since the ways were last others.
    taken: AtomicU64,
    residents: Mutex<Residents>,
}

/// A request that an upstream is working on, until its answer is over. What becomes of
/// it is told here, since an answer that breaks off says as much as none.
#[derive(Debug)]
pub struct Asked {
    link: Arc<Link>,
    is_told: AtomicBool,
}

/// A request on its way to one of those that answer a name.
#[derive(Debug)]
pub struct Attempts {
    remote: Arc<Remote>,
    asked: Option<Use>,
    name: String,
    tried: Vec<usize>,
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

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            links: Mutex::default(),
            retries: Mutex::new(Retries::new(Instant::now())),
        }
    }
}

impl Upstreams {
    /// Sends a request with nothing of its caller but the body, which is of this kind, to
    /// this path of the API. Answers when the headers are there. No redirect is followed
    /// and no proxy asked.
    ///
    /// # Errors
    /// If it cannot be asked, or breaks off.
    pub async fn send(
        &self,
        upstream: &Arc<Upstream>,
        path: &str,
        mut headers: Fields,
        body: impl http_body::Body<Data = Bytes, Error: Into<Unfinished>> + Send + 'static,
    ) -> Result<(Asked, Response<Body>), Failed> {
        let link = self.link(upstream)?;
        headers.set(HOP_HEADER, HeaderValue::from_static("1"));
        link.introduce(&mut headers)?;
        lock(&link.health)
            .ask(Instant::now())
            .map_err(Failed::Rests)?;
        let asked = Asked::begin(&link);
        let path = link.path(path);
        match link.client.send(Method::POST, &path, headers, body).await {
            Ok(response) if response.status().is_server_error() => {
                asked.failed();
                Ok((asked, response))
            }
            Ok(response) => {
                lock(&link.health).begins();
                Ok((asked, response))
            }
            Err(failure) => {
                asked.failed();
                Err(failure.into())
            }
        }
    }

    /// It took a request and said nothing for too long.
    pub fn fell_silent(&self, upstream: &Upstream) {
        if let Some(link) = lock(&self.links).get(&upstream.name) {
            lock(&link.health).failed(Instant::now());
        }
    }

    /// Drops the ways to those that the file names no more. What runs on them goes on.
    pub fn keep(&self, named: impl Fn(&str) -> bool) {
        lock(&self.links).retain(|name, _| named(name));
    }

    /// A request for a name, of which nothing has been sent yet.
    pub fn attempts(&self, remote: &Arc<Remote>, name: &str, asked: Option<Use>) -> Attempts {
        lock(&self.retries).asked(Instant::now());
        Attempts {
            remote: Arc::clone(remote),
            asked,
            name: name.to_owned(),
            tried: Vec::new(),
        }
    }

    /// The target to ask first, by its place in the list. Looks before where the model is
    /// up, if there is a choice and that can be known.
    pub async fn first(&self, attempts: &mut Attempts, tasks: &Tasks) -> usize {
        if attempts.remote.targets.len() > 1 {
            self.look(&attempts.remote, tasks).await;
        }
        // Where all rest, whichever is asked says for how long.
        let chosen = self.choose(attempts).or_else(|| attempts.served().next());
        let chosen = chosen.unwrap_or(0);
        attempts.tried.push(chosen);
        chosen
    }

    /// The target to ask after one has failed; nothing if there is none, or too much was
    /// repeated lately. With `again` that may be the same, once, if there is no other.
    pub fn next(&self, attempts: &mut Attempts, again: bool) -> Option<usize> {
        let same = || match attempts.tried.as_slice() {
            [only] if again => Some(*only),
            _ => None,
        };
        let next = self.choose(attempts).or_else(same)?;
        if !lock(&self.retries).repeat(Instant::now()) {
            return None;
        }
        attempts.tried.push(next);
        Some(next)
    }

    /// How the model of a name stands at the best of those that can be asked for it now;
    /// nothing if none can.
    pub async fn standing(
        &self,
        remote: &Arc<Remote>,
        name: &str,
        asked: Option<Use>,
        tasks: &Tasks,
    ) -> Option<Standing> {
        self.look(remote, tasks).await;
        let candidates = self.candidates(remote, name, asked, &[]);
        Some(candidates[best(&candidates)?].standing)
    }

    fn choose(&self, attempts: &Attempts) -> Option<usize> {
        let Attempts {
            remote,
            asked,
            name,
            tried,
        } = attempts;
        best(&self.candidates(remote, name, *asked, tried))
    }

    /// What is known of those that answer a name.
    fn candidates(
        &self,
        remote: &Remote,
        name: &str,
        asked: Option<Use>,
        tried: &[usize],
    ) -> Vec<Candidate> {
        let now = Instant::now();
        let links = lock(&self.links);
        let candidate = |(index, target): (usize, &Target)| {
            let upstream = &target.upstream;
            let link = links.get(&upstream.name);
            let link = link.filter(|link| link.upstream == *upstream);
            let rests = link.is_some_and(|link| lock(&link.health).rests(now));
            let standing = match (upstream.roundhouse, link) {
                (false, _) => Standing::Ready,
                (true, None) => Standing::Unloaded,
                (true, Some(link)) => lock(&link.residents).standing(target.model(name), now),
            };
            Candidate {
                priority: upstream.priority,
                weight: upstream.weight,
                busy: link.map_or(0, |link| link.busy.load(Ordering::Relaxed)),
                taken: link.map_or(0, |link| link.taken.load(Ordering::Relaxed)),
                standing,
                is_free: !rests && !tried.contains(&index) && target.serves(asked),
            }
        };
        let targets = remote.targets.iter().enumerate();
        targets.map(candidate).collect()
    }

    /// Asks those that can tell which models are up there, if it is time to.
    async fn look(&self, remote: &Remote, tasks: &Tasks) {
        let told = remote.targets.iter().filter(|it| it.upstream.roundhouse);
        let links = told.filter_map(|target| self.link(&target.upstream).ok());
        let mut first = Vec::new();
        for link in links {
            let look = lock(&link.residents).look(Instant::now());
            match look {
                Look::No => {}
                Look::Beside => drop(tasks.spawn(async move { link.look().await })),
                Look::First => first.push(tasks.spawn(async move { link.look().await })),
            }
        }
        for looked in first {
            // One that cannot be looked at is unknown.
            let _ = looked.await;
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
        // A new one would else get everything until it has had as much as the others.
        for link in links.values() {
            link.taken.store(0, Ordering::Relaxed);
        }
        Ok(link)
    }
}

impl Attempts {
    /// The targets that may be asked what is asked.
    fn served(&self) -> impl Iterator<Item = usize> {
        let targets = self.remote.targets.iter().enumerate();
        let served = targets.filter(|(_, it)| it.serves(self.asked));
        served.map(|(index, _)| index)
    }
}

impl Asked {
    fn begin(link: &Arc<Link>) -> Self {
        link.busy.fetch_add(1, Ordering::Relaxed);
        link.taken.fetch_add(1, Ordering::Relaxed);
        Self {
            link: Arc::clone(link),
            is_told: AtomicBool::new(false),
        }
    }

    /// Its answer came to its end.
    pub fn answered(&self) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            lock(&self.link.health).answered();
        }
    }

    /// It said that it failed, broke off, or fell silent.
    pub fn failed(&self) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            lock(&self.link.health).failed(Instant::now());
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.link.busy.fetch_sub(1, Ordering::Relaxed);
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
            busy: AtomicUsize::default(),
            taken: AtomicU64::default(),
            residents: Mutex::default(),
        })
    }

    /// Says in headers who asks, with our key.
    fn introduce(&self, headers: &mut Fields) -> Result<(), KeyError> {
        let agent = concat!("roundhouse/", env!("CARGO_PKG_VERSION"));
        headers.set(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(key) = self.key()? {
            headers.set(AUTHORIZATION, key);
        }
        Ok(())
    }

    /// Where a path of the API is at the upstream.
    fn path(&self, path: &str) -> String {
        let base = self.upstream.url.path.as_str();
        match path.strip_prefix(PREFIX) {
            Some(below) => format!("{base}{below}"),
            // It stands beside the API.
            None => format!("{}{path}", base.strip_suffix(PREFIX).unwrap_or(base)),
        }
    }

    /// Asks which models are up there.
    async fn look(&self) {
        let listed = timeout(LIST_TIME, self.list()).await.ok().flatten();
        if listed.is_none() {
            let upstream = self.upstream.name.as_str();
            tracing::debug!(upstream, "an upstream does not tell what is up there");
        }
        lock(&self.residents).saw(listed, Instant::now());
    }

    async fn list(&self) -> Option<Listed> {
        let mut headers = Fields::default();
        self.introduce(&mut headers).ok()?;
        let path = self.path("/v1/models");
        let sent = self
            .client
            .send(Method::GET, &path, headers, Empty::<Bytes>::new());
        let response = sent.await.ok().filter(|it| it.status().is_success())?;
        let body = Limited::new(response.into_body(), LONGEST_LIST);
        residents::listed(&body.collect().await.ok()?.to_bytes())
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
    use crate::config::upstream::BaseUrl;

    #[test]
    fn ways_that_no_file_names_any_more_are_dropped() {
        let upstream = |name: &str| {
            Arc::new(Upstream {
                name: name.to_owned(),
                url: BaseUrl::parse("http://127.0.0.1:9/v1").expect("a URL"),
                key: None,
                ca: None,
                kinds: Vec::new(),
                models: Vec::new(),
                priority: 0,
                weight: 1,
                roundhouse: false,
            })
        };
        let upstreams = Upstreams::default();
        for name in ["a", "b"] {
            upstreams.link(&upstream(name)).expect("a way");
        }
        upstreams.keep(|name| name == "b");
        let left: Vec<_> = lock(&upstreams.links).keys().cloned().collect();
        assert_eq!(left, ["b"]);
    }

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
