//! Where answers come from: the engine of this worker, of one kind or the other,
//! behind one front. It turns a checked request into events.

pub mod scripted;
#[cfg(feature = "mlx")]
pub mod snapshot;
// The embedded engine without MLX is for tests.
#[cfg(any(feature = "mlx", test))]
pub mod ranks;
#[cfg(any(feature = "mlx", test))]
pub mod text;
#[cfg(any(feature = "mlx", test))]
pub mod vectors;

use std::time::Instant;

use serde_json::{Value, json};

use super::body::Events;
use super::embeddings::{self, Embedded};
use super::request::Asked;
use super::rerank::{self, Ranked};
use super::words;
use crate::api::error::{ApiError, Code};
use crate::engine::scripted::Odd;
use crate::engine::thread::Kept;
#[cfg(any(feature = "mlx", test))]
use crate::model::kind::Kind;

/// The engine of this worker.
pub enum Engine {
    /// It plays a file.
    Scripted(scripted::Source),
    /// It runs a network.
    #[cfg(any(feature = "mlx", test))]
    Text(text::Source),
    /// It runs an encoder.
    #[cfg(any(feature = "mlx", test))]
    Vectors(vectors::Source),
    /// It runs a network that judges documents.
    #[cfg(any(feature = "mlx", test))]
    Ranks(ranks::Source),
}

/// An answer that has begun.
pub struct Begun {
    /// What the engine tells.
    pub events: Events,
    /// How many choices it has, over all prompts.
    pub choices: usize,
    /// Tokens of all prompts.
    pub prompt: u64,
    /// The bound that holds instead of a larger `max_tokens`.
    pub limited: Option<u32>,
    /// The scripted engine wants the response to be odd as a whole.
    pub odd: Option<Odd>,
}

/// What `/status` tells of the engine.
pub struct Status {
    /// `cpu`, `metal`, `cuda` or `scripted`.
    pub device: String,
    /// The number format.
    pub compute: String,
    /// Bytes of weights held.
    pub bytes_held: u64,
    /// Sequences that are worked on, and sequences that wait.
    pub sequences: (u64, u64),
    /// Bytes of KV cache in use, and the room for them.
    pub kv: (u64, u64),
    /// Tokens read and made since the start.
    pub tokens: (u64, u64),
    /// What is kept of prompts.
    pub kept: Kept,
}

impl Engine {
    /// Begins an answer. Whatever can be refused is refused here.
    ///
    /// # Errors
    /// A refusal of the error contract.
    pub async fn begin(&self, asked: Asked) -> Result<Begun, ApiError> {
        match self {
            Engine::Scripted(source) => source.begin(asked),
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.begin(asked).await,
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(_) => Err(other_kind(Kind::Embeddings)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Ranks(_) => Err(other_kind(Kind::Rerank)),
        }
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// A refusal of the error contract.
    pub async fn embed(&self, asked: embeddings::Asked) -> Result<Embedded, ApiError> {
        match self {
            Engine::Scripted(source) => source.embed(asked).await,
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(_) => Err(other_kind(Kind::Chat)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(source) => source.embed(asked).await,
            #[cfg(any(feature = "mlx", test))]
            Engine::Ranks(_) => Err(other_kind(Kind::Rerank)),
        }
    }

    /// How well documents fit a query.
    ///
    /// # Errors
    /// A refusal of the error contract.
    pub async fn rank(&self, asked: &rerank::Asked) -> Result<Ranked, ApiError> {
        match self {
            Engine::Scripted(source) => source.rank(asked).await,
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(_) => Err(other_kind(Kind::Chat)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(_) => Err(other_kind(Kind::Embeddings)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Ranks(source) => source.rank(asked).await,
        }
    }

    /// Reads a system prompt that everybody goes on from, and says how many tokens that is.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn warm(&self, text: &str) -> Result<u64, ApiError> {
        match self {
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.warm(text).await,
            // They go on from nothing of the kind.
            _ => {
                tracing::debug!(bytes = text.len(), "there is nothing to read it for");
                Ok(0)
            }
        }
    }

    /// Tokens, texts and prompts.
    ///
    /// # Errors
    /// A refusal of the error contract.
    pub async fn words(&self, asked: words::Asked) -> Result<words::Told, ApiError> {
        match self {
            Engine::Scripted(source) => Ok(source.words(asked)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.words(asked).await,
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(_) => Err(other_kind(Kind::Embeddings)),
            #[cfg(any(feature = "mlx", test))]
            Engine::Ranks(_) => Err(other_kind(Kind::Rerank)),
        }
    }

    /// Forgets what is kept of prompts.
    pub fn forget(&self) {
        match self {
            Engine::Scripted(source) => source.forget(),
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.forget(),
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(_) | Engine::Ranks(_) => {}
        }
    }

    /// Writes what is kept of prompts to the disk, for as long as that, and ends.
    pub fn leave(&self, until: Instant) {
        match self {
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.leave(until),
            // They keep nothing there, and end when nobody uses them.
            _ => tracing::debug!(?until, "there is nothing to write"),
        }
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        match self {
            Engine::Scripted(source) => source.status(),
            #[cfg(any(feature = "mlx", test))]
            Engine::Text(source) => source.status(),
            #[cfg(any(feature = "mlx", test))]
            Engine::Vectors(source) => source.status(),
            #[cfg(any(feature = "mlx", test))]
            Engine::Ranks(source) => source.status(),
        }
    }
}

/// The router asks each model for what it is for; so nobody should see this.
#[cfg(any(feature = "mlx", test))]
fn other_kind(kind: Kind) -> ApiError {
    let message = format!("this model is of the kind {}", kind.as_str());
    ApiError::new(Code::InvalidValue, message).param("model")
}

impl Status {
    /// As JSON.
    pub fn json(&self) -> Value {
        json!({
            "device": self.device,
            "compute": self.compute,
            "bytes_held": self.bytes_held,
            "sequences": {"running": self.sequences.0, "waiting": self.sequences.1},
            "kv": {"bytes_in_use": self.kv.0, "bytes_room": self.kv.1},
            "tokens": {"prompt": self.tokens.0, "completion": self.tokens.1},
            "prompt_cache": self.kept,
        })
    }
}

/// How many tokens an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The bound that holds.
    pub max_tokens: u32,
    /// Whether it is smaller than what was asked for.
    pub limited: bool,
}

/// How many tokens may follow a prompt of `prompt` tokens, in a context of
/// `context` tokens and caches with room for `room` tokens.
///
/// # Errors
/// `context_length_exceeded` with both numbers if not even one may.
pub fn allowance(
    param: &str,
    prompt: u64,
    asked: Option<u32>,
    context: u64,
    room: u64,
) -> Result<Allowance, ApiError> {
    if prompt == 0 {
        return Err(crate::api::fields::invalid(
            param,
            format!("{param}: expected at least one token, found none"),
        ));
    }
    let refuse = |what: &str, number: u64| {
        let message = format!(
            "{what} {number} tokens, of which one is for the answer, and the prompt has {prompt}"
        );
        Err(ApiError::new(Code::ContextLengthExceeded, message).param(param))
    };
    if prompt >= context {
        return refuse("this model's context is", context);
    }
    if prompt >= room {
        return refuse("the room for this model's caches (kv) is", room);
    }
    let left = u32::try_from(context.min(room) - prompt).unwrap_or(u32::MAX);
    Ok(Allowance {
        max_tokens: asked.map_or(left, |asked| asked.min(left)),
        limited: asked.is_some_and(|asked| asked > left),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_bound_holds() {
        let check = |prompt, asked, context, room, max_tokens, limited| {
            let expected = Allowance {
                max_tokens,
                limited,
            };
            assert_eq!(
                allowance("prompt", prompt, asked, context, room),
                Ok(expected)
            );
        };
        check(10, None, 100, 1000, 90, false);
        check(10, Some(90), 100, 1000, 90, false);
        check(10, Some(91), 100, 1000, 90, true);
        check(10, Some(5), 100, 1000, 5, false);
        check(10, Some(50), 100, 40, 30, true);
        check(99, None, 100, 1000, 1, false);
    }

    #[test]
    fn refusals_tell_both_numbers() {
        let check = |prompt, context, room, words: [&str; 2]| {
            let error = allowance("messages", prompt, None, context, room).expect_err("refused");
            assert_eq!(error.code, Code::ContextLengthExceeded);
            assert_eq!(error.param.as_deref(), Some("messages"));
            assert!(
                words.iter().all(|word| error.message.contains(word)),
                "{}",
                error.message
            );
        };
        check(100, 100, 1000, ["context", "100"]);
        check(250, 100, 1000, ["100", "250"]);
        check(50, 100, 40, ["40", "50"]);
        assert!(allowance("prompt", 0, None, 10, 10).is_err());
    }
}
