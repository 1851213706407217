//! Low-rank adapters beside the linear layers of a decoder (LoRA, arXiv 2106.09685):
//! what goes into a layer, times two narrow matrices, is added to what comes out. The
//! weights stay as they are, packed or not, so that every sequence of a batch may run with
//! another adapter, and going from one to another reads nothing but that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use mlx_rs::error::{Exception, Result as MlxResult};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::device::Device;
use super::{bad_file, device_failed, weights};
use crate::engine::EngineError;
use crate::engine::adapter::Chosen;
use crate::model::adapter::{Adapter, Form, Pair};

/// The layers of a network that an adapter may stand beside, and what stands beside the
/// rows of the pass whose graph is being built. The network and its layers share it; all
/// of them live on one thread.
#[derive(Clone, Debug, Default)]
pub struct Sides(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    layers: RefCell<HashMap<String, Measures>>,
    runs: RefCell<Vec<Run>>,
}

/// A layer: its number among those that take adapters, and its measures.
#[derive(Clone, Copy, Debug)]
struct Measures {
    number: usize,
    inputs: i32,
    outputs: i32,
}

/// Rows one after the other that run with the same adapter, or with none.
#[derive(Debug)]
struct Run {
    rows: i32,
    adapter: Option<Rc<Held>>,
}

/// What stands beside one layer.
#[derive(Debug)]
pub struct Side {
    shared: Rc<Shared>,
    number: usize,
    device: Device,
}

/// An adapter as it is held: in float32, the factor counted in.
#[derive(Debug)]
pub struct Held {
    mark: u128,
    bytes: u64,
    /// By the number of the layer: `[rank, inputs]` and `[outputs, rank]`.
    pairs: HashMap<usize, [Array; 2]>,
}

/// The adapters that a network holds.
#[derive(Debug)]
pub struct Adapters {
    sides: Sides,
    device: Device,
    /// Bytes for those that no sequence runs with.
    room: u64,
    /// The one used last is the last.
    held: Vec<Rc<Held>>,
}

/// While this lasts, what stands beside the rows of a pass is known to the layers.
pub struct Running(Rc<Shared>);

impl Sides {
    /// The side of the layer at `path`, if it is one that takes adapters. What stands
    /// outside of the layers, the head, sees other rows than those of a pass.
    pub fn of(&self, path: &str, inputs: i32, outputs: i32, device: Device) -> Option<Side> {
        if !path.contains(".layers.") {
            return None;
        }
        let mut layers = self.0.layers.borrow_mut();
        let number = layers.len();
        let measures = Measures {
            number,
            inputs,
            outputs,
        };
        layers.insert(path.to_owned(), measures);
        Some(Side {
            shared: Rc::clone(&self.0),
            number,
            device,
        })
    }

    /// Has the rows of a pass run with these adapters, one for each sequence, which
    /// brings as many of `rows`.
    pub fn run<'c>(
        &self,
        adapters: impl Iterator<Item = Option<&'c Rc<Held>>>,
        rows: &[usize],
    ) -> Running {
        let mut runs: Vec<Run> = Vec::new();
        for (adapter, rows) in adapters.zip(rows) {
            let mark = |adapter: &Rc<Held>| adapter.mark;
            match runs.last_mut() {
                Some(last) if last.adapter.as_ref().map(mark) == adapter.map(mark) => {
                    last.rows += *rows as i32;
                }
                _ => runs.push(Run {
                    rows: *rows as i32,
                    adapter: adapter.cloned(),
                }),
            }
        }
        self.0.runs.replace(runs);
        Running(Rc::clone(&self.0))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.runs.borrow_mut().clear();
    }
}

impl Side {
    /// `product` `[rows, outputs]`, which the layer makes of `x` `[rows, inputs]`, with
    /// what the adapters of the rows add to it.
    pub fn beside(&self, x: &Array, product: Array) -> MlxResult<Array> {
        let runs = self.shared.runs.borrow();
        let pair = |run: &Run| run.adapter.as_ref()?.pairs.get(&self.number).cloned();
        if runs.iter().all(|run| pair(run).is_none()) {
            return Ok(product);
        }
        let rows: i32 = runs.iter().map(|run| run.rows).sum();
        if x.dim(0) != rows {
            return Err(Exception::custom("a layer with an adapter has other rows"));
        }
        if let [run] = runs.as_slice() {
            return self.sum(pair(run), x, product);
        }
        let mut from = 0;
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs.iter() {
            let to = from + run.rows;
            let part = |array: &Array| array.try_index((from..to, ..));
            parts.push(self.sum(pair(run), &part(x)?, part(&product)?)?);
            from = to;
        }
        concatenate(&parts, 0)
    }

    /// The same of rows with one pair.
    fn sum(&self, pair: Option<[Array; 2]>, x: &Array, product: Array) -> MlxResult<Array> {
        let Some([first, second]) = pair else {
            return Ok(product);
        };
        let narrow = self.device.product(x, &first)?;
        let added = self.device.product(&narrow, &second)?;
        product.add(added.as_dtype(product.dtype())?)
    }
}

impl Adapters {
    /// None yet, for the layers of `sides`.
    pub fn new(sides: Sides, device: Device, room: u64) -> Self {
        Self {
            sides,
            device,
            room,
            held: Vec::new(),
        }
    }

    /// The layers.
    pub fn sides(&self) -> &Sides {
        &self.sides
    }

    /// The adapter, which is read unless it is held. What then has no room and runs with
    /// no sequence is let go of, that which was used longest ago first. Evaluates.
    pub fn evaluate(&mut self, chosen: &Chosen) -> Result<Rc<Held>, EngineError> {
        let known = self.held.iter().position(|held| held.mark == chosen.mark);
        let adapter = match known {
            Some(place) => self.held.remove(place),
            None => Rc::new(self.read(chosen)?),
        };
        self.held.push(Rc::clone(&adapter));
        let mut bytes: u64 = self.held.iter().map(|held| held.bytes).sum();
        let room = self.room;
        self.held.retain(|held| {
            let stays = bytes <= room || Rc::strong_count(held) > 1;
            bytes -= if stays { 0 } else { held.bytes };
            stays
        });
        Ok(adapter)
    }

    fn read(&self, chosen: &Chosen) -> Result<Held, EngineError> {
        let began = Instant::now();
        let adapter =
            Adapter::open(&chosen.dir).map_err(|error| bad_file(error.file, error.problem))?;
        let numbers = self.numbers(&chosen.dir, adapter.form)?;
        let layers = self.sides.0.layers.borrow();
        let mut pairs = HashMap::new();
        for pair in &adapter.pairs {
            let measures = layers.get(&pair.layer).ok_or_else(|| {
                EngineError::Unsupported(format!(
                    "the adapter is for {}, which is no layer of this model that takes one",
                    pair.layer
                ))
            })?;
            let found = [pair.inputs, pair.outputs];
            let expected = [measures.inputs, measures.outputs];
            if found != expected.map(|number| number as u64) {
                return Err(EngineError::Unsupported(format!(
                    "the adapter is for {} with the measures {found:?}, which are {expected:?}",
                    pair.layer
                )));
            }
            let matrices = matrices(pair, adapter.form, &numbers).map_err(device_failed)?;
            pairs.insert(measures.number, matrices);
        }
        eval(pairs.values().flatten()).map_err(device_failed)?;
        let (bytes, took_ms) = (adapter.bytes_held(), began.elapsed().as_millis() as u64);
        tracing::info!(bytes, took_ms, "an adapter was read");
        Ok(Held {
            mark: chosen.mark,
            bytes,
            pairs,
        })
    }

    /// The numbers of an adapter by name.
    fn numbers(&self, dir: &Path, form: Form) -> Result<HashMap<String, Array>, EngineError> {
        let file = form.weights();
        weights::read_now(&dir.join(file), self.device, |_| true)
            .map_err(|reason| bad_file(file, reason))
    }
}

/// The matrices of a pair as they are held: copies, so that the file may go.
fn matrices(pair: &Pair, form: Form, numbers: &HashMap<String, Array>) -> MlxResult<[Array; 2]> {
    let matrix = |name: &str, factor: f32| {
        let stored = numbers.get(name);
        let stored = stored.ok_or_else(|| Exception::custom("an adapter changed while read"))?;
        let turned = match form {
            Form::MlxLm => stored.t(),
            Form::Peft => stored.clone(),
        };
        let numbers = turned.contiguous()?.as_dtype(Dtype::Float32)?;
        numbers.multiply(Array::from_f32(factor))
    };
    let [first, second] = &pair.names;
    Ok([matrix(first, 1.0)?, matrix(second, pair.factor)?])
}
