//! What an answer says of itself in headers: which model answers and why, who was asked
//! before, what was lowered, what waiting was like.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response};

use super::hold::Hold;
use super::{Routed, explained, headers};
use crate::route::Why;

const MODEL: HeaderName = HeaderName::from_static("x-roundhouse-model");
const ROUTE: HeaderName = HeaderName::from_static("x-roundhouse-route");
const WAIT: HeaderName = HeaderName::from_static("x-roundhouse-wait-ms");
const POSITION: HeaderName = HeaderName::from_static("x-roundhouse-queue-position");

/// Says which upstream answers: the request has left this machine.
const UPSTREAM: HeaderName = HeaderName::from_static("x-roundhouse-upstream");

/// Says which of its names answers in the place of a model that could not.
const FALLBACK: HeaderName = HeaderName::from_static("x-roundhouse-fallback");

/// Says which upstreams were asked before and did not answer: the request has left for
/// them too.
const TRIED: HeaderName = HeaderName::from_static("x-roundhouse-tried");

impl Routed {
    /// Which model answers, as far as that is certain, and why, as headers.
    pub(super) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let away = self.away();
        let is_certain = match &away {
            Some(away) => away.is_settled(),
            None => self.why() != Why::Background || self.answering.is_known(),
        };
        let text = |text: &str| HeaderValue::from_str(text).ok();
        let settled = away.as_ref().filter(|away| away.is_settled());
        let (tried, fallen) = (self.tried.get(), self.fallen.get());
        let said = [
            (MODEL, is_certain.then(|| text(&self.model())).flatten()),
            (ROUTE, Some(HeaderValue::from_static(self.why().as_str()))),
            (UPSTREAM, settled.and_then(|away| text(away.upstream()))),
            (FALLBACK, fallen.and_then(|fallen| text(&fallen.away.name))),
            (TRIED, tried.and_then(|names| text(&names))),
            (explained::HEADER, self.explained.clone()),
            (headers::LIMITED, limited(&self.limited, None)),
        ];
        let said = said.into_iter();
        said.filter_map(|(name, value)| Some((name, value?)))
    }

    /// Of these, what was not certain before there was a lease.
    pub(super) fn late_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self.why() {
            Why::Background | Why::Fallback | Why::Spill => self.headers().collect(),
            _ if self.away().is_some() || self.tried.is_known() => self.headers().collect(),
            _ => Vec::new(),
        }
    }

    /// Adds the headers to an answer.
    pub(super) fn finish(
        &self,
        mut response: Response<Body>,
        wait: Option<Wait>,
    ) -> Response<Body> {
        let headers = response.headers_mut();
        let of_engine = headers.remove(headers::LIMITED);
        headers.extend(self.headers());
        if let Some(value) = limited(&self.limited, of_engine.as_ref()) {
            headers.insert(headers::LIMITED, value);
        }
        headers.extend(wait.iter().flat_map(Wait::headers));
        response
    }
}

/// What the rules lowered and what the engine did, in one header. A bound that both
/// lowered is as the engine says, since it saw the rules' already.
fn limited(rules: &[String], engine: Option<&HeaderValue>) -> Option<HeaderValue> {
    let engine = engine.and_then(|value| value.to_str().ok());
    if rules.is_empty() && engine.is_none() {
        return None;
    }
    let name = |item: &str| item.split('=').next().unwrap_or_default().to_owned();
    let said: Vec<_> = engine.iter().flat_map(|items| items.split(", ")).collect();
    let ours = rules.iter().map(String::as_str);
    let ours = ours.filter(|item| said.iter().all(|other| name(other) != name(item)));
    let all: Vec<_> = said.iter().copied().chain(ours).collect();
    HeaderValue::from_str(&all.join(", ")).ok()
}

/// What waiting for a model was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// How long it took.
    time: Duration,
    /// How many requests, of all models, stood before it when it came.
    position: usize,
}

impl Wait {
    /// As it was for whoever got this. For an upstream nobody waits here.
    pub(super) fn of(hold: &Hold) -> Self {
        let (time, position) = match hold {
            Hold::Here(lease) => (lease.waited(), lease.queue_position()),
            Hold::Away(..) => (Duration::ZERO, 0),
        };
        Self { time, position }
    }

    /// The same as headers.
    pub(super) fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        [
            (WAIT, number(self.time.as_millis() as u64)),
            (POSITION, number(self.position as u64)),
        ]
    }
}

/// A number as a value; of most requests, which wait for nothing, without a text of its own.
fn number(number: u64) -> HeaderValue {
    match number {
        0 => HeaderValue::from_static("0"),
        number => number.into(),
    }
}
