//! Tokens of texts, texts of tokens and the prompts of messages, without the network.

use super::{LONGEST_TOKEN, Language, Source, encode, refusal};
use crate::api::error::{ApiError, Code};
use crate::api::fields::invalid;
use crate::worker::serve::words::{Asked, Text, Token, Told};

impl Source {
    /// Answers what is asked about words; see [`super::super::Engine::words`].
    pub async fn words(&self, asked: Asked) -> Result<Told, ApiError> {
        let language = std::sync::Arc::clone(&self.language);
        let (context, vocabulary) = (self.context, self.engine.facts().vocabulary);
        let work = move || told(&*language, asked, context, vocabulary);
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(?error, "words could not be told");
            ApiError::new(Code::InternalError, "the engine failed to answer")
        })?
    }
}

fn told(
    language: &dyn Language,
    asked: Asked,
    context: u32,
    vocabulary: usize,
) -> Result<Told, ApiError> {
    let longest = context as usize * LONGEST_TOKEN;
    let render = |chat| {
        let rendered = language.render(chat);
        rendered.map_err(|error| refusal("messages", error))
    };
    match asked {
        Asked::Template(chat) => render(&chat).map(Told::Prompt),
        Asked::Detokenize(tokens) => {
            let stranger = tokens
                .iter()
                .position(|token| *token as usize >= vocabulary);
            if let Some(index) = stranger {
                let (param, found) = (format!("tokens[{index}]"), tokens[index]);
                let message =
                    format!("{param}: expected a token id below {vocabulary}, found {found}");
                return Err(invalid(param, message));
            }
            let text = language.decode(&tokens);
            text.map(Told::Text)
                .map_err(|error| refusal("tokens", error))
        }
        Asked::Tokenize { text, whole, form } => {
            let tokens = match text {
                Text::Plain(param, text) => encode(language, param, &text, whole, longest)?,
                Text::Chat(chat) => encode(language, "messages", &render(&chat)?, whole, longest)?,
            };
            let tokens = tokens.into_iter().map(|id| Token {
                id,
                bytes: language.told(id).1,
            });
            Ok(Told::Tokens(tokens.collect(), form, context))
        }
    }
}
