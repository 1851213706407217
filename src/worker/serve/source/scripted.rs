//! The scripted engine as a source of answers: what its beats are as events, and
//! what its odd answers look like on the wire.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde_json::Value;

use super::{Begun, Status, allowance};
use crate::api::error::{ApiError, Code};
use crate::api::fields::{invalid, wrong};
use crate::engine::Finish;
use crate::engine::prefix::{Owner, Prefixes};
use crate::engine::scripted::play::{Beat, Play};
use crate::engine::scripted::{Odd, Script, Scripted};
use crate::engine::stop::StopStrings;
use crate::engine::thread::Kept;
use crate::model::sentence::{Scale, to_length_one};
use crate::worker::serve::answer::Guesses;
use crate::worker::serve::answer::ToldToken;
use crate::worker::serve::body::{Event, Events};
use crate::worker::serve::embeddings::{self, Embedded};
use crate::worker::serve::request::{Asked, Chat, Input, Prompt};
use crate::worker::serve::rerank::{self, Ranked};
use crate::worker::serve::words;

/// Numbers of a vector.
const VECTOR: usize = 16;

/// Bytes of an odd line that are written at once.
const PIECE: usize = 64 * 1024;

/// The scripted engine.
pub struct Source {
    engine: Arc<Scripted>,
    context: u32,
    prompts: Mutex<Prompts>,
}

/// What is kept of prompts: that they were there.
#[derive(Default)]
struct Prompts {
    prefixes: Prefixes<()>,
    kept: Kept,
}

impl Source {
    /// A source of answers within `context` tokens.
    pub fn new(engine: Scripted, context: u32) -> Self {
        Self {
            engine: Arc::new(engine),
            context,
            prompts: Mutex::default(),
        }
    }

    /// Keeps the body of a request, if the script asks for it.
    pub fn keep(&self, body: &[u8]) {
        self.engine.keep(body);
    }

    /// Begins an answer; see [`super::Engine::begin`].
    pub fn begin(&self, asked: Asked) -> Result<Begun, ApiError> {
        let constraint = asked.constraint.as_ref().map(|(param, _)| param.as_str());
        if let Some(param) = constraint.or(asked.forced.as_ref().map(|_| "tool_choice")) {
            let message = format!("{param}: the scripted engine says what its file says");
            return Err(invalid(param, message));
        }
        let script = self.script(asked.script)?;
        let nonce = asked.nonce.unwrap_or_default();
        let prompts = prompt_tokens(&asked.input);
        let mut limited = None;
        let mut answers = Vec::new();
        for (param, tokens) in &prompts {
            let (context, length) = (u64::from(self.context), tokens.len() as u64);
            let allowed = allowance(param, length, asked.max_tokens, context, u64::MAX)?;
            if allowed.limited {
                limited = limited
                    .or(Some(allowed.max_tokens))
                    .min(Some(allowed.max_tokens));
            }
            let most_kept = script.prompt_cache;
            let cached = asked
                .owner
                .map_or(0, |owner| self.prompts().read(owner, tokens, most_kept));
            for choice in 0..asked.choices {
                let cached = if choice == 0 { cached } else { 0 };
                let most = u64::from(allowed.max_tokens);
                let engine = Arc::clone(&self.engine);
                let play = Play::new(engine, script.clone(), nonce.clone(), answers.len(), most);
                answers.push(events(play, asked.stops.clone(), asked.logprobs, cached));
            }
        }
        Ok(Begun {
            choices: answers.len(),
            events: stream::select_all(answers).boxed(),
            prompt: prompts.iter().map(|(_, tokens)| tokens.len() as u64).sum(),
            limited,
            odd: script.odd.filter(|odd| !odd.is_in_stream()),
        })
    }

    /// Answers what is asked about words, each of which is a token here too. A token does
    /// not tell its word, so its text is its number; see [`super::Engine::words`].
    pub fn words(&self, asked: words::Asked) -> words::Told {
        let prompt = |chat: Chat| {
            let contents = chat.messages.iter();
            let contents = contents.map(|message| message["content"].as_str().unwrap_or_default());
            contents.collect::<Vec<_>>().join("\n")
        };
        match asked {
            words::Asked::Template(chat) => words::Told::Prompt(prompt(chat)),
            words::Asked::Detokenize(tokens) => {
                let numbers: Vec<_> = tokens.iter().map(u32::to_string).collect();
                words::Told::Text(numbers.join(" "))
            }
            words::Asked::Tokenize { text, form, .. } => {
                let text = match text {
                    words::Text::Plain(_, text) => text,
                    words::Text::Chat(chat) => prompt(chat),
                };
                let told = |word: &str| words::Token {
                    id: token(word),
                    bytes: word.as_bytes().to_vec(),
                };
                let tokens = text.split_whitespace().map(told).collect();
                words::Told::Tokens(tokens, form, self.context)
            }
        }
    }

    /// The vectors of the texts of a request: played like an answer, so that time,
    /// memory and missteps are those of the script; see [`super::Engine::embed`].
    pub async fn embed(&self, asked: embeddings::Asked) -> Result<Embedded, ApiError> {
        let size = asked.size(VECTOR)?;
        let script = self.script(asked.script.clone())?;
        let mut tokens = 0;
        for (index, text) in asked.texts.iter().enumerate() {
            // For this engine a word is a token, and one more begins each text.
            let words = text.split_whitespace().count() as u64 + 1;
            let (param, most) = (asked.place(index), u64::from(self.context));
            if words > most {
                let message = format!(
                    "{param}: this model takes texts of at most {most} tokens, found {words}"
                );
                return Err(ApiError::new(Code::ContextLengthExceeded, message).param(param));
            }
            tokens += words;
        }
        self.play(script, asked.nonce.as_ref()).await?;
        let vectors = asked.texts.iter().map(|text| vector(text, size));
        Ok(Embedded {
            vectors: vectors.collect(),
            tokens,
        })
    }

    /// The verdicts on the documents of a request, played as vectors are: how many words
    /// of the query a document has, less how many it has not.
    pub async fn rank(&self, asked: &rerank::Asked) -> Result<Ranked, ApiError> {
        self.play(self.script(asked.script.clone())?, asked.nonce.as_ref())
            .await?;
        let query: HashSet<&str> = asked.query.split_whitespace().collect();
        let verdict = |document: &String| {
            let has = |word: &&&str| document.split_whitespace().any(|own| own == **word);
            let found = query.iter().filter(has).count();
            (2 * found) as f32 - query.len() as f32
        };
        let words = |text: &str| text.split_whitespace().count() as u64;
        Ok(Ranked {
            verdicts: asked.documents.iter().map(verdict).collect(),
            scale: Scale::Share,
            tokens: asked
                .documents
                .iter()
                .map(|document| words(&asked.query) + words(document) + 1)
                .sum(),
        })
    }

    /// Plays a script for what is no stream.
    async fn play(&self, script: Script, nonce: Option<&String>) -> Result<(), ApiError> {
        let nonce = nonce.cloned().unwrap_or_default();
        let engine = Arc::clone(&self.engine);
        let mut play = Play::new(engine, script, nonce, 0, u64::MAX);
        while let Some(beat) = play.next().await {
            if let Beat::Odd(_) = beat {
                let message = "the script asks for an error";
                return Err(ApiError::new(Code::InternalError, message));
            }
        }
        Ok(())
    }

    /// The script with the changes of a request.
    fn script(&self, changes: Option<Value>) -> Result<Script, ApiError> {
        let changes = match changes {
            None => None,
            Some(Value::Object(changes)) => Some(changes),
            Some(other) => return Err(wrong("scripted", "an object", &other)),
        };
        let script = self.engine.script().changed(changes);
        script.map_err(|reason| invalid("scripted", format!("scripted: {reason}")))
    }

    /// Every change of them is whole before anything could panic.
    fn prompts(&self) -> std::sync::MutexGuard<'_, Prompts> {
        self.prompts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is kept of prompts.
    pub fn forget(&self) {
        let mut prompts = self.prompts();
        prompts.prefixes.clear();
        prompts.kept = Kept {
            bytes: 0,
            tokens: 0,
            ..prompts.kept
        };
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        Status {
            device: "scripted".to_owned(),
            compute: "none".to_owned(),
            bytes_held: self.engine.bytes_held(),
            sequences: self.engine.sequences(),
            kv: (0, 0),
            tokens: (0, self.engine.tokens()),
            kept: self.prompts().kept,
        }
    }
}

impl Prompts {
    /// How much of a prompt was there, but for its last token, within `most` tokens of
    /// all prompts. Now all of it is.
    fn read(&mut self, owner: Owner, tokens: &[u32], most: u64) -> u64 {
        let but_last = tokens.split_last().map_or(&[][..], |(_, rest)| rest);
        let found = self.prefixes.find(owner, but_last).tokens as u64;
        let missing = self.prefixes.make_room(owner, tokens, 1, most);
        let pieces = missing.lengths.iter();
        let pieces = pieces.map(|length| ((), *length, *length as u64)).collect();
        self.prefixes.add(owner, tokens, missing.from, pieces);
        self.kept.asked += 1;
        self.kept.hits += u64::from(found > 0);
        self.kept.saved += found;
        self.kept.tokens = self.prefixes.tokens();
        self.kept.bytes = self.prefixes.bytes();
        found
    }
}

/// A vector of length one that is the text's alone: its bytes, each at a place that
/// follows from where it stands.
fn vector(text: &str, size: usize) -> Vec<f32> {
    let mut vector = vec![0.0; VECTOR];
    vector[0] = 1.0;
    for (index, byte) in text.bytes().enumerate() {
        vector[index % VECTOR] += f32::from(byte) / 256.0 * (index + 1) as f32;
    }
    vector.truncate(size);
    to_length_one(&mut vector);
    vector
}

/// The prompts with their place in the request and their tokens; for this engine
/// a word is a token.
fn prompt_tokens(input: &Input) -> Vec<(String, Vec<u32>)> {
    let words = |text: &str| text.split_whitespace().map(token).collect::<Vec<u32>>();
    match input {
        Input::Chat(chat) => {
            let content = |message: &Value| match &message["content"] {
                Value::String(text) => words(text),
                Value::Array(parts) => {
                    let texts = parts.iter().filter_map(|part| part["text"].as_str());
                    texts.flat_map(words).collect()
                }
                _ => Vec::new(),
            };
            // One more for each message, so that an empty one is a prompt as well.
            let message = |message: &Value| [vec![0], content(message)].concat();
            let tokens = chat.messages.iter().flat_map(message);
            vec![("messages".to_owned(), tokens.collect())]
        }
        Input::Prompts(prompts) => prompts
            .iter()
            .map(|prompt| match prompt {
                Prompt::Text(text) => words(text),
                Prompt::Tokens(tokens) => tokens.clone(),
            })
            .map(|tokens| ("prompt".to_owned(), tokens))
            .collect(),
    }
}

/// A word as a number, the same whenever it stands there.
fn token(word: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish() as u32
}

/// One answer with the stop strings that may end it.
struct Telling {
    /// Nothing once it is over; dropping it cancels it.
    play: Option<Play>,
    stops: StopStrings,
    logprobs: Option<usize>,
    cached: u64,
}

/// The events of one answer.
fn events(play: Play, stops: Vec<String>, logprobs: Option<usize>, cached: u64) -> Events {
    let telling = Telling {
        play: Some(play),
        stops: StopStrings::new(stops),
        logprobs,
        cached,
    };
    stream::unfold(telling, |mut telling| async move {
        let events = telling.next().await?;
        Some((stream::iter(events), telling))
    })
    .flatten()
    .boxed()
}

impl Telling {
    async fn next(&mut self) -> Option<Vec<Event>> {
        let play = self.play.as_mut()?;
        let beat = play.next().await?;
        let choice = play.choice();
        let text = |text: String, tokens, count| Event::Text {
            choice,
            text,
            tokens,
            count,
        };
        let cached = self.cached;
        let end = |finish| Event::End {
            guesses: Guesses::default(),
            choice,
            finish,
            count: 0,
            cached,
        };
        Some(match beat {
            Beat::Chunk(chunk) => {
                let pushed = self.stops.push(&chunk);
                let told = self.logprobs.map(|top| told(&chunk, top));
                let mut events = vec![text(pushed.text, told.into_iter().collect(), 1)];
                if pushed.stopped {
                    self.play = None;
                    events.push(end(Finish::Stop));
                }
                events
            }
            Beat::End(finish) => vec![text(self.stops.finish(), Vec::new(), 0), end(finish)],
            Beat::Odd(odd) => odd_events(odd, play.odd_size()),
        })
    }
}

/// A chunk as a token: the script leaves no choice, so its probability is 1.
fn told(text: &str, top: usize) -> ToldToken {
    let bytes = text.as_bytes().to_vec();
    ToldToken {
        text: text.to_owned(),
        top: (top > 0)
            .then(|| (text.to_owned(), bytes.clone(), 0.0))
            .into_iter()
            .collect(),
        bytes,
        logprob: 0.0,
    }
}

/// How a stream goes on that is odd from here.
fn odd_events(odd: Odd, size: usize) -> Vec<Event> {
    let raw = |bytes: &'static [u8]| Event::Raw(Bytes::from_static(bytes));
    match odd {
        Odd::HalfEvent => vec![raw(b"data: {\"id\":\"chatcmpl-half\",\"obj"), Event::Cut],
        Odd::HalfCharacter => vec![
            raw(b"data: {\"choices\":[{\"delta\":\"\xe2\x82"),
            Event::Cut,
        ],
        Odd::ErrorEvent => vec![Event::Failed(ApiError::new(
            Code::InternalError,
            "the script asks for an error",
        ))],
        Odd::HugeLine => {
            let pieces = vec![Bytes::from(vec![b'x'; PIECE]); size.div_ceil(PIECE)];
            let mut events = vec![raw(b"data: ")];
            events.extend(pieces.into_iter().map(Event::Raw));
            events.push(Event::Cut);
            events
        }
        Odd::EmptyEvents => {
            let many = Bytes::from(b"data: \n\n".repeat(1000));
            let mut events = vec![Event::Raw(many); size.div_ceil(1000)];
            events.push(Event::Cut);
            events
        }
        _ => vec![Event::Cut],
    }
}

/// A response that is not as it should be.
pub fn disguised(odd: Odd, mut response: Response<Body>) -> Response<Body> {
    let whole = |status: StatusCode, kind: &'static str, body: &'static [u8]| {
        let mut response = Response::new(Body::from(Bytes::from_static(body)));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    match odd {
        Odd::Html => whole(
            StatusCode::OK,
            "text/html",
            b"<html><body>It works!</body></html>",
        ),
        Odd::Empty => whole(StatusCode::OK, "text/event-stream", b""),
        Odd::ServerError => whole(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            b"{\"detail\":\"Traceback: /opt/secret/engine.py\"}",
        ),
        Odd::Gzip => {
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
            response
        }
        _ => {
            let headers = response.headers_mut();
            headers.insert("set-cookie", HeaderValue::from_static("worker=1"));
            headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
            headers.insert(
                "location",
                HeaderValue::from_static("http://elsewhere.example/"),
            );
            response
        }
    }
}
