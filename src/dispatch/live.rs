//! The requests that are worked on now: who asks for what, since when, how far it
//! is, and a way to end one of them. It is a list to look at; nothing waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::pool::Asker;

/// The list. Cloning gives another handle to the same one.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    last: AtomicU64,
    running: Mutex<BTreeMap<u64, Arc<Running>>>,
}

/// One request for which a model has been found.
#[derive(Debug)]
pub struct Running {
    /// Who asks.
    pub asker: Arc<Asker>,
    /// The model, as the pool calls it.
    pub model: String,
    /// Why it is this one.
    pub route: &'static str,
    /// Whether its answer is a stream.
    pub streamed: bool,
    /// When it came.
    pub since: Instant,
    /// The same as people tell time.
    pub time: SystemTime,
    /// How long it waited, once it has its model; in milliseconds, and one more.
    waited: AtomicU64,
    events: AtomicU64,
    cancelled: CancellationToken,
}

/// A place in the list, given up by drop.
#[derive(Debug)]
pub struct Place {
    table: Arc<Table>,
    number: u64,
    running: Arc<Running>,
}

impl Live {
    /// A request, which came at this time, has found its model.
    pub fn begin(
        &self,
        asker: Arc<Asker>,
        model: &str,
        route: &'static str,
        streamed: bool,
        (since, time): (Instant, SystemTime),
    ) -> Place {
        let running = Arc::new(Running {
            asker,
            model: model.to_owned(),
            route,
            streamed,
            since,
            time,
            waited: AtomicU64::new(0),
            events: AtomicU64::new(0),
            cancelled: CancellationToken::new(),
        });
        let number = self.0.last.fetch_add(1, Ordering::Relaxed);
        self.0.list().insert(number, running.clone());
        Place {
            table: self.0.clone(),
            number,
            running,
        }
    }

    /// How many there have been, with those that are there.
    pub fn begun(&self) -> u64 {
        self.0.last.load(Ordering::Relaxed)
    }

    /// Whether there is one.
    pub fn is_running(&self) -> bool {
        !self.0.list().is_empty()
    }

    /// All of them, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Running>> {
        self.0.list().values().cloned().collect()
    }

    /// Those with this id. Ids come from clients, so there may be several.
    pub fn of(&self, request_id: &str) -> Vec<Arc<Running>> {
        let mut found = self.all();
        found.retain(|running| running.asker.request_id == request_id);
        found
    }
}

impl Table {
    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Running>>> {
        // Each change of the list is one call.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// It has its model.
    pub(super) fn granted(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX - 1);
        self.waited.store(waited + 1, Ordering::Relaxed);
    }

    /// How long it waited for its model; nothing while it waits.
    pub fn waited(&self) -> Option<Duration> {
        let waited = self.waited.load(Ordering::Relaxed);
        waited.checked_sub(1).map(Duration::from_millis)
    }

    /// So many more events of the engine went out.
    pub(super) fn passed(&self, events: u64) {
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    /// How many events of the engine went out; about one for each token of a stream.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Ends it: whoever asked hears an error, and its model is free for others.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Waits until somebody ends it.
    pub(super) async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Whether somebody has ended it.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// A token that fires when somebody ends it, and can be made to fire alone.
    pub(super) fn token(&self) -> CancellationToken {
        self.cancelled.child_token()
    }
}

impl Place {
    /// What stands there.
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.list().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_request_is_listed_as_long_as_it_has_its_place() {
        let live = Live::default();
        let begin = |id: &str| {
            let asker = Arc::new(Asker::new(id, "local", "small"));
            let now = (Instant::now(), SystemTime::now());
            live.begin(asker, "t/a", "alias", true, now)
        };
        let (first, second) = (begin("a"), begin("b"));
        let twin = begin("a");
        let ids = || -> Vec<String> {
            let all = live.all();
            let ids = all.iter().map(|running| running.asker.request_id.clone());
            ids.collect()
        };
        assert_eq!(ids(), ["a", "b", "a"]);
        assert_eq!(live.of("a").len(), 2, "clients choose ids");
        assert!(live.is_running() && live.begun() == 3);
        drop(first);
        assert_eq!(
            (ids(), live.begun()),
            (vec!["b".to_owned(), "a".to_owned()], 3)
        );
        assert_eq!(second.running().waited(), None);
        second.running().granted(Duration::ZERO);
        second.running().passed(3);
        assert_eq!(second.running().waited(), Some(Duration::ZERO));
        assert_eq!(second.running().events(), 3);
        live.of("a")[0].cancel();
        assert!(twin.running().cancelled().now_or_never().is_some());
        assert!(second.running().cancelled().now_or_never().is_none());
        assert!(twin.running().token().is_cancelled() && twin.running().is_cancelled());
        second.running().token().cancel();
        assert!(!second.running().is_cancelled(), "it was the token alone");
    }
}
