//! One file per architecture, named as checkpoints name it, and the table that
//! finds it by `model_type`.

pub mod llama;

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use serde_json::{Map, Value};

use super::attention::Pass;
use super::kv::CacheShape;
use super::weights::Weights;
use crate::engine::{EngineError, supported_architectures};

/// A network of one architecture. Nothing here evaluates.
pub trait Architecture {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;

    /// The shape of its caches.
    fn cache_shape(&self) -> CacheShape;

    /// `tokens` `[rows]` through all layers: hidden states `[rows, hidden]`.
    fn hidden(&self, tokens: &Array, pass: &mut Pass) -> MlxResult<Array>;

    /// Hidden states to logits `[rows, vocabulary]`.
    fn logits(&self, hidden: &Array) -> MlxResult<Array>;
}

/// What a loader gets.
pub struct Checkpoint<'a> {
    /// `config.json`, whole.
    pub config: &'a Map<String, Value>,
    /// The weights, to be taken from.
    pub weights: &'a mut Weights,
    /// Tokens in a sequence, if set.
    pub context: Option<u32>,
}

type Loader = fn(Checkpoint) -> Result<Box<dyn Architecture>, EngineError>;

/// Every `model_type` and who loads it.
const LOADERS: [(&str, Loader); 2] = [("llama", llama::load), ("mistral", llama::load)];

/// Finds the loader of a checkpoint.
pub fn loader(config: &Map<String, Value>) -> Result<Loader, EngineError> {
    let kind = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| super::bad_file("config.json", "\"model_type\" is missing"))?;
    let found = LOADERS.iter().find(|(name, _)| *name == kind);
    found.map(|(_, loader)| *loader).ok_or_else(|| {
        EngineError::Unsupported(format!(
            "the architecture \"{kind}\" is not supported; supported are {}",
            supported_architectures().join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_list_names_what_the_table_loads() {
        let names: Vec<_> = LOADERS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, supported_architectures());
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        let config = serde_json::json!({"model_type": "rwkv9"});
        let error = loader(config.as_object().unwrap()).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains("\"rwkv9\"") && message.contains("llama, mistral"),
            "{message}"
        );
    }
}
