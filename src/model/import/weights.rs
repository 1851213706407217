//! Which tensors a snapshot gets, in which form and order (decided from the
//! header alone), and the bytes of each.

use std::collections::HashSet;
use std::fs::File;

use half::f16;
use serde_json::{Map, Value, json};

use super::names::{self, Role};
use super::shape::Shape;
use super::{ImportError, Precision};
use crate::model::gguf::dequantise::dequantise;
use crate::model::gguf::{Header, Tensor, TensorType};
use crate::model::quantise::{self, Bits, GROUP};
use crate::model::safetensors::{DATA_ALIGNMENT, Dtype};

/// Most bytes of one weight file, as mlx-lm cuts them.
const SHARD_BYTES: u64 = 5 << 30;

/// One GGUF tensor on its way into the snapshot.
#[derive(Debug, Clone)]
pub(super) struct Item {
    source: Tensor,
    form: Form,
    /// Heads over which llama.cpp's converter has reordered the rows.
    reordered: Option<u64>,
    /// What it becomes, in the order of [`Item::bytes`].
    pub(super) parts: Vec<Part>,
}

/// One tensor of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Affine(Bits),
    Half,
    Full,
}

/// The items of each weight file.
pub(super) type Shards = Vec<Vec<Item>>;

/// Decides what becomes of each tensor; refuses strangers, wrong shapes and gaps.
pub(super) fn plan(
    header: &Header,
    shape: &Shape,
    precision: Precision,
) -> Result<Shards, ImportError> {
    let mut items = Vec::new();
    let mut seen = HashSet::new();
    for tensor in &header.tensors {
        let stranger = || ImportError::StrangeTensor(tensor.name.clone());
        let place = names::place(&tensor.name).ok_or_else(stranger)?;
        if place.role == Role::RopeFactors {
            continue;
        }
        let expected = shape.of(&place.name).ok_or_else(stranger)?;
        if expected != tensor.shape {
            return Err(ImportError::TensorShape {
                tensor: tensor.name.clone(),
                found: tensor.shape.clone(),
                expected,
            });
        }
        seen.insert(place.name.clone());
        items.push(Item::new(tensor, &place, shape, precision));
    }
    if let Some(missing) = shape
        .required_names()
        .into_iter()
        .find(|n| !seen.contains(n))
    {
        return Err(ImportError::MissingTensor(missing));
    }
    // Odd lengths last, so that they shift nothing else off its alignment.
    items.sort_by_key(|item| !item.keeps_alignment());
    Ok(split(items))
}

/// Cuts the items into files of at most [`SHARD_BYTES`] (or one item).
fn split(items: Vec<Item>) -> Shards {
    let mut shards: Shards = Vec::new();
    let mut filled = u64::MAX;
    for item in items {
        if filled.saturating_add(item.len()) > SHARD_BYTES {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += item.len();
        if let Some(shard) = shards.last_mut() {
            shard.push(item);
        }
    }
    shards
}

/// What `quantization` in `config.json` says: the common numbers, and each
/// module that has others. Nothing for dense weights.
pub(super) fn quantization(shards: &Shards, precision: Precision) -> Option<Value> {
    let common = precision.bits()?;
    let entry = |bits: Bits| json!({"group_size": GROUP, "bits": bits.count(), "mode": "affine"});
    let mut map = match entry(common) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for item in shards.iter().flatten() {
        if let (Form::Affine(bits), Some(part)) = (item.form, item.parts.first())
            && bits != common
        {
            let module = part.name.trim_end_matches(".weight");
            map.insert(module.to_owned(), entry(bits));
        }
    }
    Some(Value::Object(map))
}

impl Item {
    fn new(tensor: &Tensor, place: &names::Place, shape: &Shape, precision: Precision) -> Self {
        let form = form(tensor, place.role, precision);
        let part = |name: String, dtype, shape: Vec<u64>| Part { name, dtype, shape };
        let with_columns = |columns: u64| {
            let mut shape = tensor.shape.clone();
            if let Some(last) = shape.last_mut() {
                *last = columns;
            }
            shape
        };
        let parts = match form {
            Form::Full => vec![part(place.name.clone(), Dtype::F32, tensor.shape.clone())],
            Form::Half => vec![part(place.name.clone(), Dtype::F16, tensor.shape.clone())],
            Form::Affine(bits) => {
                let columns = tensor.shape.last().copied().unwrap_or(0);
                let packed = with_columns(columns * u64::from(bits.count()) / 32);
                let grouped = with_columns(columns / GROUP as u64);
                let stem = place.name.trim_end_matches("weight");
                vec![
                    part(place.name.clone(), Dtype::U32, packed),
                    part(format!("{stem}scales"), Dtype::F16, grouped.clone()),
                    part(format!("{stem}biases"), Dtype::F16, grouped),
                ]
            }
        };
        let reordered = match place.role {
            Role::Queries => Some(shape.heads),
            Role::Keys => Some(shape.kv_heads),
            _ => None,
        };
        Self {
            source: tensor.clone(),
            form,
            reordered,
            parts,
        }
    }

    /// Bytes in the weight file.
    pub(super) fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    fn keeps_alignment(&self) -> bool {
        self.parts
            .iter()
            .all(|part| part.len() % DATA_ALIGNMENT as u64 == 0)
    }

    /// Reads the tensor and brings it into its form: the bytes of each part.
    pub(super) fn bytes(&self, file: &File) -> Result<Vec<Vec<u8>>, ImportError> {
        let kind = self.source.kind;
        let mut bytes = self.source.read(file)?;
        if let Some(heads) = self.reordered {
            let rows = self.source.shape.first().copied().unwrap_or(1);
            let row_bytes = bytes.len() / rows as usize;
            bytes = names::restore_rows(&bytes, heads as usize, row_bytes);
        }
        Ok(match self.form {
            Form::Affine(bits) => {
                let form = quantise::convert(kind, &bytes, bits);
                vec![form.weight, form.scales, form.biases]
            }
            Form::Full => vec![full(kind, &bytes)],
            Form::Half => vec![self.half(kind, &bytes)?],
        })
    }

    /// As float16; numbers beyond its range are refused rather than made infinite.
    fn half(&self, kind: TensorType, bytes: &[u8]) -> Result<Vec<u8>, ImportError> {
        if kind == TensorType::F16 {
            return Ok(bytes.to_vec());
        }
        let mut out = Vec::new();
        for some in bytes.chunks(kind.block_bytes() * 4096) {
            for value in dequantise(kind, some) {
                let half = f16::from_f32(value);
                if value.is_finite() && !half.is_finite() {
                    return Err(ImportError::BeyondHalf(self.source.name.clone()));
                }
                out.extend_from_slice(&half.to_le_bytes());
            }
        }
        Ok(out)
    }
}

impl Part {
    /// Bytes in the weight file.
    pub(super) fn len(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.bytes()
    }
}

/// The form of a tensor. With four bits the vocabulary keeps eight, unless the
/// file has it in four already: it is read at every token and suffers most.
fn form(tensor: &Tensor, role: Role, precision: Precision) -> Form {
    let columns = tensor.shape.last().copied().unwrap_or(0);
    let four = matches!(
        tensor.kind,
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4K
    );
    match (role, precision) {
        (Role::Small, _) | (_, Precision::Full) => Form::Full,
        (_, Precision::Half) => Form::Half,
        _ if columns % GROUP as u64 != 0 || tensor.shape.len() != 2 => Form::Full,
        (Role::Vocabulary, Precision::Four) if !four => Form::Affine(Bits::Eight),
        (_, Precision::Four) => Form::Affine(Bits::Four),
        (_, Precision::Eight) => Form::Affine(Bits::Eight),
    }
}

/// As float32.
fn full(kind: TensorType, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for some in bytes.chunks(kind.block_bytes() * 4096) {
        out.extend(
            dequantise(kind, some)
                .into_iter()
                .flat_map(f32::to_le_bytes),
        );
    }
    out
}
