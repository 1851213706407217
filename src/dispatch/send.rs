//! How a request gets to whoever answers it: the wait for the model, the lease, the bytes
//! on their way to its engine, and what becomes of one that does not begin to answer. What
//! leaves this machine takes the way of `away`. What happens rarely is boxed: each future
//! is as large as the largest of what it waits for, and one is made for each request.

use std::pin::pin;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Response};

use super::hold::{Away, Hold, crashed, give_up, taken_away};
use super::meaning::naming;
use super::patience::{TooLate, within};
use super::payload::Payload;
use super::refusals::{ended_early, refused};
use super::{Dispatch, Routed, Target, headers, shortage};
use crate::access::Caller;
use crate::api::error::{ApiError, Code};
use crate::config::request::PromptCache;
use crate::pool::{Candidates, Lease, Refused};
use crate::worker::client::{self, Failure};
use crate::worker::{ADAPTER_HEADER, CALLER_HEADER, LoadPlan, PlannedEngine};

/// Why a worker has not got a request.
enum Unsent {
    /// It was gone before it saw anything of it.
    Unreached,
    /// It would have to wait too long, and this may answer instead.
    Spills(Away),
    /// The client is to be told.
    Refused(ApiError),
}

impl Routed {
    /// The body as the engine of this model gets it.
    fn payload(&self, own: &LoadPlan, plan: &LoadPlan) -> Payload {
        if plan.engine.model() == own.engine.model() {
            return self.payload.clone();
        }
        let naming = naming(plan, self.missing.as_deref());
        self.request.ruled(&self.rules, naming).payload
    }

    /// Waits for the model and hands it the request. A worker that died a moment
    /// ago and was never reached is no answer: the next one is asked, once.
    pub(super) async fn send(
        &self,
        dispatch: &Dispatch,
    ) -> Result<(Hold, Response<client::Body>), ApiError> {
        let (candidates, away) = match &self.target {
            Target::Here(candidates) => (Some(candidates), self.away()),
            Target::Away(_) => (None, self.away()),
        };
        let candidates = match (candidates, away) {
            (_, Some(away)) => return Box::pin(self.send_away(dispatch, &away)).await,
            (Some(candidates), None) => candidates,
            (None, None) => return Err(ended_early(&self.model())),
        };
        let mut sent = self.send_once(dispatch, candidates).await;
        if let Err(Unsent::Spills(fallback)) = &sent {
            if let Some(sent) = Box::pin(self.spill(dispatch, fallback)).await {
                return Ok(sent);
            }
            sent = Box::pin(self.send_once(dispatch, candidates)).await;
        }
        match sent {
            Err(Unsent::Unreached) => {
                let sent = Box::pin(self.send_once(dispatch, candidates)).await;
                sent.map_err(|unsent| match unsent {
                    Unsent::Refused(error) => error,
                    Unsent::Unreached | Unsent::Spills(_) => ended_early(&self.model()),
                })
            }
            Err(Unsent::Refused(error)) => Err(error),
            Err(Unsent::Spills(_)) => Err(ended_early(&self.model())),
            Ok(sent) => Ok(sent),
        }
    }

    async fn send_once(
        &self,
        dispatch: &Dispatch,
        candidates: &Candidates,
    ) -> Result<(Hold, Response<client::Body>), Unsent> {
        let terms = self.request.terms;
        let pool = dispatch.pool.asked_by(self.place.running().asker.clone());
        let acquired = tokio::select! {
            biased;
            acquired = pool.acquire(candidates.clone(), terms) => acquired,
            fallback = self.waits_too_long(dispatch, &candidates.own.model) => {
                return Err(Unsent::Spills(fallback));
            }
        };
        let lease = acquired.map_err(|error| {
            if let Refused::LoadFailed { model, reason, .. } = &error {
                let id = self.request.id();
                tracing::warn!(request.id = id, model.id = model, reason, "not loaded");
            }
            let scope = &self.request.caller.scope;
            let words = shortage::words(&error, &dispatch.pool.view(), &|name| scope.permits(name));
            let told = refused(error);
            Unsent::Refused(ApiError {
                message: words.unwrap_or(told.message),
                ..told
            })
        })?;
        self.answering.set(Some(lease.plan().clone()));
        let load_ms = lease.ready().load_ms;
        let entry = &self.request.entry;
        let priority = self.request.terms.priority;
        entry.routed(&lease.plan().model, self.why.as_str(), priority);
        entry.granted(lease.waited(), lease.generation(), load_ms);
        self.place.running().granted(lease.waited());
        let overhead = self.arrived.elapsed().saturating_sub(lease.waited());
        entry.handed_over(overhead);
        // Nothing of the client's headers: credentials, cookies and framing stay here.
        let limit = self.snapshot.config.server.limits.first_token;
        let own = &candidates.own;
        let sent = tokio::select! {
            sent = self.hand_over(&lease, own, limit) => sent.map_err(Unsent::Refused)?,
            error = taken_away(&lease) => return Err(Unsent::Refused(error)),
        };
        match sent {
            Ok(Ok(response)) => Ok((Hold::Here(lease), response)),
            Ok(Err(failure)) => {
                let (id, hold) = (self.request.id(), Hold::Here(lease));
                let crashed = Box::pin(crashed(id, &hold, &failure)).await;
                Err(match failure {
                    Failure::Unreached(_) => Unsent::Unreached,
                    _ => Unsent::Refused(crashed),
                })
            }
            Err(TooLate) => {
                give_up(&Hold::Here(lease));
                Err(Unsent::Refused(ApiError::new(
                    Code::FirstTokenTimeout,
                    format!("{} sent nothing within {limit:?}", self.model()),
                )))
            }
        }
    }

    /// From whose prompts an engine of our own may go on.
    fn mark(&self, plan: &LoadPlan) -> Option<HeaderValue> {
        let mark = match (&plan.engine, self.rules.prompt_cache) {
            (PlannedEngine::Spawned(_), _) | (_, PromptCache::Off) => return None,
            (PlannedEngine::Own(_), PromptCache::Private) => self.request.caller.mark(),
            (PlannedEngine::Own(_), PromptCache::Shared) => Caller::mark_of_all(),
        };
        HeaderValue::try_from(mark).ok()
    }

    /// The adapter of the entry, if the model that answers is that entry's and none in
    /// its place.
    fn adapter(&self, own: &LoadPlan, plan: &LoadPlan) -> Option<HeaderValue> {
        let adapter = self.adapter.as_ref().filter(|_| plan.model == own.model)?;
        HeaderValue::try_from(adapter.chosen.text()).ok()
    }

    /// Sends the request to the engine that has been got for it, and waits for the
    /// beginning of its answer for as long as `limit`.
    async fn hand_over(
        &self,
        lease: &Lease,
        own: &LoadPlan,
        limit: Duration,
    ) -> Result<Result<Result<Response<client::Body>, Failure>, TooLate>, ApiError> {
        let (client, payload) = (lease.client(), self.payload(own, lease.plan()));
        let (path, id) = (self.request.path.as_ref(), self.request.id());
        if let Some(upload) = &self.request.upload {
            let send = |headers, body| client.send(Method::POST, path, headers, body);
            let rules = self.request.form_rules(&self.rules);
            return Box::pin(upload.hand_over(id, payload, &rules, limit, send)).await;
        }
        let kind = HeaderValue::from_static("application/json");
        let mut headers = headers::to_engine(kind, id);
        if let Some(mark) = self.mark(lease.plan()) {
            headers.set(CALLER_HEADER, mark);
        }
        if let Some(adapter) = self.adapter(own, lease.plan()) {
            headers.set(ADAPTER_HEADER, adapter);
        }
        let sent = pin!(client.send(Method::POST, path, headers, payload));
        Ok(within(limit, sent).await)
    }
}
