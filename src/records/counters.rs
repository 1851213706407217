//! What is counted while the server runs, for `GET /metrics`. A model's label is
//! always a model that the configuration permits, or `other`: no request can make
//! a new one. What the pool counts itself is not here.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

/// Counters that only rise. Cloning gives another handle to the same ones.
#[derive(Clone, Debug)]
pub struct Counters {
    requests: Family<ModelAndWord, Counter>,
    refusals: Family<Word, Counter>,
    tokens: Family<ModelAndWord, Counter>,
    upstream_requests: Family<ModelAndWord, Counter>,
    upstream_tokens: Family<ModelAndWord, Counter>,
    cached_tokens: Family<Model, Counter>,
    panics: Family<Word, Counter>,
    waits: Family<Model, Histogram>,
    first_tokens: Family<ModelAndWord, Histogram>,
    overhead: Histogram,
    audit_failures: Counter,
    lost_lines: Counter,
    lost_log_lines: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        let histogram = || Histogram::new(SECONDS);
        Self {
            requests: Family::default(),
            refusals: Family::default(),
            tokens: Family::default(),
            upstream_requests: Family::default(),
            upstream_tokens: Family::default(),
            cached_tokens: Family::default(),
            panics: Family::default(),
            waits: Family::new_with_constructor(histogram),
            first_tokens: Family::new_with_constructor(histogram),
            overhead: Histogram::new(OVERHEAD),
            audit_failures: Counter::default(),
            lost_lines: Counter::default(),
            lost_log_lines: Counter::default(),
        }
    }
}

impl Counters {
    /// A request has ended.
    pub fn ended(&self, model: &str, ending: &'static str) {
        let labels = [("model", model.to_owned()), ("ending", ending.to_owned())];
        self.requests.get_or_create(&labels).inc();
    }

    /// A request was refused; counted before the client hears of it.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&[("code", code)]).inc();
    }

    /// An engine said how many tokens an answer took.
    pub fn used(&self, model: &str, kind: &'static str, tokens: u64) {
        let labels = [("model", model.to_owned()), ("kind", kind.to_owned())];
        self.tokens.get_or_create(&labels).inc_by(tokens);
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

    /// An engine said that so many of a prompt's tokens were in its prompt cache.
    pub fn cached(&self, model: &str, tokens: u64) {
        let labels = [("model", model.to_owned())];
        self.cached_tokens.get_or_create(&labels).inc_by(tokens);
    }

    /// A request got its model after this time.
    pub fn waited(&self, model: &str, time: Duration) {
        let labels = [("model", model.to_owned())];
        let waits = self.waits.get_or_create(&labels);
        waits.observe(time.as_secs_f64());
    }

    /// The router itself took this time until an engine got the request.
    pub fn handed_over(&self, time: Duration) {
        self.overhead.observe(time.as_secs_f64());
    }

    /// A stream's first event came after this time; it had waited for its model or not.
    pub fn began(&self, model: &str, has_waited: bool, time: Duration) {
        let start = if has_waited { "waited" } else { "at_once" };
        let labels = [("model", model.to_owned()), ("start", start.to_owned())];
        let first = self.first_tokens.get_or_create(&labels);
        first.observe(time.as_secs_f64());
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
            self.requests.clone(),
        );
        registry.register(
            "refusals",
            "Refused requests of both ports by error code",
            self.refusals.clone(),
        );
        registry.register(
            "tokens",
            "Tokens as engines report them, of prompts and of completions",
            self.tokens.clone(),
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
            self.cached_tokens.clone(),
        );
        registry.register(
            "panics",
            "Panics that were caught, by place",
            self.panics.clone(),
        );
        registry.register(
            "wait_seconds",
            "From the request to its model",
            self.waits.clone(),
        );
        registry.register(
            "first_event_seconds",
            "From a streamed request to its first event, through a swap or not",
            self.first_tokens.clone(),
        );
        registry.register(
            "router_overhead_seconds",
            "From a whole request to its engine, less the wait for the model",
            self.overhead.clone(),
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
