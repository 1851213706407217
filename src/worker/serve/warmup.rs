//! What is done before a worker is ready. The run: one token after a short prompt, so that what
//! an engine puts off until it is first used (kernels that are compiled, weights
//! that are evaluated) is done by then. It is part of the load: when it fails,
//! the load has failed.

use futures_util::StreamExt;

use super::Failure;
use super::body::Event;
#[cfg(feature = "mlx")]
use super::embeddings;
use super::request;
use super::source::Engine;
use crate::api::error::ApiError;
use crate::api::fields::Endpoint;

/// The request: one of the API, so that it takes the way that all take. The
/// scripted engine repeats the nonce in its journal.
const REQUEST: &[u8] = br#"{"prompt": "a", "max_tokens": 1, "nonce": "warmup"}"#;

/// The same for a model that makes vectors.
#[cfg(feature = "mlx")]
const TEXT: &[u8] = br#"{"input": "a"}"#;

/// Makes one token, or one vector.
pub(super) async fn run(engine: &Engine) -> Result<(), Failure> {
    let failed = |error: ApiError| Failure::WarmUp(error.message);
    #[cfg(feature = "mlx")]
    if let Engine::Vectors(source) = engine {
        let asked = embeddings::read(TEXT).map_err(failed)?;
        return source.embed(asked).await.map(drop).map_err(failed);
    }
    let asked = request::read(Endpoint::Completions, REQUEST).map_err(failed)?;
    let mut events = engine.begin(asked).await.map_err(failed)?.events;
    while let Some(event) = events.next().await {
        if let Event::Failed(error) = event {
            return Err(failed(error));
        }
    }
    Ok(())
}

/// Reads system prompts that everybody goes on from. One that cannot be read costs time
/// later and nothing else, so it is told and no more.
pub(super) async fn read(engine: &Engine, prompts: &[String]) {
    for (place, text) in prompts.iter().enumerate() {
        match engine.warm(text).await {
            Ok(tokens) => tracing::info!(place, tokens, "a warm prompt is read"),
            Err(error) => {
                let reason = error.message;
                tracing::warn!(place, reason, "a warm prompt cannot be read");
            }
        }
    }
}
