//! Requests that leave this machine: because their name is an upstream's, or because
//! the model it names could not answer and its entry says who is to.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::hold::{Away, Hold};
use super::patience::{TooLate, within};
use super::upload::Upload;
use super::whole::{engine_failed, is_answer};
use super::{Dispatch, Routed, Target, foreign, headers, payload::Payload, rules::Naming};
use crate::api::error::{ApiError, Code};
use crate::route::Why;
use crate::upstream::choice::Standing;
use crate::upstream::{Asked, Failed};
use crate::worker::client::{Body, Failure};

impl Routed {
    /// The name of an upstream that answers, if none of this machine's models does.
    pub(super) fn away(&self) -> Option<Away> {
        match &self.target {
            Target::Away(away) => Some(away.clone()),
            Target::Here(_) => Some(self.fallen.get()?.away.clone()),
        }
    }

    /// Why the model that answers is the one.
    pub(super) fn why(&self) -> Why {
        self.fallen.get().map_or(self.why, |fallen| fallen.why)
    }

    /// Whether an upstream is to answer after this failure, of which the client has
    /// seen nothing. Says so once, so there is one step and no circle.
    pub(super) fn falls_back(&self, error: &ApiError) -> bool {
        let Some(fallback) = self.fallback.as_ref().filter(|_| helps(error.code)) else {
            return false;
        };
        if !self.can_be_sent() || self.has_left.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.leave(fallback, Why::Fallback, error.code.facts().0);
        true
    }

    /// Waits until the request would wait too long for a model of this machine, by what is
    /// known of its time or because it has; for ever if it is to wait. Before it has, it
    /// leaves only for where the model is up, since what comes up there comes up here too.
    pub(super) async fn waits_too_long(&self, dispatch: &Dispatch, model: &str) -> Away {
        let (Some(limit), Some(fallback)) = (self.spill_after, &self.fallback) else {
            return std::future::pending().await;
        };
        if self.has_left.load(Ordering::Acquire) || !self.can_be_sent() {
            return std::future::pending().await;
        }
        let (asked, tasks) = (self.request.endpoint.asks(), &dispatch.tasks);
        let (remote, name) = (&fallback.remote, &fallback.name);
        let standing = || dispatch.upstreams.standing(remote, name, asked, tasks);
        let eta = dispatch.pool.view().eta(model, Instant::now());
        if eta.is_some_and(|eta| eta > limit) && standing().await == Some(Standing::Ready) {
            return fallback.clone();
        }
        tokio::time::sleep(limit).await;
        loop {
            if standing().await.is_some_and(|it| it != Standing::Absent) {
                return fallback.clone();
            }
            tokio::time::sleep(LOOKS_AGAIN).await;
        }
    }

    /// Asks an upstream instead of waiting on; nothing if that does not answer it, and
    /// then the request waits after all.
    pub(super) async fn spill(
        &self,
        dispatch: &Dispatch,
        fallback: &Away,
    ) -> Option<(Hold, Response<Body>)> {
        if self.has_left.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.leave(fallback, Why::Spill, "waits_too_long");
        let sent = self.send_away(dispatch, fallback).await;
        match sent {
            Ok((hold, response)) if !refuses_us(response.status()) => Some((hold, response)),
            sent => {
                if sent.is_ok() {
                    self.tried_in_vain(fallback.upstream());
                }
                self.fallen.set(None);
                self.request.entry.stayed();
                None
            }
        }
    }

    /// Remembers an upstream that was asked and did not answer, for the reply.
    fn tried_in_vain(&self, upstream: &str) {
        let tried = match self.tried.get() {
            None => upstream.to_owned(),
            Some(before) if before.split(", ").any(|name| name == upstream) => return,
            Some(before) => format!("{before}, {upstream}"),
        };
        self.tried.set(Some(Arc::new(tried)));
    }

    /// An upstream is asked in the place of a model of this machine.
    fn leave(&self, fallback: &Away, why: Why, cause: &'static str) {
        let id = self.request.id();
        let (failed, name) = (self.model(), fallback.name.as_str());
        let fallen = Fallen {
            away: fallback.clone(),
            why,
        };
        self.fallen.set(Some(Arc::new(fallen)));
        tracing::warn!(
            request.id = id,
            model.id = failed,
            name,
            cause,
            "falls back"
        );
        self.depart(fallback);
    }

    /// Whether all of it is still here: what was passed on as it came cannot be sent again.
    fn can_be_sent(&self) -> bool {
        let upload = self.request.upload.as_ref();
        upload.is_none_or(Upload::is_unsent)
    }

    /// Writes down that the request leaves this machine, before it does.
    pub(super) fn depart(&self, away: &Away) {
        let entry = &self.request.entry;
        let (why, priority) = (self.why(), self.request.terms.priority);
        entry.routed(&away.remote.name, why.as_str(), priority);
    }

    /// Asks an upstream that has the name, and if that does not answer another one, as
    /// long as too much is not repeated.
    pub(super) async fn send_away(
        &self,
        dispatch: &Dispatch,
        away: &Away,
    ) -> Result<(Hold, Response<Body>), ApiError> {
        self.request.entry.handed_over(self.arrived.elapsed());
        let (upstreams, asked) = (&dispatch.upstreams, self.request.endpoint.asks());
        let mut attempts = upstreams.attempts(&away.remote, &away.name, asked);
        let mut chosen = upstreams.first(&mut attempts, &dispatch.tasks).await;
        loop {
            away.choose(chosen);
            self.request.entry.left(away.upstream());
            let sent = self.send_to_one(dispatch, away).await;
            let next = match Again::after(&sent) {
                Again::Nowhere => None,
                _ if !self.can_be_sent() => None,
                again => upstreams.next(&mut attempts, again == Again::Anywhere),
            };
            let Some(next) = next else {
                away.settle();
                return match sent {
                    Ok((asked, response)) => Ok((Hold::Away(away.clone(), asked), response)),
                    Err(unanswered) => {
                        self.tried_in_vain(away.upstream());
                        Err(self.unanswered(away, unanswered))
                    }
                };
            };
            self.tried_in_vain(away.upstream());
            let (id, upstream) = (self.request.id(), away.upstream());
            tracing::warn!(
                request.id = id,
                upstream,
                "an upstream did not answer; another is asked"
            );
            if let Ok((asked, _)) = sent {
                asked.answered();
            }
            chosen = next;
        }
    }

    /// Asks the one that was chosen.
    async fn send_to_one(
        &self,
        dispatch: &Dispatch,
        away: &Away,
    ) -> Result<(Asked, Response<Body>), Unanswered> {
        let limit = self.snapshot.config.server.limits.first_token;
        let (id, path) = (self.request.id(), self.request.path.as_ref());
        let (upstream, payload) = (&away.target().upstream, self.payload_away(away));
        let sent = match &self.request.upload {
            Some(upload) => {
                let send = |headers, body| {
                    let upstreams = &dispatch.upstreams;
                    upstreams.send(upstream, path, headers, body)
                };
                let rules = self.request.form_rules(&self.rules);
                let heard = Box::pin(upload.hand_over(id, payload, &rules, limit, send)).await;
                heard.map_err(Unanswered::Client)?
            }
            None => {
                let kind = HeaderValue::from_static("application/json");
                let headers = headers::to_engine(kind, id);
                let sent = dispatch.upstreams.send(upstream, path, headers, payload);
                within(limit, pin!(sent)).await
            }
        };
        match sent {
            Ok(sent) => sent.map_err(Unanswered::Failed),
            Err(TooLate) => {
                dispatch.upstreams.fell_silent(upstream);
                Err(Unanswered::Silent)
            }
        }
    }

    /// What the client hears of no answer.
    fn unanswered(&self, away: &Away, unanswered: Unanswered) -> ApiError {
        match unanswered {
            Unanswered::Failed(Failed::Rests(wait)) => away.rests(wait),
            Unanswered::Failed(failed) => away.failed(self.request.id(), &failed),
            Unanswered::Client(error) => error,
            Unanswered::Silent => {
                let limit = self.snapshot.config.server.limits.first_token;
                let upstream = away.upstream();
                let message = format!("the upstream {upstream} sent nothing within {limit:?}");
                ApiError::new(Code::FirstTokenTimeout, message)
            }
        }
    }

    /// The body as the upstream gets it: the name that it has for the model is spliced in.
    fn payload_away(&self, away: &Away) -> Payload {
        let model = away.model();
        let is_fallen = self.fallen.is_known();
        let naming = match is_fallen || away.target().sent_as.is_some() {
            true => Naming::Always(model),
            false => Naming::IfMissing(model),
        };
        self.request.ruled(&self.rules, naming).payload
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
                let id = self.request.id();
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

/// How long after a look in vain it is looked again whether anybody can be asked.
const LOOKS_AGAIN: Duration = Duration::from_secs(1);

/// What answers in the place of a model of this machine.
pub(super) struct Fallen {
    /// Who.
    pub(super) away: Away,
    /// Why: the model could not answer, or not in time.
    pub(super) why: Why,
}

/// Why an upstream did not begin to answer.
enum Unanswered {
    /// It cannot be asked, or broke off.
    Failed(Failed),
    /// It was silent for too long.
    Silent,
    /// The client did not send what it was to get.
    Client(ApiError),
}

/// Where a request may be sent again after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Nowhere,
    Elsewhere,
    /// To the same one too: it has seen nothing of it.
    Anywhere,
}

impl Again {
    fn after(sent: &Result<(Asked, Response<Body>), Unanswered>) -> Self {
        match sent {
            Ok((_, response)) if refuses_us(response.status()) => Self::Elsewhere,
            // All the time that there was is over.
            Ok(_) | Err(Unanswered::Silent | Unanswered::Client(_)) => Self::Nowhere,
            Err(Unanswered::Failed(Failed::Failure(Failure::Unreached(_)))) => Self::Anywhere,
            Err(Unanswered::Failed(_)) => Self::Elsewhere,
        }
    }
}

/// Whether a refusal is about who asks or who is asked, so that another one may answer.
fn refuses_us(status: StatusCode) -> bool {
    !status.is_success()
        && !matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY
        )
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
