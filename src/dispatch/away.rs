//! Requests that leave this machine: because their name is an upstream's, or because
//! the model it names could not answer and its entry says who is to.

use axum::http::{HeaderMap, Response, StatusCode};

use super::hold::{Away, Hold};
use super::patience::within;
use super::whole::{engine_failed, is_answer};
use super::{Dispatch, Routed, Target, foreign, payload::Payload, rules, rules::Naming};
use crate::api::error::{ApiError, Code};
use crate::route::Why;
use crate::upstream::Failed;
use crate::worker::client::Body;

impl Routed {
    /// The name of an upstream that answers, if none of this machine's models does.
    pub(super) fn away(&self) -> Option<&Away> {
        match &self.target {
            Target::Away(away) => Some(away),
            Target::Here(_) => self.fallen.get(),
        }
    }

    /// Why the model that answers is the one.
    pub(super) fn why(&self) -> Why {
        match self.fallen.get() {
            Some(_) => Why::Fallback,
            None => self.why,
        }
    }

    /// Whether an upstream is to answer after this failure, of which the client has
    /// seen nothing. Says so once, so there is one step and no circle.
    pub(super) fn falls_back(&self, error: &ApiError) -> bool {
        let Some(fallback) = self.fallback.as_ref().filter(|_| helps(error.code)) else {
            return false;
        };
        let failed = self.model();
        if self.fallen.set(fallback.clone()).is_err() {
            return false;
        }
        let id = &self.request.request_id;
        let (upstream, cause) = (fallback.upstream(), error.code.facts().0);
        tracing::warn!(
            request.id = id,
            model.id = failed,
            upstream,
            cause,
            "falls back"
        );
        self.depart(fallback);
        true
    }

    /// Writes down that the request leaves this machine, before it does.
    pub(super) fn depart(&self, away: &Away) {
        let entry = &self.request.entry;
        let (why, priority) = (self.why(), self.request.terms.priority);
        entry.routed(&away.remote.name, why.as_str(), priority);
        entry.left(away.upstream());
    }

    /// Asks the upstream.
    pub(super) async fn send_away(
        &self,
        dispatch: &Dispatch,
        away: &Away,
    ) -> Result<(Hold, Response<Body>), ApiError> {
        let id = &self.request.request_id;
        self.request.entry.handed_over(self.arrived.elapsed());
        let limit = self.snapshot.config.server.limits.first_token;
        let path = self.request.endpoint.path();
        let upstream = &away.remote.upstream;
        let sent = dispatch
            .upstreams
            .send(upstream, path, id, self.payload_away(away));
        match within(limit, sent).await {
            Ok(Ok(response)) => Ok((Hold::Away(away.clone()), response)),
            Ok(Err(Failed::Rests(wait))) => Err(away.rests(wait)),
            Ok(Err(failed)) => Err(away.failed(id, &failed)),
            Err(_) => {
                dispatch.upstreams.fell_silent(upstream);
                Err(ApiError::new(
                    Code::FirstTokenTimeout,
                    format!(
                        "the upstream {} sent nothing within {limit:?}",
                        upstream.name
                    ),
                ))
            }
        }
    }

    /// The body as the upstream gets it: the name that it has for the model is spliced in.
    fn payload_away(&self, away: &Away) -> Payload {
        let model = away.model();
        let naming = match self.fallen.get().is_some() || away.remote.sent_as.is_some() {
            true => Naming::Always(model),
            false => Naming::IfMissing(model),
        };
        let (endpoint, body) = (self.request.endpoint, &self.request.body);
        rules::apply(endpoint, body, &self.rules, naming).payload
    }

    /// What the client hears of an answer that is none.
    pub(super) fn refusal(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Option<ApiError> {
        match self.away() {
            Some(_) if status.is_success() => None,
            Some(away) => {
                let id = &self.request.request_id;
                let (upstream, status_code) = (away.upstream(), status.as_u16());
                tracing::warn!(
                    request.id = id,
                    upstream,
                    status_code,
                    "an upstream refused"
                );
                Some(foreign::refusal_of_upstream(
                    upstream, status, headers, body,
                ))
            }
            None if !is_answer(status) => Some(engine_failed(self, status)),
            None if self.is_foreign() && !status.is_success() => {
                Some(foreign::refusal(&self.model(), status, body))
            }
            None => None,
        }
    }
}

/// Whether somebody else may succeed where this one failed. What is wrong with the
/// request itself is wrong anywhere.
fn helps(code: Code) -> bool {
    matches!(
        code,
        Code::WorkerCrashed
            | Code::BadUpstreamResponse
            | Code::InsufficientMemory
            | Code::LoadFailed
            | Code::LoadTimeout
            | Code::FirstTokenTimeout
            | Code::UpstreamTimeout
            | Code::QueueFull
            | Code::QueueTimeout
            | Code::Overloaded
    )
}
