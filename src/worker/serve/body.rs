//! The bodies of answers: a stream of events that is written as the engine makes
//! it, or one whole response; both with the usage as a trailer. Dropping a body
//! drops the engine's events, and that cancels the generation.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;

use super::answer::{Answer, Choice, DONE, Guesses, ToldToken, Usage};
use crate::api::error::{ApiError, Code};
use crate::engine::Finish;
use crate::engine::parts::Part;
use crate::worker::USAGE_TRAILER;

/// One write holds at most about this many bytes of events that were ready together.
const WRITE: usize = 16 * 1024;

/// What an engine tells while it answers.
#[derive(Debug, Clone)]
pub enum Event {
    /// A choice goes on.
    Text {
        /// Which choice.
        choice: usize,
        /// What it says; may be empty when tokens hold text back.
        text: String,
        /// The tokens, if log-probabilities were asked for.
        tokens: Vec<ToldToken>,
        /// How many tokens were made for it.
        count: u64,
    },
    /// A choice goes on with something that is not its content.
    #[cfg_attr(
        not(any(feature = "mlx", test)),
        expect(dead_code, reason = "the scripted engine tells text alone")
    )]
    Part {
        /// Which choice.
        choice: usize,
        /// What.
        part: Part,
    },
    /// A choice is over.
    End {
        /// Which choice.
        choice: usize,
        /// Why.
        finish: Finish,
        /// How many tokens were made since its last event.
        count: u64,
        /// How many tokens of its prompt were in the prompt cache; told of the first
        /// answer to each prompt alone.
        cached: u64,
        /// How many of its tokens had been guessed, and how many guesses were wrong.
        guesses: Guesses,
    },
    /// The answer cannot go on.
    Failed(ApiError),
    /// Bytes as they are, from the scripted engine's odd streams.
    Raw(Bytes),
    /// The body ends here as it is, from the scripted engine.
    Cut,
}

/// The events of an answer. Dropping them cancels it.
pub type Events = BoxStream<'static, Event>;

/// A streamed body.
struct Streamed {
    events: Events,
    answer: Answer,
    usage: Usage,
    include_usage: bool,
    choices: Vec<Told>,
    finish: Option<Finish>,
    phase: Phase,
}

/// How far a choice has been told.
#[derive(Default)]
struct Told {
    begun: bool,
    ended: bool,
    characters: usize,
    calls: usize,
}

enum Phase {
    Telling,
    /// All has been told; the trailer is left.
    Trailer(&'static str),
    Over,
}

/// A streamed body of `choices` choices.
pub fn streamed(
    answer: Answer,
    events: Events,
    choices: usize,
    prompt: u64,
    include_usage: bool,
) -> Body {
    let streamed = Streamed {
        events,
        answer,
        usage: Usage {
            prompt,
            ..Usage::default()
        },
        include_usage,
        choices: (0..choices).map(|_| Told::default()).collect(),
        finish: None,
        phase: Phase::Telling,
    };
    Body::new(StreamBody::new(streamed))
}

/// Waits for the whole answer and renders it.
///
/// # Errors
/// What the engine failed with.
pub async fn whole(
    answer: Answer,
    mut events: Events,
    choices: usize,
    prompt: u64,
) -> Result<Body, ApiError> {
    let mut told: Vec<Choice> = (0..choices).map(|_| Choice::default()).collect();
    let mut usage = Usage {
        prompt,
        ..Usage::default()
    };
    while let Some(event) = events.next().await {
        match event {
            Event::Text {
                choice,
                text,
                tokens,
                count,
            } => {
                usage.completion += count;
                told[choice].text.push_str(&text);
                told[choice].tokens.extend(tokens);
            }
            Event::Part { choice, part } => told[choice].add(part),
            Event::End {
                choice,
                finish,
                count,
                cached,
                guesses,
            } => {
                usage.completion += count;
                usage.cached += cached;
                usage.guesses += guesses;
                told[choice].finish = Some(finish);
            }
            Event::Failed(error) => return Err(error),
            Event::Raw(_) => {}
            Event::Cut => break,
        }
    }
    let Some(finish) = told
        .iter()
        .map(|choice| choice.finish)
        .collect::<Option<Vec<_>>>()
    else {
        return Err(broken_off());
    };
    let finish = finish.first().map_or("stop", |finish| finish.as_str());
    let frames = [
        Ok::<_, Infallible>(Frame::data(Bytes::from(answer.whole(&told, usage)))),
        Ok(Frame::trailers(trailer(&usage, finish))),
    ];
    Ok(Body::new(StreamBody::new(stream::iter(frames))))
}

/// The answer ended before its end.
fn broken_off() -> ApiError {
    ApiError::new(
        Code::InternalError,
        "the engine stopped in the middle of the answer",
    )
}

/// The usage as a trailer.
pub(super) fn trailer(usage: &Usage, finish: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(usage.trailer(finish)) {
        trailers.insert(HeaderName::from_static(USAGE_TRAILER), value);
    }
    trailers
}

impl Streamed {
    /// Writes one event of the engine.
    fn tell(&mut self, event: Event, into: &mut Vec<u8>) {
        match event {
            Event::Text {
                choice,
                text,
                tokens,
                count,
            } => {
                self.usage.completion += count;
                self.begin(choice, into);
                if !text.is_empty() || !tokens.is_empty() {
                    let told = &mut self.choices[choice];
                    let offset = told.characters;
                    told.characters += text.chars().count();
                    into.extend(self.answer.text(choice, &text, &tokens, offset));
                }
            }
            Event::Part { choice, part } => {
                self.begin(choice, into);
                let calls = &mut self.choices[choice].calls;
                *calls += usize::from(matches!(part, Part::Call(_)));
                into.extend(self.answer.part(choice, &part, calls.saturating_sub(1)));
            }
            Event::End {
                choice,
                finish,
                count,
                cached,
                guesses,
            } => {
                self.usage.completion += count;
                self.usage.cached += cached;
                self.usage.guesses += guesses;
                self.begin(choice, into);
                into.extend(self.answer.end(choice, finish));
                self.choices[choice].ended = true;
                self.finish = self.finish.or(Some(finish));
            }
            Event::Failed(error) => self.fail(&error, into),
            Event::Raw(bytes) => into.extend(&bytes),
            Event::Cut => self.stop(Phase::Over),
        }
    }

    fn begin(&mut self, choice: usize, into: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.choices[choice].begun, true)
            && let Some(event) = self.answer.begin(choice)
        {
            into.extend(event);
        }
    }

    /// The engine has nothing more to tell.
    fn end(&mut self, into: &mut Vec<u8>) {
        if !self.choices.iter().all(|choice| choice.ended) {
            return self.fail(&broken_off(), into);
        }
        if self.include_usage {
            into.extend(self.answer.usage(self.usage));
        }
        into.extend(DONE);
        self.stop(Phase::Trailer(self.finish.map_or("stop", Finish::as_str)));
    }

    /// One honest error event and no `[DONE]`.
    fn fail(&mut self, error: &ApiError, into: &mut Vec<u8>) {
        into.extend(error.event().into_bytes());
        self.stop(Phase::Trailer("error"));
    }

    /// Lets go of the engine.
    fn stop(&mut self, phase: Phase) {
        self.events = stream::empty().boxed();
        self.phase = phase;
    }
}

impl Stream for Streamed {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.phase {
            Phase::Telling => {}
            Phase::Trailer(finish) => {
                self.phase = Phase::Over;
                let trailers = trailer(&self.usage, finish);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Phase::Over => return Poll::Ready(None),
        }
        let mut written = Vec::new();
        while matches!(self.phase, Phase::Telling) && written.len() < WRITE {
            match self.events.poll_next_unpin(context) {
                Poll::Ready(Some(event)) => self.tell(event, &mut written),
                Poll::Ready(None) => self.end(&mut written),
                Poll::Pending if written.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if written.is_empty() {
            // Cut before anything was written.
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(written)))))
    }
}
