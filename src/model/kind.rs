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

/// What the files beside the weights make of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Vectors of texts.
    Vectors,
    /// Verdicts by the logits of tokens.
    Verdicts,
    /// Scores of pairs of texts by a head for that alone.
    Scores,
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
    /// vectors too, without its head, and says yes or no with it; heads that score pairs
    /// are on what makes vectors.
    pub fn made_by(
        self,
        made: Option<Made>,
        architectures: Architectures,
    ) -> impl Iterator<Item = &'static str> + Clone {
        let known = architectures.iter();
        let makes = move |of: Kind| match (self, made) {
            (Kind::Embeddings, _) => true,
            (Kind::Rerank, Some(Made::Scores)) => of == Kind::Embeddings,
            (Kind::Chat | Kind::Rerank, _) => of == Kind::Chat,
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
    /// what its other files make of it, if they say.
    pub fn of(model_type: &str, made: Option<Made>, architectures: Architectures) -> Self {
        let only = |kind| {
            let mut known = architectures.iter().filter(|(name, _)| *name == model_type);
            known.clone().next().is_some() && known.all(|(_, of)| *of == kind)
        };
        match made {
            Some(Made::Vectors) => Kind::Embeddings,
            Some(Made::Verdicts | Made::Scores) => Kind::Rerank,
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
        let check = |model_type: &str, made: Option<Made>, expected: Kind| {
            assert_eq!(Kind::of(model_type, made, known), expected);
        };
        check("llama", None, Kind::Chat);
        check("llama", Some(Made::Vectors), Kind::Embeddings);
        check("llama", Some(Made::Verdicts), Kind::Rerank);
        check("bert", Some(Made::Scores), Kind::Rerank);
        check("bert", None, Kind::Embeddings);
        check("unheard-of", None, Kind::Chat);
        check("scripted", Some(Made::Vectors), Kind::Embeddings);
        let check = |kind: Kind, made: Option<Made>, expected: &[&str]| {
            assert!(kind.made_by(made, known).eq(expected.iter().copied()));
        };
        check(Kind::Rerank, Some(Made::Verdicts), &["llama"]);
        check(Kind::Rerank, Some(Made::Scores), &["bert"]);
        check(Kind::Chat, None, &["llama"]);
        check(Kind::Embeddings, None, &["llama", "bert"]);
    }
}
