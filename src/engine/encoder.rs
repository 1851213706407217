//! The thread that owns an encoder, and the way to it: texts as tokens in, a vector
//! of each out. Texts of several requests share a batch, and requests take turns.
//!
//! As with [`super::thread`] the network is built on the thread and never leaves it;
//! if it panics, whoever holds its [`Ended`] ends the process.

mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};

use tokio::sync::oneshot;

use self::queue::Queue;
use super::thread::Ended;
use super::{EngineError, LoadTimes};

/// Tokens of a batch, padding among them, unless one text alone is longer.
pub const BATCH_TOKENS: usize = 1024;

/// A text, or a pair of texts, as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The tokens, with the marks around them.
    pub tokens: Vec<u32>,
    /// How many of them, from the start, are of the first text; all if there is but one.
    pub first: usize,
}

impl From<Vec<u32>> for Text {
    /// A text alone.
    fn from(tokens: Vec<u32>) -> Self {
        Self {
            first: tokens.len(),
            tokens,
        }
    }
}

/// A model that makes a vector of a text. It lives on its thread.
pub trait Encoder {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;

    /// Numbers of a vector.
    fn size(&self) -> usize;

    /// The vectors of several texts at once, in the same order. Evaluates.
    ///
    /// # Errors
    /// The device failed, or a token is not in the vocabulary.
    fn encode(&mut self, batch: &[&Text]) -> Result<Vec<Vec<f32>>, EngineError>;

    /// Bytes of weights held in the form this device needs.
    fn bytes_held(&self) -> u64;

    /// `cpu`, `metal` or `cuda`, and the number format it computes in.
    fn device(&self) -> (&'static str, &'static str);

    /// How long the parts of its load took.
    fn load_times(&self) -> LoadTimes;
}

/// What is known once the encoder is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `cpu`, `metal` or `cuda`.
    pub device: &'static str,
    /// The number format it computes in.
    pub compute: &'static str,
    /// Bytes of weights held.
    pub bytes_held: u64,
    /// Numbers of a vector.
    pub size: usize,
    /// How long the parts of the load took.
    pub load_times: LoadTimes,
}

/// Counts, as they are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests that are worked on or wait.
    pub open: u64,
    /// Tokens read since the start.
    pub read: u64,
}

/// A vector of each text of a request, in order.
type Vectors = Result<Vec<Vec<f32>>, EngineError>;

/// What is asked: texts as tokens. Nobody waits at the other end any more when the
/// request is cancelled.
struct Asked {
    texts: Vec<Text>,
    reply: oneshot::Sender<Vectors>,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    read: AtomicU64,
}

/// The way to the thread. When the last one is dropped, the thread ends.
pub struct Handle {
    orders: Sender<Asked>,
    facts: Facts,
    counts: Arc<Counts>,
}

impl Handle {
    /// Builds the encoder on a thread of its own and waits until it is built. Blocks.
    /// The receiver hears of the end of the thread.
    ///
    /// # Errors
    /// What `build` failed with, or that the system has no thread to give.
    pub fn start<E, B>(build: B) -> Result<(Self, Ended), EngineError>
    where
        E: Encoder,
        B: FnOnce() -> Result<E, EngineError> + Send + 'static,
    {
        let (orders, asked) = channel();
        let (built, when_built) = sync_channel(1);
        let (lasting, ended) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let body = move || {
            // Dropped last, also by a panic: that is how its end is heard.
            let _lasting: oneshot::Sender<()> = lasting;
            match build() {
                Err(error) => drop(built.send(Err(error))),
                Ok(encoder) => {
                    if built.send(Ok(facts(&encoder))).is_ok() {
                        run(encoder, &asked, &shared);
                    }
                }
            }
        };
        let device = |error: String| EngineError::Device(error);
        std::thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(body)
            .map_err(|error| device(error.to_string()))?;
        let facts = when_built
            .recv()
            .map_err(|_| device("the engine thread ended while loading".to_owned()))??;
        let handle = Self {
            orders,
            facts,
            counts,
        };
        Ok((handle, ended))
    }

    /// What is known of the encoder.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How things stand.
    pub fn counted(&self) -> Counted {
        Counted {
            open: self.counts.open.load(Ordering::Relaxed),
            read: self.counts.read.load(Ordering::Relaxed),
        }
    }

    /// The vectors of texts, each of one token at least, in the same order. Dropping
    /// the future cancels what is left of it.
    ///
    /// # Errors
    /// The device failed, or the thread is gone.
    pub async fn encode(&self, texts: Vec<Text>) -> Vectors {
        let gone = || EngineError::Device("the engine thread is gone".to_owned());
        let (reply, vectors) = oneshot::channel();
        let asked = Asked { texts, reply };
        self.orders.send(asked).map_err(|_| gone())?;
        vectors.await.map_err(|_| gone())?
    }
}

fn facts(encoder: &impl Encoder) -> Facts {
    let (device, compute) = encoder.device();
    Facts {
        device,
        compute,
        bytes_held: encoder.bytes_held(),
        size: encoder.size(),
        load_times: encoder.load_times(),
    }
}

/// Works until nobody is left who could ask.
fn run(mut encoder: impl Encoder, orders: &Receiver<Asked>, counts: &Counts) {
    let mut queue = Queue::new(BATCH_TOKENS);
    loop {
        if queue.is_empty() {
            match orders.recv() {
                Ok(asked) => take(&mut queue, asked),
                Err(_) => return,
            }
        }
        loop {
            match orders.try_recv() {
                Ok(asked) => take(&mut queue, asked),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        queue.drop_where(oneshot::Sender::is_closed);
        counts.open.store(queue.len() as u64, Ordering::Relaxed);
        let batch = queue.batch();
        if batch.is_empty() {
            continue;
        }
        let texts: Vec<&Text> = batch.iter().filter_map(|at| queue.text(*at)).collect();
        let read: usize = texts.iter().map(|text| text.tokens.len()).sum();
        let result = encoder.encode(&texts);
        counts.read.fetch_add(read as u64, Ordering::Relaxed);
        let answers: Vec<(_, Vectors)> = match result {
            Ok(vectors) if vectors.len() == batch.len() => {
                let told = queue.told(&batch, vectors).into_iter();
                told.map(|(reply, vectors)| (reply, Ok(vectors))).collect()
            }
            Ok(_) => failed(&mut queue, &batch, &short()),
            Err(error) => failed(&mut queue, &batch, &error),
        };
        // Whoever has an answer and looks finds it counted.
        counts.open.store(queue.len() as u64, Ordering::Relaxed);
        for (reply, answer) in answers {
            // Who has left needs none.
            let _ = reply.send(answer);
        }
    }
}

fn take(queue: &mut Queue<oneshot::Sender<Vectors>>, asked: Asked) {
    if let Some(reply) = queue.add(asked.texts, asked.reply) {
        let _ = reply.send(Ok(Vec::new()));
    }
}

fn failed(
    queue: &mut Queue<oneshot::Sender<Vectors>>,
    batch: &[queue::Place],
    error: &EngineError,
) -> Vec<(oneshot::Sender<Vectors>, Vectors)> {
    tracing::error!(?error, "texts could not be encoded");
    let replies = queue.fail(batch).into_iter();
    replies.map(|reply| (reply, Err(error.clone()))).collect()
}

fn short() -> EngineError {
    EngineError::Device("it answered fewer vectors than texts".to_owned())
}

#[cfg(test)]
mod tests;
