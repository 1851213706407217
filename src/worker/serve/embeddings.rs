//! `/v1/embeddings` inside a worker: what the request asks for, and the answer in
//! OpenAI's shape. It does not know where the vectors come from.

use std::convert::Infallible;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
use crate::api::fields::{Endpoint, TEXTS, invalid, wrong};

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// The model's name as the caller wrote it.
    pub model: Option<String>,
    /// The texts.
    pub texts: Vec<String>,
    /// Whether the texts stood in an array.
    pub is_list: bool,
    /// How vectors are written.
    pub form: Form,
    /// Numbers of a vector; nothing means all.
    pub dimensions: Option<usize>,
    /// Names of fields without effect.
    pub ignored: Vec<String>,
    /// A mark that the scripted engine repeats.
    pub nonce: Option<String>,
    /// Changes to the script of the scripted engine, for this request alone.
    pub script: Option<Value>,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As an array of numbers.
    Numbers,
    /// Its numbers as little-endian float32, in base64 (RFC 4648, section 4).
    Base64,
}

/// Vectors of the texts of a request.
#[derive(Debug, PartialEq)]
pub struct Embedded {
    /// A vector of each text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub tokens: u64,
}

impl Asked {
    /// Where a text stands in the request.
    pub fn place(&self, index: usize) -> String {
        match self.is_list {
            true => format!("input[{index}]"),
            false => "input".to_owned(),
        }
    }

    /// The size of the vectors, where the model's own has `size` numbers.
    ///
    /// # Errors
    /// More were asked for.
    pub fn size(&self, size: usize) -> Result<usize, ApiError> {
        match self.dimensions {
            Some(asked) if asked > size => Err(invalid(
                "dimensions",
                format!(
                    "dimensions: expected at most {size}, which this model's vectors have, found {asked}"
                ),
            )),
            asked => Ok(asked.unwrap_or(size)),
        }
    }
}

/// Reads and checks a body.
///
/// # Errors
/// A 400 of the error contract, with the field as `param`.
pub fn read(body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(Endpoint::Embeddings, body)?;
    // The router has checked and resolved it.
    let model = fields.text("model")?;
    let nonce = fields.text("nonce")?;
    let script = fields.take("scripted")?;
    fields.refuse_what_cannot_be_done()?;
    // The pool has acted on them.
    fields.take("ttl")?;
    fields.take("keep_alive")?;
    let (texts, is_list) = texts(&mut fields)?;
    let form = match fields.text("encoding_format")?.as_deref() {
        Some("base64") => Form::Base64,
        _ => Form::Numbers,
    };
    let dimensions = fields.whole("dimensions")?.map(|number| number as usize);
    Ok(Asked {
        model,
        texts,
        is_list,
        form,
        dimensions,
        ignored: fields.ignored(),
        nonce,
        script,
    })
}

fn texts(fields: &mut Fields) -> Result<(Vec<String>, bool), ApiError> {
    match fields.take("input")? {
        Some(Value::String(text)) => Ok((vec![text], false)),
        Some(Value::Array(list)) if !list.is_empty() => {
            let text = |(place, value): (usize, Value)| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(&format!("input[{place}]"), "a string", &other)),
            };
            let texts: Result<_, _> = list.into_iter().enumerate().map(text).collect();
            Ok((texts?, true))
        }
        Some(_) => Err(invalid(
            "input",
            format!("input: expected {TEXTS}, found none"),
        )),
        None => Err(invalid(
            "input",
            format!("input: expected {TEXTS}, found nothing"),
        )),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Datum<'a>>,
    model: &'a str,
    usage: Tokens,
}

#[derive(Serialize)]
struct Datum<'a> {
    object: &'static str,
    index: usize,
    embedding: Written<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

#[derive(Serialize)]
struct Tokens {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// The answer of `model`, with the usage as a trailer.
///
/// # Errors
/// A vector that cannot be written.
pub fn answer(model: &str, form: Form, embedded: &Embedded) -> Result<Body, serde_json::Error> {
    let answer = Answer {
        object: "list",
        data: data(form, &embedded.vectors),
        model,
        usage: Tokens {
            prompt_tokens: embedded.tokens,
            total_tokens: embedded.tokens,
        },
    };
    let usage = Usage {
        prompt: embedded.tokens,
        ..Usage::default()
    };
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from(serde_json::to_vec(&answer)?))),
        Ok(Frame::trailers(trailer(&usage, "stop"))),
    ];
    Ok(Body::new(StreamBody::new(stream::iter(frames))))
}

fn data(form: Form, vectors: &[Vec<f32>]) -> Vec<Datum<'_>> {
    let data = vectors.iter().enumerate().map(|(index, vector)| Datum {
        object: "embedding",
        index,
        embedding: match form {
            Form::Numbers => Written::Numbers(vector),
            Form::Base64 => Written::Base64(base64(vector)),
        },
    });
    data.collect()
}

fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
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
    fn a_request_says_texts_and_form() {
        let one = asked(json!({"model": "a/b", "input": "x"})).expect("a request");
        assert_eq!(
            (one.texts.as_slice(), one.form),
            (&["x".to_owned()][..], Form::Numbers)
        );
        assert_eq!(
            (one.place(0), one.model.as_deref()),
            ("input".to_owned(), Some("a/b"))
        );
        let more = json!({"input": ["x", ""], "encoding_format": "base64", "dimensions": 2,
            "user": "me", "ttl": 5});
        let more = asked(more).expect("a request");
        assert_eq!(
            (more.texts.len(), more.form, more.dimensions),
            (2, Form::Base64, Some(2))
        );
        assert_eq!(
            (more.ignored.as_slice(), more.place(1)),
            (&["user".to_owned()][..], "input[1]".to_owned())
        );
        assert_eq!(
            (more.size(8), more.size(1).map_err(|error| error.code)),
            (Ok(2), Err(Code::InvalidValue))
        );
        for (wrong, param) in [
            (json!({}), "input"),
            (json!({"input": null}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": {}}), "input"),
            (json!({"input": ["a", 5]}), "input[1]"),
            (
                json!({"input": "a", "encoding_format": "hex"}),
                "encoding_format",
            ),
            (json!({"input": "a", "dimensions": 0}), "dimensions"),
            (json!({"input": "a", "adapter": "x"}), "adapter"),
        ] {
            let error = asked(wrong).expect_err("refused");
            assert_eq!(
                (error.code, error.param.as_deref()),
                (Code::InvalidValue, Some(param))
            );
        }
    }

    #[tokio::test]
    async fn vectors_are_numbers_or_their_bytes() {
        let embedded = Embedded {
            vectors: vec![vec![0.1, -1.0], vec![2.0, 0.0]],
            tokens: 5,
        };
        let read = async |form| {
            let body = answer("a/b", form, &embedded).expect("written");
            let bytes = body.collect().await.expect("a body").to_bytes();
            String::from_utf8(bytes.to_vec()).expect("UTF-8")
        };
        // Shortest forms, not those of the nearest float64.
        assert_eq!(
            read(Form::Numbers).await,
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-1.0]},{"object":"embedding","index":1,"embedding":[2.0,0.0]}],"model":"a/b","usage":{"prompt_tokens":5,"total_tokens":5}}"#
        );
        let text = read(Form::Base64).await;
        assert!(text.contains(r#""embedding":"zczMPQAAgL8=""#), "{text}");
    }
}
