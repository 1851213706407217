//! What a request asks for: its body read field by field, by the table of the
//! API, by which the router has refused already. What has no effect is remembered
//! and told. It does not know which engine will answer.

mod constraint;
mod tools;
mod wishes;

use serde_json::{Map, Value};

pub use self::wishes::Wishes;
use super::fields::Fields;
use super::messages;
use crate::api::error::ApiError;
use crate::api::fields::{COMPLETIONS_MAX_TOKENS, Endpoint, invalid, wrong};
use crate::engine::adapter::Chosen;
use crate::engine::constraint::Constraint;
use crate::engine::parts::Forced;
use crate::engine::prefix::Owner;

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// The path it came to.
    pub endpoint: Endpoint,
    /// The model's name as the caller wrote it.
    pub model: Option<String>,
    /// What to go on from.
    pub input: Input,
    /// Answers to each prompt (`n`).
    pub choices: usize,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with a chunk that holds the usage.
    pub include_usage: bool,
    /// Upper bound of tokens to make; nothing means what is left of the context.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
    /// Whether end tokens are taken as any other (`ignore_eos`).
    #[cfg_attr(
        not(any(feature = "mlx", test)),
        expect(dead_code, reason = "the scripted engine chooses nothing")
    )]
    pub ignore_end: bool,
    /// What the answer has to be, and the field that says so.
    pub constraint: Option<(String, Constraint)>,
    /// The calls of tools that the answer has to be (`tool_choice`); then there is no other
    /// constraint.
    pub forced: Option<Forced>,
    /// Whether the answer ends with its first call of a tool.
    #[cfg_attr(
        not(any(feature = "mlx", test)),
        expect(dead_code, reason = "the scripted engine calls nothing")
    )]
    pub one_call: bool,
    /// How many alternatives are told beside each token's log-probability;
    /// nothing means that no log-probabilities are told.
    pub logprobs: Option<usize>,
    /// How tokens are chosen.
    #[cfg_attr(
        not(any(feature = "mlx", test)),
        expect(dead_code, reason = "the scripted engine chooses nothing")
    )]
    pub wishes: Wishes,
    /// Names of fields without effect.
    pub ignored: Vec<String>,
    /// Whose prompts it may go on from, and for whom its own is kept. Said by the router.
    pub owner: Option<Owner>,
    /// The adapter to answer with; nothing means the model as it is. Said by the router.
    pub adapter: Option<Chosen>,
    /// A mark that the scripted engine repeats.
    pub nonce: Option<String>,
    /// Changes to the script of the scripted engine, for this request alone.
    pub script: Option<Value>,
}

/// What a request goes on from.
#[derive(Debug, PartialEq)]
pub enum Input {
    /// Messages for the chat template.
    Chat(Chat),
    /// One or more prompts.
    Prompts(Vec<Prompt>),
}

/// The input of a chat request.
#[derive(Debug, PartialEq)]
pub struct Chat {
    /// Checked messages in the form for templates.
    pub messages: Vec<Value>,
    /// Tools for the template.
    pub tools: Option<Vec<Value>>,
    /// Further variables of the template.
    pub kwargs: Map<String, Value>,
    /// Whether the prompt ends with the head of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the last message is left open, to be gone on with.
    pub continue_final_message: bool,
}

/// One prompt of a completions request.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// As text.
    Text(String),
    /// As token ids.
    Tokens(Vec<u32>),
}

/// Reads and checks a body.
///
/// # Errors
/// A 400 of the error contract, with the field as `param`.
pub fn read(endpoint: Endpoint, body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(endpoint, body)?;
    // The router has checked and resolved it.
    let model = fields.text("model")?;
    let nonce = fields.text("nonce")?;
    let script = fields.take("scripted")?;
    fields.refuse_what_cannot_be_done()?;
    // The pool has acted on them.
    fields.take("ttl")?;
    fields.take("keep_alive")?;
    let tools = match endpoint {
        Endpoint::Chat => tools::read(&mut fields)?,
        _ => tools::Wanted::default(),
    };
    let constraint = constraint::read(&mut fields)?;
    if let (Some((place, _)), Some(_)) = (&constraint, &tools.forced) {
        let message = format!("tool_choice: expected no forced call beside {place}");
        return Err(invalid("tool_choice", message));
    }
    let input = match endpoint {
        Endpoint::Chat => Input::Chat(chat_of(&mut fields, tools.shown)?),
        _ => Input::Prompts(prompts(&mut fields)?),
    };
    let choices = fields.whole("n")?.unwrap_or(1) as usize;
    let stream = fields.flag("stream")?.unwrap_or(false);
    Ok(Asked {
        endpoint,
        model,
        input,
        choices,
        stream,
        include_usage: include_usage(&mut fields)? && stream,
        max_tokens: max_tokens(endpoint, &mut fields)?,
        stops: stops(&mut fields)?,
        ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
        constraint,
        forced: tools.forced,
        one_call: tools.one_call,
        logprobs: logprobs(endpoint, &mut fields)?,
        wishes: wishes::read(&mut fields)?,
        ignored: fields.ignored(),
        owner: None,
        adapter: None,
        nonce,
        script,
    })
}

/// The messages of a request and what goes to the template with them.
///
/// # Errors
/// As those of [`read`].
pub fn chat(fields: &mut Fields) -> Result<Chat, ApiError> {
    let tools = tools::read(fields)?.shown;
    chat_of(fields, tools)
}

fn chat_of(fields: &mut Fields, tools: Option<Vec<Value>>) -> Result<Chat, ApiError> {
    let messages = messages::check(fields.array("messages")?)?;
    let mut kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();
    if let Some(thinking) = fields.flag("enable_thinking")? {
        kwargs.insert("enable_thinking".to_owned(), thinking.into());
    }
    let continue_final_message = fields.flag("continue_final_message")?.unwrap_or(false);
    let add_generation_prompt = fields.flag("add_generation_prompt")?;
    if continue_final_message && add_generation_prompt == Some(true) {
        return Err(invalid(
            "add_generation_prompt",
            "add_generation_prompt: expected false beside continue_final_message, found true",
        ));
    }
    Ok(Chat {
        messages,
        tools,
        kwargs,
        add_generation_prompt: add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
    })
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, an array of strings, or one or more arrays of token ids";
    let prompts = match fields.take("prompt")? {
        None => {
            return Err(invalid(
                "prompt",
                format!("prompt: expected {expected}, found nothing"),
            ));
        }
        Some(Value::String(text)) => vec![Prompt::Text(text)],
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            vec![Prompt::Tokens(tokens("prompt", &list)?)]
        }
        Some(Value::Array(list)) => list
            .into_iter()
            .enumerate()
            .map(|(index, prompt)| match prompt {
                Value::String(text) => Ok(Prompt::Text(text)),
                Value::Array(ids) => Ok(Prompt::Tokens(tokens(&format!("prompt[{index}]"), &ids)?)),
                other => Err(wrong(
                    &format!("prompt[{index}]"),
                    "a string or an array of token ids",
                    &other,
                )),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong("prompt", expected, &other)),
    };
    if prompts.is_empty() {
        return Err(invalid("prompt", "prompt: expected a prompt, found none"));
    }
    Ok(prompts)
}

/// Token ids that stand at a place of the request.
///
/// # Errors
/// Something else stands there.
pub fn tokens(place: &str, list: &[Value]) -> Result<Vec<u32>, ApiError> {
    list.iter()
        .enumerate()
        .map(|(index, id)| {
            id.as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| wrong(&format!("{place}[{index}]"), "a token id", id))
        })
        .collect()
}

fn include_usage(fields: &mut Fields) -> Result<bool, ApiError> {
    let options = fields.object("stream_options")?.unwrap_or_default();
    Ok(options
        .get("include_usage")
        .and_then(Value::as_bool)
        .unwrap_or(false))
}

fn max_tokens(endpoint: Endpoint, fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let older = fields.whole32("max_tokens")?;
    let newer = fields.whole32("max_completion_tokens")?;
    Ok(match (older, newer) {
        // Both are upper bounds, so the smaller holds.
        (Some(older), Some(newer)) => Some(older.min(newer)),
        (None, None) if endpoint == Endpoint::Completions => Some(COMPLETIONS_MAX_TOKENS),
        (older, newer) => older.or(newer),
    })
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.take("stop")? {
        Some(Value::Array(list)) => list,
        other => other.into_iter().collect(),
    };
    let texts = list.into_iter().filter_map(|value| match value {
        // An empty one would end every answer before it begins.
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    });
    Ok(texts.collect())
}

/// Chat asks with a flag and a number, the older completions with a number alone.
fn logprobs(endpoint: Endpoint, fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    if endpoint == Endpoint::Completions {
        let asked = fields.whole("logprobs")?;
        return Ok(asked.map(|number| number as usize));
    }
    let asked = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.whole("top_logprobs")?;
    match (asked, alternatives) {
        (true, number) => Ok(Some(number.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(invalid(
            "top_logprobs",
            "top_logprobs: expected logprobs to be true beside it",
        )),
    }
}

#[cfg(test)]
mod tests;
