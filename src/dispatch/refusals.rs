//! Refusals that are told from several places, in the words of the API.

use super::hold::Away;
use crate::api::error::{ApiError, Code};
use crate::pool::Refused;

/// The pool's refusal in the words of the API.
pub fn refused(refused: Refused) -> ApiError {
    let message = refused.to_string();
    match refused {
        Refused::NeverFits { .. } => ApiError::new(Code::InsufficientMemory, message),
        // Which one that is may be none of the caller's business.
        Refused::NeverBeside { model, .. } => {
            let message = format!("{model} is never in memory beside a model that is kept");
            ApiError::new(Code::Conflict, message).param("model")
        }
        Refused::QueueFull { retry_after, .. } => {
            ApiError::new(Code::QueueFull, message).retry_after(retry_after)
        }
        Refused::QueueTimeout { .. } => ApiError::new(Code::QueueTimeout, message),
        // Why is the engine's own word, and for the owner: the log and the status
        // of the model tell it.
        Refused::LoadFailed { model, .. } => {
            ApiError::new(Code::LoadFailed, format!("{model} could not be loaded"))
        }
        Refused::Contended { retry_after, .. } => {
            ApiError::new(Code::Overloaded, message).retry_after(retry_after)
        }
        Refused::NotLoaded { .. } => ApiError::new(Code::Conflict, message).param("model"),
        Refused::LoadTimeout { .. } => ApiError::new(Code::LoadTimeout, message),
        Refused::ShuttingDown => shutting_down(),
        Refused::Unloaded { .. } => ApiError::new(Code::Overloaded, message),
        Refused::Lost => ApiError::new(Code::InternalError, message),
        Refused::Unlisted { .. } => ApiError::new(Code::ModelNotFound, message).param("model"),
    }
}

/// A server like this one asks, and what it asks for is somewhere else again.
pub(super) fn passed_on(away: &Away) -> ApiError {
    let message = format!(
        "the request was sent on once already, and \"{}\" is not answered on this machine",
        away.name
    );
    ApiError::new(Code::BadUpstreamResponse, message).param("model")
}

/// Somebody ended the request from outside.
pub(super) fn cancelled() -> ApiError {
    ApiError::new(
        Code::RequestCancelled,
        "the request was ended by management",
    )
}

pub(super) fn shutting_down() -> ApiError {
    ApiError::new(Code::ShuttingDown, "the server is shutting down")
}

/// The worker was gone before its answer was whole.
pub(super) fn ended_early(model: &str) -> ApiError {
    ApiError::new(
        Code::WorkerCrashed,
        format!("the worker of {model} ended before its answer did"),
    )
}
