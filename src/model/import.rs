//! A GGUF file becomes a snapshot in a cache tree: weights in the form MLX
//! computes with, the network's configuration, the tokenizer and its chat
//! template, all from the one file. A folder is taken as it is (`folder`). It serves
//! nothing and downloads nothing.

pub mod folder;
mod names;
mod rope;
mod shape;
mod tokenizer;
mod weights;

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::gguf::dequantise::dequantise;
use super::gguf::{GgufError, Header, TensorType};
use super::hub::{self, Writer};
use super::id::ModelId;
use super::quantise::Bits;
use super::safetensors::header_for;
use shape::Shape;
use tokenizer::Tokenizer;
use weights::{Item, Shards};

/// Raised when the weights of the same file would come out differently, so that
/// they get another commit.
const FORM_VERSION: u32 = 1;

/// The number format that the weights get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Affine four bits; the vocabulary in eight unless it has four in the file.
    Four,
    /// Affine eight bits.
    Eight,
    /// float16
    Half,
    /// float32
    Full,
}

/// What to import, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    /// The GGUF file.
    pub file: PathBuf,
    /// The id that the model gets.
    pub id: ModelId,
    /// The number format of the weights.
    pub precision: Precision,
    /// The cache folder.
    pub cache: PathBuf,
}

/// What has come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The snapshot folder.
    pub snapshot: PathBuf,
    /// Its commit.
    pub commit: String,
    /// Bytes of its weight files.
    pub weight_bytes: u64,
    /// Whether everything was there before.
    pub already: bool,
}

/// How far an import is, for a person who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, a verb in -ing form.
    pub doing: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Why a file could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no readable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Another network than the one known here.
    #[error("expected the llama architecture, found {0}")]
    Architecture(String),
    /// The metadata lacks something.
    #[error("the metadata has no {0}")]
    MissingMetadata(&'static str),
    /// The metadata contradicts itself or the tensors.
    #[error("the file contradicts itself: {0}")]
    Inconsistent(String),
    /// A tensor is not there.
    #[error("the file has no tensor for {0}")]
    MissingTensor(String),
    /// A tensor that the architecture does not have.
    #[error("tensor {0:?} does not belong to the llama architecture")]
    StrangeTensor(String),
    /// A tensor of another shape.
    #[error("tensor {tensor} has the shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Its name in the file.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
        /// What the metadata asks for.
        expected: Vec<u64>,
    },
    /// A number that float16 cannot hold.
    #[error("tensor {0} has numbers beyond float16; import it with --bits 32")]
    BeyondHalf(String),
    /// The tokenizer cannot be told in the words of `tokenizer.json`.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A folder that holds no whole snapshot.
    #[error("{0}")]
    Folder(String),
    /// The cache folder could not be written.
    #[error("could not write {path}: {error}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Precision {
    /// The precision that `--bits` names.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            4 => Self::Four,
            8 => Self::Eight,
            16 => Self::Half,
            32 => Self::Full,
            _ => return None,
        })
    }

    /// Bits of the affine form; nothing for dense weights.
    fn bits(self) -> Option<Bits> {
        match self {
            Self::Four => Some(Bits::Four),
            Self::Eight => Some(Bits::Eight),
            Self::Half | Self::Full => None,
        }
    }
}

/// Imports a file. The same request again finds everything there; an
/// interrupted one goes on with the first weight file that is not finished.
pub fn import(
    request: &Request,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let (header, file) = Header::open(&request.file)?;
    let plan = Plan::new(&header, &file, request.precision)?;
    let commit = plan.commit(&digest(&file, progress)?);
    let at = |error| write_error(&request.cache, error);
    let writer = Writer::begin(&request.cache, &request.id, &commit).map_err(at)?;
    let imported = |already| Imported {
        snapshot: writer.snapshot(),
        commit: commit.clone(),
        weight_bytes: plan.shards.iter().map(|shard| shard.file_len()).sum(),
        already,
    };
    if writer.is_published() && plan.is_there(&writer) {
        return Ok(imported(true));
    }
    for (name, content) in &plan.small {
        writer.small(name, content).map_err(at)?;
    }
    plan.write_weights(&writer, &file, progress)?;
    writer.publish().map_err(at)?;
    Ok(imported(false))
}

/// Everything about the snapshot but the bytes of the weights.
struct Plan {
    /// Small files by name.
    small: Vec<(&'static str, Vec<u8>)>,
    shards: Vec<Shard>,
    precision: Precision,
}

/// One weight file.
struct Shard {
    name: String,
    header: Vec<u8>,
    items: Vec<Item>,
}

impl Plan {
    fn new(header: &Header, file: &File, precision: Precision) -> Result<Self, ImportError> {
        let mut shape = Shape::read(header)?;
        if let Some(factors) = rope_factors(header, file, &shape)? {
            shape.rope_scaling = rope::from_factors(&factors, shape.rope_theta)?;
        }
        let shards = weights::plan(header, &shape, precision)?;
        let tokenizer = Tokenizer::read(&header.metadata, shape.vocabulary, shape.context)?;
        let config = config(&shape, &tokenizer, &shards, precision);
        let shards = Shard::name_all(shards);
        let small = vec![
            ("config.json", pretty(&config)),
            ("generation_config.json", pretty(&tokenizer.generation())),
            ("model.safetensors.index.json", pretty(&index(&shards))),
            (
                "special_tokens_map.json",
                pretty(&tokenizer.special_tokens()),
            ),
            // One line: nobody reads it, and it is large.
            ("tokenizer.json", tokenizer.json().to_string().into_bytes()),
            ("tokenizer_config.json", pretty(&tokenizer.config())),
        ];
        Ok(Self {
            small,
            shards,
            precision,
        })
    }

    /// The commit: the same for the same file, form and small files.
    fn commit(&self, source: &[u8]) -> String {
        let mut hash = Sha1::new();
        hash.update(format!("import {FORM_VERSION} {:?}\0", self.precision));
        hash.update(source);
        for (name, content) in &self.small {
            hash.update(format!("{name} {}\0", hub::git_blob_name(content)));
        }
        hub::hex(&hash.finalize())
    }

    /// Whether every file is there with its length.
    fn is_there(&self, writer: &Writer) -> bool {
        let small = self
            .small
            .iter()
            .all(|(name, content)| writer.length_of(name) == Some(content.len() as u64));
        small && self.shards.iter().all(|shard| shard.is_there(writer))
    }

    fn write_weights(
        &self,
        writer: &Writer,
        file: &File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImportError> {
        let total = self.shards.iter().map(Shard::file_len).sum();
        let mut done = 0;
        for shard in &self.shards {
            if shard.is_there(writer) {
                done += shard.file_len();
                continue;
            }
            shard.write(writer, file, &mut |bytes| {
                done += bytes;
                progress(Progress {
                    doing: "writing weights",
                    done,
                    total,
                });
            })?;
        }
        Ok(())
    }
}

impl Shard {
    /// Names the files as mlx-lm does: `model.safetensors` alone, else numbered.
    fn name_all(shards: Shards) -> Vec<Self> {
        let count = shards.len();
        let name = |number: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        shards
            .into_iter()
            .enumerate()
            .map(|(position, items)| {
                let parts = items.iter().flat_map(|item| &item.parts);
                let tensors = parts.map(|part| (part.name.as_str(), part.dtype, &part.shape[..]));
                Self {
                    name: name(position + 1),
                    header: header_for(tensors),
                    items,
                }
            })
            .collect()
    }

    fn file_len(&self) -> u64 {
        self.header.len() as u64 + self.items.iter().map(Item::len).sum::<u64>()
    }

    fn is_there(&self, writer: &Writer) -> bool {
        writer.length_of(&self.name) == Some(self.file_len())
    }

    /// Writes the file tensor by tensor; at most one is in memory.
    fn write(
        &self,
        writer: &Writer,
        source: &File,
        wrote: &mut dyn FnMut(u64),
    ) -> Result<(), ImportError> {
        let partial = writer.partial(&self.name);
        let at = |error| write_error(&partial, error);
        let mut out = BufWriter::new(File::create(&partial).map_err(at)?);
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            wrote(bytes.len() as u64);
            out.write_all(bytes).map_err(at)
        };
        put(&self.header)?;
        for item in &self.items {
            for part in item.bytes(source)? {
                put(&part)?;
            }
        }
        out.flush().map_err(at)?;
        writer
            .adopt(&partial, &hub::hex(&hash.finalize()), &self.name)
            .map_err(at)
    }
}

/// `config.json`
fn config(shape: &Shape, tokenizer: &Tokenizer, shards: &Shards, precision: Precision) -> Value {
    let mut config = shape.config();
    for (key, id) in tokenizer.ids() {
        config.insert(key.to_owned(), json!(id));
    }
    let dtype = match precision {
        Precision::Full => "float32",
        _ => "float16",
    };
    config.insert("torch_dtype".to_owned(), dtype.into());
    if let Some(quantization) = weights::quantization(shards, precision) {
        // Twice under two names, as mlx-lm writes it.
        config.insert("quantization".to_owned(), quantization.clone());
        config.insert("quantization_config".to_owned(), quantization);
    }
    config.sort_keys();
    Value::Object(config)
}

/// `model.safetensors.index.json`, which mlx-lm writes for a single file too.
fn index(shards: &[Shard]) -> Value {
    let mut map = serde_json::Map::new();
    let mut total = 0;
    for shard in shards {
        for part in shard.items.iter().flat_map(|item| &item.parts) {
            map.insert(part.name.clone(), shard.name.as_str().into());
            total += part.len();
        }
    }
    map.sort_keys();
    json!({"metadata": {"total_size": total}, "weight_map": map})
}

/// The factors that Llama 3.1's files carry as a tensor.
fn rope_factors(
    header: &Header,
    file: &File,
    shape: &Shape,
) -> Result<Option<Vec<f32>>, ImportError> {
    let Some(tensor) = header.tensor("rope_freqs.weight") else {
        return Ok(None);
    };
    if tensor.kind != TensorType::F32 || tensor.elements() != shape.head_dim / 2 {
        let text = "rope_freqs.weight does not fit the heads".to_owned();
        return Err(ImportError::Inconsistent(text));
    }
    Ok(Some(dequantise(tensor.kind, &tensor.read(file)?)))
}

/// SHA-256 of the whole source.
fn digest(file: &File, progress: &mut dyn FnMut(Progress)) -> Result<Vec<u8>, ImportError> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    let read = GgufError::Read;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let total = file.metadata().map_err(read)?.len();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file.read(&mut buffer).map_err(read)?;
        if count == 0 {
            return Ok(hash.finalize().to_vec());
        }
        hash.update(&buffer[..count]);
        done += count as u64;
        progress(Progress {
            doing: "reading the file",
            done,
            total,
        });
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn write_error(path: &Path, error: std::io::Error) -> ImportError {
    ImportError::Write {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests;
