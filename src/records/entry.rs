//! One request while it is recorded: everybody who learns something of it adds
//! that, and when the last of them lets go it becomes a line and is counted. So
//! the line says how the request really ended, also if its client left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Records;
use super::counters::{OTHER, OfModel};
use super::usage::Usage;
use crate::pool::Priority;
use crate::shutdown::Place;
use crate::telemetry::line::Line;

/// A handle to the record of one request.
#[derive(Clone, Debug)]
pub struct Entry(Arc<Open>);

#[derive(Debug)]
struct Open {
    records: Arc<Records>,
    request_id: String,
    began: Instant,
    time: SystemTime,
    facts: Mutex<Facts>,
    /// Bytes of the answer's body that went to the connection.
    sent: AtomicU64,
    /// Whether that was all of them.
    is_delivered: AtomicBool,
}

/// What is known.
#[derive(Debug, Default)]
struct Facts {
    peer: String,
    caller: Option<String>,
    method: String,
    /// The route as it is written in the table of routes; never what the client
    /// wrote there.
    path: Option<&'static str>,
    /// Which configuration it was answered by: the number of its reload.
    generation: u64,
    model: Option<Arc<OfModel>>,
    route: Option<&'static str>,
    /// The upstream that it left this machine for.
    upstream: Option<String>,
    priority: Option<Priority>,
    status: Option<u16>,
    code: Option<&'static str>,
    /// The pool's number of the worker process.
    worker: Option<u64>,
    /// How long that worker took to load.
    load_ms: Option<u64>,
    wait_ms: Option<u64>,
    first_event_ms: Option<u64>,
    prompt_tokens: Option<u64>,
    /// Those that were in the prompt cache, if any were.
    cached_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    request_bytes: Option<u64>,
    is_refused_by_engine: bool,
}

impl Facts {
    /// Puts them into a line.
    fn write(&self, line: &mut Line) {
        let model = self.model.as_ref().map(|model| model.name.as_str());
        line.text("peer", Some(&self.peer))
            .text("caller", self.caller.as_deref())
            .text("method", Some(&self.method))
            .text("path", self.path)
            .number("generation", Some(self.generation))
            .text("model", model)
            .text("route", self.route)
            .text("upstream", self.upstream.as_deref())
            .text("priority", self.priority.map(Priority::as_str))
            .number("status", self.status.map(u64::from))
            .text("code", self.code)
            .number("worker", self.worker)
            .number("load_ms", self.load_ms)
            .number("wait_ms", self.wait_ms)
            .number("first_event_ms", self.first_event_ms)
            .number("prompt_tokens", self.prompt_tokens)
            .number("cached_tokens", self.cached_tokens)
            .number("completion_tokens", self.completion_tokens)
            .number("request_bytes", self.request_bytes);
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The whole answer went out.
    Complete,
    /// The client went away first.
    ClientLeft,
    /// The engine failed, before or in its answer.
    EngineFailed,
    /// The request was not accepted, or not to the end.
    Refused,
    /// The server itself failed.
    Failed,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Complete,
        Self::ClientLeft,
        Self::EngineFailed,
        Self::Refused,
        Self::Failed,
    ];

    /// The word in lines and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::EngineFailed => "engine_failed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Entry {
    /// A request has come while the configuration of this number is in force.
    pub fn open(
        records: &Arc<Records>,
        request_id: String,
        peer: String,
        method: &str,
        generation: u64,
    ) -> Self {
        let facts = Facts {
            peer,
            method: method.to_owned(),
            generation,
            ..Facts::default()
        };
        Self(Arc::new(Open {
            records: records.clone(),
            request_id,
            began: Instant::now(),
            time: SystemTime::now(),
            facts: Mutex::new(facts),
            sent: AtomicU64::new(0),
            is_delivered: AtomicBool::new(false),
        }))
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Facts are set one by one, so a poisoned lock hides no half of one.
        self.0.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id under which everything about it is logged.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// When it came, and the same as people tell time.
    pub fn came(&self) -> (Instant, SystemTime) {
        (self.0.began, self.0.time)
    }

    /// Which route it was, as the table of routes writes it.
    pub fn path(&self, pattern: &'static str) {
        self.facts().path = Some(pattern);
    }

    /// Who asks: the id of a key, never a key.
    pub fn caller(&self, id: &str) {
        self.facts().caller = Some(id.to_owned());
    }

    /// The body has been read.
    pub fn received(&self, bytes: usize) {
        self.facts().request_bytes = Some(bytes as u64);
    }

    /// A model has been found, for this reason; the request waits for it in this class.
    pub fn routed(&self, model: &str, route: &'static str, priority: Priority) {
        let mut facts = self.facts();
        let is_known = facts
            .model
            .as_ref()
            .is_some_and(|known| known.name == model);
        if !is_known {
            facts.model = Some(self.0.records.counters.of(model));
        }
        facts.route = Some(route);
        self.0.records.events.tell("request_start", || {
            let line = json!({
                "time_ms": milliseconds(self.0.time.duration_since(UNIX_EPOCH).unwrap_or_default()),
                "request_id": self.0.request_id,
                "caller": facts.caller,
                "path": facts.path,
                "model": model,
                "route": route,
            });
            line.to_string()
        });
        facts.priority = Some(priority);
    }

    /// It leaves this machine for this upstream.
    pub fn left(&self, upstream: &str) {
        self.facts().upstream = Some(upstream.to_owned());
    }

    /// It is answered by this machine after all.
    pub fn stayed(&self) {
        self.facts().upstream = None;
    }

    /// The model was there after this time, by this worker, which loaded for so long.
    pub fn granted(&self, waited: Duration, worker: u64, load_ms: u64) {
        let mut facts = self.facts();
        facts.worker = Some(worker);
        facts.load_ms = Some(load_ms);
        facts.wait_ms = Some(milliseconds(waited));
        self.0.of_model(&facts).waited(waited);
    }

    /// An engine gets the request after so much time that was ours alone.
    pub fn handed_over(&self, overhead: Duration) {
        self.0.records.counters.handed_over(overhead);
    }

    /// The first event is on its way to the client.
    pub fn first_event(&self) {
        let time = self.0.began.elapsed();
        let mut facts = self.facts();
        facts.first_event_ms = Some(milliseconds(time));
        let has_waited = facts.wait_ms.is_some_and(|waited| waited > 0);
        self.0.of_model(&facts).began(has_waited, time);
    }

    /// The engine reported its usage.
    pub fn usage(&self, usage: &Usage) {
        let mut facts = self.facts();
        facts.prompt_tokens = usage.prompt;
        facts.cached_tokens = usage.cached;
        facts.completion_tokens = usage.completion;
        let (prompt, completion) = (facts.prompt_tokens, facts.completion_tokens);
        let (prompt, completion) = (prompt.unwrap_or_default(), completion.unwrap_or_default());
        let model = self.0.of_model(&facts);
        model.used(prompt, completion);
        model.cached(facts.cached_tokens.unwrap_or_default());
        model.guessed(usage.accepted, usage.rejected);
        if let Some(upstream) = &facts.upstream {
            let counters = &self.0.records.counters;
            counters.spent(upstream, "prompt", prompt);
            counters.spent(upstream, "completion", completion);
        }
    }

    /// Something panicked while it worked on the request.
    pub fn panicked(&self, place: Place) {
        tracing::error!(
            request.id = self.request_id(),
            place = place.as_str(),
            "a panic cost this request"
        );
        self.0.records.counters.panicked(place.as_str());
    }

    /// The engine refused in its own words.
    pub fn refused_by_engine(&self) {
        self.facts().is_refused_by_engine = true;
    }

    /// It failed with this code of the error contract.
    pub fn failed(&self, code: &'static str) {
        self.facts().code = Some(code);
    }

    /// The head of the answer goes out.
    pub fn answered(&self, status: u16) {
        self.facts().status = Some(status);
    }

    /// So much of the answer's body went to the connection.
    pub fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// That was all of it.
    pub fn delivered(&self) {
        self.0.is_delivered.store(true, Ordering::Relaxed);
    }
}

impl Open {
    /// Where its model is counted, or those that have none.
    fn of_model(&self, facts: &Facts) -> Arc<OfModel> {
        let model = facts.model.clone();
        model.unwrap_or_else(|| self.records.counters.of(OTHER))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let facts = self.facts.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ending = ending(facts, *self.is_delivered.get_mut());
        let model = facts.model.clone();
        let model = model.unwrap_or_else(|| self.records.counters.of(OTHER));
        model.ended(ending);
        if let Some(upstream) = &facts.upstream {
            self.records.counters.left(upstream, ending.as_str());
        }
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (sent, duration) = (*self.sent.get_mut(), milliseconds(self.began.elapsed()));
        let text = || {
            let mut line = Line::begin();
            line.number("time_ms", Some(milliseconds(time)))
                .text("request_id", Some(&self.request_id));
            facts.write(&mut line);
            line.number("response_bytes", Some(sent))
                .number("duration_ms", Some(duration))
                .text("ending", Some(ending.as_str()));
            line.end()
        };
        if facts.route.is_some() {
            self.records.events.tell("request_end", text);
        }
        self.records.requests.write(text);
    }
}

/// How it ended.
fn ending(facts: &Facts, is_delivered: bool) -> Ending {
    let is_error = facts.status.is_some_and(|status| status >= 400);
    match facts.code {
        // Within an answer this is a client that takes nothing.
        Some("request_timeout") if !is_error => Ending::ClientLeft,
        Some(
            "worker_crashed"
            | "bad_upstream_response"
            | "load_failed"
            | "load_timeout"
            | "first_token_timeout"
            | "upstream_timeout",
        ) => Ending::EngineFailed,
        Some("internal_error") => Ending::Failed,
        Some(_) => Ending::Refused,
        None if is_error || facts.is_refused_by_engine => Ending::Refused,
        None if is_delivered => Ending::Complete,
        None => Ending::ClientLeft,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_is_what_happened() {
        let check = |status: Option<u16>, code, is_delivered, expected| {
            let facts = Facts {
                status,
                code,
                ..Facts::default()
            };
            assert_eq!(
                ending(&facts, is_delivered),
                expected,
                "{status:?} {code:?}"
            );
        };
        check(Some(200), None, true, Ending::Complete);
        check(Some(200), None, false, Ending::ClientLeft);
        check(None, None, false, Ending::ClientLeft);
        check(Some(401), Some("invalid_api_key"), true, Ending::Refused);
        check(Some(400), None, true, Ending::Refused);
        check(
            Some(502),
            Some("worker_crashed"),
            true,
            Ending::EngineFailed,
        );
        check(
            Some(200),
            Some("worker_crashed"),
            false,
            Ending::EngineFailed,
        );
        check(
            Some(200),
            Some("request_timeout"),
            false,
            Ending::ClientLeft,
        );
        check(Some(408), Some("request_timeout"), true, Ending::Refused);
        check(Some(500), Some("internal_error"), true, Ending::Failed);
        check(Some(200), Some("shutting_down"), true, Ending::Refused);
        let engine = Facts {
            status: Some(200),
            is_refused_by_engine: true,
            ..Facts::default()
        };
        assert_eq!(ending(&engine, true), Ending::Refused);
    }
}
