//! What fills the silence of a stream: how far the load is, or how many stand
//! before it, and when that will be over. It looks at the pool and asks nothing of it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::json;

use super::body::Beat;
use super::live::Running;
use crate::api::fields::Endpoint;
use crate::config;
use crate::pool::{ModelState, Pool, View};

/// The heartbeats of one stream.
pub(super) struct Heartbeat {
    pub form: config::Heartbeat,
    pub endpoint: Endpoint,
    pub pool: Pool,
    pub running: Arc<Running>,
}

impl Heartbeat {
    /// The same as what a body asks for in each silence.
    pub fn beat(self) -> Beat {
        Box::new(move || match self.form {
            config::Heartbeat::EmptyDelta => empty(&self.running, self.endpoint),
            config::Heartbeat::Comment | config::Heartbeat::Off => {
                let words = words(&self.pool.view(), &self.running, Instant::now());
                Bytes::from(format!(": {words}\n\n"))
            }
        })
    }

    /// What headers that go out before the model is there say of the wait.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        if self.running.waited().is_some() {
            return Vec::new();
        }
        let eta = self.pool.view().eta(&self.running.model, Instant::now());
        let eta = eta.map(|eta| eta.as_millis() as u64);
        let position = self.running.asker.position();
        [
            ("x-roundhouse-queue-position", position),
            ("x-roundhouse-eta-ms", eta),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), value?.into())))
        .collect()
    }
}

/// How things stand.
fn words(view: &View, running: &Running, now: Instant) -> String {
    let model = running.model.as_str();
    if running.waited().is_some() {
        return format!("{model} is at work");
    }
    let known = view.model(model);
    let mut words = match known.map(|known| known.state) {
        Some(ModelState::Loading) => format!("loading {model}"),
        _ => format!("waiting for {model}"),
    };
    // Writing to a string cannot fail.
    if let Some(progress) = known.and_then(|known| known.progress) {
        let _ = write!(words, " {} %", progress.percent());
    } else if let Some(before) = running.asker.position() {
        let _ = write!(words, ", {before} before it");
    }
    if let Some(eta) = view.eta(model, now) {
        let _ = write!(words, ", ready in {} s", seconds(eta));
    }
    words
}

/// An event in which nothing is said.
fn empty(running: &Running, endpoint: Endpoint) -> Bytes {
    let (object, choice) = match endpoint {
        Endpoint::Chat => (
            "chat.completion.chunk",
            json!({"index": 0, "delta": {}, "finish_reason": null}),
        ),
        // Nothing else is streamed.
        _ => (
            "text_completion",
            json!({"index": 0, "text": "", "finish_reason": null}),
        ),
    };
    let event = json!({
        "id": running.asker.request_id,
        "object": object,
        "created": crate::access::keys::seconds(running.time),
        "model": running.asker.name,
        "choices": [choice],
    });
    Bytes::from(format!("data: {event}\n\n"))
}

/// Whole seconds, and never none before the end.
fn seconds(time: Duration) -> u64 {
    time.as_secs_f64().ceil() as u64
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::dispatch::live::Live;
    use crate::engine::progress::Progress;
    use crate::pool::Asker;
    use crate::pool::view::{of, sample};

    fn came() -> (Instant, SystemTime) {
        (Instant::now(), SystemTime::now())
    }

    #[test]
    fn a_heartbeat_says_how_far_the_load_is_and_when_it_ends() {
        let now = Instant::now();
        let check = |state, done: Option<u64>, waited: Option<u64>, expected: &str| {
            let asker = Arc::new(Asker::new("r", "local", "small"));
            let place = Live::default().begin(asker, "t/b", "alias", true, came());
            if let Some(waited) = waited {
                place.running().granted(Duration::from_millis(waited));
            }
            let mut model = sample("t/b", 6, state);
            model.progress = done.map(|done| Progress { done, all: 100 });
            model.loading_since = Some(now - Duration::from_secs(10));
            assert_eq!(words(&of(vec![model]), place.running(), now), expected);
        };
        let loading = ModelState::Loading;
        check(loading, None, None, "loading t/b");
        check(loading, Some(50), None, "loading t/b 50 %, ready in 10 s");
        check(loading, Some(1), None, "loading t/b 1 %");
        check(ModelState::Waiting, None, None, "waiting for t/b");
        check(ModelState::Ready, None, Some(0), "t/b is at work");
    }

    #[test]
    fn an_empty_event_is_a_chunk_without_text() {
        let asker = Arc::new(Asker::new("req-1", "local", "small"));
        let place = Live::default().begin(asker, "t/b", "alias", true, came());
        let check = |endpoint, path: &str, expected: serde_json::Value| {
            let event = String::from_utf8(empty(place.running(), endpoint).to_vec()).expect("text");
            let data = event.strip_prefix("data: ").expect("an event");
            let chunk: serde_json::Value = serde_json::from_str(data.trim_end()).expect("JSON");
            assert_eq!(chunk.pointer(path), Some(&expected), "{chunk}");
            assert_eq!(chunk["model"], "small");
        };
        check(Endpoint::Chat, "/choices/0/delta", json!({}));
        check(Endpoint::Completions, "/choices/0/text", json!(""));
    }
}
