//! `model_type: mistral`: Llama with a sliding window in every layer (arXiv 2310.06825),
//! or in those that `layer_types` names.
//!
//! mlx-lm looks at the whole sequence where there is no such list; up to the length of
//! the window both compute the same.

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
    Ok(design)
}
