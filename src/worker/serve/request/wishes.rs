//! What a request says about how tokens are chosen. It does not choose.

use indexmap::IndexMap;
use serde_json::Value;

use crate::api::error::ApiError;
use crate::worker::serve::fields::{Fields, LARGEST, invalid, wrong};

/// Most entries of `logit_bias`.
const MOST_BIASES: usize = 4096;

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
        temperature: fields.number("temperature", 0.0..=2.0)?,
        top_p: fields.number("top_p", 0.0..=1.0)?,
        top_k: fields.whole32("top_k", 0..=LARGEST)?,
        min_p: fields.number("min_p", 0.0..=1.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.0..=10.0)?,
        repetition_context: fields.whole32("repetition_context_size", 0..=LARGEST)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
        logit_bias: logit_bias(fields)?,
        seed: fields.whole("seed", 0..=LARGEST)?,
    })
}

fn logit_bias(fields: &mut Fields) -> Result<IndexMap<u32, f32>, ApiError> {
    let map = fields.object("logit_bias")?.unwrap_or_default();
    if map.len() > MOST_BIASES {
        return Err(invalid(
            "logit_bias",
            format!(
                "logit_bias: expected at most {MOST_BIASES} tokens, found {}",
                map.len()
            ),
        ));
    }
    map.into_iter()
        .map(|(token, bias)| {
            let token = token.parse::<u32>().map_err(|_| {
                wrong(
                    "logit_bias",
                    "token ids as keys",
                    &Value::from(token.as_str()),
                )
            })?;
            match bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
                Some(bias) => Ok((token, bias as f32)),
                None => Err(wrong("logit_bias", "numbers from -100 to 100", &bias)),
            }
        })
        .collect()
}
