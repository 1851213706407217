//! The MLX network: the only place that says `mlx_rs`. It knows weights,
//! layers and devices; it knows no text, no requests and no HTTP.

pub mod adapter;
pub mod arch;
pub mod attention;
pub mod classifier;
mod decoder;
pub mod device;
pub mod encoder;
pub mod kv;
pub mod layers;
#[cfg(target_os = "linux")]
pub mod native;
pub mod packed;
pub mod quantization;
pub mod rope;
#[cfg(test)]
mod tests;
pub mod weights;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value};

use self::adapter::Adapters;
use self::arch::Source;
use self::attention::Pass;
use self::decoder::Decoder;
use self::device::Device;
use self::kv::{Cache, Piece};
use self::quantization::Quantization;
use self::weights::Weights;
use super::adapter::Chosen;
use super::progress::Progress;
use super::stored::Tensor;
use super::{EngineError, LoadTimes, Network, Reading};
use crate::config::Compute;
use crate::config::kv::KvFormat;

/// How to load a snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Tokens in a sequence; nothing means what the checkpoint says.
    pub context: Option<u32>,
    /// The number format to compute in.
    pub compute: Compute,
    /// In which form keys and values are kept.
    pub kv_format: KvFormat,
    /// Bytes for adapters that no sequence runs with.
    pub adapters: u64,
}

/// A model on MLX's device. It belongs to the thread that loaded it.
pub struct MlxNetwork {
    model: Decoder,
    device: Device,
    adapters: Adapters,
    bytes_held: u64,
    load_times: LoadTimes,
}

/// A device that was made ready, and how long that took. Nothing of a snapshot is in its
/// memory.
pub struct Prepared {
    device: Device,
    took: Duration,
}

impl Prepared {
    /// Makes the device ready.
    ///
    /// # Errors
    /// The device failed.
    pub fn new(settings: &Settings) -> Result<Self, EngineError> {
        let began = Instant::now();
        let device = Device::prepare(settings.compute).map_err(device_failed)?;
        let took = began.elapsed();
        Ok(Self { device, took })
    }

    /// Loads the snapshot in `dir`: `config.json` and the safetensors files beside it.
    /// Tells how far it is. Evaluates: when it returns, the weights are there.
    ///
    /// # Errors
    /// What is wrong with the snapshot, or with the device.
    pub fn load(
        self,
        dir: &Path,
        settings: &Settings,
        loading: &dyn Fn(Progress),
    ) -> Result<MlxNetwork, EngineError> {
        let mut network = load_on(self.device, dir, settings, loading)?;
        network.load_times.device = self.took;
        Ok(network)
    }
}

/// Makes the device ready and loads a snapshot, and tells nobody how far that is.
///
/// # Errors
/// What is wrong with the snapshot, or with the device.
pub fn load(dir: &Path, settings: &Settings) -> Result<MlxNetwork, EngineError> {
    Prepared::new(settings)?.load(dir, settings, &|_| {})
}

fn load_on(
    device: Device,
    dir: &Path,
    settings: &Settings,
    loading: &dyn Fn(Progress),
) -> Result<MlxNetwork, EngineError> {
    let began = Instant::now();
    let config = read_config(dir)?;
    let design = arch::design(&Source {
        config: &config,
        context: settings.context,
    })?;
    let quantization = Quantization::from_config(&config)?;
    let mut weights = Weights::open(dir, quantization, device)?;
    let model = Decoder::load(&mut weights, design, settings.kv_format)?;
    let adapters = Adapters::new(weights.sides().clone(), device, settings.adapters);
    let map = began.elapsed();
    let bytes_held = weights.evaluate_taken(loading)?;
    let load_times = LoadTimes {
        map,
        evaluate: began.elapsed() - map,
        ..LoadTimes::default()
    };
    Ok(MlxNetwork {
        model,
        device,
        adapters,
        bytes_held,
        load_times,
    })
}

impl MlxNetwork {
    /// The hidden states of `tokens` after what `caches` hold, with a sequence's
    /// tokens next to each other, as many as its `rows`; only those of the `wanted` ones, if
    /// they are named. Builds the graph and evaluates nothing.
    fn pass(
        &self,
        caches: Vec<&mut Cache>,
        rows: Vec<usize>,
        tokens: &[u32],
        wanted: Option<&[i32]>,
    ) -> Result<Array, EngineError> {
        let vocabulary = self.model.vocabulary();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            // MLX reads out of bounds without a word.
            return Err(EngineError::Unsupported(format!(
                "token {token} is not in the vocabulary of {vocabulary}"
            )));
        }
        let tokens = Array::from_slice(tokens, &[tokens.len() as i32]);
        let wanted = wanted.map(|rows| Array::from_slice(rows, &[rows.len() as i32]));
        // What runs beside the network runs on all rows.
        let is_adapted = caches.iter().any(|cache| cache.adapter().is_some());
        let early = wanted.as_ref().filter(|_| !is_adapted);
        let adapters = caches.iter().map(|cache| cache.adapter());
        let _running = self.adapters.sides().run(adapters, &rows);
        let mut pass = Pass::new(caches, rows, self.device);
        let hidden = self.model.hidden(&tokens, &mut pass, early);
        let hidden = hidden.map_err(device_failed)?;
        pass.finish();
        match wanted.filter(|_| is_adapted) {
            Some(rows) => hidden.take_axis(rows, 0).map_err(device_failed),
            None => Ok(hidden),
        }
    }

    /// The logits of `hidden`, a row each.
    fn evaluate_logits(&self, hidden: &Array) -> Result<Vec<Vec<f32>>, EngineError> {
        let logits = self.model.logits(hidden);
        let logits = logits.and_then(|logits| logits.as_dtype(Dtype::Float32));
        let logits = logits.map_err(device_failed)?;
        let all = logits.try_as_slice::<f32>();
        let all = all.map_err(|e| EngineError::Device(e.to_string()))?;
        let rows = all.chunks_exact(self.model.vocabulary());
        Ok(rows.map(<[f32]>::to_vec).collect())
    }
}

impl Network for MlxNetwork {
    type Cache = Cache;
    type Piece = Piece;

    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn new_cache(&self) -> Cache {
        Cache::new(self.model.cache_shape().clone())
    }

    fn adapt(&mut self, cache: &mut Cache, adapter: &Chosen) -> Result<(), EngineError> {
        cache.adapt(self.adapters.evaluate(adapter)?);
        Ok(())
    }

    fn prefill_batch(
        &mut self,
        batch: &mut [Reading<'_, Cache>],
    ) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<usize> = batch.iter().map(|reading| reading.tokens.len()).collect();
        let tokens = batch.iter().flat_map(|reading| reading.tokens);
        let tokens: Vec<u32> = tokens.copied().collect();
        // The last row of each sequence whose logits are wanted.
        let ends = batch.iter().scan(0, |end, reading| {
            *end += reading.tokens.len() as i32;
            Some((reading.want_logits, *end - 1))
        });
        let last = ends.filter_map(|(wanted, row)| wanted.then_some(row));
        let last: Vec<i32> = last.collect();
        let caches = batch.iter_mut().map(|reading| &mut *reading.cache);
        let wanted = Some(&last[..]).filter(|last| !last.is_empty());
        let hidden = self.pass(caches.collect(), rows, &tokens, wanted)?;
        let mut logits = Vec::new();
        if wanted.is_some() {
            logits = self.evaluate_logits(&hidden)?;
        }
        // Without logits the last layer's attention and all after it is never computed.
        let unwanted = batch.iter().filter(|reading| !reading.want_logits);
        let unwanted = unwanted.flat_map(|reading| reading.cache.arrays());
        mlx_rs::transforms::eval(unwanted).map_err(device_failed)?;
        let mut logits = logits.into_iter();
        let answers = batch.iter().map(|reading| match reading.want_logits {
            true => logits.next(),
            false => None,
        });
        Ok(answers.collect())
    }

    fn logits_of_all(
        &mut self,
        cache: &mut Cache,
        tokens: &[u32],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = self.pass(vec![cache], vec![tokens.len()], tokens, None)?;
        self.evaluate_logits(&hidden)
    }

    fn decode(&mut self, batch: &mut [(&mut Cache, &[u32])]) -> Result<Vec<Vec<f32>>, EngineError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let rows = batch.iter().map(|(_, tokens)| tokens.len()).collect();
        let tokens = batch.iter().flat_map(|(_, tokens)| *tokens);
        let tokens: Vec<u32> = tokens.copied().collect();
        let caches = batch.iter_mut().map(|(cache, _)| &mut **cache).collect();
        let hidden = self.pass(caches, rows, &tokens, None)?;
        self.evaluate_logits(&hidden)
    }

    fn trim(&self, cache: &mut Cache, tokens: usize) {
        cache.trim(tokens);
    }

    fn tokens_in(&self, cache: &Cache) -> usize {
        cache.tokens()
    }

    fn rows_alike(&self) -> Option<usize> {
        self.device.rows_alike()
    }

    fn room_in(&self, cache: &Cache) -> usize {
        cache.room_in_tokens()
    }

    fn evaluate_pieces(
        &mut self,
        cache: Cache,
        from: usize,
        lengths: &[usize],
    ) -> Result<Vec<Piece>, EngineError> {
        let pieces = cache.evaluate_pieces(self.device, from, lengths);
        pieces.map_err(device_failed)
    }

    fn evaluate_cache(&mut self, pieces: Vec<(Piece, usize)>) -> Result<Cache, EngineError> {
        let joined = Cache::evaluate_joined(self.device, self.model.cache_shape(), pieces);
        joined.map_err(device_failed)
    }

    fn stored_form(&self) -> Option<String> {
        let shape = self.model.cache_shape();
        Some(format!("{} {shape:?}", self.device.name()))
    }

    fn tensors_of(&self, piece: &Piece) -> Result<Vec<Tensor>, EngineError> {
        piece
            .tensors(self.model.cache_shape())
            .map_err(EngineError::Device)
    }

    fn map_piece(&self, file: &Path, tokens: usize) -> Result<Piece, EngineError> {
        let piece = Piece::map(file, self.device, self.model.cache_shape(), tokens);
        piece.map_err(EngineError::Device)
    }

    fn bytes_held(&self) -> u64 {
        self.bytes_held
    }

    fn kv_bytes_per_token(&self) -> u64 {
        self.model.cache_shape().bytes_per_token()
    }

    fn device(&self) -> (&'static str, &'static str) {
        let format = self.model.cache_shape().format;
        (self.device.name(), device::format_name(format))
    }

    fn load_times(&self) -> LoadTimes {
        self.load_times
    }
}

/// `model_type` of the snapshot in `dir`.
///
/// # Errors
/// It cannot be read.
pub fn model_type(dir: &Path) -> Result<String, EngineError> {
    let config = read_config(dir)?;
    let name = config.get("model_type").and_then(Value::as_str);
    name.map(str::to_owned)
        .ok_or_else(|| bad_file("config.json", "\"model_type\" is missing"))
}

fn read_config(dir: &Path) -> Result<Map<String, Value>, EngineError> {
    let text = fs::read(dir.join("config.json")).map_err(|e| bad_file("config.json", e))?;
    serde_json::from_slice(&text).map_err(|error| bad_file("config.json", error))
}

fn bad_file(file: &str, reason: impl ToString) -> EngineError {
    EngineError::BadFile {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

fn device_failed(error: Exception) -> EngineError {
    EngineError::Device(error.what().to_owned())
}
