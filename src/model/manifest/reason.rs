//! Why a snapshot is not served, in words for a person, with the command that
//! mends it where there is one.

use crate::model::id::ModelId;
use crate::model::kind::{Kind, Made};
use crate::model::safetensors::SafetensorsError;

/// Why a snapshot is not served. Messages begin with the word of [`Reason::code`],
/// name files of the snapshot and no path outside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The repository has no snapshot at all.
    #[error("incomplete: it has no snapshot")]
    NoSnapshot,
    /// Several snapshots and no ref that says which is meant.
    #[error("ambiguous: it has {0} snapshots and no refs/main that says which is meant")]
    Ambiguous(usize),
    /// A branch, tag or commit that is not cached.
    #[error("not_cached: its revision {0:?} is not there")]
    Revision(String),
    /// Several files of which one was meant.
    #[error("ambiguous: it has several files that could be meant: {}", .files.join(", "))]
    Several {
        /// Their names, in order.
        files: Vec<String>,
    },
    /// Files that are missing, dangling or empty.
    #[error("incomplete: {} missing{}", list(.files), begun(.unfinished))]
    Missing {
        /// Their names, in order.
        files: Vec<String>,
        /// Downloads that were begun and not finished.
        unfinished: usize,
    },
    /// A weight file that is cut or longer than its header says.
    #[error("incomplete: {file} {error}")]
    Cut {
        /// The file.
        file: String,
        /// What its header says and what is there.
        error: SafetensorsError,
    },
    /// A weight file that is none.
    #[error("bad_weights: {file} {error}")]
    Weights {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: SafetensorsError,
    },
    /// A tensor that the index promises is not in its file.
    #[error("bad_weights: {file} has no tensor {tensor:?}, which the index places there")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A link that leads out of the repository, nowhere, or in a circle.
    #[error("unsafe_link: {file} is a link that {problem}")]
    UnsafeLink {
        /// The file, or the folder of the repository.
        file: String,
        /// Where it leads, without the path.
        problem: &'static str,
    },
    /// It comes with code of its own.
    #[error("untrusted_code: config.json asks for code that comes with the model ({0})")]
    UntrustedCode(String),
    /// A small file that is not what it should be.
    #[error("bad_file: {file} {problem}")]
    BadFile {
        /// The file.
        file: String,
        /// A phrase that goes after its name.
        problem: String,
    },
    /// An architecture that the engine does not have.
    #[error("unsupported: its architecture {found:?} is not supported{}; supported are {}", .purpose, .supported.join(", "))]
    Architecture {
        /// `model_type` of `config.json`.
        found: String,
        /// What it would be for, where that is not what most are for: a phrase that goes
        /// after "supported".
        purpose: &'static str,
        /// What is.
        supported: Vec<String>,
    },
}

impl Reason {
    /// One word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSnapshot | Self::Missing { .. } | Self::Cut { .. } => "incomplete",
            Self::Ambiguous(_) | Self::Several { .. } => "ambiguous",
            Self::Revision(_) => "not_cached",
            Self::Weights { .. } | Self::Tensor { .. } => "bad_weights",
            Self::UnsafeLink { .. } => "unsafe_link",
            Self::UntrustedCode(_) => "untrusted_code",
            Self::BadFile { .. } => "bad_file",
            Self::Architecture { .. } => "unsupported",
        }
    }

    /// What a person can do about it, for a model of this id at the revision that was
    /// asked for.
    pub fn remedy(&self, id: &ModelId, revision: Option<&str>) -> Option<String> {
        let at = revision.map_or_else(String::new, |revision| format!(" --revision {revision}"));
        match self {
            Self::NoSnapshot | Self::Missing { .. } | Self::Cut { .. } => {
                Some(format!("hf download {id}{at}"))
            }
            Self::Weights { .. } | Self::Tensor { .. } | Self::BadFile { .. } => {
                Some(format!("hf download {id}{at} --force-download"))
            }
            Self::Revision(revision) => Some(format!("hf download {id} --revision {revision}")),
            Self::Ambiguous(_) => Some(format!(
                "give models.{id}.revision one of the commits, or run hf download {id}"
            )),
            Self::Several { .. } => Some(format!("give the entry of {id} a file: one of them")),
            Self::UnsafeLink { .. } => Some(
                "remove the link; a model outside the cache is served by an entry with path"
                    .to_owned(),
            ),
            Self::UntrustedCode(_) => Some(format!(
                "give {id} an entry with trust_remote_code: true (its code is not run here)"
            )),
            Self::Architecture { .. } => None,
        }
    }
}

/// Names for a message: at most five, then how many more.
fn list(files: &[String]) -> String {
    let shown = files.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let verb = if files.len() == 1 { "is" } else { "are" };
    match files.len().saturating_sub(5) {
        0 => format!("{shown} {verb}"),
        more => format!("{shown} and {more} more {verb}"),
    }
}

/// What a model of this kind would be for, as [`Reason::Architecture`] says it.
pub(super) fn purpose(kind: Kind, made: Option<Made>) -> &'static str {
    match (kind, made) {
        (Kind::Chat, _) => "",
        (Kind::Embeddings, _) => " for embeddings",
        (Kind::Rerank, Some(Made::Scores)) => " for ranking by a head that scores pairs",
        (Kind::Rerank, _) => " for ranking",
    }
}

fn begun(count: &usize) -> String {
    match count {
        0 => String::new(),
        1 => " (one download is not finished)".to_owned(),
        many => format!(" ({many} downloads are not finished)"),
    }
}
