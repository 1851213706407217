//! What an answer is read from: a model of this machine, by a lease, or an upstream.
//! Whoever reads one does not ask which; what differs when it ends badly is here.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;

use super::refusals::{ended_early, shutting_down};
use super::shortage;
use crate::api::error::{ApiError, Code};
use crate::pool::{Ending, Lease, Refused, UnloadReason};
use crate::registry::Remote;
use crate::registry::remote::Target;
use crate::upstream::Asked;
use crate::worker::client::Failure;

/// How long the pool may take to learn that a worker died: it is told when the
/// process has been reaped.
const SETTLING: Duration = Duration::from_secs(1);

/// What an answer is read from. It ends with this.
#[derive(Debug)]
pub(super) enum Hold {
    /// A model of this machine.
    Here(Lease),
    /// An upstream.
    Away(Away, Asked),
}

/// A name of upstreams, of which one is asked.
#[derive(Clone, Debug)]
pub(super) struct Away {
    /// What it stands for.
    pub(super) remote: Arc<Remote>,
    /// What the request, or its entry, said.
    pub(super) name: String,
    chosen: Arc<Chosen>,
}

/// Which of them it is.
#[derive(Debug, Default)]
struct Chosen {
    index: AtomicUsize,
    /// Whether that one answers, so that no other is asked any more.
    is_settled: AtomicBool,
}

impl Away {
    /// By this name, the first of them until another is chosen.
    pub(super) fn to(remote: &Arc<Remote>, name: &str) -> Self {
        Self {
            remote: Arc::clone(remote),
            name: name.to_owned(),
            chosen: Arc::default(),
        }
    }

    /// The one that is asked.
    pub(super) fn target(&self) -> &Target {
        &self.remote.targets[self.chosen.index.load(Ordering::Relaxed)]
    }

    /// Another one is asked, by its place in the list.
    pub(super) fn choose(&self, index: usize) {
        self.chosen.index.store(index, Ordering::Relaxed);
    }

    /// The one that is asked answers.
    pub(super) fn settle(&self) {
        self.chosen.is_settled.store(true, Ordering::Release);
    }

    /// Whether it is certain which of them it is.
    pub(super) fn is_settled(&self) -> bool {
        self.remote.targets.len() == 1 || self.chosen.is_settled.load(Ordering::Acquire)
    }

    /// What the upstream is asked for.
    pub(super) fn model(&self) -> &str {
        self.target().model(&self.name)
    }

    /// Who is asked.
    pub(super) fn upstream(&self) -> &str {
        &self.target().upstream.name
    }

    /// It failed so often lately that it is left alone for so long.
    pub(super) fn rests(&self, wait: Duration) -> ApiError {
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
    match hold {
        Hold::Here(lease) => Either::Left(taken_away(lease)),
        Hold::Away(..) => Either::Right(pending()),
    }
}

/// Waits until the pool takes the model away from a running answer, and says so.
/// A crash is not told here: the connection breaks off by itself, after what
/// the worker still had to say.
pub(super) fn taken_away(lease: &Lease) -> impl Future<Output = ApiError> + Send + use<> {
    let plan = lease.plan().clone();
    // Put together rather than awaited in a block, which would hold it twice.
    lease
        .ended()
        .then(move |ending| match withdrawal(&plan.model, &ending) {
            Some(error) => Either::Left(ready(error)),
            None => Either::Right(pending()),
        })
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
        Hold::Away(away, asked) => {
            asked.failed();
            return away.failed(request_id, failure);
        }
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
/// lease. An upstream has others to answer, and it is held against it.
pub(super) fn give_up(hold: &Hold) {
    let lease = match hold {
        Hold::Here(lease) => lease,
        Hold::Away(_, asked) => return asked.failed(),
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
        Hold::Away(away, asked) => {
            asked.failed();
            let message = format!(
                "the upstream {} ended before its answer did",
                away.upstream()
            );
            ApiError::new(Code::BadUpstreamResponse, message)
        }
    }
}

/// The answer came to its end.
pub(super) fn ended_well(hold: &Hold) {
    if let Hold::Away(_, asked) = hold {
        asked.answered();
    }
}
