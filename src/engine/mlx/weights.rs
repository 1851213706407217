//! From the safetensors files of a snapshot to named arrays, each taken once
//! and checked. It knows the files' names and no architecture.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use super::device::Device;
use super::quantization::{Packing, Quantization};
use super::{bad_file, device_failed};
use crate::engine::EngineError;

/// The index of a snapshot in several files.
const INDEX: &str = "model.safetensors.index.json";
/// The only file of a snapshot that is in one.
const SINGLE: &str = "model.safetensors";

/// The weights of a snapshot that no layer has taken yet.
pub struct Weights {
    arrays: HashMap<String, Array>,
    quantization: Quantization,
    device: Device,
    /// Bytes of what was taken, in the form it was taken in.
    bytes: u64,
    taken: Vec<Array>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// All arrays of the snapshot in `dir`, not evaluated yet.
    pub fn open(
        dir: &Path,
        quantization: Quantization,
        device: Device,
    ) -> Result<Self, EngineError> {
        let mut arrays = HashMap::new();
        for file in shards(dir)? {
            let shard =
                Array::load_safetensors(dir.join(&file)).map_err(|error| bad_file(&file, error))?;
            arrays.extend(shard);
        }
        Ok(Self {
            arrays,
            quantization,
            device,
            bytes: 0,
            taken: Vec::new(),
        })
    }

    /// The device for which weights are taken.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Whether a weight of this name is there and not taken.
    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// How the layer at `path` is packed, if it is.
    pub fn packing(&self, path: &str) -> Result<Option<Packing>, EngineError> {
        self.quantization
            .packing(path, self.has(&format!("{path}.scales")))
    }

    /// Removes weights that nobody needs.
    pub fn drop_where(&mut self, useless: impl Fn(&str) -> bool) {
        self.arrays.retain(|name, _| !useless(name));
    }

    /// The weight `name` in the number format of the device.
    pub fn take(&mut self, name: &str, shape: &[i32]) -> Result<Array, EngineError> {
        let array = self
            .arrays
            .remove(name)
            .ok_or_else(|| EngineError::Unsupported(format!("the weight {name} is missing")))?;
        if array.shape() != shape {
            return Err(EngineError::Unsupported(format!(
                "the weight {name} has the shape {:?}, config.json asks for {shape:?}",
                array.shape()
            )));
        }
        let array = match array.dtype() {
            Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32 => {
                self.device.convert(array).map_err(device_failed)?
            }
            _ => array,
        };
        self.bytes += array.nbytes() as u64;
        self.taken.push(array.clone());
        Ok(array)
    }

    /// Reads what was taken from disk and answers its bytes. A weight that no
    /// layer took would be missing from the model, so it is an error.
    pub fn evaluate_taken(self) -> Result<u64, EngineError> {
        if let Some(name) = self.arrays.keys().min() {
            return Err(EngineError::Unsupported(format!(
                "{} weights belong to no layer of this architecture, among them {name}",
                self.arrays.len()
            )));
        }
        mlx_rs::transforms::eval(&self.taken).map_err(device_failed)?;
        Ok(self.bytes)
    }
}

/// The names of the files that hold weights.
fn shards(dir: &Path) -> Result<BTreeSet<String>, EngineError> {
    let index = match fs::read(dir.join(INDEX)) {
        Ok(text) => serde_json::from_slice::<Index>(&text).map_err(|e| bad_file(INDEX, e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(BTreeSet::from([SINGLE.to_owned()]));
        }
        Err(error) => return Err(bad_file(INDEX, error)),
    };
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    // The index comes from a stranger; a shard lies beside it and nowhere else.
    match files.iter().find(|name| name.contains(['/', '\\'])) {
        Some(name) => Err(bad_file(
            INDEX,
            format!("\"{name}\" is not a name of a file"),
        )),
        None => Ok(files),
    }
}
