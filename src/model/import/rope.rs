//! How a GGUF tells that rope is scaled, in the words of `config.json`.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::ImportError;
use crate::model::gguf::metadata::Metadata;

/// The parameters of Llama 3.1's rule as every published checkpoint has them.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL_CONTEXT: f64 = 8192.0;

/// `rope_scaling` by the metadata, or null.
pub(super) fn scaling(metadata: &Metadata) -> Result<Value, ImportError> {
    match metadata.text("llama.rope.scaling.type")? {
        None | Some("none") => Ok(Value::Null),
        Some("linear") => Ok(json!({
            "rope_type": "linear", "type": "linear", "factor": factor(metadata)?,
        })),
        Some("yarn") => Ok(json!({
            "rope_type": "yarn", "type": "yarn", "factor": factor(metadata)?,
            "original_max_position_embeddings":
                metadata.unsigned("llama.rope.scaling.original_context_length")?,
        })),
        Some(other) => Err(ImportError::Inconsistent(format!("rope scaling {other:?}"))),
    }
}

/// `rope_scaling` for the factors of `rope_freqs.weight`: Llama 3.1's rule, which
/// is the only one that llama.cpp's converter writes so, with its one free number
/// read from the factors and the rest held against them.
pub(super) fn from_factors(factors: &[f32], theta: f64) -> Result<Value, ImportError> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    let expected = llama3_factors(factors.len(), theta, f64::from(factor));
    let fits = factors
        .iter()
        .zip(&expected)
        .all(|(got, want)| (f64::from(*got) / want - 1.0).abs() < 1e-3);
    if !fits {
        let text = "rope_freqs.weight does not follow Llama 3.1's rule".to_owned();
        return Err(ImportError::Inconsistent(text));
    }
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW,
        "high_freq_factor": HIGH, "original_max_position_embeddings": ORIGINAL_CONTEXT as u64,
    }))
}

/// The factors of Llama 3.1's rule: none for short waves, all for long ones, a
/// straight passage between. Source: `_compute_llama3_parameters` in transformers.
fn llama3_factors(count: usize, theta: f64, factor: f64) -> Vec<f64> {
    (0..count)
        .map(|i| {
            let wave = TAU * theta.powf(i as f64 / count as f64);
            let passage = (ORIGINAL_CONTEXT / wave - LOW) / (HIGH - LOW);
            match passage {
                p if p >= 1.0 => 1.0,
                p if p <= 0.0 => factor,
                p => 1.0 / ((1.0 - p) / factor + p),
            }
        })
        .collect()
}

fn factor(metadata: &Metadata) -> Result<f64, ImportError> {
    metadata
        .float("llama.rope.scaling.factor")?
        .ok_or(ImportError::MissingMetadata("llama.rope.scaling.factor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_read_back_from_the_rule_and_nothing_else_passes() {
        let factors: Vec<f32> = llama3_factors(64, 500_000.0, 8.0)
            .into_iter()
            .map(|f| f as f32)
            .collect();
        assert_eq!(factors[0], 1.0);
        assert_eq!(factors[63], 8.0);
        let scaling = from_factors(&factors, 500_000.0).expect("the rule");
        assert_eq!(scaling["factor"], 8.0);
        assert!(from_factors(&factors, 10_000.0).is_err(), "another theta");
        let mut bent = factors;
        bent[40] *= 1.1;
        assert!(from_factors(&bent, 500_000.0).is_err());
    }
}
