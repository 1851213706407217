//! What tells one decoder from another. An architecture's file takes the plain
//! design, which is Llama's, and changes what it does differently. Pure.

use super::arguments::Arguments;
use crate::engine::EngineError;
use crate::engine::mlx::attention::Heads;
use crate::engine::mlx::layers::Gain;
use crate::engine::mlx::rope::Frequencies;

/// The design of a decoder: a stack of layers, each attention and then a feed-forward
/// part, both added to what went in.
#[derive(Clone, Debug)]
pub struct Design {
    /// Numbers that stand for a token between layers.
    pub hidden: i32,
    /// Tokens in the vocabulary.
    pub vocabulary: i32,
    /// Most tokens of a sequence that the checkpoint was made for.
    pub positions: u32,
    /// Heads of each layer that attends.
    pub heads: Heads,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// The rotations that layers name.
    pub rotations: Vec<Rotation>,
    /// Keys and values come from a short vector of each token, which is all that is
    /// cached; nothing means that they are made by `projections`.
    pub latent: Option<Latent>,
    /// What layers that do not attend do instead.
    pub convolution: Option<Convolution>,
    /// How queries, keys and values are made.
    pub projections: Projections,
    /// Norms on queries and keys before they turn.
    pub query_key_norm: QueryKeyNorm,
    /// Factor on the product of a query and a key.
    pub score_scale: f32,
    /// Scores are bent to stay within this.
    pub score_cap: Option<f32>,
    /// Each head of queries has a sink, `sinks`.
    pub sinks: bool,
    /// The dense feed-forward part.
    pub feed_forward: FeedForward,
    /// The one that has experts, for layers that say so.
    pub experts: Option<Experts>,
    /// Where norms stand.
    pub norms: Norms,
    /// What the weights of norms say.
    pub gain: Gain,
    /// Keeps norms from dividing by nothing.
    pub epsilon: f32,
    /// Factor on the vectors of tokens.
    pub embedding_factor: f32,
    /// Factor on what attention and feed-forward part add.
    pub residual_factor: f32,
    /// Factor on the logits.
    pub logits_factor: f32,
    /// Logits are bent to stay within this.
    pub logits_cap: Option<f32>,
    /// What weights are called where the layers here have another name: whole words between
    /// dots, of which one stands in a name.
    pub names: &'static [(&'static str, &'static str)],
    /// One more layer may come with the weights that guesses the token after the next,
    /// and is left out.
    pub drafts: bool,
    /// Whether the table of tokens' vectors is the head too; nothing means that it is
    /// if the checkpoint has no other.
    pub tied: Option<bool>,
}

/// What is particular to one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Most tokens that one sees; nothing means all before it.
    pub window: Option<u32>,
    /// Which of the rotations its heads turn by, if they turn.
    pub rotation: Option<usize>,
    /// Its feed-forward part has experts.
    pub experts: bool,
    /// It convolves and does not attend.
    pub convolves: bool,
}

/// A gated short convolution (LFM2, arXiv 2511.23404, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Tokens that a number is mixed of, its own among them.
    pub taps: i32,
    /// It and the projections around it have biases.
    pub bias: bool,
}

/// How heads turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Numbers of a head that turn, from its first on.
    pub turned: i32,
    /// Pairs are neighbours instead of halves.
    pub traditional: bool,
    /// How fast.
    pub frequencies: Frequencies,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Heads of queries.
    pub heads: i32,
    /// Numbers of the short vector that queries are made of, if they are.
    pub query_rank: Option<i32>,
    /// Numbers of the one that keys and values are made of.
    pub rank: i32,
    /// Numbers of a query and a key that do not turn.
    pub still: i32,
    /// Numbers that do; all heads share those of the key.
    pub turned: i32,
    /// Numbers of a value.
    pub value: i32,
    /// What makes the short vectors, and what brings the attended back, has a bias.
    pub bias: bool,
}

impl Latent {
    /// Heads as a cache and the scores see them: one key for all queries, which is the
    /// short vector and what turns.
    pub fn seen_heads(&self) -> Heads {
        Heads {
            queries: self.heads,
            key_values: 1,
            size: self.rank + self.turned,
        }
    }
}

/// How queries, keys and values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projections {
    /// One matrix for all three, `qkv_proj`, instead of `q_proj`, `k_proj`, `v_proj`.
    pub joined: bool,
    /// They have biases.
    pub bias: bool,
    /// What brings the attended back, `o_proj`, has one.
    pub output_bias: bool,
}

/// Norms `q_norm` and `k_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// None.
    None,
    /// Of each head by itself.
    Head,
    /// Of all heads of a token together.
    Whole,
}

/// A feed-forward part with a gate (arXiv 2002.05202).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForward {
    /// Numbers inside it.
    pub inner: i32,
    /// One matrix for gate and up, `gate_up_proj`.
    pub joined: bool,
    /// Its matrices have biases.
    pub bias: bool,
    /// What the gate goes through.
    pub activation: Activation,
}

/// What a gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Swish,
    /// The Gaussian error linear unit by tanh (arXiv 1606.08415).
    GeluByTanh,
    /// gpt-oss's: the gate at most 7 and through x · sigmoid(1.702 x), what goes through
    /// it between -7 and 7 and one more.
    Clamped,
}

/// A feed-forward part of which each token takes a few experts (arXiv 2101.03961).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// Of them there are.
    pub count: i32,
    /// A token takes.
    pub chosen: i32,
    /// Numbers inside each.
    pub inner: i32,
    /// How much each of those chosen counts.
    pub shares: Shares,
    /// Factor on that.
    pub factor: f32,
    /// They are chosen from a few groups.
    pub groups: Option<Groups>,
    /// Numbers inside those that all tokens take, `shared_experts`.
    pub shared: Option<i32>,
    /// What the gates go through.
    pub activation: Activation,
    /// Router and experts have biases.
    pub bias: bool,
    /// What checkpoints call the parts.
    pub names: ExpertNames,
}

/// From what the router says of each expert to how much those chosen count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// Their share of all.
    OfAll,
    /// Their share of those chosen.
    OfChosen,
    /// A number from 0 to 1 of each by itself; the choice is by that and
    /// `e_score_correction_bias` (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
    Apart {
        /// Divided by the sum of those chosen.
        whole: bool,
    },
}

/// Experts in groups of equal size, of which a token takes from the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Of them there are.
    pub count: i32,
    /// A token takes from.
    pub chosen: i32,
    /// A group is as good as so many of its best experts together.
    pub judged_by: i32,
}

/// The names of the parts of a feed-forward part with experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertNames {
    /// What chooses.
    pub router: &'static str,
    /// All experts in one array, as mlx-lm writes them.
    pub together: &'static str,
    /// Each by itself, under this and its number, as Hugging Face has them.
    pub apart: Option<&'static str>,
}

/// The names of a layer's norms, where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norms {
    /// Of what goes into attention.
    pub before_attention: Option<&'static str>,
    /// Of what comes out of it.
    pub after_attention: Option<&'static str>,
    /// Of what goes into the feed-forward part.
    pub before_feed_forward: Option<&'static str>,
    /// Of what comes out of it.
    pub after_feed_forward: Option<&'static str>,
}

impl Design {
    /// Llama's: norms before, heads turn by halves, a swish gate, a window where
    /// `layer_types` says so.
    ///
    /// # Errors
    /// The rotation or a layer's kind is not known.
    pub fn plain(args: &Arguments) -> Result<Self, EngineError> {
        let heads = args.heads();
        let layer = |index: usize| -> Result<Layer, EngineError> {
            Ok(Layer {
                window: args.window(index, false)?,
                rotation: Some(0),
                experts: false,
                convolves: false,
            })
        };
        let layers: Result<Vec<Layer>, EngineError> =
            (0..args.num_hidden_layers).map(layer).collect();
        Ok(Self {
            hidden: args.hidden_size,
            vocabulary: args.vocab_size,
            positions: args.positions(),
            heads,
            layers: layers?,
            rotations: vec![Rotation {
                turned: args.turned(),
                traditional: args.rope_traditional,
                frequencies: args.frequencies()?,
            }],
            latent: None,
            convolution: None,
            projections: Projections {
                joined: false,
                bias: args.attention_bias,
                output_bias: args.attention_bias,
            },
            query_key_norm: QueryKeyNorm::None,
            score_scale: (heads.size as f32).powf(-0.5),
            score_cap: None,
            sinks: false,
            feed_forward: FeedForward {
                inner: args.intermediate_size,
                joined: false,
                bias: args.mlp_bias,
                activation: Activation::Swish,
            },
            experts: None,
            norms: Norms {
                before_attention: Some("input_layernorm"),
                after_attention: None,
                before_feed_forward: Some("post_attention_layernorm"),
                after_feed_forward: None,
            },
            gain: Gain::Whole,
            epsilon: args.rms_norm_eps,
            embedding_factor: 1.0,
            residual_factor: 1.0,
            logits_factor: 1.0,
            logits_cap: None,
            names: &[],
            drafts: false,
            tied: args.tie_word_embeddings,
        })
    }
}
