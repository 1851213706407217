//! Names and ids. A [`Name`] is what a request may say; a [`ModelId`] is what
//! may touch the cache. Both are compared byte for byte.

use std::fmt;
use std::sync::Arc;

/// Longest name and longest id, bytes: the hub's own limit.
pub const LONGEST: usize = 96;

/// What a request may say: 1–96 bytes of `[A-Za-z0-9._:/-]`, no empty segment, none that
/// begins with a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// A repository id, `org/repo`: the only thing that may touch the cache.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(Arc<str>);

/// Why a text is no name or no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("a model name cannot be empty")]
    Empty,
    /// Over the limit; the length is told, the text is not.
    #[error("a model name has at most {LONGEST} bytes, this one has {0}")]
    TooLong(usize),
    /// A byte outside the grammar.
    #[error("a model name has only letters, digits and . _ : / -, found {0}")]
    Character(String),
    /// An empty part between slashes, or one that begins with a dot.
    #[error("a model name cannot have an empty part or one that begins with a dot")]
    Segment,
    /// A name that is well formed but no repository id.
    #[error("expected a repository id of the form org/repo, found {0:?}")]
    NotRepository(String),
}

impl Name {
    /// Checks the grammar of names.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > LONGEST {
            return Err(IdError::TooLong(text.len()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        if let Some(stranger) = text.chars().find(|&c| !fits(c)) {
            return Err(IdError::Character(format!("{stranger:?}")));
        }
        // A leading dot covers `.` and `..` and every hidden file.
        if text
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(IdError::Segment);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id this name spells, if it spells one.
    pub fn as_id(&self) -> Option<ModelId> {
        ModelId::parse(&self.0).ok()
    }
}

impl ModelId {
    /// Checks the grammar of ids: `org "/" repo`, each part beginning and ending
    /// with a letter or digit (or beginning with `_`), letters, digits, `-`, `_`
    /// and `.` between, never `--`, `..` or a `.git`, `.lock` or `.incomplete` ending.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() > LONGEST {
            return Err(IdError::TooLong(text.len()));
        }
        match text.split_once('/') {
            Some((org, repo)) if is_part(org) && is_part(repo) => Ok(Self(text.into())),
            _ => Err(IdError::NotRepository(text.chars().take(LONGEST).collect())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of the repository inside a cache: `models--org--repo`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replacen('/', "--", 1))
    }

    /// The id that a cache folder stands for.
    pub fn from_folder(folder: &str) -> Option<Self> {
        let (org, repo) = folder.strip_prefix("models--")?.split_once("--")?;
        Self::parse(&format!("{org}/{repo}")).ok()
    }
}

/// One half of an id.
fn is_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    (first.is_ascii_alphanumeric() || first == b'_')
        && last.is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && !part.contains("--")
        && !part.contains("..")
        && ![".git", ".lock", ".incomplete"]
            .iter()
            .any(|end| part.ends_with(end))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests;
