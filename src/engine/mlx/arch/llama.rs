//! `model_type: llama`: the plain decoder.
//!
//! Structure as in Touvron et al. (arXiv 2302.13971) with grouped queries (arXiv
//! 2305.13245).

use super::{Architecture, Checkpoint, decoder};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::Design;

/// Takes a checkpoint's weights into a network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn Architecture>, EngineError> {
    let design = Design::plain(&checkpoint.arguments()?)?;
    decoder(checkpoint, design)
}
