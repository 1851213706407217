//! One sequence as events: tokens to text, up to a stop string, and text to the parts of an
//! answer. Log-probabilities
//! go out with the text of their tokens, so none is told of a token whose text
//! belongs to a stop string.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use super::{Growing, Language};
use crate::api::error::{ApiError, Code};
use crate::engine::Finish;
use crate::engine::parts::{Delta, Parser};
use crate::engine::sampling::Sampled;
use crate::engine::stop::StopStrings;
use crate::engine::thread::Sequence;
use crate::engine::thread::outlet::Said;
use crate::worker::serve::answer::{Guesses, ToldToken};
use crate::worker::serve::body::{Event, Events};

/// A sequence that is being told.
pub(super) struct Telling {
    choice: usize,
    /// Nothing once it is over; dropping it cancels it.
    sequence: Option<Sequence>,
    language: Arc<dyn Language>,
    growing: Box<dyn Growing>,
    stops: StopStrings,
    /// Nothing if the answer has content alone.
    parser: Option<Parser>,
    /// Tokens whose text is not all out, with the place where their text begins.
    held: VecDeque<(usize, ToldToken)>,
    /// Bytes of text that the tokens have made, and that have gone out.
    made: usize,
    told: usize,
    /// Tokens made since the last event.
    count: u64,
    /// Whether it is the first answer to its prompt.
    is_first: bool,
    /// Tokens of its prompt that were in the prompt cache.
    cached: u64,
    /// Those that had been guessed, once it is over.
    guesses: Guesses,
}

impl Telling {
    pub(super) fn new(
        choice: usize,
        is_first: bool,
        sequence: Sequence,
        language: Arc<dyn Language>,
        growing: Box<dyn Growing>,
        stops: StopStrings,
        parser: Option<Parser>,
    ) -> Self {
        Self {
            choice,
            sequence: Some(sequence),
            growing,
            language,
            stops,
            parser,
            held: VecDeque::new(),
            made: 0,
            told: 0,
            count: 0,
            is_first,
            cached: 0,
            guesses: Guesses::default(),
        }
    }

    /// The events, to the end of the sequence.
    pub(super) fn events(self) -> Events {
        stream::unfold(self, |mut telling| async move {
            let events = telling.next().await?;
            Some((stream::iter(events), telling))
        })
        .flatten()
        .boxed()
    }

    /// The next events; nothing after the last.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let said = self.sequence.as_mut()?.next().await;
            let events = match said {
                Some(Said::Began { cached }) => {
                    self.cached = cached;
                    Vec::new()
                }
                Some(Said::Token(sampled)) => self.token(sampled),
                Some(Said::End { finish, end_token }) => self.end(finish, end_token),
                Some(Said::Failed(error)) => self.fail(&error.to_string()),
                None => self.fail("the engine is gone"),
            };
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    fn token(&mut self, sampled: Sampled) -> Vec<Event> {
        self.count += 1;
        if let Some(logprob) = sampled.logprob {
            let (text, bytes) = self.language.told(sampled.token);
            let alternative = |(token, logprob): &(u32, f32)| {
                let (text, bytes) = self.language.told(*token);
                (text, bytes, *logprob)
            };
            let told = ToldToken {
                text,
                bytes,
                logprob,
                top: sampled.top.iter().map(alternative).collect(),
            };
            self.held.push_back((self.made, told));
        }
        let text = self.growing.push(sampled.token);
        self.made += text.len();
        let pushed = self.stops.push(&text);
        let mut events = self.text(pushed.text, false);
        let is_over = self.parser.as_ref().is_some_and(Parser::is_over);
        if pushed.stopped || is_over {
            self.let_go();
            events.extend(self.rest());
            events.push(self.over(Finish::Stop));
        }
        events
    }

    /// The sequence is over.
    fn let_go(&mut self) {
        if let Some(sequence) = self.sequence.take() {
            let (tried, accepted) = sequence.guesses();
            let rejected = tried.saturating_sub(accepted);
            self.guesses = Guesses { accepted, rejected };
        }
    }

    fn end(&mut self, finish: Finish, end_token: bool) -> Vec<Event> {
        self.let_go();
        self.count += u64::from(end_token);
        let last = self.growing.finish();
        self.made += last.len();
        let pushed = self.stops.push(&last);
        let mut text = pushed.text;
        let finish = match pushed.stopped {
            true => Finish::Stop,
            false => {
                text.push_str(&self.stops.finish());
                finish
            }
        };
        let mut events = self.text(text, !pushed.stopped);
        events.extend(self.rest());
        events.push(self.over(finish));
        events
    }

    /// Text goes out, and with it the tokens whose text is out; all of them if
    /// nothing was cut off.
    fn text(&mut self, text: String, all: bool) -> Vec<Event> {
        self.told += text.len();
        let mut tokens = Vec::new();
        while let Some((begins, _)) = self.held.front()
            && (all || *begins < self.told)
        {
            tokens.extend(self.held.pop_front().map(|(_, token)| token));
        }
        if text.is_empty() && tokens.is_empty() {
            return Vec::new();
        }
        let deltas = match &mut self.parser {
            Some(parser) => parser.push(&text),
            None => vec![Delta::Content(text)],
        };
        self.told_as(deltas, tokens)
    }

    /// What the parser has held back.
    fn rest(&mut self) -> Vec<Event> {
        let deltas = self.parser.as_mut().map(Parser::finish);
        self.told_as(deltas.unwrap_or_default(), Vec::new())
    }

    /// The events of deltas; `tokens` go with the first content, or before all else.
    fn told_as(&mut self, deltas: Vec<Delta>, mut tokens: Vec<ToldToken>) -> Vec<Event> {
        let choice = self.choice;
        let mut events = Vec::new();
        let begins_with_content = matches!(deltas.first(), Some(Delta::Content(_)));
        if !tokens.is_empty() && !begins_with_content {
            events.push(Event::Text {
                choice,
                text: String::new(),
                tokens: std::mem::take(&mut tokens),
                count: std::mem::take(&mut self.count),
            });
        }
        for delta in deltas {
            events.push(match delta {
                Delta::Content(text) => Event::Text {
                    choice,
                    text,
                    tokens: std::mem::take(&mut tokens),
                    count: std::mem::take(&mut self.count),
                },
                Delta::Part(part) => Event::Part { choice, part },
            });
        }
        events
    }

    fn over(&mut self, finish: Finish) -> Event {
        let has_called = self.parser.as_ref().is_some_and(Parser::has_called);
        let finish = match finish {
            Finish::Stop if has_called => Finish::ToolCalls,
            finish => finish,
        };
        Event::End {
            choice: self.choice,
            finish,
            count: std::mem::take(&mut self.count),
            cached: match self.is_first {
                true => self.cached,
                false => 0,
            },
            guesses: self.guesses,
        }
    }

    fn fail(&mut self, reason: &str) -> Vec<Event> {
        self.sequence = None;
        tracing::error!(reason, "an answer broke off");
        let message = "the engine could not go on with the answer";
        vec![Event::Failed(ApiError::new(Code::InternalError, message))]
    }
}
