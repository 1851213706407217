//! Prompts that are read before anybody asks: what any chat begins with whose first message
//! is a system prompt of the file. They are kept for everybody.

use serde_json::{Map, json};

use super::Source;
use crate::api::error::{ApiError, Code};
use crate::engine::prefix::Owner;
use crate::engine::sampling::Sampling;
use crate::engine::thread::Job;
use crate::engine::thread::outlet::Said;
use crate::worker::serve::request::{Chat, Input};

impl Source {
    /// Reads a system prompt and says how many tokens are kept; see [`super::super::Engine::warm`].
    pub async fn warm(&self, text: &str) -> Result<u64, ApiError> {
        // What does not depend on the message that follows.
        let (one, other) = tokio::try_join!(self.opened(text, "1"), self.opened(text, "Z"))?;
        let Some((mut one, other)) = one.into_iter().zip(other).next() else {
            return Ok(0);
        };
        let same = one.tokens.iter().zip(&other.tokens);
        let length = same.take_while(|(one, other)| one == other).count();
        one.tokens.truncate(length);
        if length == 0 {
            return Ok(0);
        }
        let allowed = self.check(&one, Some(1))?;
        let mut sequence = self.engine.begin(Job {
            prompt: one.tokens,
            max_tokens: allowed.max_tokens,
            end_tokens: [].into(),
            sampling: Sampling::default(),
            grammar: None,
            logprobs: None,
            owner: Some(Owner::ANYBODY),
            adapter: None,
        });
        loop {
            let error = match sequence.next().await {
                Some(Said::Began { .. } | Said::Token(_)) => continue,
                Some(Said::End { .. }) => return Ok(length as u64),
                Some(Said::Failed(error)) => error.to_string(),
                None => "the engine is gone".to_owned(),
            };
            return Err(ApiError::new(Code::InternalError, error));
        }
    }

    /// A chat of this system prompt and a word, as tokens.
    async fn opened(&self, text: &str, word: &str) -> Result<Vec<super::Tokens>, ApiError> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let chat = Chat {
            messages: vec![message("system", text), message("user", word)],
            tools: None,
            kwargs: Map::new(),
            add_generation_prompt: true,
            continue_final_message: false,
        };
        self.tokens(Input::Chat(chat)).await
    }
}
