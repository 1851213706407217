//! What a request says about how tokens are chosen. It does not choose.

use indexmap::IndexMap;

use crate::api::error::ApiError;
use crate::worker::serve::fields::Fields;

/// What the request says about choosing tokens; what it leaves open is filled in
/// by the engine from the snapshot's own generation settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// 0 to 2; 0 always takes the likeliest.
    pub temperature: Option<f32>,
    /// 0 to 1
    pub top_p: Option<f32>,
    /// 0 means off.
    pub top_k: Option<u32>,
    /// 0 to 1
    pub min_p: Option<f32>,
    /// Above 0 to 10; 0 means off, as mlx-lm reads it.
    pub repetition_penalty: Option<f32>,
    /// How many of the last tokens are penalised.
    pub repetition_context: Option<u32>,
    /// −2 to 2
    pub presence_penalty: Option<f32>,
    /// −2 to 2
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of these tokens; −100 to 100.
    pub logit_bias: IndexMap<u32, f32>,
    /// Makes the choice repeatable.
    pub seed: Option<u64>,
}

/// Takes the fields about choosing tokens.
pub(super) fn read(fields: &mut Fields) -> Result<Wishes, ApiError> {
    Ok(Wishes {
        temperature: fields.number("temperature")?,
        top_p: fields.number("top_p")?,
        top_k: fields.whole32("top_k")?,
        min_p: fields.number("min_p")?,
        repetition_penalty: fields.number("repetition_penalty")?,
        repetition_context: fields.whole32("repetition_context_size")?,
        presence_penalty: fields.number("presence_penalty")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        logit_bias: logit_bias(fields)?,
        seed: fields.whole("seed")?,
    })
}

fn logit_bias(fields: &mut Fields) -> Result<IndexMap<u32, f32>, ApiError> {
    let map = fields.object("logit_bias")?.unwrap_or_default();
    let biases = map.into_iter().filter_map(|(token, bias)| {
        // The table has let nothing else through.
        Some((token.parse().ok()?, bias.as_f64()? as f32))
    });
    Ok(biases.collect())
}
