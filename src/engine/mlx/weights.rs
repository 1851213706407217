//! From the safetensors files of a snapshot to named arrays, each taken once
//! and checked. It knows the files' names and no architecture.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::stack;
use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use super::adapter::{Side, Sides};
use super::device::Device;
use super::packed::Packed;
use super::quantization::{Packing, Quantization};
use super::{bad_file, device_failed};
use crate::engine::EngineError;
use crate::engine::progress::Progress;

/// The index of a snapshot in several files.
const INDEX: &str = "model.safetensors.index.json";
/// The only file of a snapshot that is in one.
const SINGLE: &str = "model.safetensors";

/// In how many parts the weights are read from disk, so that a load can tell how
/// far it is. Each part costs a turn of the device.
const PARTS: u64 = 100;

/// The weights of a snapshot that no layer has taken yet.
pub struct Weights {
    arrays: Arrays,
    quantization: Quantization,
    device: Device,
    /// What they are called where layers ask by another name.
    names: &'static [(&'static str, &'static str)],
    /// Bytes of what was taken, in the form it was taken in.
    bytes: u64,
    taken: Vec<Array>,
    sides: Sides,
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
            read_shard(&dir.join(&file), device, &mut arrays)
                .map_err(|reason| bad_file(&file, reason))?;
        }
        Ok(Self {
            arrays,
            quantization,
            device,
            names: &[],
            bytes: 0,
            taken: Vec::new(),
            sides: Sides::default(),
        })
    }

    /// The device for which weights are taken.
    pub fn device(&self) -> Device {
        self.device
    }

    /// From now on weights whose names have the first of a pair between dots are those
    /// that have the second there.
    pub fn call(&mut self, names: &'static [(&'static str, &'static str)]) {
        self.names = names;
    }

    /// What the checkpoint calls a weight or a layer.
    fn own_name(&self, name: &str) -> String {
        let dotted = format!(".{name}.");
        for (asked, called) in self.names {
            let (asked, called) = (format!(".{asked}."), format!(".{called}."));
            if dotted.contains(&asked) {
                let dotted = dotted.replacen(&asked, &called, 1);
                return dotted[1..dotted.len() - 1].to_owned();
            }
        }
        name.to_owned()
    }

    /// Where adapters stand beside the layers that take these weights.
    pub fn sides(&self) -> &Sides {
        &self.sides
    }

    /// Where one stands beside the layer at `path`, if it takes any.
    pub fn side(&self, path: &str, inputs: i32, outputs: i32) -> Option<Side> {
        let name = self.own_name(path);
        self.sides.of(&name, inputs, outputs, self.device)
    }

    /// Whether a weight of this name is there and not taken.
    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(&self.own_name(name))
    }

    /// Whether one is of this shape.
    pub fn has_shape(&self, name: &str, shape: &[i32]) -> bool {
        let array = self.arrays.get(&self.own_name(name));
        array.is_some_and(|array| array.shape() == shape)
    }

    /// How the layer at `path` is packed, if it is.
    pub fn packing(&self, path: &str) -> Result<Option<Packing>, EngineError> {
        self.quantization
            .packing(&self.own_name(path), self.has(&format!("{path}.scales")))
    }

    /// Removes weights that nobody needs.
    pub fn drop_where(&mut self, useless: impl Fn(&str) -> bool) {
        self.arrays.retain(|name, _| !useless(name));
    }

    /// The weight `name` in the number format of the device.
    pub fn take(&mut self, name: &str, shape: &[i32]) -> Result<Array, EngineError> {
        let array = self.remove(name, shape)?;
        let array = self.device.convert(array).map_err(device_failed)?;
        Ok(self.keep(array))
    }

    /// The same, with `change` made to it once for all.
    pub fn take_changed(
        &mut self,
        name: &str,
        shape: &[i32],
        change: impl FnOnce(&Array) -> MlxResult<Array>,
    ) -> Result<Array, EngineError> {
        let array = self.remove(name, shape)?;
        let array = self.device.convert(array).and_then(|array| change(&array));
        Ok(self.keep(array.map_err(device_failed)?))
    }

    /// Weights of one shape put together, `[names, …]`: packed words as they are,
    /// numbers in the format of the device.
    pub fn take_together(
        &mut self,
        names: impl Iterator<Item = String>,
        shape: &[i32],
    ) -> Result<Array, EngineError> {
        let parts: Result<Vec<Array>, EngineError> =
            names.map(|name| self.remove(&name, shape)).collect();
        let parts = parts?;
        let together = stack(&parts, 0).and_then(|array| self.device.convert(array));
        Ok(self.keep(together.map_err(device_failed)?))
    }

    /// The matrix at `path`, unpacked if it is packed, in the number format of the device:
    /// for what is taken apart before it is multiplied with.
    pub fn take_unpacked(&mut self, path: &str, shape: &[i32]) -> Result<Array, EngineError> {
        let Some(packing) = self.packing(path)? else {
            return self.take(&format!("{path}.weight"), shape);
        };
        let inputs = shape[shape.len() - 1];
        let with = |columns: i32| [&shape[..shape.len() - 1], &[columns]].concat();
        let packed = Packed::load(packing, path, inputs, |kind, columns| {
            self.remove(&format!("{path}.{kind}"), &with(columns))
        })?;
        let whole = packed.unpacked(self.device);
        Ok(self.keep(whole.map_err(device_failed)?))
    }

    /// A weight that is only multiplied with: packed words as they are, numbers in
    /// a format that the products of the device read.
    pub fn take_for_product(&mut self, name: &str, shape: &[i32]) -> Result<Array, EngineError> {
        let array = self.remove(name, shape)?;
        if self.device.is_own() {
            return Ok(self.keep(array));
        }
        let array = self.device.convert(array).map_err(device_failed)?;
        Ok(self.keep(array))
    }

    fn remove(&mut self, name: &str, shape: &[i32]) -> Result<Array, EngineError> {
        let name = self.own_name(name);
        let array = self
            .arrays
            .remove(&name)
            .ok_or_else(|| EngineError::Unsupported(format!("the weight {name} is missing")))?;
        if array.shape() != shape {
            return Err(EngineError::Unsupported(format!(
                "the weight {name} has the shape {:?}, config.json asks for {shape:?}",
                array.shape()
            )));
        }
        Ok(array)
    }

    pub(super) fn keep(&mut self, array: Array) -> Array {
        self.bytes += array.nbytes() as u64;
        self.taken.push(array.clone());
        array
    }

    /// Reads what was taken from disk, tells how far that is, and answers its bytes.
    /// A weight that no layer took would be missing from the model, so it is an error.
    pub fn evaluate_taken(self, loading: &dyn Fn(Progress)) -> Result<u64, EngineError> {
        if let Some(name) = self.arrays.keys().min() {
            return Err(EngineError::Unsupported(format!(
                "{} weights belong to no layer of this architecture, among them {name}",
                self.arrays.len()
            )));
        }
        let all = self.bytes;
        let (mut done, mut told, mut first) = (0, 0, 0);
        for (index, array) in self.taken.iter().enumerate() {
            done += array.nbytes() as u64;
            if done - told >= all / PARTS || index + 1 == self.taken.len() {
                let part = &self.taken[first..=index];
                mlx_rs::transforms::eval(part).map_err(device_failed)?;
                (told, first) = (done, index + 1);
                loading(Progress { done, all });
            }
        }
        Ok(all)
    }
}

/// The arrays of one file that holds no weights, as far as they are `wanted`: parts of the
/// mapped file where the device can use those, else read.
pub(super) fn read_now(
    path: &Path,
    device: Device,
    wanted: impl Fn(&str) -> bool,
) -> Result<HashMap<String, Array>, String> {
    let mut arrays = HashMap::new();
    #[cfg(target_os = "linux")]
    if device.is_own() {
        map_shard(path, &mut arrays, wanted)?;
        return Ok(arrays);
    }
    read_shard(path, device, &mut arrays)?;
    arrays.retain(|name, _| wanted(name));
    // The file may be gone when they are needed.
    mlx_rs::transforms::eval(arrays.values()).map_err(|error| error.what().to_owned())?;
    Ok(arrays)
}

type Arrays = HashMap<String, Array>;

/// Adds the arrays of one file. With our own products they are parts of the
/// mapped file: nothing is read before it is used, and nothing copied. Otherwise
/// MLX reads each when it is evaluated.
fn read_shard(path: &Path, device: Device, arrays: &mut Arrays) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    if device.is_own() {
        return map_shard(path, arrays, |_| true);
    }
    let _ = device;
    let shard = Array::load_safetensors(path).map_err(|error| error.to_string())?;
    arrays.extend(shard);
    Ok(())
}

#[cfg(target_os = "linux")]
fn map_shard(
    path: &Path,
    arrays: &mut Arrays,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), String> {
    use super::native::MappedFile;
    use crate::model::safetensors::{Dtype as Stored, Header};

    let header = Header::open(path).map_err(|error| error.to_string())?;
    let file = MappedFile::open(path).map_err(|error| error.to_string())?;
    for tensor in header.tensors {
        if !wanted(&tensor.name) {
            continue;
        }
        let format = match tensor.dtype {
            Stored::F32 => Dtype::Float32,
            Stored::F16 => Dtype::Float16,
            Stored::Bf16 => Dtype::Bfloat16,
            Stored::U32 => Dtype::Uint32,
            // Exponents of packed rows.
            Stored::U8 if tensor.name.ends_with(".scales") => Dtype::Uint8,
            // Numbers from 0 on, which older checkpoints hold; no weight.
            Stored::I64 if tensor.name.ends_with("position_ids") => continue,
            other => {
                return Err(format!(
                    "the weight {} has the number format {other:?}, which is not supported",
                    tensor.name
                ));
            }
        };
        let shape: Result<Vec<i32>, _> = tensor.shape.iter().map(|n| i32::try_from(*n)).collect();
        let shape = shape.map_err(|_| format!("the weight {} is too long", tensor.name))?;
        let array = file
            .array(tensor.offset, &shape, format)
            .map_err(|error| error.to_string())?;
        arrays.insert(tensor.name, array);
    }
    Ok(())
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
