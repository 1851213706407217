//! `GET /admin/events`: what happens, as it happens, as server-sent events. States,
//! loads and queues are read off the pool's view, so that a slow reader skips what
//! is already past; of what only happens once it is told how much it missed. It
//! ends when the server stops.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::pool::swaps::Happened;
use crate::pool::{ModelState, View};
use crate::records::events::Event;
use crate::service::Service;

/// What keeps a silent connection alive.
const HEARTBEAT: &str = ": nothing happens\n\n";

/// The answer. It begins with the state of every model.
pub async fn events(State(service): State<Service>) -> Response {
    let snapshot = service.dispatch.registry.load();
    let mut silence = tokio::time::interval(snapshot.config.server.heartbeat_every);
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    silence.reset();
    let mut views = service.dispatch.pool.watch();
    let view = views.borrow_and_update().clone();
    let follower = Follower {
        pending: changes(None, &view, Instant::now()).into(),
        view,
        views,
        pool: service.dispatch.pool.book().follow(),
        records: service.records.events.follow(),
        silence,
        stop: service.dispatch.tasks.stop_signal(),
    };
    let events = stream::unfold(follower, async |mut follower| {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), follower))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// One who looks on.
struct Follower {
    /// Events that are made and not sent.
    pending: VecDeque<String>,
    /// The pool as it was told last.
    view: Arc<View>,
    views: watch::Receiver<Arc<View>>,
    pool: Receiver<Happened>,
    records: Receiver<Event>,
    silence: Interval,
    stop: CancellationToken,
}

impl Follower {
    /// The next event, or a comment after a silence; nothing once all is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.pending.pop_front() {
                self.silence.reset();
                return Some(text);
            }
            let text = tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = self.views.changed() => {
                    changed.ok()?;
                    let view = self.views.borrow_and_update().clone();
                    self.pending = changes(Some(&self.view), &view, Instant::now()).into();
                    self.view = view;
                    continue;
                }
                happened = self.pool.recv() => match happened {
                    Ok(Happened::Swap(swap)) => event("swap", &json!(*swap)),
                    Ok(Happened::Exit(exit)) => event("worker_exit", &json!(*exit)),
                    // States are told by views.
                    Ok(Happened::Loads(_) | Happened::Ready(_)) => continue,
                    Err(RecvError::Lagged(count)) => missed(count),
                    Err(RecvError::Closed) => return None,
                },
                told = self.records.recv() => match told {
                    Ok(Event { name, data }) => text(name, &data),
                    Err(RecvError::Lagged(count)) => missed(count),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.silence.tick() => HEARTBEAT.to_owned(),
            };
            self.silence.reset();
            return Some(text);
        }
    }
}

/// What is different between two views, or all there is.
fn changes(before: Option<&View>, view: &View, now: Instant) -> Vec<String> {
    let mut events = Vec::new();
    for model in view.models.iter() {
        let was = before.and_then(|before| before.model(&model.model));
        if was.is_none_or(|was| was.state != model.state) {
            let status = json!({
                "model": model.model,
                "state": model.state,
                "reserved_bytes": model.reserved.0,
                "process": model.pid,
            });
            events.push(event("model_status", &status));
        }
        let percent = model.progress.map(|progress| progress.percent());
        let told = was.and_then(|was| was.progress).map(|it| it.percent());
        if let (Some(progress), true) = (model.progress, percent != told) {
            let eta = model.load_left(now);
            let so_far = json!({
                "model": model.model,
                "percent": percent,
                "done_bytes": progress.done,
                "all_bytes": progress.all,
                "eta_ms": eta.map(|eta| eta.as_millis() as u64),
            });
            events.push(event("load_progress", &so_far));
        }
        if was.map_or(0, |was| was.waiting) != model.waiting {
            let queue = json!({
                "model": model.model,
                "waiting": model.waiting,
                "waiting_in_all": view.waiting(),
            });
            events.push(event("queue", &queue));
        }
    }
    let known = before.into_iter().flat_map(|before| before.models.iter());
    for model in known.filter(|was| view.model(&was.model).is_none()) {
        let status = json!({"model": model.model, "state": ModelState::Unloaded});
        events.push(event("model_status", &status));
    }
    events
}

/// So many events went by unread.
fn missed(count: u64) -> String {
    event("missed", &json!({"events": count}))
}

fn event(name: &str, data: &Value) -> String {
    text(name, &data.to_string())
}

/// `data` is one line: JSON as we write it has no line ends.
fn text(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::progress::Progress;
    use crate::pool::view::{of, sample};

    fn view(state: ModelState, waiting: usize, done: Option<u64>) -> View {
        let mut model = sample("t/a", 6, state);
        model.waiting = waiting;
        model.progress = done.map(|done| Progress { done, all: 1000 });
        of(vec![model])
    }

    #[test]
    fn only_what_is_different_is_told() {
        let check = |before: Option<View>, after: View, expected: &[&str]| {
            let events = changes(before.as_ref(), &after, Instant::now());
            let names = events.iter().filter_map(|event| event.lines().next());
            let names: Vec<_> = names
                .map(|line| line.trim_start_matches("event: "))
                .collect();
            assert_eq!(names, expected, "{events:?}");
        };
        use ModelState::{Loading, Unloaded, Waiting};
        check(None, view(Unloaded, 0, None), &["model_status"]);
        let cold = || Some(view(Unloaded, 0, None));
        check(cold(), view(Unloaded, 0, None), &[]);
        check(cold(), view(Waiting, 1, None), &["model_status", "queue"]);
        check(cold(), View::default(), &["model_status"]);
        let loading = || Some(view(Loading, 1, Some(100)));
        check(loading(), view(Loading, 1, Some(105)), &[]);
        check(loading(), view(Loading, 1, Some(110)), &["load_progress"]);
        check(
            loading(),
            view(Loading, 2, Some(110)),
            &["load_progress", "queue"],
        );
    }
}
