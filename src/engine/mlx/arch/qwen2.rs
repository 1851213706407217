//! `model_type: qwen2`: biases on queries, keys and values, and nowhere else (arXiv
//! 2407.10671).

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::decoder::arguments::{Arguments, own};
use crate::engine::mlx::decoder::design::Design;

/// What only the Qwen family says.
#[derive(Deserialize)]
struct Windows {
    #[serde(default)]
    use_sliding_window: bool,
    /// Layers below this one see the whole sequence.
    #[serde(default)]
    max_window_layers: usize,
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?.with_base(1_000_000.0);
    let mut design = plain(source, &args)?;
    design.projections.bias = true;
    design.projections.output_bias = false;
    Ok(design)
}

/// The plain design with the windows of this family: configurations name a length that
/// counts only where `use_sliding_window` says so.
pub(super) fn plain(source: &Source, args: &Arguments) -> Result<Design, EngineError> {
    let windows: Windows = own(source.config)?;
    let mut design = Design::plain(args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        layer.window = match windows.use_sliding_window {
            true => args.window(index, index >= windows.max_window_layers)?,
            false => None,
        };
    }
    Ok(design)
}
