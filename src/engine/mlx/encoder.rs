//! An encoder on MLX's device: texts of a batch filled up to the longest, what was
//! filled in hidden from attention, and the vectors of each text's own tokens pooled, or read by
//! the head that scores pairs.

use std::path::Path;
use std::time::Instant;

use mlx_rs::Array;

use super::arch::{self, Checkpoint, EncoderArchitecture};
use super::device::{self, Device};
use super::quantization::Quantization;
use super::weights::Weights;
use super::{Prepared, Settings, device_failed, read_config};
use crate::engine::encoder::{Encoder, Text};
use crate::engine::progress::Progress;
use crate::engine::{EngineError, LoadTimes};
use crate::model::sentence::Recipe;

/// An encoder. It belongs to the thread that loaded it.
pub struct MlxEncoder {
    model: Box<dyn EncoderArchitecture>,
    recipe: Recipe,
    device: Device,
    bytes_held: u64,
    load_times: LoadTimes,
}

/// Loads the snapshot in `dir` and tells how far it is. Evaluates: when it returns,
/// the weights are there.
///
/// # Errors
/// What is wrong with the snapshot, or with the device.
pub fn load(
    prepared: Prepared,
    dir: &Path,
    settings: &Settings,
    recipe: Recipe,
    loading: &dyn Fn(Progress),
) -> Result<MlxEncoder, EngineError> {
    let mut encoder = load_on(prepared.device, dir, settings, recipe, loading)?;
    encoder.load_times.device = prepared.took;
    Ok(encoder)
}

pub(super) fn load_on(
    device: Device,
    dir: &Path,
    settings: &Settings,
    recipe: Recipe,
    loading: &dyn Fn(Progress),
) -> Result<MlxEncoder, EngineError> {
    let began = Instant::now();
    let config = read_config(dir)?;
    let quantization = Quantization::from_config(&config)?;
    let mut weights = Weights::open(dir, quantization, device)?;
    let model = arch::load_encoder(Checkpoint {
        config: &config,
        weights: &mut weights,
        context: settings.context,
        verdict: recipe.verdict,
    })?;
    let longest = settings.context.unwrap_or(0) as usize;
    if longest > model.positions() {
        return Err(EngineError::Unsupported(format!(
            "its context is {longest} and it has {} positions",
            model.positions()
        )));
    }
    let map = began.elapsed();
    let bytes_held = weights.evaluate_taken(loading)?;
    Ok(MlxEncoder {
        model,
        recipe,
        device,
        bytes_held,
        load_times: LoadTimes {
            map,
            evaluate: began.elapsed() - map,
            ..LoadTimes::default()
        },
    })
}

impl MlxEncoder {
    /// MLX reads out of bounds without a word.
    fn check(&self, batch: &[&Text]) -> Result<(), EngineError> {
        let (vocabulary, positions) = (self.model.vocabulary(), self.model.positions());
        let refuse = |message: String| Err(EngineError::Unsupported(message));
        for text in batch {
            let text = &text.tokens;
            if let Some(token) = text.iter().find(|token| **token as usize >= vocabulary) {
                return refuse(format!(
                    "token {token} is not in the vocabulary of {vocabulary}"
                ));
            }
            if !(1..=positions).contains(&text.len()) {
                let length = text.len();
                return refuse(format!(
                    "a text has {length} tokens, expected 1 to {positions}"
                ));
            }
        }
        Ok(())
    }

    /// The vectors of all tokens of a batch, padding among them; or what the head makes
    /// of each text.
    fn computed(&self, batch: &[&Text], longest: usize) -> Result<Vec<f32>, EngineError> {
        let shape = [batch.len() as i32, longest as i32];
        let filled = |text: &&Text| {
            let padding = std::iter::repeat_n(0, longest - text.tokens.len());
            text.tokens
                .iter()
                .copied()
                .chain(padding)
                .collect::<Vec<u32>>()
        };
        let tokens: Vec<u32> = batch.iter().flat_map(filled).collect();
        let tokens = Array::from_slice(&tokens, &shape);
        let is_second = |text: &&Text| {
            let own = text.first..text.tokens.len();
            (0..longest)
                .map(|i| u32::from(own.contains(&i)))
                .collect::<Vec<u32>>()
        };
        let is_paired = batch.iter().any(|text| text.first < text.tokens.len());
        let types = is_paired.then(|| {
            let types: Vec<u32> = batch.iter().flat_map(is_second).collect();
            Array::from_slice(&types, &shape)
        });
        let is_own = |text: &&Text| {
            let own = text.tokens.len();
            (0..longest).map(|i| i < own).collect::<Vec<bool>>()
        };
        let is_padded = batch.iter().any(|text| text.tokens.len() < longest);
        let mask = is_padded.then(|| {
            let mask: Vec<bool> = batch.iter().flat_map(is_own).collect();
            Array::from_slice(&mask, &[shape[0], 1, 1, shape[1]])
        });
        let compute = || {
            let hidden = self.model.hidden(&tokens, types.as_ref(), mask.as_ref())?;
            match self.model.classifier() {
                Some(head) => head.apply(&hidden, mask.as_ref()),
                None => Ok(hidden),
            }
        };
        compute()
            .map_err(device_failed)?
            .to_vec_cast::<f32>()
            .map_err(|error| EngineError::Device(error.to_string()))
    }
}

impl Encoder for MlxEncoder {
    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn size(&self) -> usize {
        match self.model.classifier() {
            Some(_) => 1,
            None => self.model.size(),
        }
    }

    fn encode(&mut self, batch: &[&Text]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check(batch)?;
        let Some(longest) = batch.iter().map(|text| text.tokens.len()).max() else {
            return Ok(Vec::new());
        };
        let computed = self.computed(batch, longest)?;
        if self.model.classifier().is_some() {
            return Ok(computed.into_iter().map(|score| vec![score]).collect());
        }
        let size = self.model.size();
        let rows = computed.chunks_exact(longest * size).zip(batch);
        Ok(rows
            .map(|(rows, text)| self.recipe.pool(&rows[..text.tokens.len() * size], size))
            .collect())
    }

    fn bytes_held(&self) -> u64 {
        self.bytes_held
    }

    fn device(&self) -> (&'static str, &'static str) {
        (self.device.name(), device::format_name(self.model.format()))
    }

    fn load_times(&self) -> LoadTimes {
        self.load_times
    }
}
