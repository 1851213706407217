//! One answer of the scripted engine, beat by beat. Waiting is its purpose; it
//! is dropped when nobody listens any more, and the journal tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{At, Crash, Odd, Point, Script, Scripted, chatter, touched};
use crate::engine::Finish;

/// What happens next in an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Beat {
    /// A chunk of text; one token.
    Chunk(String),
    /// The answer is over.
    End(Finish),
    /// The script wants the stream to be odd from here on, in this way.
    Odd(Odd),
}

/// An answer in play.
pub struct Play {
    engine: Arc<Scripted>,
    script: Script,
    nonce: String,
    choice: usize,
    max_tokens: u64,
    words: Vec<String>,
    done: u64,
    slot: Option<OwnedSemaphorePermit>,
    /// Taken for as long as it is played.
    work: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Playing,
    Over,
}

/// Changes of one request to the script.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Changes {
    grow_bytes: Option<u64>,
    work_bytes: Option<u64>,
    first_token_ms: Option<u64>,
    token_ms: Option<u64>,
    tokens: Option<u64>,
    text: Option<String>,
    chunk_bytes: Option<usize>,
    crash: Option<Crash>,
    hang: Option<Point>,
    odd: Option<Odd>,
    odd_size: Option<usize>,
}

impl Script {
    /// This script with the changes of one request.
    ///
    /// # Errors
    /// What is wrong with `changes`, in words.
    pub fn changed(&self, changes: Option<Map<String, Value>>) -> Result<Self, String> {
        let changes = Value::Object(changes.unwrap_or_default());
        let changes: Changes =
            serde_json::from_value(changes).map_err(|error| error.to_string())?;
        let script = self.clone();
        Ok(Self {
            grow_bytes: changes.grow_bytes.unwrap_or(script.grow_bytes),
            work_bytes: changes.work_bytes.unwrap_or(script.work_bytes),
            first_token_ms: changes.first_token_ms.unwrap_or(script.first_token_ms),
            token_ms: changes.token_ms.unwrap_or(script.token_ms),
            tokens: changes.tokens.unwrap_or(script.tokens),
            text: changes.text.or(script.text),
            chunk_bytes: changes.chunk_bytes.unwrap_or(script.chunk_bytes),
            crash: changes.crash.or(script.crash),
            hang: changes.hang.or(script.hang),
            odd: changes.odd.or(script.odd),
            odd_size: changes.odd_size.unwrap_or(script.odd_size),
            ..script
        })
    }
}

impl Play {
    /// An answer for the request with `nonce`, of at most `max_tokens` chunks.
    pub fn new(
        engine: Arc<Scripted>,
        script: Script,
        nonce: String,
        choice: usize,
        max_tokens: u64,
    ) -> Self {
        let words = script.text.as_deref().unwrap_or_default();
        Self {
            words: words.split_inclusive(' ').map(str::to_owned).collect(),
            engine,
            script,
            nonce,
            choice,
            max_tokens,
            done: 0,
            slot: None,
            work: Vec::new(),
            state: State::Waiting,
        }
    }

    /// Which choice of the request this is.
    pub fn choice(&self) -> usize {
        self.choice
    }

    /// How large the odd part is.
    pub fn odd_size(&self) -> usize {
        self.script.odd_size
    }

    /// Waits as the script says and answers what happens next; nothing after the end.
    pub async fn next(&mut self) -> Option<Beat> {
        match self.state {
            State::Waiting => self.begin().await,
            State::Playing => sleep(self.script.token_ms).await,
            State::Over => return None,
        }
        self.misstep(At::Token).await;
        if let Some(odd) = self.script.odd
            && odd.is_in_stream()
            && self.done == self.script.tokens / 2
        {
            self.finish();
            return Some(Beat::Odd(odd));
        }
        if self.done == self.script.tokens.min(self.max_tokens) {
            self.finish();
            return Some(Beat::End(match self.script.tokens > self.max_tokens {
                true => Finish::Length,
                false => Finish::Stop,
            }));
        }
        let chunk = self.chunk();
        self.done += 1;
        self.engine.tokens.fetch_add(1, Ordering::Relaxed);
        Some(Beat::Chunk(chunk))
    }

    async fn begin(&mut self) {
        self.engine.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(Arc::clone(&self.engine));
        // The semaphore is never closed; without a slot there is nothing to play in.
        self.slot = Arc::clone(&self.engine.slots).acquire_owned().await.ok();
        drop(waiting);
        self.state = State::Playing;
        self.engine.note(&format!("started {}", self.nonce));
        chatter(self.script.chatter);
        self.take_memory();
        self.misstep(At::Headers).await;
        sleep(self.script.first_token_ms).await;
    }

    /// What cannot be had is seen by the test that asks for it.
    fn take_memory(&mut self) {
        self.work = touched(self.script.work_bytes).unwrap_or_default();
        if let (Ok(more), Ok(mut grown)) =
            (touched(self.script.grow_bytes), self.engine.grown.lock())
        {
            grown.push(more);
        }
    }

    fn finish(&mut self) {
        self.state = State::Over;
        self.slot = None;
        self.work = Vec::new();
        self.engine
            .note(&format!("finished {} after {}", self.nonce, self.done));
    }

    async fn misstep(&self, at: At) {
        let here = |point: At, token: u64| point == at && (at == At::Headers || token == self.done);
        if let Some(crash) = &self.script.crash
            && here(crash.at, crash.token)
        {
            // Only a load can end with words.
            let _ = crash.happen(&self.engine.dir);
        }
        if let Some(hang) = &self.script.hang
            && here(hang.at, hang.token)
        {
            std::future::pending::<()>().await;
        }
    }

    fn chunk(&self) -> String {
        let mut chunk = match self.words.len() as u64 {
            0 => json!({
                "nonce": self.nonce,
                "model": self.engine.name,
                "pid": std::process::id(),
                "chunk": self.done,
            })
            .to_string(),
            count => self.words[(self.done % count) as usize].clone(),
        };
        chunk.extend(std::iter::repeat_n('.', self.script.chunk_bytes));
        chunk
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if self.state == State::Playing {
            let line = format!("cancelled {} after {}", self.nonce, self.done);
            self.engine.note(&line);
        }
    }
}

/// Counts an answer as waiting until it is dropped.
struct Waiting(Arc<Scripted>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Odd {
    /// Whether it shows inside a stream, not in the answer's head or as a whole.
    pub fn is_in_stream(self) -> bool {
        use Odd::*;
        match self {
            NoDone | HalfEvent | HalfCharacter | ErrorEvent | HugeLine | EmptyEvents => true,
            Html | Empty | ServerError | Gzip | Headers => false,
        }
    }
}

async fn sleep(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
