//! Headers of safetensors files: read and checked without touching the
//! weights, and written so that weights can be mapped. It opens no file for
//! the engine and knows no tensor's meaning.
//!
//! Format: the safetensors README: eight bytes of length, that much JSON, data.

mod json;
mod lean;
mod sniff;
mod write;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use sniff::{stand_in, what_else};
pub use write::{DATA_ALIGNMENT, header_for};

/// Longest header, bytes. The format's own library allows four times as much; the
/// largest published header has under two million, and a hostile one is not to
/// cost the router a noticeable time.
pub const LONGEST_HEADER: u64 = 25_000_000;

/// Most tensors a file may name. The largest published models have that many in all their files.
pub const MOST_TENSORS: usize = 100_000;

/// What the header of one file says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Length of the whole file, bytes.
    pub file_len: u64,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its number format.
    pub dtype: Dtype,
    /// Its shape, slowest dimension first. Empty for a single number.
    pub shape: Vec<u64>,
    /// Where its bytes begin, from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

/// Number formats of the format, as spelled in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the format's")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4m3,
    F8E5m2,
    F8E8m0,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    C64,
}

/// Spelling and bytes of one number.
const DTYPES: [(Dtype, &str, u64); 17] = [
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::F8E4m3, "F8_E4M3", 1),
    (Dtype::F8E5m2, "F8_E5M2", 1),
    (Dtype::F8E8m0, "F8_E8M0", 1),
    (Dtype::U16, "U16", 2),
    (Dtype::I16, "I16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::U32, "U32", 4),
    (Dtype::I32, "I32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::U64, "U64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::F64, "F64", 8),
    (Dtype::C64, "C64", 8),
];

/// Why a file is not taken for safetensors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// The system refused.
    #[error("could not be read: {0}")]
    Read(String),
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It is recognised as something else.
    #[error("expected safetensors, found {0}")]
    SomethingElse(&'static str),
    /// The length of the header is over the limit or over the file.
    #[error(
        "the header claims {claimed} bytes, the file has {file_len} and the limit is {LONGEST_HEADER}"
    )]
    HeaderLength {
        /// What the first eight bytes say.
        claimed: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The header is not the JSON it has to be.
    #[error("the header is not valid: {0}")]
    Json(String),
    /// A tensor contradicts itself or its neighbour.
    #[error("tensor {name:?}: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is shorter or longer than its header says.
    #[error("the file has {found} bytes, its header says {expected}")]
    FileLength {
        /// By the header.
        expected: u64,
        /// On disk.
        found: u64,
    },
}

impl Header {
    /// Opens a file and checks its header. Weights are not read.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let (file, length) = open(path)?;
        Self::read(file, length)
    }

    /// Checks the header at the beginning of a file that has `file_len` bytes.
    pub fn read(source: impl Read, file_len: u64) -> Result<Self, SafetensorsError> {
        let mut text = Vec::new();
        read_text(source, file_len, &mut text)?;
        let mut tensors = match lean::read(&text, TensorInfo::of) {
            Some(tensors) => tensors,
            None => json::tensors(&text)?,
        };
        let data = place(&mut tensors, TensorInfo::bytes, text.len(), file_len)?;
        for tensor in &mut tensors {
            tensor.offset += data;
        }
        Ok(Self { tensors, file_len })
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.len).sum()
    }
}

impl TensorInfo {
    fn of(entry: &lean::Entry<'_, '_>) -> Self {
        Self {
            name: String::from_utf8_lossy(entry.name).into_owned(),
            dtype: entry.dtype,
            shape: entry.shape.to_vec(),
            offset: entry.offset,
            len: entry.len,
        }
    }

    fn bytes(&self) -> Bytes<'_> {
        Bytes {
            name: self.name.as_bytes(),
            offset: self.offset,
            len: self.len,
        }
    }
}

/// Checks a file's header as [`Header::open`] does, tells of each tensor its name, its
/// format and how many bytes it has, in the order of their bytes, and keeps nothing.
/// Answers the length of the file, bytes. `room` is for the header's text: with the
/// same one for many files it is asked for once.
pub fn survey(
    path: &Path,
    room: &mut Vec<u8>,
    mut each: impl FnMut(&[u8], Dtype, u64),
) -> Result<u64, SafetensorsError> {
    let (file, file_len) = open(path)?;
    read_text(file, file_len, room)?;
    match lean::read(room, |entry| (entry.dtype, Bytes::of(entry))) {
        Some(mut tensors) => {
            place(&mut tensors, |(_, bytes)| *bytes, room.len(), file_len)?;
            for (dtype, bytes) in tensors {
                each(bytes.name, dtype, bytes.len);
            }
        }
        None => {
            let mut tensors = json::tensors(room)?;
            place(&mut tensors, TensorInfo::bytes, room.len(), file_len)?;
            for tensor in tensors {
                each(tensor.name.as_bytes(), tensor.dtype, tensor.len);
            }
        }
    }
    Ok(file_len)
}

/// Where a tensor's bytes are, from the start of the data.
#[derive(Debug, Clone, Copy)]
struct Bytes<'n> {
    name: &'n [u8],
    offset: u64,
    len: u64,
}

impl<'n> Bytes<'n> {
    fn of(entry: &lean::Entry<'n, '_>) -> Self {
        Self {
            name: entry.name,
            offset: entry.offset,
            len: entry.len,
        }
    }
}

/// A file and its length, bytes.
fn open(path: &Path) -> Result<(File, u64), SafetensorsError> {
    let file = File::open(path).map_err(read_error)?;
    let length = file.metadata().map_err(read_error)?.len();
    Ok((file, length))
}

/// Reads the JSON at the beginning of a file that has `file_len` bytes, in place of
/// what was in `text`.
fn read_text(
    mut source: impl Read,
    file_len: u64,
    text: &mut Vec<u8>,
) -> Result<(), SafetensorsError> {
    if file_len == 0 {
        return Err(SafetensorsError::Empty);
    }
    let mut start = Vec::with_capacity(64);
    (&mut source)
        .take(64)
        .read_to_end(&mut start)
        .map_err(read_error)?;
    if let Some(found) = what_else(&start) {
        return Err(SafetensorsError::SomethingElse(found));
    }
    let Some(&length) = start.first_chunk::<8>() else {
        return Err(SafetensorsError::SomethingElse("a file of a few bytes"));
    };
    let claimed = u64::from_le_bytes(length);
    if claimed > LONGEST_HEADER || claimed > file_len - 8 {
        return Err(SafetensorsError::HeaderLength { claimed, file_len });
    }
    text.clear();
    // No more than the file has, which `open` knows from the system.
    text.reserve(claimed as usize);
    start[8..]
        .chain(source)
        .take(claimed)
        .read_to_end(text)
        .map_err(read_error)?;
    Ok(())
}

/// Puts tensors in the order of their bytes and checks that these follow each other
/// without a gap to the end of the file. Answers where the data begins.
fn place<T>(
    tensors: &mut [T],
    bytes: impl Fn(&T) -> Bytes<'_>,
    header: usize,
    file_len: u64,
) -> Result<u64, SafetensorsError> {
    let data = 8 + header as u64;
    // Tensors without bytes share their offset with the next: they go first.
    let order = |tensor: &T| (bytes(tensor).offset, bytes(tensor).len);
    // As they are written, mostly.
    if !tensors.is_sorted_by_key(order) {
        tensors.sort_by_key(order);
    }
    let mut end = 0;
    for tensor in tensors.iter() {
        let Bytes { name, offset, len } = bytes(tensor);
        if offset != end {
            let reason = format!("its bytes begin at {offset}, expected {end}");
            return Err(tensor_error(&String::from_utf8_lossy(name), reason));
        }
        // Cannot pass u64: the header has named offset + len itself.
        end += len;
    }
    match end.checked_add(data) {
        Some(expected) if expected == file_len => Ok(data),
        expected => Err(SafetensorsError::FileLength {
            expected: expected.unwrap_or(u64::MAX),
            found: file_len,
        }),
    }
}

impl Dtype {
    /// The format that a header spells so.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let row = DTYPES.iter().find(|row| row.1.as_bytes() == text);
        row.map(|row| row.0)
    }

    /// As headers spell it.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        self.row().2
    }

    fn row(self) -> (Self, &'static str, u64) {
        // The rows stand in the order of the variants, which a test goes through.
        DTYPES[self as usize]
    }
}

fn read_error(error: std::io::Error) -> SafetensorsError {
    SafetensorsError::Read(error.to_string())
}

/// Names come from the file, so a long one is cut.
fn tensor_error(name: &str, reason: String) -> SafetensorsError {
    SafetensorsError::Tensor {
        name: name.chars().take(100).collect(),
        reason,
    }
}

#[cfg(test)]
mod tests;
