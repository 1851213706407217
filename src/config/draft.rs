//! `draft`: who guesses the next tokens of a model's answers. Pure.

use super::{Config, LoadSettings, Source};
use crate::model::id::Name;

/// The word for a draft out of the text itself.
pub const PROMPT: &str = "prompt";

/// Who guesses the next tokens of a model's answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Draft {
    /// `prompt`: they are looked up in the prompt and in what was said.
    Prompt,
    /// A smaller model: an entry, an exact alias, or a cached repository.
    Model(Name),
}

impl Draft {
    /// The word in the file.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Prompt => PROMPT,
            Self::Model(name) => name.as_str(),
        }
    }
}

impl Config {
    /// Where the weights of a draft model come from, and what its snapshot is held
    /// against; nothing if no model has that name.
    pub fn draft_source(&self, name: &Name) -> Option<(Source, LoadSettings)> {
        let mut entries = self.models.iter();
        let named = |own: &str| own == name.as_str();
        if let Some(entry) = entries.find(|entry| entry.exact_names().any(named)) {
            let load = LoadSettings {
                engine: entry.load.engine.clone(),
                trust_remote_code: entry.load.trust_remote_code,
                ..LoadSettings::default()
            };
            return Some((entry.source.clone(), load));
        }
        let source = Source::Repository {
            id: name.as_id()?,
            revision: None,
        };
        Some((source, LoadSettings::default()))
    }
}
