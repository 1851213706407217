//! What an answer is read from: a model of this machine, by a lease, or an upstream.
//! Whoever reads one does not ask which; what differs when it ends badly is here.

use super::{SETTLING, ended_early, shortage, shutting_down};
use crate::api::error::{ApiError, Code};
use crate::pool::{Ending, Lease, Refused, UnloadReason};
use crate::registry::Remote;
use crate::worker::client::Failure;

/// What an answer is read from. It ends with this.
#[derive(Debug)]
pub(super) enum Hold {
    /// A model of this machine.
    Here(Lease),
    /// An upstream.
    Away(Away),
}

/// A name of an upstream that is asked.
#[derive(Clone, Debug)]
pub(super) struct Away {
    /// What it stands for.
    pub(super) remote: std::sync::Arc<Remote>,
    /// What the request, or its entry, said.
    pub(super) name: String,
}

impl Away {
    /// What the upstream is asked for.
    pub(super) fn model(&self) -> &str {
        self.remote.model(&self.name)
    }

    /// Who is asked.
    pub(super) fn upstream(&self) -> &str {
        &self.remote.upstream.name
    }

    /// It failed so often lately that it is left alone for so long.
    pub(super) fn rests(&self, wait: std::time::Duration) -> ApiError {
        let upstream = self.upstream();
        let message = format!("the upstream {upstream} failed again and again and is left alone");
        ApiError::new(Code::Overloaded, message).retry_after(wait)
    }

    /// It cannot be asked, or broke off. The cause is for the log alone.
    pub(super) fn failed(&self, request_id: &str, cause: &dyn std::fmt::Display) -> ApiError {
        let upstream = self.upstream();
        let cause = cause.to_string();
        tracing::warn!(
            request.id = request_id,
            upstream,
            cause,
            "an upstream failed"
        );
        let message = format!("the upstream {upstream} did not answer");
        ApiError::new(Code::BadUpstreamResponse, message)
    }
}

/// Waits until a running answer is taken away, and says so. Nobody takes away an
/// upstream's.
pub(super) fn revoked(hold: &Hold) -> impl Future<Output = ApiError> + Send + use<> {
    let taken_away = match hold {
        Hold::Here(lease) => Some(taken_away(lease)),
        Hold::Away(_) => None,
    };
    async move {
        match taken_away {
            Some(taken_away) => taken_away.await,
            None => std::future::pending().await,
        }
    }
}

/// Waits until the pool takes the model away from a running answer, and says so.
/// A crash is not told here: the connection breaks off by itself, after what
/// the worker still had to say.
pub(super) fn taken_away(lease: &Lease) -> impl Future<Output = ApiError> + Send + use<> {
    let (plan, ended) = (lease.plan().clone(), lease.ended());
    async move {
        match withdrawal(&plan.model, &ended.await) {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}

/// What an answer that the pool ended is told; nothing if the worker ended by itself.
fn withdrawal(model: &str, ending: &Ending) -> Option<ApiError> {
    Some(match ending {
        Ending::Revoked(UnloadReason::Shutdown) => shutting_down(),
        Ending::Lost => ApiError::new(Code::InternalError, Refused::Lost.to_string()),
        Ending::Revoked(_) => {
            let message = format!("{model} was unloaded while it answered");
            ApiError::new(Code::Overloaded, message)
        }
        Ending::Outgrew { .. } => {
            shortage::ended(model, ending).unwrap_or_else(|| ended_early(model))
        }
        Ending::Crashed(_) | Ending::OutOfMemory => return None,
    })
}

/// What is told of a worker that is gone. Whoever sees the connection break may see it
/// before the pool's word, which came first: it has taken the model away.
fn ending_of(lease: &Lease) -> ApiError {
    let model = &lease.plan().model;
    let ending = lease.ending();
    let told = ending.and_then(|it| withdrawal(model, &it).or_else(|| shortage::ended(model, &it)));
    told.unwrap_or_else(|| ended_early(model))
}

/// The other side is gone, broke off or did not speak HTTP. The cause is for the log
/// alone. Of a worker it is told only when the pool knows too, so that whoever asks
/// again after this refusal does not meet the same dead worker.
pub(super) async fn crashed(request_id: &str, hold: &Hold, failure: &Failure) -> ApiError {
    let lease = match hold {
        Hold::Here(lease) => lease,
        Hold::Away(away) => return away.failed(request_id, failure),
    };
    let model = &lease.plan().model;
    tracing::warn!(request.id = request_id, model.id = model, cause = ?failure, "a worker broke off");
    if let Failure::Malformed(_) = failure {
        let message = format!("the engine of {model} did not answer in HTTP that can be passed on");
        return ApiError::new(Code::BadUpstreamResponse, message);
    }
    if tokio::time::timeout(SETTLING, lease.ended()).await.is_err() {
        tracing::warn!(
            model.id = model,
            "the worker lives on after it broke off an answer"
        );
    }
    ending_of(lease)
}

/// An engine that fell silent is not asked again: its worker leaves after its last
/// lease. An upstream has others to answer.
pub(super) fn give_up(hold: &Hold) {
    let Hold::Here(lease) = hold else {
        return;
    };
    tracing::warn!(
        model.id = lease.plan().model,
        "an engine fell silent; its worker is given up"
    );
    lease.give_up();
}

/// The stream stopped before it said that it was at its end.
pub(super) fn cut_short(hold: &Hold) -> ApiError {
    match hold {
        Hold::Here(lease) => ending_of(lease),
        Hold::Away(away) => {
            let message = format!(
                "the upstream {} ended before its answer did",
                away.upstream()
            );
            ApiError::new(Code::BadUpstreamResponse, message)
        }
    }
}
