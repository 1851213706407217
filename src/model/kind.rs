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
    /// It says how well a document fits a query.
    Rerank,
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
            Kind::Rerank => &[Use::Rerank],
        }
    }

    /// The architectures that make a model of this kind. What makes text makes
    /// vectors too, without its head, and says yes or no with it.
    pub fn made_by(
        self,
        architectures: Architectures,
    ) -> impl Iterator<Item = &'static str> + Clone {
        let known = architectures.iter();
        let makes = move |of: Kind| match self {
            Kind::Embeddings => true,
            Kind::Chat | Kind::Rerank => of == Kind::Chat,
        };
        known
            .filter(move |(_, of)| makes(*of))
            .map(|(name, _)| *name)
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Chat => "chat",
            Kind::Embeddings => "embeddings",
            Kind::Rerank => "rerank",
        }
    }

    /// The kind of a snapshot by the `model_type` of its `config.json`, and by
    /// what its `modules.json` makes of it, if it has one.
    pub fn of(model_type: &str, modules: Option<Kind>, architectures: Architectures) -> Self {
        let only = |kind| {
            let mut known = architectures.iter().filter(|(name, _)| *name == model_type);
            known.clone().next().is_some() && known.all(|(_, of)| *of == kind)
        };
        match modules {
            Some(kind) => kind,
            None if only(Kind::Embeddings) => Kind::Embeddings,
            None => Kind::Chat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_what_it_is_for() {
        let known: Architectures = &[("llama", Kind::Chat), ("bert", Kind::Embeddings)];
        let check = |model_type: &str, modules: Option<Kind>, expected: Kind| {
            assert_eq!(Kind::of(model_type, modules, known), expected);
        };
        check("llama", None, Kind::Chat);
        check("llama", Some(Kind::Embeddings), Kind::Embeddings);
        check("llama", Some(Kind::Rerank), Kind::Rerank);
        check("bert", None, Kind::Embeddings);
        check("unheard-of", None, Kind::Chat);
        check("scripted", Some(Kind::Embeddings), Kind::Embeddings);
        assert!(Kind::Rerank.made_by(known).eq(["llama"]));
        assert!(Kind::Chat.made_by(known).eq(["llama"]));
        assert!(Kind::Embeddings.made_by(known).eq(["llama", "bert"]));
    }
}
