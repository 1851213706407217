//! Reading GGUF files, versions 2 and 3: metadata, and where each tensor lies.
//! Every count, length and offset in the file is untrusted and checked against
//! the length of the file before it is used. What the tensors mean is not known here.
//!
//! Format: the GGUF specification in ggml's `docs/gguf.md`.

pub mod dequantise;
pub mod metadata;
mod read;
pub mod types;

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use metadata::Metadata;
use read::Bounded;
pub use types::TensorType;

/// Most tensors a file may have. The largest models have some thousands.
const MOST_TENSORS: u64 = 200_000;
/// Most metadata entries a file may have.
const MOST_ENTRIES: u64 = 100_000;
/// Alignment of tensor data where `general.alignment` does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// What stands before the tensor data of a GGUF file.
#[derive(Debug)]
pub struct Header {
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors, in the order of the file.
    pub tensors: Vec<Tensor>,
}

/// One tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, `blk.0.attn_q.weight`.
    pub name: String,
    /// Its shape, slowest dimension first (the file has the fastest first).
    pub shape: Vec<u64>,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Where its bytes begin, from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

/// Why a file could not be read as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The system refused.
    #[error("could not read the file: {0}")]
    Read(#[from] std::io::Error),
    /// Another kind of file.
    #[error("expected a GGUF file, found one that begins with \"{}\"", .0.escape_ascii())]
    Magic([u8; 4]),
    /// A version that is not known, or a big-endian file.
    #[error("expected GGUF version 2 or 3, found {0}")]
    Version(u32),
    /// It ends in the middle of something.
    #[error("the file ends within {0}")]
    Short(&'static str),
    /// Something in it contradicts the format or itself.
    #[error("{0}")]
    Malformed(String),
    /// A number format that is not known here.
    #[error(
        "tensor {tensor} is stored as {kind}, expected one of {}",
        TensorType::all_names()
    )]
    TensorType {
        /// Its name.
        tensor: String,
        /// The name of the format where it has one, else its number.
        kind: String,
    },
    /// A metadata entry has another type than its key asks for.
    #[error("metadata {key}: expected {expected}, found {found}")]
    Metadata {
        /// The key.
        key: String,
        /// What was expected.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

impl Header {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<(Self, File), GgufError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let header = Self::read(BufReader::new(&file), length)?;
        Ok((header, file))
    }

    /// Reads a header from the beginning of a file that has `length` bytes.
    pub fn read(source: impl Read, length: u64) -> Result<Self, GgufError> {
        let mut source = Bounded::new(source, length);
        let magic = source.array::<4>("the magic number")?;
        if &magic != b"GGUF" {
            return Err(GgufError::Magic(magic));
        }
        let version = source.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(GgufError::Version(version));
        }
        let tensors = count(source.u64("the tensor count")?, MOST_TENSORS, "tensors")?;
        let entries = count(
            source.u64("the metadata count")?,
            MOST_ENTRIES,
            "metadata entries",
        )?;
        let metadata = Metadata::read(&mut source, entries)?;
        let mut raw = Vec::new();
        for _ in 0..tensors {
            raw.push(read_tensor(&mut source)?);
        }
        let alignment = alignment(&metadata)?;
        let data = round_up(source.position(), alignment)
            .ok_or_else(|| GgufError::Malformed("the header is too long".to_owned()))?;
        let tensors = place(raw, data, alignment, length)?;
        Ok(Self { metadata, tensors })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl Tensor {
    /// Number of elements. The header check has seen that the product fits.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Reads its bytes.
    pub fn read(&self, mut file: &File) -> Result<Vec<u8>, GgufError> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(self.len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != self.len {
            return Err(GgufError::Short("a tensor"));
        }
        Ok(bytes)
    }
}

/// A count from the file, held against its cap.
fn count(found: u64, most: u64, what: &str) -> Result<u64, GgufError> {
    if found > most {
        let text = format!("expected at most {most} {what}, found {found}");
        return Err(GgufError::Malformed(text));
    }
    Ok(found)
}

/// Reads one tensor entry; its offset still counts from the start of the data.
fn read_tensor(source: &mut Bounded<impl Read>) -> Result<Tensor, GgufError> {
    let name = source.text("a tensor name")?;
    let dimensions = source.u32("a tensor entry")?;
    if !(1..=4).contains(&dimensions) {
        let text = format!("tensor {name:?} has {dimensions} dimensions, expected 1 to 4");
        return Err(GgufError::Malformed(text));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(source.u64("a tensor entry")?);
    }
    let row = shape.first().copied().unwrap_or(0);
    shape.reverse();
    let number = source.u32("a tensor entry")?;
    let kind = TensorType::from_number(number).ok_or_else(|| GgufError::TensorType {
        tensor: name.clone(),
        kind: TensorType::name_of_number(number),
    })?;
    let len = kind.bytes(&shape).ok_or_else(|| {
        GgufError::Malformed(format!(
            "tensor {name:?} of shape {shape:?} cannot be stored as {kind} (rows of {row})"
        ))
    })?;
    let offset = source.u64("a tensor entry")?;
    Ok(Tensor {
        name,
        shape,
        kind,
        offset,
        len,
    })
}

/// The alignment of tensor data.
fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata
        .unsigned("general.alignment")?
        .unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let text = format!("general.alignment: expected a power of two, found {alignment}");
        return Err(GgufError::Malformed(text));
    }
    Ok(alignment)
}

/// Turns offsets from the start of the data into offsets from the start of the
/// file, and refuses tensors that lie outside of it, overlap, or have one name.
fn place(
    mut tensors: Vec<Tensor>,
    data: u64,
    alignment: u64,
    length: u64,
) -> Result<Vec<Tensor>, GgufError> {
    let mut names = HashSet::new();
    for tensor in &mut tensors {
        let end = tensor
            .offset
            .checked_add(data)
            .and_then(|start| start.checked_add(tensor.len));
        if tensor.offset % alignment != 0 || end.is_none_or(|end| end > length) {
            let text = format!(
                "tensor {:?}: {} bytes at {} do not lie within the file of {length} bytes",
                tensor.name, tensor.len, tensor.offset
            );
            return Err(GgufError::Malformed(text));
        }
        tensor.offset += data;
        if !names.insert(tensor.name.clone()) {
            let text = format!("tensor {:?} is there twice", tensor.name);
            return Err(GgufError::Malformed(text));
        }
    }
    let mut spans: Vec<_> = tensors.iter().map(|t| (t.offset, t.len, &t.name)).collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [(start, len, first), (next, _, second)] = pair
            && start + len > *next
        {
            let text = format!("tensors {first:?} and {second:?} overlap");
            return Err(GgufError::Malformed(text));
        }
    }
    Ok(tensors)
}

/// The next multiple of a power of two.
fn round_up(value: u64, alignment: u64) -> Option<u64> {
    value.checked_next_multiple_of(alignment)
}

#[cfg(test)]
pub(in crate::model) mod build;
#[cfg(test)]
mod tests;
