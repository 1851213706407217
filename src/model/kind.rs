//! What a model is for: which paths it answers. Told by its snapshot alone, in
//! this one place; the router refuses by it, and the worker loads by it.

use serde::Serialize;

use crate::config::engine::Use;

/// A kind of model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It makes text: chat and completions.
    #[default]
    Chat,
    /// It makes a vector of a text.
    Embeddings,
}

/// The architectures that the embedded engine runs, as `model_type` in
/// `config.json` names them, and what each is for.
pub type Architectures = &'static [(&'static str, Kind)];

impl Kind {
    /// What a model of this kind is asked.
    pub fn uses(self) -> &'static [Use] {
        match self {
            Kind::Chat => &[Use::Chat, Use::Completions],
            Kind::Embeddings => &[Use::Embeddings],
        }
    }

    /// The architectures that make a model of this kind. What makes text makes
    /// vectors too, without its head.
    pub fn made_by(
        self,
        architectures: Architectures,
    ) -> impl Iterator<Item = &'static str> + Clone {
        let known = architectures.iter();
        let makes = move |of: Kind| self == Kind::Embeddings || of == self;
        known
            .filter(move |(_, of)| makes(*of))
            .map(|(name, _)| *name)
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Embeddings => "embeddings",
        }
    }

    /// The kind of a snapshot by the `model_type` of its `config.json`, and by
    /// whether it has a `modules.json`, in which sentence-transformers keeps how the
    /// vector of a text is made.
    pub fn of(model_type: &str, has_modules: bool, architectures: Architectures) -> Self {
        let only = |kind| {
            let mut known = architectures.iter().filter(|(name, _)| *name == model_type);
            known.clone().next().is_some() && known.all(|(_, of)| *of == kind)
        };
        match has_modules || only(Kind::Embeddings) {
            true => Kind::Embeddings,
            false => Kind::Chat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_what_it_is_for() {
        let known: Architectures = &[("llama", Kind::Chat), ("bert", Kind::Embeddings)];
        let check = |model_type: &str, has_modules: bool, expected: Kind| {
            assert_eq!(Kind::of(model_type, has_modules, known), expected);
        };
        check("llama", false, Kind::Chat);
        check("llama", true, Kind::Embeddings);
        check("bert", false, Kind::Embeddings);
        check("unheard-of", false, Kind::Chat);
        check("scripted", true, Kind::Embeddings);
        assert!(Kind::Chat.made_by(known).eq(["llama"]));
        assert!(Kind::Embeddings.made_by(known).eq(["llama", "bert"]));
    }
}
