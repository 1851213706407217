//! What a request may ask an answer to be. Which grammar that comes to is the
//! compiler's matter; what is too large to be compiled is refused before, by the table
//! of fields.

#[cfg(feature = "mlx")]
mod closing;
#[cfg(feature = "mlx")]
pub mod compiler;
#[cfg(feature = "mlx")]
mod hints;
#[cfg(feature = "mlx")]
mod place;
#[cfg(feature = "mlx")]
mod strokes;
#[cfg(feature = "mlx")]
mod vocabulary;
#[cfg(feature = "mlx")]
mod way;

use serde_json::Value;

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    Object,
    /// JSON that a schema accepts.
    Schema {
        /// The schema: an object or a boolean.
        schema: Value,
        /// Whether a keyword that cannot be held to is a refusal; else it is passed over.
        strict: bool,
    },
    /// Text that a regular expression matches from its beginning to its end, in the syntax
    /// of the crate `regex`.
    Pattern(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar in llguidance's form of Lark.
    Grammar(String),
}

/// Why there is no grammar for a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// It is no grammar, or one that nothing fits, or too costly. The request is at fault.
    #[error("{0}")]
    Refused(String),
    /// Text of this model cannot be kept within a grammar.
    #[error("this model's answers cannot be constrained: {0}")]
    Unsupported(String),
    /// Others are being compiled, and take their time.
    #[error("too many grammars are being compiled")]
    Busy,
    /// The compiler failed.
    #[error("the grammar could not be compiled")]
    Failed,
}
