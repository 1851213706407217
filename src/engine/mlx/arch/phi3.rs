//! `model_type: phi3`: one matrix for queries, keys and values, one for gate and up, and
//! a rotation of part of a head (arXiv 2404.14219). A window, where there is one, is in
//! every layer.
//!
//! mlx-lm leaves the windows out; up to their length both compute the same.

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::design::Design;

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?;
    let mut design = Design::plain(&args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        layer.window = args.window(index, args.sliding_window.is_some())?;
    }
    design.projections.joined = true;
    design.projections.bias = false;
    design.projections.output_bias = false;
    design.feed_forward.joined = true;
    design.feed_forward.bias = false;
    Ok(design)
}
