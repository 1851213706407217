//! What a request asks for: its body read and checked, field by field. Every
//! value outside its range is a refusal that names the field; what has no effect
//! is remembered and told. It does not know which engine will answer.

mod wishes;

use serde_json::{Map, Value, json};

pub use self::wishes::Wishes;
use super::fields::{Fields, LARGEST, invalid, wrong};
use super::messages;
use crate::api::error::{ApiError, Code};

/// Most answers to one prompt (`n`).
pub const MOST_CHOICES: u64 = 8;

/// Most prompts of one completions request, and most answers of one request.
pub const MOST_PROMPTS: usize = 64;

/// Most stop strings. OpenAI allows 4; 16 leaves room for agents that send more.
const MOST_STOPS: usize = 16;

/// Longest stop string, bytes.
const LONGEST_STOP: usize = 1024;

/// Most alternatives that `top_logprobs` or the older `logprobs` may ask for.
const MOST_ALTERNATIVES: u64 = 20;

/// Most tools of one request.
const MOST_TOOLS: usize = 1024;

/// What a completions request without `max_tokens` gets, as the OpenAI API documents it.
const COMPLETIONS_MAX_TOKENS: u32 = 16;

/// Which of the two generating paths was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// The path it came to.
    pub route: Route,
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
pub fn read(route: Route, body: &[u8]) -> Result<Asked, ApiError> {
    let mut fields = Fields::parse(body)?;
    let model = model(&mut fields)?;
    let nonce = fields.text("nonce")?;
    let script = fields.take("scripted");
    refuse_what_cannot_be_done(&mut fields)?;
    let input = match route {
        Route::Chat => Input::Chat(chat(&mut fields)?),
        Route::Completions => Input::Prompts(prompts(&mut fields)?),
    };
    let choices = fields.whole("n", 1..=MOST_CHOICES)?.unwrap_or(1) as usize;
    if let Input::Prompts(prompts) = &input
        && prompts.len() * choices > MOST_PROMPTS
    {
        let asked = prompts.len() * choices;
        return Err(invalid(
            "n",
            format!("n: expected at most {MOST_PROMPTS} answers over all prompts, found {asked}"),
        ));
    }
    let stream = fields.flag("stream")?.unwrap_or(false);
    Ok(Asked {
        route,
        model,
        input,
        choices,
        stream,
        include_usage: include_usage(&mut fields)? && stream,
        max_tokens: max_tokens(route, &mut fields)?,
        stops: stops(&mut fields)?,
        ignore_end: fields.flag("ignore_eos")?.unwrap_or(false),
        logprobs: logprobs(route, &mut fields)?,
        wishes: wishes::read(&mut fields)?,
        ignored: {
            // Acted on by the router, if at all.
            fields.take("keep_alive");
            fields.take("ttl");
            fields.ignored()
        },
        nonce,
        script,
    })
}

/// The served name, as the caller wrote it. The router has checked and resolved it.
fn model(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.take("model") {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name)),
        Some(_) => {
            Err(ApiError::new(Code::InvalidModelId, "model: expected a string").param("model"))
        }
    }
}

/// What this engine cannot do is refused, not skipped.
fn refuse_what_cannot_be_done(fields: &mut Fields) -> Result<(), ApiError> {
    let off = json!(false);
    let empty = [json!([])];
    let text_only = [json!(["text"])];
    let choice = [json!("auto"), json!("none")];
    let wording = "the model's answer cannot be constrained yet";
    response_format(fields)?;
    fields.refuse("functions", &empty, "use tools instead")?;
    fields.refuse("function_call", &choice, "use tool_choice instead")?;
    fields.refuse("modalities", &text_only, "only text can be made")?;
    fields.refuse("audio", &[], "only text can be made")?;
    fields.refuse("web_search_options", &[], "there is no web search")?;
    fields.refuse(
        "echo",
        &[off],
        "the prompt cannot be repeated in the answer",
    )?;
    fields.refuse(
        "suffix",
        &[json!("")],
        "text cannot be filled in before a suffix",
    )?;
    fields.refuse("best_of", &[json!(1)], "only n is supported")?;
    for name in [
        "grammar",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    ] {
        fields.refuse(name, &[], wording)?;
    }
    for name in [
        "chat_template",
        "adapter",
        "adapters",
        "draft_model",
        "documents",
    ] {
        fields.refuse(name, &empty, "cannot be set by a request")?;
    }
    Ok(())
}

/// Only plain text, until output can be constrained.
fn response_format(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(format) = fields.object("response_format")? else {
        return Ok(());
    };
    match format.get("type").unwrap_or(&Value::Null) {
        Value::String(kind) if kind == "text" => Ok(()),
        other => Err(wrong(
            "response_format",
            "{\"type\": \"text\"} (the model's answer cannot be constrained yet)",
            other,
        )),
    }
}

/// Whether the model is shown the tools. Whether it calls one is its own choice:
/// a call cannot be forced before output can be constrained.
fn tools_shown(fields: &mut Fields) -> Result<bool, ApiError> {
    match fields.take("tool_choice") {
        None => Ok(true),
        Some(Value::String(choice)) if choice == "auto" => Ok(true),
        Some(Value::String(choice)) if choice == "none" => Ok(false),
        Some(other) => Err(wrong(
            "tool_choice",
            "\"auto\" or \"none\" (a call cannot be forced yet)",
            &other,
        )),
    }
}

fn chat(fields: &mut Fields) -> Result<Chat, ApiError> {
    let messages = messages::check(fields.take("messages"))?;
    let tools_shown = tools_shown(fields)?;
    let tools = fields.array("tools", MOST_TOOLS)?;
    if let Some(index) = tools.iter().flatten().position(|tool| !tool.is_object()) {
        let place = format!("tools[{index}]");
        return Err(invalid(&place, format!("{place}: expected an object")));
    }
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
        tools: tools.filter(|tools| tools_shown && !tools.is_empty()),
        kwargs,
        add_generation_prompt: add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
    })
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, an array of strings, or one or more arrays of token ids";
    let prompts = match fields.take("prompt") {
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
    if !(1..=MOST_PROMPTS).contains(&prompts.len()) {
        return Err(invalid(
            "prompt",
            format!(
                "prompt: expected 1 to {MOST_PROMPTS} prompts, found {}",
                prompts.len()
            ),
        ));
    }
    Ok(prompts)
}

fn tokens(place: &str, list: &[Value]) -> Result<Vec<u32>, ApiError> {
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
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(false);
    };
    match options.remove("include_usage").unwrap_or(Value::Null) {
        Value::Null => Ok(false),
        Value::Bool(asked) => Ok(asked),
        other => Err(wrong(
            "stream_options.include_usage",
            "true or false",
            &other,
        )),
    }
}

fn max_tokens(route: Route, fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let older = fields.whole32("max_tokens", 1..=LARGEST)?;
    let newer = fields.whole32("max_completion_tokens", 1..=LARGEST)?;
    Ok(match (older, newer) {
        // Both are upper bounds, so the smaller holds.
        (Some(older), Some(newer)) => Some(older.min(newer)),
        (None, None) if route == Route::Completions => Some(COMPLETIONS_MAX_TOKENS),
        (older, newer) => older.or(newer),
    })
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => vec![text],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("stop", "a string or an array of strings", &other)),
    };
    if list.len() > MOST_STOPS {
        return Err(invalid(
            "stop",
            format!(
                "stop: expected at most {MOST_STOPS} strings, found {}",
                list.len()
            ),
        ));
    }
    let mut stops = Vec::with_capacity(list.len());
    for value in list {
        match value {
            Value::String(text) if text.len() > LONGEST_STOP => {
                return Err(invalid(
                    "stop",
                    format!(
                        "stop: expected strings of at most {LONGEST_STOP} bytes, found one of {}",
                        text.len()
                    ),
                ));
            }
            // An empty one would end every answer before it begins.
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => stops.push(text),
            other => return Err(wrong("stop", "a string or an array of strings", &other)),
        }
    }
    Ok(stops)
}

/// Chat asks with a flag and a number, the older completions with a number alone.
fn logprobs(route: Route, fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    if route == Route::Completions {
        let asked = fields.whole("logprobs", 0..=MOST_ALTERNATIVES)?;
        return Ok(asked.map(|number| number as usize));
    }
    let asked = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.whole("top_logprobs", 0..=MOST_ALTERNATIVES)?;
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
