//! One piece as a safetensors file: its numbers, then its tokens, the key of the piece
//! ahead of it, and a digest of all bytes before that (XXH3 of 128 bits: it is to show damage, not
//! to withstand anybody, who could write a digest too). It is written beside its place
//! and moved there, so it is there whole or not at all; what a lost supply of power or a
//! bad disk did to it, the digest shows. So nothing waits for the disk (`fsync`).

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use twox_hash::xxhash3_128::Hasher;

use super::{Key, Tensor};
use crate::model::safetensors::{Dtype, Header, SafetensorsError, TensorInfo, header_for};

/// Most tokens of a piece that is read.
const MOST_TOKENS: u64 = 4096;

/// Bytes that are read at once.
const STEP: usize = 1 << 18;

/// Bytes of the digest.
const DIGEST: u64 = 16;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    System(#[from] io::Error),
    /// It is no safetensors file.
    #[error("{0}")]
    Format(#[from] SafetensorsError),
    /// It is one, of something else.
    #[error("{0:?} is missing or is not what it has to be")]
    Tensor(&'static str),
    /// Its bytes are not those that were written.
    #[error("its bytes are not those that were written")]
    Damaged,
}

/// What is known of a piece without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The piece ahead of it, or the root of its caller.
    pub parent: Key,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// Writes a piece, 0600, as used at `used`. Its folder has to be there.
///
/// # Errors
/// Those of the system; then there is no file of this name.
pub fn write(path: &Path, head: &Head, tensors: &[Tensor], used: SystemTime) -> io::Result<()> {
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let written = write_to(&unfinished, head, tensors, used);
    let moved = written.and_then(|()| fs::rename(&unfinished, path));
    if moved.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    moved
}

fn write_to(path: &Path, head: &Head, tensors: &[Tensor], used: SystemTime) -> io::Result<()> {
    let tokens: Vec<u8> = head
        .tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect();
    let lengths = (
        [head.tokens.len() as u64],
        [head.parent.0.len() as u64],
        [DIGEST],
    );
    let own = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.dtype, tensor.shape.as_slice()));
    let header = header_for(own.chain([
        ("tokens", Dtype::U32, lengths.0.as_slice()),
        ("parent", Dtype::U8, lengths.1.as_slice()),
        ("digest", Dtype::U8, lengths.2.as_slice()),
    ]));
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut digest = Hasher::new();
    let own = tensors.iter().map(|tensor| tensor.bytes.as_slice());
    let parts = [header.as_slice()].into_iter().chain(own);
    for part in parts.chain([tokens.as_slice(), head.parent.0.as_slice()]) {
        digest.write(part);
        file.write_all(part)?;
    }
    file.write_all(&digest.finish_128().to_le_bytes())?;
    file.set_times(FileTimes::new().set_modified(used))
}

/// What a file says of its piece; the numbers are not looked at.
///
/// # Errors
/// It cannot be read, or its form shows that it is damaged or something else.
pub fn head(path: &Path) -> Result<Head, Bad> {
    let file = File::open(path)?;
    let header = Header::read(&file, file.metadata()?.len())?;
    let tensor = |name: &'static str, dtype: Dtype| {
        let found = header.tensors.iter().find(|tensor| tensor.name == name);
        let fits = |tensor: &&TensorInfo| tensor.dtype == dtype && tensor.shape.len() == 1;
        found.filter(fits).ok_or(Bad::Tensor(name))
    };
    let (tokens, parent) = (tensor("tokens", Dtype::U32)?, tensor("parent", Dtype::U8)?);
    let digest = tensor("digest", Dtype::U8)?;
    if digest.len != DIGEST || digest.offset + DIGEST != header.file_len {
        return Err(Bad::Tensor("digest"));
    }
    if tokens.shape[0] == 0 || tokens.shape[0] > MOST_TOKENS {
        return Err(Bad::Tensor("tokens"));
    }
    let mut key = Key([0; 16]);
    if parent.len != key.0.len() as u64 {
        return Err(Bad::Tensor("parent"));
    }
    file.read_exact_at(&mut key.0, parent.offset)?;
    let mut bytes = vec![0; tokens.shape[0] as usize * 4];
    file.read_exact_at(&mut bytes, tokens.offset)?;
    let number = |four: &[u8; 4]| u32::from_le_bytes(*four);
    let (fours, _) = bytes.as_chunks::<4>();
    Ok(Head {
        parent: key,
        tokens: fours.iter().map(number).collect(),
    })
}

/// Reads all of a file and compares it with its digest. Answers how many bytes it has.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn verify(path: &Path) -> Result<u64, Bad> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut left = length.checked_sub(DIGEST).ok_or(Bad::Damaged)?;
    let mut digest = Hasher::new();
    let mut room = vec![0; STEP];
    while left > 0 {
        let most = STEP.min(usize::try_from(left).unwrap_or(STEP));
        let count = match file.read(&mut room[..most])? {
            0 => return Err(Bad::Damaged),
            count => count,
        };
        digest.write(&room[..count]);
        left -= count as u64;
    }
    let mut told = [0; DIGEST as usize];
    file.read_exact(&mut told)?;
    match digest.finish_128().to_le_bytes() == told {
        true => Ok(length),
        false => Err(Bad::Damaged),
    }
}

/// Notes that a file was used.
pub fn touch(path: &Path, used: SystemTime) -> io::Result<()> {
    File::open(path)?.set_times(FileTimes::new().set_modified(used))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn piece() -> (Head, Vec<Tensor>) {
        let head = Head {
            parent: Key([7; 16]),
            tokens: vec![1, 2, 70_000],
        };
        let tensor = |name: &str, first: u8| Tensor {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![2, 1, 3, 2],
            bytes: (0..48).map(|byte| byte + first).collect(),
        };
        (head, vec![tensor("layers.0", 0), tensor("layers.1", 100)])
    }

    #[test]
    fn a_piece_is_read_as_it_was_written_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0-3-00.safetensors");
        let (head, tensors) = piece();
        let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        write(&path, &head, &tensors, used).expect("written");
        assert_eq!(super::head(&path).expect("a head"), head);
        let about = fs::metadata(&path).expect("there");
        assert_eq!(verify(&path).expect("whole"), about.len());
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        assert_eq!(about.modified().expect("a time"), used);
        let later = used + std::time::Duration::from_secs(5);
        touch(&path, later).expect("touched");
        assert_eq!(
            fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("a time"),
            later
        );
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
        let header = Header::open(&path).expect("safetensors");
        assert_eq!(header.tensors[1].name, "layers.1");
        let nowhere = dir.path().join("none/0-3-00.safetensors");
        assert!(write(&nowhere, &head, &tensors, used).is_err());
    }

    proptest! {
        #[test]
        fn d20_no_damage_passes(at in 0usize..2000, xor in 1u8..=255, cut in any::<bool>()) {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("piece");
            let (head, tensors) = piece();
            write(&path, &head, &tensors, SystemTime::UNIX_EPOCH).expect("written");
            let mut bytes = fs::read(&path).expect("there");
            let at = at % bytes.len();
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= xor,
            }
            fs::write(&path, &bytes).expect("written");
            prop_assert!(verify(&path).is_err());
            // The head may be whole still; it never costs more than an error.
            drop(super::head(&path));
        }

        #[test]
        fn d20_strange_bytes_are_no_piece(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("piece");
            fs::write(&path, &bytes).expect("written");
            prop_assert!(super::head(&path).is_err() && verify(&path).is_err());
        }
    }
}
