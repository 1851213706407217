//! One file per architecture, named as checkpoints name it, and the table that
//! finds it by `model_type`.

pub mod bert;
mod gemma2;
mod gemma3_text;
mod glm4;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod smollm3;

use mlx_rs::error::Result as MlxResult;
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value};

use super::attention::Pass;
use super::decoder::Decoder;
use super::decoder::arguments::Arguments;
use super::decoder::design::Design;
use super::kv::CacheShape;
use super::weights::Weights;
use crate::engine::{EngineError, supported_architectures};
use crate::model::kind::Kind;

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

/// An encoder of one architecture. Nothing here evaluates.
pub trait EncoderArchitecture {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;

    /// Numbers of a token's vector.
    fn size(&self) -> usize;

    /// Most tokens of a text.
    fn positions(&self) -> usize;

    /// The number format of its vectors.
    fn format(&self) -> Dtype;

    /// `tokens` `[texts, tokens]` through all layers: `[texts, tokens, size]`. `mask`
    /// `[texts, 1, 1, tokens]` says which are seen; nothing means all of them.
    fn hidden(&self, tokens: &Array, mask: Option<&Array>) -> MlxResult<Array>;
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

impl Checkpoint<'_> {
    /// What decoders' configurations have in common.
    fn arguments(&self) -> Result<Arguments, EngineError> {
        Arguments::read(self.config, self.context)
    }
}

/// A decoder of this design with the weights of a checkpoint.
fn decoder(checkpoint: Checkpoint, design: Design) -> Result<Box<dyn Architecture>, EngineError> {
    Ok(Box::new(Decoder::load(checkpoint.weights, design)?))
}

type Loader = fn(Checkpoint) -> Result<Box<dyn Architecture>, EngineError>;

/// Every `model_type` and who loads it.
const LOADERS: [(&str, Loader); 12] = [
    ("llama", llama::load),
    ("mistral", mistral::load),
    ("qwen2", qwen2::load),
    ("qwen3", qwen3::load),
    ("qwen3_moe", qwen3_moe::load),
    ("gemma2", gemma2::load),
    ("gemma3_text", gemma3_text::load),
    ("phi3", phi3::load),
    ("smollm3", smollm3::load),
    ("granite", granite::load),
    ("olmo2", olmo2::load),
    ("glm4", glm4::load),
];

type EncoderLoader = fn(Checkpoint) -> Result<Box<dyn EncoderArchitecture>, EngineError>;

/// The same for encoders.
const ENCODERS: [(&str, EncoderLoader); 2] = [("bert", bert::load), ("xlm-roberta", bert::load)];

/// Finds the loader of a checkpoint.
pub fn loader(config: &Map<String, Value>) -> Result<Loader, EngineError> {
    find(config, &LOADERS, Kind::Chat)
}

/// The same for encoders.
pub fn encoder_loader(config: &Map<String, Value>) -> Result<EncoderLoader, EngineError> {
    find(config, &ENCODERS, Kind::Embeddings)
}

fn find<L: Copy>(
    config: &Map<String, Value>,
    loaders: &[(&str, L)],
    kind: Kind,
) -> Result<L, EngineError> {
    let name = config
        .get("model_type")
        .and_then(Value::as_str)
        .ok_or_else(|| super::bad_file("config.json", "\"model_type\" is missing"))?;
    let found = loaders.iter().find(|(known, _)| *known == name);
    found.map(|(_, loader)| *loader).ok_or_else(|| {
        let known = supported_architectures().iter();
        let known = known.filter(|(_, of)| *of == kind).map(|(name, _)| *name);
        EngineError::Unsupported(format!(
            "the architecture \"{name}\" is not supported; supported are {}",
            known.collect::<Vec<_>>().join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_list_names_what_the_table_loads() {
        let chat = LOADERS.iter().map(|(name, _)| (*name, Kind::Chat));
        let encoders = ENCODERS.iter().map(|(name, _)| (*name, Kind::Embeddings));
        let all: Vec<_> = chat.chain(encoders).collect();
        assert_eq!(all, supported_architectures());
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
