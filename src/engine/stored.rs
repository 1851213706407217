//! Prompts on disk: pieces of what a network worked out for prompts, written when a
//! model goes and mapped again when a prompt that begins with them comes. A cache: what
//! is missing, damaged or of another engine is removed and worked out anew.
//!
//! One safetensors file for each piece ([`file`]), in folders of their owner alone:
//!
//! ```text
//! prompts/salt                                   random; without it nothing here is found
//! prompts/ORG+NAME/                              a model
//!   VERSION-FORM/                                engine and snapshot; see `Place::form`
//!     CALLER/                                    salted digest of the caller's mark
//!       FROM-TOKENS-KEY.safetensors              a piece
//! ```
//!
//! The key is a digest of all that its numbers depend on, so a file that is there is
//! never written again. Which pieces go when there is too little room is decided in
//! [`room`], which pieces a prompt begins with in [`index`]; [`store`] does what a worker
//! needs and [`folder`] what the router does.

pub mod file;
pub mod folder;
pub mod index;
pub mod room;
pub mod store;

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::model::safetensors::Dtype;
use room::Quota;

/// Where a worker keeps the prompts of its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder of the model; that of all models is above it.
    pub folder: PathBuf,
    /// How much may lie there.
    pub quota: Quota,
    /// What the numbers depend on beside the network: the snapshot's files and how it
    /// was loaded.
    pub form: String,
}

/// Numbers of a piece, as they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Its number format.
    pub dtype: Dtype,
    /// Its shape, slowest dimension first.
    pub shape: Vec<u64>,
    /// Its numbers in the byte order of the format, which is little-endian.
    pub bytes: Vec<u8>,
}

/// What a piece is found by: half a digest of the engine, the caller, and all tokens up
/// to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// Half a digest of these parts, of which only the last may vary in length.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&digest.finalize()[..16]);
        Self(half)
    }

    /// 32 hexadecimal digits.
    pub fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
