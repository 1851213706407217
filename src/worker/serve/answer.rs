//! The words of an answer: chunks and whole responses of chat completions and of
//! the older completions, in the shape that clients hold them to. It knows wire
//! JSON; it does not know where the text comes from.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::TryRng;
use rand::rngs::SysRng;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::fields::Endpoint;
use crate::engine::Finish;
use crate::engine::parts::Part;

/// The last event of a stream that is complete.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A token of an answer with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldToken {
    /// The token as text, as far as it is text by itself.
    pub text: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at this place: text, bytes, log-probability.
    pub top: Vec<(String, Vec<u8>, f32)>,
}

/// Tokens that were guessed and tried, in OpenAI's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guesses {
    /// Right: they are among the tokens made.
    pub accepted: u64,
    /// Wrong, or not needed any more.
    pub rejected: u64,
}

impl std::ops::AddAssign for Guesses {
    fn add_assign(&mut self, more: Self) {
        self.accepted += more.accepted;
        self.rejected += more.rejected;
    }
}

/// Tokens read and made for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt: u64,
    /// Those of them that were in the prompt cache.
    pub cached: u64,
    /// Tokens made, end tokens among them, over all choices.
    pub completion: u64,
    /// What was guessed of them.
    pub guesses: Guesses,
}

impl Usage {
    /// The value of the usage trailer.
    pub fn trailer(&self, finish: &str) -> String {
        let Self {
            prompt,
            cached,
            completion,
            guesses: Guesses { accepted, rejected },
        } = self;
        let mut words = format!("prompt={prompt}");
        if *cached > 0 {
            words += &format!(" cached={cached}");
        }
        words += &format!(" completion={completion}");
        if self.guesses != Guesses::default() {
            words += &format!(" accepted={accepted} rejected={rejected}");
        }
        words + " finish=" + finish
    }

    fn json(&self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        });
        if self.guesses != Guesses::default() {
            usage["completion_tokens_details"] = json!({
                "accepted_prediction_tokens": self.guesses.accepted,
                "rejected_prediction_tokens": self.guesses.rejected,
            });
        }
        usage
    }
}

/// One choice of a whole response.
#[derive(Debug, Default)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Its reasoning.
    pub reasoning: String,
    /// The tools that it calls: name and arguments.
    pub calls: Vec<(String, String)>,
    /// Its tokens, if log-probabilities were asked for.
    pub tokens: Vec<ToldToken>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

impl Choice {
    /// Adds what is not content.
    pub fn add(&mut self, part: Part) {
        match part {
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Call(name) => self.calls.push((name, String::new())),
            Part::Arguments(text) => {
                if let Some((_, arguments)) = self.calls.last_mut() {
                    arguments.push_str(&text);
                }
            }
        }
    }

    /// The message of a chat. Reasoning stands under the two names that clients read.
    fn message(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.text, "refusal": null});
        if self.text.is_empty() && !self.calls.is_empty() {
            message["content"] = Value::Null;
        }
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = json!(self.reasoning);
            message["reasoning"] = json!(self.reasoning);
        }
        if !self.calls.is_empty() {
            let call = |(name, arguments): &(String, String)| {
                let function = json!({"name": name, "arguments": arguments});
                json!({"id": call_id(), "type": "function", "function": function})
            };
            message["tool_calls"] = self.calls.iter().map(call).collect();
        }
        message
    }
}

/// What all chunks of one answer have in common.
pub struct Answer {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

impl Answer {
    /// An answer of `model`, as the caller named it. `logprobs` says whether
    /// log-probabilities were asked for.
    pub fn new(endpoint: Endpoint, model: String, logprobs: bool) -> Self {
        let prefix = match endpoint {
            Endpoint::Chat => "chatcmpl",
            _ => "cmpl",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            endpoint,
            id: format!("{prefix}-{:016x}{:016x}", random(), random()),
            created: now.map_or(0, |now| now.as_secs()),
            model,
            logprobs,
        }
    }

    /// The first event of a choice: who speaks. The older completions have none.
    pub fn begin(&self, choice: usize) -> Option<Vec<u8>> {
        let delta = json!({"role": "assistant", "content": ""});
        (self.endpoint == Endpoint::Chat)
            .then(|| self.event(&[self.delta(choice, delta, &[], None)]))
    }

    /// An event with text of a choice. `offset` is where it begins in the choice's
    /// text, in characters.
    pub fn text(&self, choice: usize, text: &str, tokens: &[ToldToken], offset: usize) -> Vec<u8> {
        self.event(&[match self.endpoint {
            Endpoint::Chat => self.delta(choice, json!({"content": text}), tokens, None),
            _ => self.piece(choice, text, tokens, offset, None),
        }])
    }

    /// An event with what is not content: of a chat alone. `call` is which call goes on.
    pub fn part(&self, choice: usize, part: &Part, call: usize) -> Vec<u8> {
        let called = |call: Value| json!({"tool_calls": [call]});
        let delta = match part {
            Part::Reasoning(text) => json!({"reasoning_content": text, "reasoning": text}),
            Part::Call(name) => called(json!({
                "index": call,
                "id": call_id(),
                "type": "function",
                "function": {"name": name, "arguments": ""},
            })),
            Part::Arguments(text) => called(json!({
                "index": call,
                "function": {"arguments": text},
            })),
        };
        self.event(&[self.delta(choice, delta, &[], None)])
    }

    /// The event that ends a choice.
    pub fn end(&self, choice: usize, finish: Finish) -> Vec<u8> {
        self.event(&[match self.endpoint {
            Endpoint::Chat => self.delta(choice, json!({}), &[], Some(finish)),
            _ => self.piece(choice, "", &[], 0, Some(finish)),
        }])
    }

    /// The event with the usage, after all choices have ended.
    pub fn usage(&self, usage: Usage) -> Vec<u8> {
        self.render(&[], Some(usage))
    }

    /// The whole response of a request that is not streamed.
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> Vec<u8> {
        let choices: Vec<Value> = choices
            .iter()
            .enumerate()
            .map(|(index, choice)| match self.endpoint {
                Endpoint::Chat => json!({
                    "index": index,
                    "message": choice.message(),
                    "logprobs": self.chat_logprobs(&choice.tokens),
                    "finish_reason": choice.finish.map(Finish::as_str),
                }),
                _ => self.piece(index, &choice.text, &choice.tokens, 0, choice.finish),
            })
            .collect();
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            _ => "text_completion",
        };
        self.json(object, &choices, Some(usage))
    }

    fn delta(
        &self,
        choice: usize,
        delta: Value,
        tokens: &[ToldToken],
        finish: Option<Finish>,
    ) -> Value {
        let logprobs = match tokens {
            [] => Value::Null,
            tokens => self.chat_logprobs(tokens),
        };
        json!({
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish.map(Finish::as_str),
        })
    }

    fn piece(
        &self,
        choice: usize,
        text: &str,
        tokens: &[ToldToken],
        offset: usize,
        finish: Option<Finish>,
    ) -> Value {
        let logprobs = match self.logprobs && !tokens.is_empty() {
            true => older_logprobs(tokens, offset),
            false => Value::Null,
        };
        json!({
            "index": choice,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish.map(Finish::as_str),
        })
    }

    fn chat_logprobs(&self, tokens: &[ToldToken]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let one = |text: &str, bytes: &[u8], logprob: f32| json!({"token": text, "logprob": logprob, "bytes": bytes});
        let content: Vec<Value> = tokens
            .iter()
            .map(|token| {
                let mut told = one(&token.text, &token.bytes, token.logprob);
                let top = token.top.iter();
                told["top_logprobs"] = top.map(|(text, bytes, p)| one(text, bytes, *p)).collect();
                told
            })
            .collect();
        json!({"content": content, "refusal": null})
    }

    fn event(&self, choices: &[Value]) -> Vec<u8> {
        self.render(choices, None)
    }

    fn render(&self, choices: &[Value], usage: Option<Usage>) -> Vec<u8> {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            _ => "text_completion",
        };
        let mut event = b"data: ".to_vec();
        event.extend(self.json(object, choices, usage));
        event.extend(b"\n\n");
        event
    }

    fn json(&self, object: &str, choices: &[Value], usage: Option<Usage>) -> Vec<u8> {
        let chunk = Chunk {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage: usage.map(|usage| usage.json()),
        };
        json!(chunk).to_string().into_bytes()
    }
}

/// A call's name for the answer to it.
fn call_id() -> String {
    format!("call_{:016x}{:016x}", random(), random())
}

/// A number nobody can guess. If the system has none to give, ids repeat, which
/// harms nothing but their use in logs.
fn random() -> u64 {
    SysRng.try_next_u64().unwrap_or_default()
}

/// The log-probabilities of the older completions: four lists side by side.
fn older_logprobs(tokens: &[ToldToken], mut offset: usize) -> Value {
    let mut offsets = Vec::with_capacity(tokens.len());
    let mut tops = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(offset);
        offset += token.text.chars().count();
        let top = token.top.iter();
        let top: serde_json::Map<_, _> = top.map(|(text, _, p)| (text.clone(), json!(p))).collect();
        tops.push(top);
    }
    json!({
        "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}
