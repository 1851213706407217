//! `model_type: smollm3`: Llama of which every fourth layer does not turn.

use serde::Deserialize;

use super::Source;
use crate::engine::EngineError;
use crate::engine::mlx::bad_file;
use crate::engine::mlx::decoder::arguments::own;
use crate::engine::mlx::decoder::design::Design;

/// What only this architecture says.
#[derive(Deserialize)]
struct Arguments {
    /// Of each layer 1 if it turns (as the name does not say) and 0 if not.
    no_rope_layers: Option<Vec<u8>>,
    /// Of so many layers the last does not turn, where there is no such list.
    #[serde(default = "four")]
    no_rope_layer_interval: usize,
}

fn four() -> usize {
    4
}

/// The design that a configuration asks for.
pub fn design(source: &Source) -> Result<Design, EngineError> {
    let args = source.arguments()?;
    let own: Arguments = own(source.config)?;
    let listed = own.no_rope_layers.as_ref().map(Vec::len);
    if listed.is_some_and(|count| count != args.num_hidden_layers)
        || own.no_rope_layer_interval == 0
    {
        let reason = "\"no_rope_layers\" is not one for each layer, or \
                      \"no_rope_layer_interval\" is 0";
        return Err(bad_file("config.json", reason));
    }
    let mut design = Design::plain(&args)?;
    for (index, layer) in design.layers.iter_mut().enumerate() {
        let turns = match &own.no_rope_layers {
            Some(list) => list[index] != 0,
            None => !(index + 1).is_multiple_of(own.no_rope_layer_interval),
        };
        layer.rotation = turns.then_some(0);
    }
    Ok(design)
}
