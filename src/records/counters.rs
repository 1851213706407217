//! What is counted while the server runs, for `GET /metrics`. A model's label is
//! always a model that the configuration permits, or `other`: no request can make
//! a new one. What the pool counts itself is not here.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::entry::Ending;

/// The model of a request for which none was found.
pub const OTHER: &str = "other";

/// From a tick to the ten minutes that a request may wait, seconds.
const SECONDS: [f64; 12] = [
    0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
];

/// From what a request costs the router to what it must never, seconds.
const OVERHEAD: [f64; 10] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0,
];

type Word = [(&'static str, &'static str); 1];
type Model = [(&'static str, String); 1];
type ModelAndWord = [(&'static str, String); 2];

/// What became of a guess at the next load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guessed {
    /// The model was the next to be loaded.
    Right,
    /// Another one was.
    Wrong,
    /// There was no memory to read its weights into.
    NoRoom,
}

impl Guessed {
    /// The word for it in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::NoRoom => "no_room",
        }
    }
}

/// Counters that only rise. Cloning gives another handle to the same ones.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Those of each model, found once for a request.
    models: Arc<RwLock<HashMap<String, Arc<OfModel>>>>,
    by_model: ByModel,
    refusals: Family<Word, Counter>,
    upstream_requests: Family<ModelAndWord, Counter>,
    upstream_tokens: Family<ModelAndWord, Counter>,
    panics: Family<Word, Counter>,
    overhead: Histogram,
    guesses: Family<Word, Counter>,
    prefetched_bytes: Counter,
    audit_failures: Counter,
    lost_lines: Counter,
    lost_log_lines: Counter,
}

/// What is counted for each model.
#[derive(Clone, Debug)]
struct ByModel {
    requests: Family<ModelAndWord, Counter>,
    tokens: Family<ModelAndWord, Counter>,
    cached_tokens: Family<Model, Counter>,
    guessed_tokens: Family<ModelAndWord, Counter>,
    waits: Family<Model, Histogram>,
    first_tokens: Family<ModelAndWord, Histogram>,
}

impl Default for Counters {
    fn default() -> Self {
        let histogram = || Histogram::new(SECONDS);
        Self {
            models: Arc::default(),
            by_model: ByModel {
                requests: Family::default(),
                tokens: Family::default(),
                cached_tokens: Family::default(),
                guessed_tokens: Family::default(),
                waits: Family::new_with_constructor(histogram),
                first_tokens: Family::new_with_constructor(histogram),
            },
            refusals: Family::default(),
            upstream_requests: Family::default(),
            upstream_tokens: Family::default(),
            panics: Family::default(),
            overhead: Histogram::new(OVERHEAD),
            guesses: Family::default(),
            prefetched_bytes: Counter::default(),
            audit_failures: Counter::default(),
            lost_lines: Counter::default(),
            lost_log_lines: Counter::default(),
        }
    }
}

/// The counters of one model. Each appears in the metrics when it first counts.
#[derive(Debug)]
pub struct OfModel {
    /// What the model is called.
    pub name: String,
    all: ByModel,
    endings: [OnceLock<Counter>; Ending::ALL.len()],
    prompt_tokens: OnceLock<Counter>,
    completion_tokens: OnceLock<Counter>,
    cached_tokens: OnceLock<Counter>,
    waits: OnceLock<Histogram>,
    first_at_once: OnceLock<Histogram>,
    first_waited: OnceLock<Histogram>,
}

impl OfModel {
    fn new(name: &str, all: ByModel) -> Self {
        Self {
            name: name.to_owned(),
            all,
            endings: Default::default(),
            prompt_tokens: OnceLock::new(),
            completion_tokens: OnceLock::new(),
            cached_tokens: OnceLock::new(),
            waits: OnceLock::new(),
            first_at_once: OnceLock::new(),
            first_waited: OnceLock::new(),
        }
    }

    fn labels(&self, name: &'static str, word: &str) -> ModelAndWord {
        [("model", self.name.clone()), (name, word.to_owned())]
    }

    /// A request has ended.
    pub fn ended(&self, ending: Ending) {
        let count = self.endings[ending as usize].get_or_init(|| {
            let labels = self.labels("ending", ending.as_str());
            self.all.requests.get_or_create_owned(&labels)
        });
        count.inc();
    }

    /// An engine said how many tokens an answer took.
    pub fn used(&self, prompt: u64, completion: u64) {
        let kinds = [
            ("prompt", &self.prompt_tokens, prompt),
            ("completion", &self.completion_tokens, completion),
        ];
        for (kind, counter, tokens) in kinds {
            let labels = || self.labels("kind", kind);
            let counter = counter.get_or_init(|| self.all.tokens.get_or_create_owned(&labels()));
            counter.inc_by(tokens);
        }
    }

    /// An engine said that so many of a prompt's tokens were in its prompt cache.
    pub fn cached(&self, tokens: u64) {
        let labels = || [("model", self.name.clone())];
        let cached = &self.all.cached_tokens;
        let counter = self
            .cached_tokens
            .get_or_init(|| cached.get_or_create_owned(&labels()));
        counter.inc_by(tokens);
    }

    /// An engine said how many of an answer's tokens were guessed before, and how many
    /// guesses were wrong.
    pub fn guessed(&self, accepted: Option<u64>, rejected: Option<u64>) {
        for (outcome, tokens) in [("accepted", accepted), ("rejected", rejected)] {
            let Some(tokens) = tokens else { continue };
            let labels = self.labels("outcome", outcome);
            let guessed = &self.all.guessed_tokens;
            guessed.get_or_create_owned(&labels).inc_by(tokens);
        }
    }

    /// A request got its model after this time.
    pub fn waited(&self, time: Duration) {
        let labels = || [("model", self.name.clone())];
        let waits = &self.all.waits;
        let histogram = self
            .waits
            .get_or_init(|| waits.get_or_create_owned(&labels()));
        histogram.observe(time.as_secs_f64());
    }

    /// A stream's first event came after this time; it had waited for its model or not.
    pub fn began(&self, has_waited: bool, time: Duration) {
        let (start, histogram) = match has_waited {
            true => ("waited", &self.first_waited),
            false => ("at_once", &self.first_at_once),
        };
        let labels = || self.labels("start", start);
        let first = &self.all.first_tokens;
        let histogram = histogram.get_or_init(|| first.get_or_create_owned(&labels()));
        histogram.observe(time.as_secs_f64());
    }
}

impl Counters {
    /// Those of a model.
    pub fn of(&self, model: &str) -> Arc<OfModel> {
        // Each change of the table is one call.
        let known = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(model) {
            return known.clone();
        }
        drop(known);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let made = models
            .entry(model.to_owned())
            .or_insert_with(|| Arc::new(OfModel::new(model, self.by_model.clone())));
        made.clone()
    }

    /// A request was refused; counted before the client hears of it.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&[("code", code)]).inc();
    }

    /// A request that left this machine for this upstream has ended.
    pub fn left(&self, upstream: &str, ending: &'static str) {
        let labels = [
            ("upstream", upstream.to_owned()),
            ("ending", ending.to_owned()),
        ];
        self.upstream_requests.get_or_create(&labels).inc();
    }

    /// This upstream said how many tokens an answer took.
    pub fn spent(&self, upstream: &str, kind: &'static str, tokens: u64) {
        let labels = [("upstream", upstream.to_owned()), ("kind", kind.to_owned())];
        self.upstream_tokens.get_or_create(&labels).inc_by(tokens);
    }

    /// The router itself took this time until an engine got the request.
    pub fn handed_over(&self, time: Duration) {
        self.overhead.observe(time.as_secs_f64());
    }

    /// What became of a guess at the next load.
    pub fn guessed(&self, guessed: Guessed) {
        let label = [("outcome", guessed.as_str())];
        self.guesses.get_or_create(&label).inc();
    }

    /// So many bytes of weights were asked for ahead of a load.
    pub fn prefetched(&self, bytes: u64) {
        self.prefetched_bytes.inc_by(bytes);
    }

    /// Something panicked and was caught.
    pub fn panicked(&self, place: &'static str) {
        self.panics.get_or_create(&[("place", place)]).inc();
    }

    /// A line of the audit could not be written.
    pub fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    /// Lines of the request log could not be written.
    pub fn lost(&self, lines: u64) {
        self.lost_lines.inc_by(lines);
    }

    /// A line of the log could not be written.
    pub fn log_lost(&self) {
        self.lost_log_lines.inc();
    }

    /// Puts all of them into a registry for one scrape.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests by model and by how they ended",
            self.by_model.requests.clone(),
        );
        registry.register(
            "refusals",
            "Refused requests of both ports by error code",
            self.refusals.clone(),
        );
        registry.register(
            "tokens",
            "Tokens as engines report them, of prompts and of completions",
            self.by_model.tokens.clone(),
        );
        registry.register(
            "upstream_requests",
            "Requests that left this machine, by upstream and by how they ended",
            self.upstream_requests.clone(),
        );
        registry.register(
            "upstream_tokens",
            "Tokens as upstreams report them, of prompts and of completions",
            self.upstream_tokens.clone(),
        );
        registry.register(
            "cached_tokens",
            "Tokens of prompts that were in the prompt cache of our own engine",
            self.by_model.cached_tokens.clone(),
        );
        registry.register(
            "predicted_tokens",
            "Tokens of answers that were guessed before they were made, accepted or rejected",
            self.by_model.guessed_tokens.clone(),
        );
        registry.register(
            "panics",
            "Panics that were caught, by place",
            self.panics.clone(),
        );
        registry.register(
            "wait_seconds",
            "From the request to its model",
            self.by_model.waits.clone(),
        );
        registry.register(
            "first_event_seconds",
            "From a streamed request to its first event, through a swap or not",
            self.by_model.first_tokens.clone(),
        );
        registry.register(
            "router_overhead_seconds",
            "From a whole request to its engine, less the wait for the model",
            self.overhead.clone(),
        );
        registry.register(
            "prefetches",
            "Guesses at the next load: right, wrong, or without memory to read its weights into",
            self.guesses.clone(),
        );
        registry.register(
            "prefetched_bytes",
            "Bytes of weights that the system was asked to read ahead of loads",
            self.prefetched_bytes.clone(),
        );
        registry.register(
            "audit_failures",
            "Lines of the audit that could not be written",
            self.audit_failures.clone(),
        );
        registry.register(
            "request_log_lost_lines",
            "Lines of the request log that could not be written",
            self.lost_lines.clone(),
        );
        registry.register(
            "log_lost_lines",
            "Lines of the log that could not be written",
            self.lost_log_lines.clone(),
        );
    }
}
