//! `/tokenize`, `/detokenize` and `/apply-template` inside a worker: what a request asks for,
//! and the answer, which has the names of llama.cpp's server and those of vLLM beside each
//! other. It does not know who has the words.
//!
//! Sources of the shapes: llama.cpp, `tools/server/README.md`; vLLM, `docs/serving`,
//! "Tokenizer API".

use serde_json::{Value, json};

use super::fields::Fields;
use super::request::{self, Chat};
use crate::api::error::ApiError;
use crate::api::fields::{DETOKENIZE, Endpoint, TEMPLATE, invalid, wrong};

/// A checked request.
#[derive(Debug, PartialEq)]
pub enum Asked {
    /// The tokens of a text.
    Tokenize {
        /// The text.
        text: Text,
        /// Whether it is to begin and end as the model expects a text to.
        whole: bool,
        /// How tokens are told.
        form: Form,
    },
    /// The text of tokens.
    Detokenize(Vec<u32>),
    /// The prompt that messages come to.
    Template(Chat),
}

/// What is made into tokens.
#[derive(Debug, PartialEq)]
pub enum Text {
    /// A text as it is, and the field that holds it.
    Plain(&'static str, String),
    /// Messages, by the chat template.
    Chat(Chat),
}

/// How tokens are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As ids alone.
    Ids,
    /// Each with its text (`with_pieces` of llama.cpp).
    Pieces,
    /// As ids, with a list of texts beside them (`return_token_strs` of vLLM).
    Beside,
}

/// A token.
#[derive(Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The bytes that it adds to a text.
    pub bytes: Vec<u8>,
}

/// What comes of it.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// Tokens, of which the model takes so many.
    Tokens(Vec<Token>, Form, u32),
    /// The text of tokens.
    Text(String),
    /// A prompt.
    Prompt(String),
}

/// Reads and checks a body; the model's name and the fields without effect come beside it.
///
/// # Errors
/// A 400 of the error contract, with the field as `param`.
pub fn read(path: &str, body: &[u8]) -> Result<(Asked, Vec<String>), ApiError> {
    let mut fields = Fields::parse(Endpoint::Chat, body)?;
    // The router and the pool have acted on them.
    for known in ["model", "ttl", "keep_alive", "stream"] {
        fields.take(known)?;
    }
    fields.refuse_what_cannot_be_done()?;
    let asked = match path {
        TEMPLATE => Asked::Template(request::chat(&mut fields)?),
        DETOKENIZE => {
            let Some(Value::Array(list)) = fields.take("tokens")? else {
                return Err(invalid("tokens", "tokens: expected an array of token ids"));
            };
            Asked::Detokenize(request::tokens("tokens", &list)?)
        }
        _ => tokenize(&mut fields)?,
    };
    Ok((asked, fields.ignored()))
}

fn tokenize(fields: &mut Fields) -> Result<Asked, ApiError> {
    let (text, flag, usually) = match (fields.take("content")?, fields.take("prompt")?) {
        (Some(Value::String(text)), None) => (Text::Plain("content", text), "add_special", false),
        (None, Some(Value::String(text))) => {
            (Text::Plain("prompt", text), "add_special_tokens", true)
        }
        (None, None) => {
            let chat = request::chat(fields)?;
            // The template writes what a text begins with.
            (Text::Chat(chat), "add_special_tokens", false)
        }
        (Some(_), Some(_)) => {
            let message = "content: expected content or prompt, found both";
            return Err(invalid("content", message));
        }
        (Some(other), None) => return Err(wrong("content", "a string", &other)),
        (None, Some(other)) => return Err(wrong("prompt", "a string", &other)),
    };
    let whole = fields.flag(flag)?.unwrap_or(usually);
    let pieces = fields.flag("with_pieces")?.unwrap_or(false);
    let beside = fields.flag("return_token_strs")?.unwrap_or(false);
    let form = match (pieces, beside) {
        (true, _) => Form::Pieces,
        (false, true) => Form::Beside,
        (false, false) => Form::Ids,
    };
    Ok(Asked::Tokenize { text, whole, form })
}

/// The answer.
pub fn answer(told: &Told) -> Value {
    let (tokens, form, context) = match told {
        // The first name is llama.cpp's, the second vLLM's.
        Told::Text(text) => return json!({"content": text, "prompt": text}),
        Told::Prompt(prompt) => return json!({"prompt": prompt}),
        Told::Tokens(tokens, form, context) => (tokens, *form, context),
    };
    let told = tokens.iter().map(|token| match form {
        Form::Ids | Form::Beside => json!(token.id),
        // What is no text alone is told by its bytes.
        Form::Pieces => match std::str::from_utf8(&token.bytes) {
            Ok(piece) => json!({"id": token.id, "piece": piece}),
            Err(_) => json!({"id": token.id, "piece": token.bytes}),
        },
    });
    let mut answer = json!({
        "tokens": told.collect::<Vec<_>>(),
        "count": tokens.len(),
        "max_model_len": context,
    });
    if form == Form::Beside {
        let texts = tokens.iter();
        let texts = texts.map(|token| String::from_utf8_lossy(&token.bytes));
        answer["token_strs"] = texts.collect();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fields::TOKENIZE;

    #[track_caller]
    fn check(path: &str, body: Value, expected: Result<Asked, &str>) {
        let read = read(path, body.to_string().as_bytes()).map(|(asked, _)| asked);
        let read = read.map_err(|error| error.param.unwrap_or_default());
        assert_eq!(read, expected.map_err(str::to_owned), "{body}");
    }

    #[test]
    fn requests_of_both_servers_are_read() {
        let plain = |field, whole, form| Asked::Tokenize {
            text: Text::Plain(field, "x".to_owned()),
            whole,
            form,
        };
        let tokenize = |body, expected| check(TOKENIZE, body, expected);
        tokenize(
            json!({"model": "a", "content": "x"}),
            Ok(plain("content", false, Form::Ids)),
        );
        tokenize(
            json!({"content": "x", "add_special": true, "with_pieces": true}),
            Ok(plain("content", true, Form::Pieces)),
        );
        tokenize(json!({"prompt": "x"}), Ok(plain("prompt", true, Form::Ids)));
        tokenize(
            json!({"prompt": "x", "add_special_tokens": false, "return_token_strs": true}),
            Ok(plain("prompt", false, Form::Beside)),
        );
        tokenize(json!({"content": "x", "prompt": "x"}), Err("content"));
        tokenize(json!({"content": 1}), Err("content"));
        tokenize(json!({"prompt": ["x"]}), Err("prompt"));
        tokenize(json!({}), Err("messages"));
        tokenize(json!({"content": "x", "adapter": "y"}), Err("adapter"));
        check(
            DETOKENIZE,
            json!({"tokens": [1, 2]}),
            Ok(Asked::Detokenize(vec![1, 2])),
        );
        check(DETOKENIZE, json!({"tokens": [1, -2]}), Err("tokens[1]"));
        check(DETOKENIZE, json!({"tokens": "x"}), Err("tokens"));
        check(TEMPLATE, json!({"messages": []}), Err("messages"));
    }

    #[test]
    fn tokens_are_told_as_they_are_asked_for() {
        let told = |form| {
            let token = |id, bytes: &[u8]| Token {
                id,
                bytes: bytes.to_vec(),
            };
            answer(&Told::Tokens(
                vec![token(7, b" a"), token(8, b"\xc3")],
                form,
                100,
            ))
        };
        let expected = json!({"tokens": [7, 8], "count": 2, "max_model_len": 100});
        assert_eq!(told(Form::Ids), expected);
        assert_eq!(
            told(Form::Pieces)["tokens"],
            json!([{"id": 7, "piece": " a"}, {"id": 8, "piece": [0xc3]}])
        );
        let beside = told(Form::Beside);
        assert_eq!(
            (&beside["tokens"], &beside["token_strs"]),
            (&json!([7, 8]), &json!([" a", "\u{fffd}"]))
        );
    }
}
