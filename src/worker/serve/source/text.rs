//! The embedded engine as a source of answers: messages to a prompt to tokens, and
//! what a sequence says to text. The model's language is behind a small trait, so
//! that all of this runs without MLX too. Text work is done here, never on the
//! engine's thread.

mod telling;
mod warm;
mod words;

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};

use self::telling::Telling;
use super::{Allowance, Begun, Status, allowance};
use crate::api::error::{ApiError, Code};
use crate::api::fields::invalid;
use crate::engine::constraint::{Constraint, ConstraintError};
use crate::engine::guide::Grammar;
use crate::engine::parts::format::{self, Format};
use crate::engine::parts::{Beginning, Parser, Tools};
use crate::engine::sampling::Sampling;
use crate::engine::stop::StopStrings;
use crate::engine::thread::{Engine, Job};
use crate::worker::serve::request::{Asked, Chat, Input, Prompt, Wishes};

/// No token stands for more bytes of text than this, in any vocabulary of today:
/// a text that is longer than so many bytes for each token of the context is
/// refused before the tokenizer works on it.
pub(super) const LONGEST_TOKEN: usize = 256;

/// What turns messages and text into tokens and back.
pub trait Language: Send + Sync + 'static {
    /// The prompt for a chat.
    fn render(&self, chat: &Chat) -> Result<String, LanguageError>;

    /// The tokens of a text; `whole` if it is to begin as the model expects a text to.
    fn encode(&self, text: &str, whole: bool) -> Result<Vec<u32>, LanguageError>;

    /// The text of tokens, those that steer the model among them.
    fn decode(&self, tokens: &[u32]) -> Result<String, LanguageError>;

    /// The tokens that end an answer.
    fn end_tokens(&self) -> &[u32];

    /// How a token is told beside its log-probability: as text, and its bytes.
    fn told(&self, token: u32) -> (String, Vec<u8>);

    /// The grammar that comes to a constraint. Blocks while it is compiled.
    fn grammar(&self, constraint: &Constraint) -> Result<Arc<dyn Grammar>, ConstraintError>;

    /// Which marks there are around reasoning and calls of tools.
    fn format(&self) -> Format;

    /// The text of one answer while it grows; of special tokens it has these `marks`.
    fn growing(&self, marks: &[&str]) -> Box<dyn Growing>;
}

/// The text of one answer while it grows, never half a character.
pub trait Growing: Send {
    /// Takes in a token and answers the text that is certain now.
    fn push(&mut self, token: u32) -> String;

    /// The tokens have ended: what was held back.
    fn finish(&mut self) -> String;
}

/// Why there is no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LanguageError {
    /// The model has no chat template.
    #[error("this model has no chat template; /v1/completions takes a prompt as it is")]
    NoTemplate,
    /// The template refused the messages; what it said.
    #[error("{0}")]
    Refused(String),
    /// The snapshot is at fault; what is wrong is for the log.
    #[error("{0}")]
    Broken(String),
}

/// What the snapshot itself says about choosing tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// See [`Sampling::temperature`].
    pub temperature: Option<f32>,
    /// See [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::top_k`].
    pub top_k: Option<u32>,
    /// See [`Sampling::min_p`].
    pub min_p: Option<f32>,
    /// See [`Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
}

/// The embedded engine.
pub struct Source {
    engine: Engine,
    language: Arc<dyn Language>,
    defaults: Defaults,
    context: u32,
}

/// A prompt with its place in the request.
struct Tokens {
    param: String,
    tokens: Vec<u32>,
    /// Whether they end within reasoning.
    in_reasoning: bool,
}

impl Source {
    /// A source of answers within `context` tokens.
    pub fn new(
        engine: Engine,
        language: Arc<dyn Language>,
        defaults: Defaults,
        context: u32,
    ) -> Self {
        Self {
            engine,
            language,
            defaults,
            context,
        }
    }

    /// Begins an answer; see [`super::Engine::begin`].
    pub async fn begin(&self, asked: Asked) -> Result<Begun, ApiError> {
        let vocabulary = self.engine.facts().vocabulary;
        if let Some(token) = asked
            .wishes
            .logit_bias
            .keys()
            .find(|token| **token as usize >= vocabulary)
        {
            return Err(invalid(
                "logit_bias",
                format!("logit_bias: expected token ids below {vocabulary}, found {token}"),
            ));
        }
        let format = match (&asked.input, &asked.forced) {
            (Input::Prompts(_), _) => Format::default(),
            (Input::Chat(_), None) => self.language.format(),
            (Input::Chat(_), Some(_)) => self.language.format().forced(),
        };
        let calls = asked.forced.map(|forced| {
            let calls = format::grammar(format, &forced);
            ("tool_choice".to_owned(), Constraint::Grammar(calls))
        });
        let grammar = match asked.constraint.or(calls) {
            Some((param, constraint)) => Some(self.grammar(param, constraint).await?),
            None => None,
        };
        let is_constrained = grammar.is_some();
        let tools = match &asked.input {
            Input::Chat(chat) => chat.tools.clone().map(Tools),
            Input::Prompts(_) => None,
        };
        let prompts = self.tokens(asked.input).await?;
        let mut jobs = Vec::new();
        let mut limited = None;
        // Within a grammar only the end token tells that the answer is whole.
        let end_tokens: Arc<[u32]> = match asked.ignore_end && grammar.is_none() {
            true => Arc::from([]),
            false => Arc::from(self.language.end_tokens()),
        };
        for prompt in &prompts {
            let allowed = self.check(prompt, asked.max_tokens)?;
            if allowed.limited {
                let least = limited.unwrap_or(u32::MAX);
                limited = Some(allowed.max_tokens.min(least));
            }
            for choice in 0..asked.choices {
                jobs.push(Job {
                    prompt: prompt.tokens.clone(),
                    max_tokens: allowed.max_tokens,
                    end_tokens: Arc::clone(&end_tokens),
                    sampling: sampling(&asked.wishes, &self.defaults, choice as u64),
                    grammar: grammar.clone(),
                    logprobs: asked.logprobs,
                    owner: asked.owner,
                    adapter: asked.adapter.clone(),
                });
            }
        }
        let choices = jobs.len();
        let answers = jobs.into_iter().enumerate().map(|(choice, job)| {
            let sequence = self.engine.begin(job);
            let language = Arc::clone(&self.language);
            let is_first = choice % asked.choices == 0;
            let beginning = Beginning {
                tools: tools.clone(),
                one_call: asked.one_call,
                // A grammar says what the answer is from its first token on.
                in_reasoning: prompts[choice / asked.choices].in_reasoning && !is_constrained,
            };
            let parser = Parser::new(&format, beginning);
            let growing = match &parser {
                Some(_) => language.growing(&format.marks()),
                None => language.growing(&[]),
            };
            let stops = StopStrings::new(asked.stops.clone());
            Telling::new(choice, is_first, sequence, language, growing, stops, parser).events()
        });
        Ok(Begun {
            events: stream::select_all(answers).boxed(),
            choices,
            prompt: prompts
                .iter()
                .map(|prompt| prompt.tokens.len() as u64)
                .sum(),
            limited,
            odd: None,
        })
    }

    /// The prompts as tokens. Rendering and tokenising take time, so they are done
    /// on a thread that may block.
    async fn tokens(&self, input: Input) -> Result<Vec<Tokens>, ApiError> {
        let language = Arc::clone(&self.language);
        let longest = self.context as usize * LONGEST_TOKEN;
        let work = move || tokens(&*language, input, longest);
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(?error, "a prompt could not be made");
            ApiError::new(Code::InternalError, "the prompt could not be made")
        })?
    }

    /// The grammar of a constraint that the field `param` names.
    async fn grammar(
        &self,
        param: String,
        constraint: Constraint,
    ) -> Result<Arc<dyn Grammar>, ApiError> {
        let language = Arc::clone(&self.language);
        let work = move || language.grammar(&constraint);
        let compiled = tokio::task::spawn_blocking(work).await;
        let compiled = compiled.unwrap_or(Err(ConstraintError::Failed));
        compiled.map_err(|error| match &error {
            ConstraintError::Refused(_) | ConstraintError::Unsupported(_) => {
                let message = format!("{param}: {error}");
                invalid(param, message)
            }
            ConstraintError::Busy => ApiError::new(Code::Overloaded, error.to_string()),
            ConstraintError::Failed => ApiError::new(Code::InternalError, error.to_string()),
        })
    }

    fn check(&self, prompt: &Tokens, max_tokens: Option<u32>) -> Result<Allowance, ApiError> {
        let facts = self.engine.facts();
        let stranger = prompt
            .tokens
            .iter()
            .position(|token| *token as usize >= facts.vocabulary);
        if let Some(index) = stranger {
            let param = format!("{}[{index}]", prompt.param);
            let message = format!(
                "{param}: expected a token id below {}, found {}",
                facts.vocabulary, prompt.tokens[index]
            );
            return Err(invalid(param, message));
        }
        let length = prompt.tokens.len() as u64;
        let context = u64::from(self.context);
        allowance(&prompt.param, length, max_tokens, context, facts.room)
    }

    /// Forgets what is kept of prompts.
    pub fn forget(&self) {
        self.engine.forget();
    }

    /// Writes what is kept of prompts to the disk, until then, and ends.
    pub fn leave(&self, until: Instant) {
        self.engine.leave(until);
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let facts = self.engine.facts();
        let counted = self.engine.counted();
        let bytes = |tokens: u64| tokens.saturating_mul(facts.kv_bytes_per_token);
        Status {
            device: facts.device.to_owned(),
            compute: facts.compute.to_owned(),
            bytes_held: facts.bytes_held,
            sequences: (counted.running, counted.waiting),
            kv: (bytes(counted.reserved), bytes(facts.room)),
            tokens: (counted.read, counted.made),
            kept: counted.kept,
        }
    }
}

/// The prompts of a request as tokens.
fn tokens(language: &dyn Language, input: Input, longest: usize) -> Result<Vec<Tokens>, ApiError> {
    let prompts = match input {
        Input::Chat(chat) => {
            let prompt = language
                .render(&chat)
                .map_err(|error| refusal("messages", error))?;
            // The template writes what a text begins with.
            let tokens = encode(language, "messages", &prompt, false, longest)?;
            return Ok(vec![Tokens {
                param: "messages".to_owned(),
                tokens,
                in_reasoning: language.format().opens_reasoning(&prompt),
            }]);
        }
        Input::Prompts(prompts) => prompts,
    };
    let several = prompts.len() > 1;
    let place = |index: usize| match several {
        true => format!("prompt[{index}]"),
        false => "prompt".to_owned(),
    };
    let one = |(index, prompt)| {
        let param = place(index);
        let tokens = match prompt {
            Prompt::Text(text) => encode(language, &param, &text, true, longest)?,
            Prompt::Tokens(tokens) => tokens,
        };
        Ok(Tokens {
            param,
            tokens,
            in_reasoning: false,
        })
    };
    prompts.into_iter().enumerate().map(one).collect()
}

/// The tokens of one text, of at most `longest` bytes.
fn encode(
    language: &dyn Language,
    param: &str,
    text: &str,
    whole: bool,
    longest: usize,
) -> Result<Vec<u32>, ApiError> {
    if text.len() > longest {
        let message = format!(
            "this model's context is {} tokens, and the prompt has at least {}",
            longest / LONGEST_TOKEN,
            text.len().div_ceil(LONGEST_TOKEN)
        );
        return Err(ApiError::new(Code::ContextLengthExceeded, message).param(param));
    }
    language
        .encode(text, whole)
        .map_err(|error| refusal(param, error))
}

/// What a request is told of a language that failed.
pub(super) fn refusal(param: &str, error: LanguageError) -> ApiError {
    match &error {
        LanguageError::NoTemplate => ApiError::new(Code::BadRequest, error.to_string()),
        LanguageError::Refused(reason) => invalid(param, format!("{param}: {reason}")),
        LanguageError::Broken(reason) => {
            tracing::error!(?reason, "the snapshot's tokenizer or template failed");
            let message = "this model's tokenizer or chat template is broken";
            ApiError::new(Code::InternalError, message)
        }
    }
}

/// What the request wishes, filled up with what the snapshot says. Each of several
/// choices draws differently and repeatably.
fn sampling(wishes: &Wishes, defaults: &Defaults, choice: u64) -> Sampling {
    let usual = Sampling::default();
    let pick =
        |wish: Option<f32>, default: Option<f32>, usual: f32| wish.or(default).unwrap_or(usual);
    Sampling {
        temperature: pick(wishes.temperature, defaults.temperature, usual.temperature),
        top_p: pick(wishes.top_p, defaults.top_p, usual.top_p),
        top_k: wishes.top_k.or(defaults.top_k).unwrap_or(usual.top_k),
        min_p: pick(wishes.min_p, defaults.min_p, usual.min_p),
        repetition_penalty: pick(
            wishes.repetition_penalty,
            defaults.repetition_penalty,
            usual.repetition_penalty,
        ),
        repetition_context: wishes
            .repetition_context
            .map_or(usual.repetition_context, |tokens| tokens as usize),
        presence_penalty: wishes.presence_penalty.unwrap_or(usual.presence_penalty),
        frequency_penalty: wishes.frequency_penalty.unwrap_or(usual.frequency_penalty),
        logit_bias: wishes
            .logit_bias
            .iter()
            .map(|(token, bias)| (*token, *bias))
            .collect(),
        seed: wishes.seed.map(|seed| seed.wrapping_add(choice)),
    }
}

#[cfg(test)]
pub mod tests;
