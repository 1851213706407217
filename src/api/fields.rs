//! The fields of a request to an engine: which there are, on which path, and
//! what each may hold. One table for three readers: the router refuses by it
//! before anything is loaded, the worker reads by it, and the description of the
//! API is made from it. It does not know what a field does.

use serde_json::Value;

use super::error::{ApiError, Code};
use crate::config::engine::Use;

pub mod format;
mod shapes;
pub mod stay;

/// Largest whole number a field may hold.
pub const LARGEST: u64 = i32::MAX as u64;

/// What a completions request without `max_tokens` gets, as the OpenAI API documents it.
pub const COMPLETIONS_MAX_TOKENS: u32 = 16;

/// Most alternatives that `top_logprobs` or the older `logprobs` may ask for.
const MOST_ALTERNATIVES: u64 = 20;

/// Longest piece of a wrong value that a refusal repeats, characters.
const SHOWN: usize = 60;

/// All paths under `/v1/` that are not known here, in the table of routes.
pub const REST: &str = "/v1/{*rest}";

/// The tokens of a text, where llama.cpp's server and vLLM have it.
pub const TOKENIZE: &str = "/tokenize";

/// The text of tokens.
pub const DETOKENIZE: &str = "/detokenize";

/// The prompt that messages come to, where llama.cpp's server has it.
pub const TEMPLATE: &str = "/apply-template";

/// What stands between two texts, at the same server.
pub const INFILL: &str = "/infill";

/// Whether our own engine knows a path beside those of the API.
pub fn is_about_words(path: &str) -> bool {
    matches!(path, TOKENIZE | DETOKENIZE | TEMPLATE)
}

/// Which of the paths that lead to an engine was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/rerank`
    Rerank,
    /// `/v1/audio/speech`
    Speech,
    /// `/v1/audio/transcriptions`
    Transcriptions,
    /// `/v1/audio/translations`
    Translations,
    /// Any other path under `/v1/`, which engines that are not ours may know.
    Other,
}

/// One row: a field.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it is known.
    pub on: &'static [Endpoint],
    /// What it may hold; `null` is the same as absent everywhere.
    pub takes: Takes,
}

/// What a field may hold.
#[derive(Debug)]
pub enum Takes {
    /// The name of a model.
    Name,
    /// A text.
    Text,
    /// A whole number, both ends included.
    Whole(u64, u64),
    /// A number, both ends included.
    Number(f64, f64),
    /// `true` or `false`.
    Flag,
    /// One of these words, and why there are no others.
    Words(&'static [&'static str], &'static str),
    /// An object.
    Object,
    /// An array.
    Array,
    /// Something that has its own check, which is told the field's name.
    Shape(Shape),
    /// Only values that ask for what happens anyway (compact JSON), and why.
    Nothing(&'static [&'static str], &'static str),
}

/// A value with a form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One string or several.
    Stops,
    /// Token ids with a number each.
    Biases,
    /// `{"include_usage": …}`
    StreamOptions,
    /// `{"type": …}`: text, any JSON object, or JSON of a schema.
    Format,
    /// A JSON Schema, also as JSON in a string.
    Schema,
    /// A regular expression.
    Pattern,
    /// Texts, of which an answer is one.
    Choice,
    /// A grammar.
    Grammar,
    /// An object with one of the four before.
    Structured,
    /// A word, or the name of a tool in an object.
    ToolChoice,
    /// A string, strings, token ids, or arrays of token ids.
    Prompt,
    /// A string or strings.
    Texts,
    /// Seconds.
    Seconds,
    /// A duration, seconds, or less than nothing.
    Duration,
}

impl Shape {
    /// Whether it says what an answer has to be.
    pub fn constrains(self) -> bool {
        matches!(
            self,
            Self::Format
                | Self::Schema
                | Self::Pattern
                | Self::Choice
                | Self::Grammar
                | Self::Structured
                | Self::ToolChoice
        )
    }
}

use Takes::{Array, Flag, Name, Nothing, Number, Object, Text, Whole, Words};

/// What `input` takes.
pub const TEXTS: &str = "a string or an array of strings";

/// Every path whose requests may be JSON.
const ALL: &[Endpoint] = &[
    Endpoint::Chat,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Rerank,
    Endpoint::Speech,
    Endpoint::Other,
];
/// Those that answer in a stream if they are asked to, and may know templates.
const STREAMED: &[Endpoint] = &[Endpoint::Chat, Endpoint::Completions, Endpoint::Other];
const EMBEDDINGS: &[Endpoint] = &[Endpoint::Embeddings];
const RERANK: &[Endpoint] = &[Endpoint::Rerank];
const BOTH: &[Endpoint] = &[Endpoint::Chat, Endpoint::Completions];
/// Those that take forms with a file.
const UPLOADS: &[Endpoint] = &[Endpoint::Transcriptions, Endpoint::Translations];
const TEMPERED: &[Endpoint] = &[
    Endpoint::Chat,
    Endpoint::Completions,
    Endpoint::Transcriptions,
    Endpoint::Translations,
];
const CHAT: &[Endpoint] = &[Endpoint::Chat];
const COMPLETIONS: &[Endpoint] = &[Endpoint::Completions];

const NOT_BY_REQUEST: &str = "cannot be set by a request";

const fn field(name: &'static str, on: &'static [Endpoint], takes: Takes) -> Field {
    Field { name, on, takes }
}

/// The table. What it does not name has no effect, and the answer says so.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    field("model", ALL, Name),
    field("messages", CHAT, Array),
    field("input", EMBEDDINGS, Takes::Shape(Shape::Texts)),
    field("encoding_format", EMBEDDINGS, Words(&["float", "base64"], "vectors are numbers or their bytes")),
    field("dimensions", EMBEDDINGS, Whole(1, LARGEST)),
    field("query", RERANK, Text),
    field("documents", RERANK, Array),
    field("top_n", RERANK, Whole(1, LARGEST)),
    field("return_documents", RERANK, Flag),
    field("prompt", COMPLETIONS, Takes::Shape(Shape::Prompt)),
    field("stream", STREAMED, Flag),
    field("stream_options", BOTH, Takes::Shape(Shape::StreamOptions)),
    field("max_tokens", BOTH, Whole(1, LARGEST)),
    field("max_completion_tokens", BOTH, Whole(1, LARGEST)),
    field("n", BOTH, Whole(1, LARGEST)),
    field("stop", BOTH, Takes::Shape(Shape::Stops)),
    field("temperature", TEMPERED, Number(0.0, 2.0)),
    field("language", UPLOADS, Text),
    field("top_p", BOTH, Number(0.0, 1.0)),
    field("top_k", BOTH, Whole(0, LARGEST)),
    field("min_p", BOTH, Number(0.0, 1.0)),
    field("repetition_penalty", BOTH, Number(0.0, 10.0)),
    field("repetition_context_size", BOTH, Whole(0, LARGEST)),
    field("presence_penalty", BOTH, Number(-2.0, 2.0)),
    field("frequency_penalty", BOTH, Number(-2.0, 2.0)),
    field("logit_bias", BOTH, Takes::Shape(Shape::Biases)),
    field("seed", BOTH, Whole(0, LARGEST)),
    field("logprobs", CHAT, Flag),
    field("top_logprobs", CHAT, Whole(0, MOST_ALTERNATIVES)),
    field("logprobs", COMPLETIONS, Whole(0, MOST_ALTERNATIVES)),
    field("ignore_eos", BOTH, Flag),
    field("tools", CHAT, Array),
    field("tool_choice", CHAT, Takes::Shape(Shape::ToolChoice)),
    field("parallel_tool_calls", CHAT, Flag),
    field("chat_template_kwargs", CHAT, Object),
    field("enable_thinking", CHAT, Flag),
    field("add_generation_prompt", CHAT, Flag),
    field("continue_final_message", CHAT, Flag),
    field("response_format", BOTH, Takes::Shape(Shape::Format)),
    field("structured_outputs", BOTH, Takes::Shape(Shape::Structured)),
    field("guided_json", BOTH, Takes::Shape(Shape::Schema)),
    field("guided_regex", BOTH, Takes::Shape(Shape::Pattern)),
    field("guided_choice", BOTH, Takes::Shape(Shape::Choice)),
    field("guided_grammar", BOTH, Takes::Shape(Shape::Grammar)),
    field("grammar", BOTH, Takes::Shape(Shape::Grammar)),
    field("ttl", ALL, Takes::Shape(Shape::Seconds)),
    field("keep_alive", ALL, Takes::Shape(Shape::Duration)),
    field("functions", BOTH, Nothing(&["[]"], "use tools instead")),
    field("function_call", BOTH, Nothing(&["\"auto\"", "\"none\""], "use tool_choice instead")),
    field("modalities", BOTH, Nothing(&["[\"text\"]"], "only text can be made")),
    field("audio", BOTH, Nothing(&[], "only text can be made")),
    field("web_search_options", BOTH, Nothing(&[], "there is no web search")),
    field("echo", BOTH, Nothing(&["false"], "the prompt cannot be repeated in the answer")),
    field("suffix", BOTH, Nothing(&["\"\""], "text cannot be filled in before a suffix")),
    field("best_of", BOTH, Nothing(&["1"], "only n is supported")),
    field("chat_template", STREAMED, Nothing(&["[]"], NOT_BY_REQUEST)),
    field("adapter", ALL, Nothing(&["[]"], NOT_BY_REQUEST)),
    field("adapters", ALL, Nothing(&["[]"], NOT_BY_REQUEST)),
    field("draft_model", ALL, Nothing(&["[]"], NOT_BY_REQUEST)),
    field("documents", BOTH, Nothing(&["[]"], NOT_BY_REQUEST)),
];

/// The row of a field, if that path knows it.
pub fn known(endpoint: Endpoint, name: &str) -> Option<&'static Field> {
    FIELDS
        .iter()
        .find(|field| field.name == name && field.on.contains(&endpoint))
}

impl Field {
    /// Whether what may stand here depends on what the engine can do. What our own
    /// refuses for that reason, another may know.
    pub fn depends_on_engine(&self) -> bool {
        match self.takes {
            Words(..) | Text => true,
            Takes::Shape(shape) => shape.constrains(),
            Nothing(_, why) => why != NOT_BY_REQUEST,
            _ => false,
        }
    }
}

impl Endpoint {
    /// What a model is used for there; nothing if nobody here knows.
    pub fn asks(self) -> Option<Use> {
        Some(match self {
            Self::Chat => Use::Chat,
            Self::Completions => Use::Completions,
            Self::Embeddings => Use::Embeddings,
            Self::Rerank => Use::Rerank,
            Self::Speech | Self::Transcriptions | Self::Translations => Use::Audio,
            Self::Other => return None,
        })
    }

    /// Whether a request has a file in it and is not held.
    pub fn is_upload(self) -> bool {
        matches!(self, Self::Transcriptions | Self::Translations)
    }

    /// Whether an answer is JSON whatever was asked: sound and subtitles are not.
    pub fn answers_json(self) -> bool {
        !matches!(self.asks(), None | Some(Use::Audio))
    }

    /// Whether a stream says that it is at its end: elsewhere it is at its end when no more
    /// comes.
    pub fn says_done(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// The path, here and at the engine; of other ones how the table of routes has them.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::Speech => "/v1/audio/speech",
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
            Self::Other => REST,
        }
    }
}

impl Field {
    /// Whether a value that is not `null` may stand here.
    ///
    /// # Errors
    /// `invalid_model_id` for a name that is no text, else `invalid_value`, with the
    /// field as `param`.
    pub fn check(&self, value: &Value) -> Result<(), ApiError> {
        let fits = match &self.takes {
            Name | Text => value.is_string(),
            Whole(least, most) => value
                .as_u64()
                .is_some_and(|number| (*least..=*most).contains(&number)),
            Number(least, most) => value
                .as_f64()
                .is_some_and(|number| (*least..=*most).contains(&number)),
            Flag => value.is_boolean(),
            Words(words, _) => value.as_str().is_some_and(|word| words.contains(&word)),
            Object => value.is_object(),
            Array => value.is_array(),
            Takes::Shape(shape) => return shapes::check(*shape, self.name, value),
            Nothing(harmless, why) => {
                let text = value.to_string();
                return match harmless.contains(&text.as_str()) {
                    true => Ok(()),
                    false => Err(invalid(self.name, format!("{}: {why}", self.name))),
                };
            }
        };
        match fits {
            true => Ok(()),
            false => Err(self.wrong(&shown(value))),
        }
    }

    /// The refusal of a value, of which `found` is what may be repeated.
    pub fn wrong(&self, found: &str) -> ApiError {
        let expected = self.takes.expected();
        let message = format!("{}: expected {expected}, found {found}", self.name);
        let code = match self.takes {
            Name => Code::InvalidModelId,
            _ => Code::InvalidValue,
        };
        ApiError::new(code, message).param(self.name)
    }
}

impl Takes {
    /// What would be right, in words.
    pub fn expected(&self) -> String {
        match self {
            Name | Text => "a string".to_owned(),
            Whole(least, most) => format!("a whole number from {least} to {most}"),
            Number(least, most) => format!("a number from {least} to {most}"),
            Flag => "true or false".to_owned(),
            Words(words, why) => format!("\"{}\" ({why})", words.join("\" or \"")),
            Object => "an object".to_owned(),
            Array => "an array".to_owned(),
            Takes::Shape(shape) => shapes::expected(*shape).to_owned(),
            Nothing(_, why) => format!("nothing ({why})"),
        }
    }
}

/// A refusal that names the field.
pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidValue, message).param(param)
}

/// A refusal that says what was expected and what was found.
pub fn wrong(param: &str, expected: &str, found: &Value) -> ApiError {
    invalid(
        param,
        format!("{param}: expected {expected}, found {}", shown(found)),
    )
}

/// A value as a refusal may repeat it: scalars shortened, others by kind.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        scalar => shortened(&scalar.to_string()),
    }
}

/// The beginning of a text that a refusal may repeat.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What kind of JSON value this is.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
