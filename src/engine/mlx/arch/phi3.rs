//! `model_type: phi3`: one matrix for queries, keys and values, one for gate and up, and
//! a rotation of part of a head (arXiv 2404.14219).

use super::{Architecture, Checkpoint, decoder};
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::Design;

/// Takes a checkpoint's weights into a network.
pub fn load(checkpoint: Checkpoint) -> Result<Box<dyn Architecture>, EngineError> {
    let args = checkpoint.arguments()?;
    let mut design = Design::plain(&args)?;
    design.projections.joined = true;
    design.projections.bias = false;
    design.projections.output_bias = false;
    design.feed_forward.joined = true;
    design.feed_forward.bias = false;
    decoder(checkpoint, design)
}
