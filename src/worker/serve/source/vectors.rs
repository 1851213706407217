//! The embedded engine as a source of vectors: texts to tokens here, tokens to
//! vectors on the encoder's thread.

use std::sync::Arc;

use super::Status;
use super::text::{LONGEST_TOKEN, LanguageError, refusal};
use crate::api::error::{ApiError, Code};
use crate::engine::EngineError;
use crate::engine::encoder::{Handle, Text};
use crate::engine::thread::Kept;
use crate::model::sentence::Recipe;
use crate::worker::serve::embeddings::{Asked, Embedded};

/// The tokens of a text, with those that the model expects around it.
pub type Encode = dyn Fn(&str) -> Result<Vec<u32>, LanguageError> + Send + Sync;

/// The embedded engine, with an encoder.
pub struct Source {
    encoder: Handle,
    encode: Arc<Encode>,
    recipe: Recipe,
    context: u32,
}

impl Source {
    /// A source of vectors of texts of at most `context` tokens.
    pub fn new(encoder: Handle, encode: Arc<Encode>, recipe: Recipe, context: u32) -> Self {
        Self {
            encoder,
            encode,
            recipe,
            context,
        }
    }

    /// The vectors of the texts of a request; see [`super::Engine::embed`].
    pub async fn embed(&self, asked: Asked) -> Result<Embedded, ApiError> {
        let size = asked.size(self.encoder.facts().size)?;
        let texts = self.tokens(asked).await?;
        let tokens = texts.iter().map(|text| text.tokens.len() as u64).sum();
        let mut vectors = self.encoder.encode(texts).await.map_err(failed)?;
        for vector in &mut vectors {
            self.recipe.shorten(vector, size);
        }
        Ok(Embedded { vectors, tokens })
    }

    /// The texts as tokens, on a thread that may block.
    async fn tokens(&self, asked: Asked) -> Result<Vec<Text>, ApiError> {
        let (encode, recipe) = (Arc::clone(&self.encode), self.recipe.clone());
        let context = self.context as usize;
        let work = move || {
            let texts = asked.texts.iter().enumerate();
            let one = |(index, text): (usize, &String)| {
                let param = asked.place(index);
                tokens(&*encode, &recipe, context, &param, text).map(Text::from)
            };
            texts.map(one).collect::<Result<Vec<_>, _>>()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(?error, "a text could not be tokenised");
            ApiError::new(Code::InternalError, "the text could not be tokenised")
        })?
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        status(&self.encoder)
    }
}

/// How things stand with an encoder.
pub(super) fn status(encoder: &Handle) -> Status {
    let (facts, counted) = (encoder.facts(), encoder.counted());
    Status {
        device: facts.device.to_owned(),
        compute: facts.compute.to_owned(),
        bytes_held: facts.bytes_held,
        sequences: (counted.open, 0),
        kv: (0, 0),
        tokens: (counted.read, 0),
        kept: Kept::default(),
    }
}

/// A text as tokens. One that is too long is refused: of a text that is cut in
/// silence nobody knows what its vector stands for.
fn tokens(
    encode: &Encode,
    recipe: &Recipe,
    context: usize,
    param: &str,
    text: &str,
) -> Result<Vec<u32>, ApiError> {
    let too_long = |found: String| {
        let message =
            format!("{param}: this model takes texts of at most {context} tokens, found {found}");
        Err(ApiError::new(Code::ContextLengthExceeded, message).param(param))
    };
    if text.len() > context.saturating_mul(LONGEST_TOKEN) {
        return too_long(format!("{} bytes", text.len()));
    }
    let mut text = format!("{}{text}", recipe.prompt);
    if recipe.lower_case {
        text = text.to_lowercase();
    }
    let tokens = encode(&text).map_err(|error| refusal(param, error))?;
    match tokens.len() {
        0 => Err(crate::api::fields::invalid(
            param,
            format!("{param}: expected at least one token, found none"),
        )),
        found if found > context => too_long(found.to_string()),
        _ => Ok(tokens),
    }
}

/// The answer if it failed.
pub(super) fn failed(error: EngineError) -> ApiError {
    tracing::error!(?error, "texts could not be encoded");
    ApiError::new(Code::InternalError, "the engine failed to answer")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::engine::LoadTimes;
    use crate::engine::encoder::Encoder;
    use crate::model::sentence::Pooling;
    use serde_json::{Value, json};

    /// Its vector of a text: the number of tokens, and that of different ones; or the
    /// first alone.
    pub struct Counting {
        pub size: usize,
    }

    impl Encoder for Counting {
        fn vocabulary(&self) -> usize {
            256
        }

        fn size(&self) -> usize {
            self.size
        }

        fn encode(&mut self, batch: &[&Text]) -> Result<Vec<Vec<f32>>, EngineError> {
            let different = |text: &&Text| {
                let text = &text.tokens;
                let set: std::collections::HashSet<_> = text.iter().collect();
                [text.len() as f32, set.len() as f32][..self.size].to_vec()
            };
            Ok(batch.iter().map(different).collect())
        }

        fn bytes_held(&self) -> u64 {
            1
        }

        fn device(&self) -> (&'static str, &'static str) {
            ("cpu", "float32")
        }

        fn load_times(&self) -> LoadTimes {
            LoadTimes::default()
        }
    }

    /// A token for each byte.
    pub fn source() -> Source {
        let (encoder, _) = Handle::start(|| Ok(Counting { size: 2 })).expect("a thread");
        let encode = |text: &str| Ok(text.bytes().map(u32::from).collect());
        let recipe = Recipe {
            pooling: Pooling::Mean,
            normalise: false,
            tokens: Some(8),
            lower_case: true,
            prompt: "q:".to_owned(),
            verdict: None,
        };
        Source::new(encoder, Arc::new(encode), recipe, 8)
    }

    async fn ask(source: &Source, body: Value) -> Result<Embedded, ApiError> {
        let asked = crate::worker::serve::embeddings::read(body.to_string().as_bytes())?;
        source.embed(asked).await
    }

    #[tokio::test]
    async fn texts_are_prepared_counted_and_kept_in_order() {
        let source = source();
        let embedded = ask(&source, json!({"input": ["Aa", "abc", ""]})).await;
        let vectors = vec![vec![4.0, 3.0], vec![5.0, 5.0], vec![2.0, 2.0]];
        assert_eq!(
            embedded,
            Ok(Embedded {
                vectors,
                tokens: 11
            })
        );
        let short = ask(&source, json!({"input": "abc", "dimensions": 1})).await;
        assert_eq!(short.map(|embedded| embedded.vectors), Ok(vec![vec![5.0]]));
        let status = source.status();
        assert_eq!((status.tokens, status.bytes_held), ((16, 0), 1));
    }

    #[tokio::test]
    async fn what_is_too_long_is_told_with_both_numbers() {
        let source = source();
        for (input, words) in [
            (json!(["a", "abcdefg"]), ["input[1]", "8 tokens, found 9"]),
            (json!("x".repeat(5000)), ["input", "found 5000 bytes"]),
        ] {
            let error = ask(&source, json!({"input": input}))
                .await
                .expect_err("refused");
            assert_eq!(error.code, Code::ContextLengthExceeded);
            assert_eq!(error.param.as_deref(), Some(words[0]));
            assert!(error.message.contains(words[1]), "{}", error.message);
        }
        let error = ask(&source, json!({"input": "a", "dimensions": 3})).await;
        assert_eq!(
            error.expect_err("refused").param.as_deref(),
            Some("dimensions")
        );
    }
}
