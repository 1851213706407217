//! `model_type: bert`, and `xlm-roberta`, which differs in where positions begin.
//!
//! Structure as in Devlin et al. (arXiv 1810.04805) and Conneau et al. (arXiv
//! 1911.02116); names of settings and weights as in Hugging Face transformers. What
//! comes after the last layer (pooler, heads) is for other tasks and is left out, but for
//! the head that scores pairs, `…ForSequenceClassification` with one label.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::arange;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Checkpoint, EncoderArchitecture};
use crate::engine::EngineError;
use crate::engine::mlx::attention::attend_both_ways;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::classifier::{Activation, Classifier, Reads};
use crate::engine::mlx::layers::{Embedding, Gelu, LayerNorm, Linear};
use crate::engine::mlx::weights::Weights;

/// What `config.json` says.
#[derive(Debug, Deserialize)]
struct Arguments {
    model_type: String,
    hidden_size: i32,
    num_hidden_layers: usize,
    intermediate_size: i32,
    num_attention_heads: i32,
    vocab_size: i32,
    max_position_embeddings: i32,
    #[serde(default = "two")]
    type_vocab_size: i32,
    #[serde(default = "small")]
    layer_norm_eps: f32,
    #[serde(default)]
    hidden_act: Gelu,
    position_embedding_type: Option<String>,
    pad_token_id: Option<i32>,
}

fn two() -> i32 {
    2
}

fn small() -> f32 {
    1e-12
}

impl Arguments {
    fn read(config: &Map<String, Value>) -> Result<Self, EngineError> {
        let arguments: Self = serde_json::from_value(Value::Object(config.clone()))
            .map_err(|error| bad_file("config.json", error))?;
        let sizes = [
            ("hidden_size", arguments.hidden_size),
            ("intermediate_size", arguments.intermediate_size),
            ("num_attention_heads", arguments.num_attention_heads),
            ("vocab_size", arguments.vocab_size),
            ("type_vocab_size", arguments.type_vocab_size),
            ("positions", arguments.positions()),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| *size <= 0) {
            let reason = format!("\"{name}\" is {size}, expected a positive number");
            return Err(bad_file("config.json", reason));
        }
        if arguments.hidden_size % arguments.num_attention_heads != 0 {
            let reason = "\"hidden_size\" is no multiple of \"num_attention_heads\"";
            return Err(bad_file("config.json", reason));
        }
        match &arguments.position_embedding_type {
            Some(kind) if kind != "absolute" => Err(EngineError::Unsupported(format!(
                "positions of the kind \"{kind}\" are not supported"
            ))),
            _ => Ok(arguments),
        }
    }

    /// The row of the first position: those of RoBERTa come after the padding's.
    fn first_position(&self) -> i32 {
        match self.model_type.as_str() {
            "xlm-roberta" => self.pad_token_id.unwrap_or(1).max(0) + 1,
            _ => 0,
        }
    }

    /// Most tokens of a text.
    fn positions(&self) -> i32 {
        self.max_position_embeddings - self.first_position()
    }
}

/// The network.
struct Bert {
    arguments: Arguments,
    words: Embedding,
    positions: Array,
    /// That of a text alone or the first of a pair, then that of the second.
    segments: Array,
    norm: LayerNorm,
    layers: Vec<Layer>,
    classifier: Option<Classifier>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    after_attention: LayerNorm,
    up: Linear,
    down: Linear,
    after_feed_forward: LayerNorm,
}

/// Loads the network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn EncoderArchitecture>, EngineError> {
    let arguments = Arguments::read(checkpoint.config)?;
    let weights = checkpoint.weights;
    let prefix = prefix(weights);
    let head = checkpoint.verdict.map(|_| Head::of(&arguments, prefix));
    weights.drop_where(|name| {
        if head.as_ref().is_some_and(|head| head.has(name)) {
            return false;
        }
        let rest = name.strip_prefix(prefix);
        let is_of_layers = rest.is_some_and(|rest| {
            rest.starts_with("encoder.layer.") || rest.starts_with("embeddings.")
        });
        !is_of_layers || name.ends_with(".position_ids")
    });
    let (hidden, epsilon) = (arguments.hidden_size, arguments.layer_norm_eps);
    let path = |name: &str| format!("{prefix}embeddings.{name}");
    let words = Embedding::load(
        weights,
        &path("word_embeddings"),
        arguments.vocab_size,
        hidden,
    )?;
    let table = |weights: &mut Weights, name: &str, rows: i32| {
        weights.take(&path(&format!("{name}.weight")), &[rows, hidden])
    };
    let positions = table(
        weights,
        "position_embeddings",
        arguments.max_position_embeddings,
    )?;
    let segments = table(weights, "token_type_embeddings", arguments.type_vocab_size)?;
    let norm = LayerNorm::load(weights, &path("LayerNorm"), hidden, epsilon, true)?;
    let layers = (0..arguments.num_hidden_layers)
        .map(|index| {
            Layer::load(
                weights,
                &arguments,
                &format!("{prefix}encoder.layer.{index}"),
            )
        })
        .collect::<Result<_, _>>()?;
    let classifier = match head {
        Some(head) => Some(head.load(weights, hidden)?),
        None => None,
    };
    Ok(Box::new(Bert {
        words,
        positions,
        segments,
        norm,
        layers,
        classifier,
        arguments,
    }))
}

/// Where the head that scores pairs lies: BERT's goes through what pools for every task,
/// RoBERTa's brings its own.
struct Head {
    dense: String,
    score: &'static str,
}

impl Head {
    fn of(arguments: &Arguments, prefix: &str) -> Self {
        let (dense, score) = match arguments.model_type.as_str() {
            "xlm-roberta" => ("classifier.dense".to_owned(), "classifier.out_proj"),
            _ => (format!("{prefix}pooler.dense"), "classifier"),
        };
        Self { dense, score }
    }

    fn has(&self, name: &str) -> bool {
        let paths = [self.dense.as_str(), self.score];
        let path = name.rsplit_once('.').map_or(name, |(path, _)| path);
        paths.contains(&path)
    }

    fn load(&self, weights: &mut Weights, hidden: i32) -> Result<Classifier, EngineError> {
        Ok(Classifier {
            reads: Reads::First,
            dense: Linear::load(weights, &self.dense, hidden, hidden, true)?,
            activation: Activation::Tanh,
            norm: None,
            score: Linear::load(weights, self.score, hidden, 1, true)?,
        })
    }
}

/// What stands before the names of weights: nothing in a bare encoder, the name of
/// the part in a model that was made for another task.
fn prefix(weights: &Weights) -> &'static str {
    let prefixes = ["bert.", "roberta."];
    let found = prefixes
        .into_iter()
        .find(|prefix| weights.has(&format!("{prefix}embeddings.LayerNorm.weight")));
    found.unwrap_or("")
}

impl Layer {
    fn load(weights: &mut Weights, arguments: &Arguments, path: &str) -> Result<Self, EngineError> {
        let (hidden, inner) = (arguments.hidden_size, arguments.intermediate_size);
        let mut linear = |name: &str, inputs: i32, outputs: i32| {
            Linear::load(weights, &format!("{path}.{name}"), inputs, outputs, true)
        };
        let query = linear("attention.self.query", hidden, hidden)?;
        let key = linear("attention.self.key", hidden, hidden)?;
        let value = linear("attention.self.value", hidden, hidden)?;
        let attended = linear("attention.output.dense", hidden, hidden)?;
        let up = linear("intermediate.dense", hidden, inner)?;
        let down = linear("output.dense", inner, hidden)?;
        let mut norm = |name: &str| {
            let path = format!("{path}.{name}");
            LayerNorm::load(weights, &path, hidden, arguments.layer_norm_eps, true)
        };
        Ok(Self {
            query,
            key,
            value,
            attended,
            after_attention: norm("attention.output.LayerNorm")?,
            up,
            down,
            after_feed_forward: norm("output.LayerNorm")?,
        })
    }

    /// `x` `[texts, tokens, hidden]`; `mask` as in [`EncoderArchitecture::hidden`].
    fn apply(&self, x: &Array, mask: Option<&Array>, arguments: &Arguments) -> MlxResult<Array> {
        let (heads, hidden) = (arguments.num_attention_heads, arguments.hidden_size);
        let size = hidden / heads;
        let (texts, tokens) = (x.shape()[0], x.shape()[1]);
        let by_head = |array: Array| array.reshape(&[texts, tokens, heads, size]);
        let attended = attend_both_ways(
            &by_head(self.query.apply(x)?)?,
            &by_head(self.key.apply(x)?)?,
            &by_head(self.value.apply(x)?)?,
            mask,
        )?;
        let x = self
            .after_attention
            .apply(&self.attended.apply(&attended)?.add(x)?)?;
        let inner = arguments.hidden_act.apply(&self.up.apply(&x)?)?;
        self.after_feed_forward
            .apply(&self.down.apply(&inner)?.add(&x)?)
    }
}

impl EncoderArchitecture for Bert {
    fn vocabulary(&self) -> usize {
        self.arguments.vocab_size as usize
    }

    fn size(&self) -> usize {
        self.arguments.hidden_size as usize
    }

    fn positions(&self) -> usize {
        self.arguments.positions() as usize
    }

    fn format(&self) -> Dtype {
        self.words.format()
    }

    fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_ref()
    }

    fn hidden(
        &self,
        tokens: &Array,
        types: Option<&Array>,
        mask: Option<&Array>,
    ) -> MlxResult<Array> {
        let (texts, length) = (tokens.shape()[0], tokens.shape()[1]);
        let words = self.words.vectors(&tokens.reshape(&[-1])?)?;
        let words = words.reshape(&[texts, length, self.arguments.hidden_size])?;
        let first = self.arguments.first_position();
        let places = arange::<_, i32>(first, first + length, None)?;
        let positions = self.positions.take_axis(places, 0)?;
        // RoBERTa has one kind of text only and is not told them apart.
        let segments = match types.filter(|_| self.arguments.type_vocab_size > 1) {
            Some(types) => self.segments.take_axis(types, 0)?,
            None => self.segments.try_index(0)?,
        };
        let mut x = self.norm.apply(&words.add(positions)?.add(segments)?)?;
        for layer in &self.layers {
            x = layer.apply(&x, mask, &self.arguments)?;
        }
        Ok(x)
    }
}
