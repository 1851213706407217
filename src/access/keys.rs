//! Keys: their file, their making, their comparison. Only hashes are kept; the
//! text of a key is shown once, when it is made.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shown before a key of each class, so that a person sees what it opens.
const INFERENCE_PREFIX: &str = "rh-inference-";
const MANAGEMENT_PREFIX: &str = "rh-management-";

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyClass {
    /// Using models.
    Inference,
    /// Looking at and changing the service.
    Management,
}

impl KeyClass {
    /// The word in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyClass::Inference => "inference",
            KeyClass::Management => "management",
        }
    }
}

/// One key, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// What logs and the audit name: the beginning of the hash.
    pub id: String,
    /// What the owner calls it.
    pub name: String,
    /// What it opens.
    pub class: KeyClass,
    /// SHA-256 of the key's text, hexadecimal. A key is 256 random bits, so no
    /// slow hash is needed.
    pub sha256: String,
}

/// All keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    keys: Vec<Key>,
}

/// Why keys could not be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others may read the file.
    #[error("{} may be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
    },
    /// The file is not what this program writes.
    #[error("{} is not a keys file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The system has no randomness to give.
    #[error("no random bytes: {0}")]
    Random(String),
}

impl Keys {
    /// Reads the keys file; no file means no keys. A file that others may read is refused.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(io(error)),
        };
        let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::TooOpen {
                path: path.to_owned(),
                mode,
            });
        }
        serde_json::from_str(&text).map_err(|error| KeyError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Writes the keys file, 0600, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|error| io(error.into()))?;
        let unfinished = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(io)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io)?;
        fs::rename(&unfinished, path).map_err(io)
    }

    /// Makes a key, keeps its hash and answers its text.
    pub fn make(&mut self, class: KeyClass, name: &str) -> Result<String, KeyError> {
        let mut random = [0u8; 32];
        rand::rngs::SysRng
            .try_fill_bytes(&mut random)
            .map_err(|error| KeyError::Random(error.to_string()))?;
        let prefix = match class {
            KeyClass::Inference => INFERENCE_PREFIX,
            KeyClass::Management => MANAGEMENT_PREFIX,
        };
        let text = format!("{prefix}{}", hexadecimal(&random));
        let sha256 = hexadecimal(&Sha256::digest(&text));
        let id = format!("key-{}", &sha256[..8]);
        self.keys.push(Key {
            id,
            name: name.to_owned(),
            class,
            sha256,
        });
        Ok(text)
    }

    /// Removes the key with this id or name. Answers whether there was one.
    pub fn revoke(&mut self, id_or_name: &str) -> bool {
        let before = self.keys.len();
        self.keys
            .retain(|key| key.id != id_or_name && key.name != id_or_name);
        self.keys.len() < before
    }

    /// Whether there is a key of this class.
    pub fn any(&self, class: KeyClass) -> bool {
        self.keys.iter().any(|key| key.class == class)
    }

    /// The key with this text. Digests of fixed length are compared in constant
    /// time, and all of them are.
    pub fn find(&self, text: &str) -> Option<&Key> {
        let digest = hexadecimal(&Sha256::digest(text));
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.sha256.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(key);
            }
        }
        found
    }

    /// All keys, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_file_without_their_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/keys.json");
        let mut keys = Keys::read(&path).expect("no file is no keys");
        let text = keys.make(KeyClass::Management, "laptop").expect("a key");
        keys.write(&path).expect("written");
        let again = Keys::read(&path).expect("read");
        assert_eq!(again, keys);
        assert_eq!(
            again.find(&text).map(|key| key.name.as_str()),
            Some("laptop")
        );
        assert!(again.find(&text[..text.len() - 1]).is_none());
        assert!(!fs::read_to_string(&path).expect("text").contains(&text));
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        Keys::default().write(&path).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
        assert!(matches!(
            Keys::read(&path),
            Err(KeyError::TooOpen { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_revoked_key_is_gone() {
        let mut keys = Keys::default();
        let text = keys.make(KeyClass::Inference, "old").expect("a key");
        assert!(keys.revoke("old"));
        assert!(!keys.revoke("old"));
        assert!(keys.find(&text).is_none() && !keys.any(KeyClass::Inference));
    }
}
