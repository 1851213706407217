//! The embedded engine as a judge of documents: a query and a document to a prompt's
//! tokens here, tokens to a verdict on the encoder's thread.

use std::sync::Arc;

use super::Status;
use super::text::{LONGEST_TOKEN, LanguageError, refusal};
use super::vectors;
use crate::api::error::{ApiError, Code};
use crate::engine::encoder::Handle;
use crate::worker::serve::rerank::{Asked, Ranked, place_of};

/// The tokens of the prompt that asks whether a document fits a query.
pub type Write = dyn Fn(&str, &str) -> Result<Vec<u32>, LanguageError> + Send + Sync;

/// The embedded engine, with a network that judges.
pub struct Source {
    encoder: Handle,
    write: Arc<Write>,
    context: u32,
}

impl Source {
    /// A source of verdicts by prompts of at most `context` tokens.
    pub fn new(encoder: Handle, write: Arc<Write>, context: u32) -> Self {
        Self {
            encoder,
            write,
            context,
        }
    }

    /// The verdicts on the documents of a request; see [`super::Engine::rank`].
    pub async fn rank(&self, asked: &Asked) -> Result<Ranked, ApiError> {
        let prompts = self.tokens(asked).await?;
        let tokens = prompts.iter().map(|prompt| prompt.len() as u64).sum();
        let verdicts = self.encoder.encode(prompts).await;
        let verdicts = verdicts.map_err(vectors::failed)?.into_iter().flatten();
        Ok(Ranked {
            verdicts: verdicts.collect(),
            tokens,
        })
    }

    /// The prompts as tokens, on a thread that may block.
    async fn tokens(&self, asked: &Asked) -> Result<Vec<Vec<u32>>, ApiError> {
        let (write, context) = (Arc::clone(&self.write), self.context as usize);
        let (query, documents) = (asked.query.clone(), asked.documents.clone());
        let work = move || {
            let documents = documents.iter().enumerate();
            let one = |(index, document): (usize, &String)| {
                tokens(&*write, context, &query, &place_of(index), document)
            };
            documents.map(one).collect::<Result<Vec<_>, _>>()
        };
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

/// A prompt as tokens. One that is too long is refused: what is cut off in silence may
/// be what fits.
fn tokens(
    write: &Write,
    context: usize,
    query: &str,
    param: &str,
    document: &str,
) -> Result<Vec<u32>, ApiError> {
    let too_long = |found: String| {
        let message = format!(
            "{param}: this model takes prompts of at most {context} tokens, found {found} with \
             the query"
        );
        Err(ApiError::new(Code::ContextLengthExceeded, message).param(param))
    };
    let bytes = query.len().saturating_add(document.len());
    if bytes > context.saturating_mul(LONGEST_TOKEN) {
        return too_long(format!("{bytes} bytes"));
    }
    let tokens = write(query, document).map_err(|error| refusal(param, error))?;
    match tokens.len() {
        0 => Err(ApiError::new(
            Code::InternalError,
            "this model's chat template makes no prompt of a query and a document",
        )),
        found if found > context => too_long(found.to_string()),
        _ => Ok(tokens),
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::worker::serve::rerank;

    /// A prompt is `query|document` in bytes, and the first number of its vector, how many
    /// there are, its verdict.
    pub fn source() -> Source {
        let write = |query: &str, document: &str| {
            let prompt = format!("{query}|{document}");
            Ok(prompt.bytes().map(u32::from).collect())
        };
        let (encoder, _) =
            Handle::start(|| Ok(vectors::tests::Counting { size: 1 })).expect("a thread");
        Source::new(encoder, Arc::new(write), 8)
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
