//! Chat templates: messages to the text of a prompt. What a template may use is what
//! transformers gives it (`transformers/utils/chat_template_utils.py`, 5.x), run by
//! minijinja instead of Jinja2. It makes no tokens.
//!
//! Templates come with models, from strangers. They reach nothing but the values they
//! are given (there are no Python objects behind them, so `__class__` and its like are
//! merely undefined), they may take a bounded number of steps, and their output is
//! bounded. What is not bounded is the work of one step: a template can still ask for
//! very long strings. That it runs in the worker process, of which others are
//! independent, is the fence for that.

mod environment;
mod json;
mod messages;
mod methods;
mod source;
mod strftime;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Map;

use super::parts::format::Format;
use super::tokenizer::TextError;

/// Bytes that one rendering may put out: some ten times the longest context of today.
const LONGEST_OUTPUT: usize = 64 << 20;

/// Put after the last message to find where the template puts its end. The private-use
/// character keeps it from occurring in messages; the space at the end shows whether
/// the template trims.
const CONTINUE_MARK: &str = "\u{f8ff}CONTINUE_FROM_HERE\u{f8ff} ";

/// The chat template of a model, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, Value>,
    has_tool_use: bool,
    knows_developer: bool,
    format: Format,
}

impl ChatTemplate {
    /// Reads the chat template of the snapshot in `dir`: `chat_template.jinja`, else
    /// `chat_template.json`, else the `chat_template` of `tokenizer_config.json`, which
    /// is one text or a list of named ones (`default`, and `tool_use` where tools are
    /// given). `None` if the model has none.
    ///
    /// # Errors
    /// [`TextError::BadFile`] for a broken file, [`TextError::BadTemplate`] for a
    /// template that does not parse.
    pub fn load(dir: &Path) -> Result<Option<Self>, TextError> {
        let Some(sources) = source::templates(dir)? else {
            return Ok(None);
        };
        Self::new(sources, source::special_tokens(dir)?, SystemTime::now).map(Some)
    }

    /// A template from its named texts; `now` is what `strftime_now` tells.
    fn new(
        sources: BTreeMap<String, String>,
        special_tokens: BTreeMap<String, Value>,
        now: fn() -> SystemTime,
    ) -> Result<Self, TextError> {
        let mut environment = environment::new(now);
        let knows_developer = sources
            .values()
            .any(|text| text.contains("\"developer\"") || text.contains("'developer'"));
        let format = Format::of(sources.values().map(String::as_str));
        let has_tool_use = sources.contains_key("tool_use");
        for (name, text) in sources {
            environment
                .add_template_owned(name, environment::without_generation_tags(&text))
                .map_err(|error| TextError::BadTemplate(error.to_string()))?;
        }
        Ok(Self {
            environment,
            special_tokens,
            has_tool_use,
            knows_developer,
            format,
        })
    }

    /// Which marks the model writes around reasoning and calls of tools.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Renders the prompt for `messages` (an array in the shape of OpenAI's chat API)
    /// and `tools`. `kwargs` are passed to the template (`enable_thinking`,
    /// `documents`, …); they cannot replace what this function passes itself. With
    /// `continue_final_message` the prompt ends where the last message's text ends, so
    /// that the model goes on with it.
    ///
    /// # Errors
    /// [`TextError::Template`] with what the template raised, or where it failed on
    /// these messages; [`TextError::BadTemplate`] if it ran past its bounds.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        tools: Option<&serde_json::Value>,
        kwargs: &Map<String, serde_json::Value>,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> Result<String, TextError> {
        let mut messages = messages::normalised(messages, self.knows_developer)?;
        let continued = if continue_final_message {
            Some(messages::mark_last(&mut messages, CONTINUE_MARK)?)
        } else {
            None
        };
        let tools = tools.filter(|tools| tools.as_array().is_none_or(|list| !list.is_empty()));
        let name = if tools.is_some() && self.has_tool_use {
            "tool_use"
        } else {
            "default"
        };
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        // Templates ask for these with `is not none`: they are always defined.
        context.insert("documents", Value::from(()));
        for (key, token) in &self.special_tokens {
            context.insert(key, token.clone());
        }
        for (key, argument) in kwargs {
            context.insert(key, value::of(argument));
        }
        context.insert("messages", value::of(&serde_json::Value::Array(messages)));
        context.insert("tools", tools.map_or_else(|| Value::from(()), value::of));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        let prompt = self.run(name, context)?;
        match continued {
            Some(text) => until_mark(&prompt, &text),
            None => Ok(prompt),
        }
    }

    fn run(&self, name: &str, context: BTreeMap<&str, Value>) -> Result<String, TextError> {
        let template = self
            .environment
            .get_template(name)
            .map_err(|error| TextError::BadTemplate(error.to_string()))?;
        let mut output = Bounded::default();
        let context = Value::from_pairs(context);
        match template.render_captured_to(context, &mut output) {
            Ok(_) => String::from_utf8(output.bytes)
                .map_err(|error| TextError::BadTemplate(error.to_string())),
            Err(error) => Err(told(&error)),
        }
    }
}

/// Collects output up to the bound.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > LONGEST_OUTPUT {
            return Err(std::io::Error::other("output too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What went wrong in a rendering, in our words.
fn told(error: &Error) -> TextError {
    if let Some(raised) = environment::raised(error) {
        return TextError::Template(raised);
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TextError::BadTemplate(format!(
            "it takes more than {} steps",
            environment::MOST_STEPS
        )),
        ErrorKind::WriteFailure => TextError::BadTemplate(format!(
            "its output is longer than {} MiB",
            LONGEST_OUTPUT >> 20
        )),
        _ => TextError::Template(error.to_string()),
    }
}

/// The prompt up to the mark. Where the template has trimmed the message, what would
/// have been trimmed is trimmed here (as in transformers).
fn until_mark(prompt: &str, text: &str) -> Result<String, TextError> {
    let at = prompt.rfind(CONTINUE_MARK.trim_end());
    match at {
        Some(at) if prompt.contains(text.trim()) => {
            let (before, after) = prompt.split_at(at);
            let kept = if after.starts_with(CONTINUE_MARK) {
                before
            } else {
                before.trim_end()
            };
            Ok(kept.to_owned())
        }
        _ => Err(TextError::Template(
            "continue_final_message: the last message does not appear in the prompt; \
             send it as a message of its own or without the flag"
                .to_owned(),
        )),
    }
}
