//! `model_type: llama`: the plain decoder.
//!
//! Structure as in Touvron et al. (arXiv 2302.13971) with grouped queries (arXiv
//! 2305.13245).

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::Design;

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    Design::plain(&source.arguments()?)
}
