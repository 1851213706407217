//! Keys: what each may do, their making, their comparison. Only hashes are kept;
//! the text of a key is shown once, when it is made. Their file, the keys of the
//! environment and the keys in force have files of their own below this one.

use std::sync::Arc;

use rand::TryRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::secret::Secret;

mod error;
pub mod file;
pub mod given;
pub mod ring;
mod scope;

pub use error::KeyError;
pub use ring::KeyRing;
pub use scope::{Scope, seconds};

/// Shown before a key of each class, so that a person sees what it opens.
const INFERENCE_PREFIX: &str = "rh-inference-";
const MANAGEMENT_PREFIX: &str = "rh-management-";

/// What ids begin with, and names do not.
const ID_PREFIX: &str = "key-";

/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// Longest name, bytes.
const LONGEST_NAME: usize = 64;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What logs and the audit name: the beginning of the hash.
    pub id: String,
    /// What the owner calls it; of a key of the environment, its variable.
    pub name: String,
    /// What it opens.
    pub class: KeyClass,
    /// SHA-256 of the key's text, hexadecimal. A key is 256 random bits, so no
    /// slow hash is needed.
    pub sha256: String,
    /// What it may do within its class.
    #[serde(default)]
    pub scope: Arc<Scope>,
    /// Whether it comes from the environment, not from the file.
    #[serde(skip)]
    pub given: bool,
}

impl Key {
    /// A key with this text.
    fn of(text: &str, name: Option<&str>, class: KeyClass, scope: Scope) -> Self {
        let sha256 = hexadecimal(&Sha256::digest(text));
        let id = format!("{ID_PREFIX}{}", &sha256[..8]);
        Self {
            name: name.map_or_else(|| id.clone(), str::to_owned),
            id,
            class,
            sha256,
            scope: Arc::new(scope),
            given: false,
        }
    }

    /// What a person is told of it: everything but the hash.
    pub fn told(&self) -> serde_json::Value {
        let mut told = serde_json::json!({"id": self.id, "name": self.name, "class": self.class});
        if let Ok(serde_json::Value::Object(scope)) = serde_json::to_value(&*self.scope)
            && let Some(told) = told.as_object_mut()
        {
            told.extend(scope);
        }
        told
    }
}

/// All keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    keys: Vec<Key>,
}

impl Keys {
    /// Makes a key, keeps its hash and answers it with its text. Without a name it
    /// is called by its id.
    pub fn make(
        &mut self,
        class: KeyClass,
        name: Option<&str>,
        scope: Scope,
    ) -> Result<(Key, Secret), KeyError> {
        if let Some(name) = name {
            self.check_name(name)?;
        }
        if let Some(field) = scope.misplaced(class) {
            return Err(KeyError::Misplaced(field));
        }
        let mut random = [0u8; 32];
        rand::rngs::SysRng
            .try_fill_bytes(&mut random)
            .map_err(|error| KeyError::Random(error.to_string()))?;
        let prefix = match class {
            KeyClass::Inference => INFERENCE_PREFIX,
            KeyClass::Management => MANAGEMENT_PREFIX,
        };
        let text = format!("{prefix}{}", hexadecimal(&random));
        let key = Key::of(&text, name, class, scope);
        self.keys.push(key.clone());
        Ok((key, Secret::new(text)))
    }

    fn check_name(&self, name: &str) -> Result<(), KeyError> {
        let fits = (1..=LONGEST_NAME).contains(&name.len())
            && !name.starts_with(ID_PREFIX)
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !fits {
            return Err(KeyError::Name(name.to_owned()));
        }
        match self.keys.iter().any(|key| key.name == name) {
            true => Err(KeyError::NameTaken(name.to_owned())),
            false => Ok(()),
        }
    }

    /// Removes the key with this id or name, and answers it.
    pub fn revoke(&mut self, id_or_name: &str) -> Result<Key, KeyError> {
        let is_meant = |key: &Key| key.id == id_or_name || key.name == id_or_name;
        let mut found = (0..self.keys.len()).filter(|&index| is_meant(&self.keys[index]));
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(self.keys.remove(index)),
            (Some(_), Some(_)) => Err(KeyError::Several(id_or_name.to_owned())),
            (None, _) => Err(KeyError::Unknown(id_or_name.to_owned())),
        }
    }

    /// These and the keys of the environment. No two may have the same text.
    pub fn joined(mut self, given: &[Key]) -> Result<Self, KeyError> {
        self.keys.extend_from_slice(given);
        self.check_distinct()?;
        Ok(self)
    }

    /// Whether no two keys have the same text; one would have the rights of both.
    fn check_distinct(&self) -> Result<(), KeyError> {
        for (index, key) in self.keys.iter().enumerate() {
            let twin = self.keys[..index]
                .iter()
                .find(|other| other.sha256 == key.sha256);
            if let Some(twin) = twin {
                return Err(KeyError::Equal(twin.name.clone(), key.name.clone()));
            }
        }
        Ok(())
    }

    /// Whether there is a key of this class. One that has expired counts: what it
    /// closed stays closed.
    pub fn any(&self, class: KeyClass) -> bool {
        self.keys.iter().any(|key| key.class == class)
    }

    /// The key with this text. Digests of fixed length are compared in constant
    /// time, and all of them are.
    pub fn find(&self, text: &str) -> Option<&Key> {
        let digest = digits(&Sha256::digest(text).into());
        let mut found = None;
        for key in &self.keys {
            if bool::from(is_same(key.sha256.as_bytes(), &digest)) {
                found = Some(key);
            }
        }
        found
    }

    /// All keys, in the order they were made; those of the environment last.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits: Vec<u8> = bytes.iter().flat_map(|&byte| pair(byte)).collect();
    // They are digits, whatever the bytes.
    String::from_utf8(digits).unwrap_or_default()
}

/// The same of a digest, which is made for each request with a key.
fn digits(digest: &[u8; DIGITS / 2]) -> [u8; DIGITS] {
    let mut digits = [0; DIGITS];
    let (pairs, _) = digits.as_chunks_mut();
    for (two, &byte) in pairs.iter_mut().zip(digest) {
        *two = pair(byte);
    }
    digits
}

fn pair(byte: u8) -> [u8; 2] {
    const OF: &[u8; 16] = b"0123456789abcdef";
    [OF[usize::from(byte >> 4)], OF[usize::from(byte & 15)]]
}

/// Whether what is kept of a key is this digest, in a time that tells nothing of where
/// they differ. Numbers of sixteen digits' bytes are compared, since bytes one by one take
/// most of the time that the check of a key takes.
fn is_same(kept: &[u8], digest: &[u8; DIGITS]) -> Choice {
    let (kept, rest) = kept.as_chunks();
    let (digest, _) = digest.as_chunks();
    let is_as_long = kept.len() == digest.len() && rest.is_empty();
    let each = kept.iter().zip(digest);
    each.fold(
        Choice::from(u8::from(is_as_long)),
        |is_same, (one, other)| {
            is_same & u128::from_ne_bytes(*one).ct_eq(&u128::from_ne_bytes(*other))
        },
    )
}

#[cfg(test)]
mod tests;
