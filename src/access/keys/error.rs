//! Why keys could not be read, made, revoked or kept.

use std::path::PathBuf;

/// What went wrong. No message holds the text of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others may read or change the file.
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
        /// What is wrong with it.
        reason: String,
    },
    /// The keys file was there and is not any more; an owner empties it by `revoke`.
    #[error("{} is gone; the keys that were in it stay in force", .0.display())]
    Gone(PathBuf),
    /// The file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The system has no randomness to give.
    #[error("no random bytes: {0}")]
    Random(String),
    /// A name outside the grammar.
    #[error(
        "expected a name of 1 to 64 letters, digits and . _ - that does not begin with key-, found {0:?}"
    )]
    Name(String),
    /// A second key of one name.
    #[error("there is already a key named {0}; revoke it first or take another name")]
    NameTaken(String),
    /// A limit on the use of models, for a key that uses none.
    #[error("{0} is for inference keys; a management key uses no models")]
    Misplaced(&'static str),
    /// Nothing to revoke.
    #[error("there is no key with the id or name {0:?}")]
    Unknown(String),
    /// A name that an older version gave to several keys.
    #[error("several keys are named {0:?}; revoke them by their ids")]
    Several(String),
    /// A key of the environment cannot be revoked here.
    #[error("{0} comes from the environment; it goes when the server starts without it")]
    Given(String),
    /// Two settings with the same text.
    #[error("{0} and {1} are the same key; each needs one of its own")]
    Equal(String, String),
    /// A key of the environment that is easy to guess or to get wrong.
    #[error("{setting}: expected {expected}")]
    Weak {
        /// The variable.
        setting: &'static str,
        /// What a key is like.
        expected: &'static str,
    },
    /// A key and the file of a key.
    #[error("{0} and {1} are both set; keep one of them")]
    Both(&'static str, &'static str),
    /// The file that a variable names cannot be used.
    #[error("{setting}: {reason}")]
    GivenFile {
        /// The variable.
        setting: &'static str,
        /// The cause.
        reason: String,
    },
}
