//! `/v1/rerank` inside a worker: what the request asks for, and the answer in the shape
//! that Cohere's, Jina's and vLLM's clients read. It does not know where scores come from.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use serde_json::Value;

use super::answer::Usage;
use super::body::trailer;
use super::fields::Fields;
use crate::api::error::ApiError;
use crate::api::fields::{Endpoint, invalid, wrong};
use crate::model::sentence::Scale;

/// What a document may be.
const DOCUMENT: &str = "a string or an object with a text";

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// The model's name as the caller wrote it.
    pub model: Option<String>,
    /// What documents are to fit.
    pub query: String,
    /// The texts of the documents.
    pub documents: Vec<String>,
    /// Most results that are told.
    pub most: usize,
    /// Whether results have the documents in them.
    pub told_whole: bool,
    /// Names of fields without effect.
    pub ignored: Vec<String>,
    /// A mark that the scripted engine repeats.
    pub nonce: Option<String>,
    /// Changes to the script of the scripted engine, for this request alone.
    pub script: Option<Value>,
}

/// How well the documents of a request fit.
#[derive(Debug, PartialEq)]
pub struct Ranked {
    /// The number by which each document is judged, in the order of the request.
    pub verdicts: Vec<f32>,
    /// How such a number becomes a score.
    pub scale: Scale,
    /// Tokens of all prompts.
    pub tokens: u64,
}

/// Reads and checks a body.
///
/// # Errors
/// A 400 of the error contract, with the field as `param`.
pub fn read(body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(Endpoint::Rerank, body)?;
    // The router has checked and resolved it.
    let model = fields.text("model")?;
    let nonce = fields.text("nonce")?;
    let script = fields.take("scripted")?;
    fields.refuse_what_cannot_be_done()?;
    // The pool has acted on them.
    fields.take("ttl")?;
    fields.take("keep_alive")?;
    let query = match fields.take("query")? {
        Some(Value::String(query)) => query,
        Some(other) => return Err(wrong("query", "a string", &other)),
        None => return Err(invalid("query", "query: expected a string, found nothing")),
    };
    let documents = documents(&mut fields)?;
    let most = fields
        .whole("top_n")?
        .and_then(|most| usize::try_from(most).ok());
    Ok(Asked {
        model,
        query,
        most: most.map_or(documents.len(), |most| most.min(documents.len())),
        documents,
        told_whole: fields.flag("return_documents")?.unwrap_or(false),
        ignored: fields.ignored(),
        nonce,
        script,
    })
}

fn documents(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let found = |what: &str| {
        let message = format!("documents: expected an array of documents, found {what}");
        Err(invalid("documents", message))
    };
    let list = match fields.take("documents")? {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(_) => return found("none"),
        None => return found("nothing"),
    };
    let text = |(place, document): (usize, Value)| match document {
        Value::String(text) => Ok(text),
        Value::Object(mut parts) => match parts.swap_remove("text") {
            Some(Value::String(text)) => Ok(text),
            _ => Err(wrong(&place_of(place), DOCUMENT, &Value::Object(parts))),
        },
        other => Err(wrong(&place_of(place), DOCUMENT, &other)),
    };
    list.into_iter().enumerate().map(text).collect()
}

/// Where a document stands in the request.
pub fn place_of(index: usize) -> String {
    format!("documents[{index}]")
}

#[derive(Serialize)]
struct Answer<'a> {
    model: &'a str,
    results: Vec<Rank<'a>>,
    usage: Tokens,
}

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Tokens {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// The answer of `model`, the best first, with the usage as a trailer.
///
/// # Errors
/// A score that cannot be written.
pub fn answer(model: &str, asked: &Asked, ranked: &Ranked) -> Result<Body, serde_json::Error> {
    let order = order(&ranked.verdicts).into_iter().take(asked.most);
    let results = order.map(|index| Rank {
        index,
        relevance_score: ranked.scale.score(ranked.verdicts[index]),
        document: asked.told_whole.then(|| Document {
            text: &asked.documents[index],
        }),
    });
    let answer = Answer {
        model,
        results: results.collect(),
        usage: Tokens {
            prompt_tokens: ranked.tokens,
            total_tokens: ranked.tokens,
        },
    };
    let usage = Usage {
        prompt: ranked.tokens,
        ..Usage::default()
    };
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from(serde_json::to_vec(&answer)?))),
        Ok(Frame::trailers(trailer(&usage, "stop"))),
    ];
    Ok(Body::new(StreamBody::new(stream::iter(frames))))
}

/// Their places, the largest first, equal ones as they stand.
fn order(verdicts: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..verdicts.len()).collect();
    order.sort_by(|a, b| verdicts[*b].total_cmp(&verdicts[*a]));
    order
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;
    use crate::api::error::Code;

    fn asked(body: Value) -> Result<Asked, ApiError> {
        read(body.to_string().as_bytes())
    }

    #[test]
    fn a_request_says_query_and_documents() {
        let plain = asked(json!({"model": "a/b", "query": "q", "documents": ["x", {"text": "y"}]}));
        let plain = plain.expect("a request");
        assert_eq!(plain.documents, ["x", "y"]);
        assert_eq!((plain.most, plain.told_whole), (2, false));
        assert_eq!(plain.model.as_deref(), Some("a/b"));
        let more = json!({"query": "q", "documents": ["x", "y"], "top_n": 1,
            "return_documents": true, "user": "me", "keep_alive": "5m"});
        let more = asked(more).expect("a request");
        assert_eq!((more.most, more.told_whole), (1, true));
        assert_eq!(more.ignored, ["user"]);
        let many = json!({"query": "q", "documents": ["x"], "top_n": 9});
        assert_eq!(asked(many).expect("a request").most, 1);
        for (wrong, param) in [
            (json!({"documents": ["x"]}), "query"),
            (json!({"query": 5, "documents": ["x"]}), "query"),
            (json!({"query": "q"}), "documents"),
            (json!({"query": "q", "documents": []}), "documents"),
            (json!({"query": "q", "documents": "x"}), "documents"),
            (json!({"query": "q", "documents": ["x", 5]}), "documents[1]"),
            (
                json!({"query": "q", "documents": [{"image": "x"}]}),
                "documents[0]",
            ),
            (
                json!({"query": "q", "documents": ["x"], "top_n": 0}),
                "top_n",
            ),
            (
                json!({"query": "q", "documents": ["x"], "adapter": "x"}),
                "adapter",
            ),
        ] {
            let error = asked(wrong).expect_err("refused");
            assert_eq!(
                (error.code, error.param.as_deref()),
                (Code::InvalidValue, Some(param))
            );
        }
    }

    #[tokio::test]
    async fn the_best_stand_first_with_their_documents_if_asked() {
        let ranked = Ranked {
            verdicts: vec![-1.0, 0.0, 0.0, 100.0],
            scale: Scale::Share,
            tokens: 9,
        };
        let read = async |more: Value| {
            let mut body = json!({"query": "q", "documents": ["a", "b", "c", "d"]});
            for (key, value) in more.as_object().expect("fields") {
                body[key] = value.clone();
            }
            let body = answer("a/b", &asked(body).expect("a request"), &ranked);
            let bytes = body.expect("written").collect().await.expect("a body");
            String::from_utf8(bytes.to_bytes().to_vec()).expect("UTF-8")
        };
        assert_eq!(
            read(json!({"top_n": 3})).await,
            r#"{"model":"a/b","results":[{"index":3,"relevance_score":1.0},{"index":1,"relevance_score":0.5},{"index":2,"relevance_score":0.5}],"usage":{"prompt_tokens":9,"total_tokens":9}}"#
        );
        let whole = read(json!({"top_n": 1, "return_documents": true})).await;
        assert!(
            whole.contains(r#""relevance_score":1.0,"document":{"text":"d"}}]"#),
            "{whole}"
        );
        assert!(
            read(json!({}))
                .await
                .contains(r#"{"index":0,"relevance_score":0.26894143}]"#)
        );
    }
}
