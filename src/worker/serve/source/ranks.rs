//! The embedded engine as a judge of documents: a query and a document to a prompt's
//! tokens here, tokens to a verdict on the encoder's thread.

use std::sync::Arc;

use super::Status;
use super::text::{LONGEST_TOKEN, LanguageError, refusal};
use super::vectors;
use crate::api::error::{ApiError, Code};
use crate::engine::encoder::{Handle, Text};
use crate::model::sentence::Scale;
use crate::worker::serve::rerank::{Asked, Ranked, place_of};

/// The prompts that ask whether documents fit a query, as tokens, in order; or the place of
/// the document that has none, and why.
pub type Write = dyn Fn(&str, &[String]) -> Result<Vec<Text>, (usize, LanguageError)> + Send + Sync;

/// The embedded engine, with a network that judges.
pub struct Source {
    encoder: Handle,
    write: Arc<Write>,
    scale: Scale,
    context: u32,
}

impl Source {
    /// A source of verdicts by prompts of at most `context` tokens.
    pub fn new(encoder: Handle, write: Arc<Write>, scale: Scale, context: u32) -> Self {
        Self {
            encoder,
            write,
            scale,
            context,
        }
    }

    /// The verdicts on the documents of a request; see [`super::Engine::rank`].
    pub async fn rank(&self, asked: &Asked) -> Result<Ranked, ApiError> {
        let prompts = self.prompts(asked).await?;
        let tokens = prompts.iter().map(|prompt| prompt.tokens.len() as u64);
        let tokens = tokens.sum();
        let verdicts = self.encoder.encode(prompts).await;
        let verdicts = verdicts.map_err(vectors::failed)?.into_iter().flatten();
        Ok(Ranked {
            verdicts: verdicts.collect(),
            scale: self.scale,
            tokens,
        })
    }

    /// The prompts as tokens, on a thread that may block.
    async fn prompts(&self, asked: &Asked) -> Result<Vec<Text>, ApiError> {
        let (write, context) = (Arc::clone(&self.write), self.context as usize);
        let (query, documents) = (asked.query.clone(), asked.documents.clone());
        let work = move || prompts(&*write, context, &query, &documents);
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(?error, "a prompt could not be tokenised");
            ApiError::new(Code::InternalError, "the prompt could not be tokenised")
        })?
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        vectors::status(&self.encoder)
    }
}

/// Prompts as tokens. One that is too long is refused, unless whoever writes it cuts it as
/// the model's makers do: what is cut off in silence may be what fits.
fn prompts(
    write: &Write,
    context: usize,
    query: &str,
    documents: &[String],
) -> Result<Vec<Text>, ApiError> {
    let too_long = |index: usize, found: String| {
        let param = place_of(index);
        let message = format!(
            "{param}: this model takes prompts of at most {context} tokens, found {found} with \
             the query"
        );
        Err(ApiError::new(Code::ContextLengthExceeded, message).param(&param))
    };
    for (index, document) in documents.iter().enumerate() {
        let bytes = query.len().saturating_add(document.len());
        if bytes > context.saturating_mul(LONGEST_TOKEN) {
            return too_long(index, format!("{bytes} bytes"));
        }
    }
    let prompts = write(query, documents);
    let prompts = prompts.map_err(|(index, error)| refusal(&place_of(index), error))?;
    for (index, prompt) in prompts.iter().enumerate() {
        match prompt.tokens.len() {
            0 => {
                return Err(ApiError::new(
                    Code::InternalError,
                    "this model's template makes no prompt of a query and a document",
                ));
            }
            found if found > context => return too_long(index, found.to_string()),
            _ => {}
        }
    }
    Ok(prompts)
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::worker::serve::rerank;

    /// A prompt is `query|document` in bytes, and the first number of its vector, how many
    /// there are, its verdict.
    pub fn source() -> Source {
        let write = |query: &str, documents: &[String]| {
            let prompt = |document: &String| {
                let prompt = format!("{query}|{document}");
                Text::from(prompt.bytes().map(u32::from).collect::<Vec<u32>>())
            };
            Ok(documents.iter().map(prompt).collect())
        };
        let (encoder, _) =
            Handle::start(|| Ok(vectors::tests::Counting { size: 1 })).expect("a thread");
        Source::new(encoder, Arc::new(write), Scale::Logit, 8)
    }

    async fn ask(source: &Source, body: Value) -> Result<Ranked, ApiError> {
        let asked = rerank::read(body.to_string().as_bytes())?;
        source.rank(&asked).await
    }

    #[tokio::test]
    async fn each_document_is_judged_with_the_query() {
        let source = source();
        let ranked = ask(
            &source,
            json!({"query": "ab", "documents": ["", "xyz", "x"]}),
        )
        .await;
        let expected = Ranked {
            verdicts: vec![3.0, 6.0, 4.0],
            scale: Scale::Logit,
            tokens: 13,
        };
        assert_eq!(ranked, Ok(expected));
        assert_eq!(source.status().tokens, (13, 0));
        for (document, words) in [
            ("abcdef".to_owned(), "found 9"),
            ("x".repeat(5000), "bytes"),
        ] {
            let error = ask(&source, json!({"query": "ab", "documents": ["", document]})).await;
            let error = error.expect_err("refused");
            assert_eq!(
                (error.code, error.param.as_deref()),
                (Code::ContextLengthExceeded, Some("documents[1]"))
            );
            assert!(error.message.contains(words), "{}", error.message);
        }
    }
}
