//! What decoders' `config.json` files have in common: sizes, rotation, windows. Keys
//! and their meanings as in Hugging Face transformers, defaults as in mlx-lm. Pure:
//! no weights, no arrays.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::engine::EngineError;
use crate::engine::mlx::attention::Heads;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::rope::{Frequencies, Scaling};

/// Positions that a checkpoint was made for if it does not say.
const POSITIONS: u32 = 2048;

/// What `config.json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Arguments {
    pub hidden_size: i32,
    pub num_hidden_layers: usize,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    head_dim: Option<i32>,
    max_position_embeddings: Option<u32>,
    original_max_position_embeddings: Option<u32>,
    num_key_value_heads: Option<i32>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    rope_theta: Option<f64>,
    #[serde(default)]
    pub rope_traditional: bool,
    rope_scaling: Option<Map<String, Value>>,
    /// Where newer checkpoints keep what was in `rope_theta` and `rope_scaling`.
    rope_parameters: Option<Map<String, Value>>,
    partial_rotary_factor: Option<f64>,
    pub tie_word_embeddings: Option<bool>,
    /// Of each layer `full_attention` or `sliding_attention`.
    pub layer_types: Option<Vec<String>>,
    pub sliding_window: Option<u32>,
    /// Tokens in a sequence, if that is set elsewhere.
    #[serde(skip)]
    context: Option<u32>,
}

impl Arguments {
    /// Reads and checks them; `context` is the length of sequences, if it is set.
    ///
    /// # Errors
    /// A key is missing, or a size makes no network.
    pub fn read(config: &Map<String, Value>, context: Option<u32>) -> Result<Self, EngineError> {
        let mut arguments: Self = own(config)?;
        arguments.context = context;
        arguments.check()?;
        Ok(arguments)
    }

    fn check(&self) -> Result<(), EngineError> {
        let heads = self.heads();
        positive(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", heads.key_values),
            ("vocab_size", self.vocab_size),
            ("head_dim", heads.size),
        ])?;
        let turned = self.turned();
        if heads.queries % heads.key_values != 0 || turned % 2 != 0 || turned <= 0 {
            return Err(bad_file(
                "config.json",
                format!(
                    "{} heads do not share {} key-value heads, or {turned} numbers of each \
                     cannot turn in pairs",
                    heads.queries, heads.key_values
                ),
            ));
        }
        let layers = self.num_hidden_layers;
        match &self.layer_types {
            Some(types) if types.len() != layers => Err(bad_file(
                "config.json",
                format!("\"layer_types\" names {} of {layers} layers", types.len()),
            )),
            _ => Ok(()),
        }
    }

    /// Heads of each layer.
    pub fn heads(&self) -> Heads {
        let size = self
            .head_dim
            .unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1));
        Heads {
            queries: self.num_attention_heads,
            key_values: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            size,
        }
    }

    /// Most tokens of a sequence that the checkpoint was made for.
    pub fn positions(&self) -> u32 {
        self.max_position_embeddings.unwrap_or(POSITIONS)
    }

    /// Numbers of a head that turn.
    pub fn turned(&self) -> i32 {
        let share = self.partial_rotary_factor.unwrap_or(1.0);
        (f64::from(self.heads().size) * share) as i32
    }

    /// These arguments, turning by this base if they name none.
    #[must_use]
    pub fn with_base(mut self, base: f64) -> Self {
        self.rope_theta = Some(self.base().unwrap_or(base));
        self
    }

    /// These arguments, with heads of which so many numbers turn, all of them.
    #[must_use]
    pub fn with_turned(mut self, turned: i32) -> Self {
        (self.head_dim, self.partial_rotary_factor) = (Some(turned), None);
        self
    }

    /// A number of the rotation's settings.
    pub fn scaling_number(&self, key: &str) -> Option<f64> {
        let settings = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        settings?.get(key)?.as_f64()
    }

    fn base(&self) -> Option<f64> {
        let newer = || self.rope_parameters.as_ref()?.get("rope_theta")?.as_f64();
        self.rope_theta.or_else(newer)
    }

    /// How fast the pairs of a head turn.
    ///
    /// # Errors
    /// The scaling is incomplete or not known.
    pub fn frequencies(&self) -> Result<Frequencies, EngineError> {
        let mut settings = self.rope_scaling.clone();
        let mut settings = settings
            .take()
            .or_else(|| self.rope_parameters.clone())
            .unwrap_or_default();
        // Phi 3 keeps this one beside the section.
        if let Some(original) = self.original_max_position_embeddings {
            settings
                .entry("original_max_position_embeddings")
                .or_insert_with(|| json!(original));
        }
        self.frequencies_by(self.base().unwrap_or(10_000.0), settings)
    }

    /// The same with a base and settings of its own.
    pub fn frequencies_by(
        &self,
        base: f64,
        settings: Map<String, Value>,
    ) -> Result<Frequencies, EngineError> {
        let positions = self.positions();
        let scaling = Scaling {
            base,
            settings,
            positions,
            context: self.context.unwrap_or(positions),
        };
        let frequencies = scaling.frequencies(self.turned());
        frequencies.map_err(EngineError::Unsupported)
    }

    /// The window of layer `index` as `layer_types` has it, and `without_types` says
    /// whether it has one where there is no such list.
    ///
    /// # Errors
    /// A layer has a window and nothing says how long it is, or is of another kind.
    pub fn window(&self, index: usize, without_types: bool) -> Result<Option<u32>, EngineError> {
        let kind = self.layer_types.as_ref().map(|types| types[index].as_str());
        let slides = match kind {
            None => without_types,
            Some("full_attention") => false,
            Some("sliding_attention") => true,
            Some(other) => {
                return Err(EngineError::Unsupported(format!(
                    "layers of the kind \"{other}\" are not supported"
                )));
            }
        };
        match self.sliding_window {
            _ if !slides => Ok(None),
            Some(window) if window > 0 => Ok(Some(window)),
            _ => Err(bad_file(
                "config.json",
                "a layer has a sliding window and \"sliding_window\" does not say how long",
            )),
        }
    }
}

/// Keys of `config.json` that only one architecture reads.
///
/// # Errors
/// One is missing or of another type.
pub fn own<T: DeserializeOwned>(config: &Map<String, Value>) -> Result<T, EngineError> {
    serde_json::from_value(Value::Object(config.clone()))
        .map_err(|error| bad_file("config.json", error))
}

/// Fails with the first of these sizes that is none.
pub fn positive(sizes: &[(&str, i32)]) -> Result<(), EngineError> {
    match sizes.iter().find(|(_, size)| *size <= 0) {
        Some((name, size)) => Err(bad_file(
            "config.json",
            format!("\"{name}\" is {size}, expected a positive number"),
        )),
        None => Ok(()),
    }
}
