//! The thread that owns the network, and the way to it. Jobs go in by a channel,
//! what each sequence says comes out by an [`outlet`]; the scheduler decides what
//! the next step works on. Sampling is done here, since it decides what the next
//! step takes in; text is made elsewhere.
//!
//! The network is built on this thread and never leaves it. If it panics the
//! thread ends: every open sequence hears that nothing more will come, and whoever
//! holds its [`Ended`] ends the process.

mod drafts;
mod kept;
mod masks;
pub mod outlet;
mod parked;
mod step;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use tokio::sync::oneshot;

use self::outlet::{Inlet, Said, outlet};
use crate::engine::adapter::Chosen;
use crate::engine::guide::Grammar;
use crate::engine::prefix::Owner;
use crate::engine::sampling::Sampling;
use crate::engine::scheduler::{Id, Limits};
use crate::engine::speculation::Draft;
use crate::engine::stored::Place;
use crate::engine::stored::store::Store;
use crate::engine::{EngineError, LoadTimes, Network};

/// Tokens by which a cache's share of the room grows: caches are allocated in
/// steps of about this size.
const BLOCK: u64 = 256;

/// Most tokens of several prompts that are read in one pass, or in passes without a step
/// between them. Up to here a pass over two prompts is quicker than two passes: weights are
/// read once. Beyond, the time is that of the products, and the first prompt would wait for
/// the others.
const TOGETHER: u64 = 128;

/// What the engine has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most sequences at once.
    pub parallel: NonZeroU32,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Bytes for KV caches: those of sequences, and what is kept of prompts as far as
    /// those leave room.
    pub kv: u64,
    /// Most tokens of a prompt that are read between two steps of the others.
    pub chunk: NonZeroU32,
}

/// What is known once the network is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `cpu`, `metal` or `cuda`.
    pub device: &'static str,
    /// The number format it computes in.
    pub compute: &'static str,
    /// Bytes of weights held, those of a draft model among them.
    pub bytes_held: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Bytes of KV cache for a token of a sequence, a draft model's among them.
    pub kv_bytes_per_token: u64,
    /// Tokens that all caches together may hold.
    pub room: u64,
    /// How long the parts of the load took.
    pub load_times: LoadTimes,
}

/// A sequence to go on with.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its tokens; at least one.
    pub prompt: Vec<u32>,
    /// How many tokens may follow; at least one.
    pub max_tokens: u32,
    /// Tokens that end it.
    pub end_tokens: Arc<[u32]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the tokens have to keep to.
    pub grammar: Option<Arc<dyn Grammar>>,
    /// How many alternatives are told beside each token's log-probability; nothing
    /// means that none is told.
    pub logprobs: Option<usize>,
    /// Whose prompts it may go on from, and for whom its own is kept; nothing means
    /// that it is read anew and forgotten. Of another adapter it is another owner.
    pub owner: Option<Owner>,
    /// What it runs with beside the network.
    pub adapter: Option<Chosen>,
}

/// What is counted, for whoever wants to look.
#[derive(Debug, Default)]
pub struct Counts {
    running: AtomicU64,
    waiting: AtomicU64,
    reserved: AtomicU64,
    read: AtomicU64,
    made: AtomicU64,
    guessed: AtomicU64,
    accepted: AtomicU64,
    kept: kept::Counts,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Sequences that have a cache.
    pub running: u64,
    /// Sequences that wait for one.
    pub waiting: u64,
    /// Tokens of the room that are taken.
    pub reserved: u64,
    /// Tokens of prompts read since the start.
    pub read: u64,
    /// Tokens made since the start.
    pub made: u64,
    /// Tokens since the start that were guessed and tried.
    pub guessed: u64,
    /// Those of them that were right.
    pub accepted: u64,
    /// What is kept of prompts.
    pub kept: Kept,
}

/// The prompt cache at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// Bytes it has.
    pub bytes: u64,
    /// Tokens it has.
    pub tokens: u64,
    /// Sequences since the start that might have gone on from it, and those that did.
    pub asked: u64,
    /// See `asked`.
    pub hits: u64,
    /// Tokens since the start that did not have to be read.
    pub saved: u64,
    /// Those of them that came from the disk.
    pub restored: u64,
}

/// What the thread is told.
enum Command {
    Begin(Id, Box<Job>, Inlet),
    GoOn(Id),
    Cancel(Id),
    Forget,
    /// Write to the disk what is kept of prompts, until then, and end.
    Leave(Instant),
}

/// Hears of the end of the engine thread.
pub type Ended = oneshot::Receiver<()>;

/// The way to the engine thread. When the last one is dropped, the thread ends
/// after the sequences that are open.
pub struct Engine {
    commands: mpsc::Sender<Command>,
    facts: Facts,
    counts: Arc<Counts>,
    next: AtomicU64,
}

/// A sequence that has been begun. Dropping it cancels it.
pub struct Sequence {
    id: Id,
    outlet: outlet::Outlet,
    commands: mpsc::Sender<Command>,
    over: bool,
}

impl Engine {
    /// Builds the network on a thread of its own, with what there is to guess its tokens,
    /// and waits until it is built. Blocks. Prompts are kept on disk at `place`, if there
    /// is one. The receiver hears of the end of the thread.
    ///
    /// # Errors
    /// What `build` failed with, or that the system has no thread to give.
    pub fn start<N, B>(
        settings: Settings,
        place: Option<Place>,
        build: B,
    ) -> Result<(Self, Ended), EngineError>
    where
        N: Network,
        B: FnOnce() -> Result<(N, Draft<N>), EngineError> + Send + 'static,
    {
        let (commands, orders) = mpsc::channel();
        let (built, when_built) = mpsc::sync_channel(1);
        let (lasting, ended) = oneshot::channel();
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let body = move || {
            // Dropped last, also by a panic: that is how its end is heard.
            let _lasting: oneshot::Sender<()> = lasting;
            match build() {
                Err(error) => drop(built.send(Err(error))),
                Ok((network, draft)) => {
                    let facts = facts(&network, &draft, settings);
                    if built.send(Ok(facts)).is_ok() {
                        let limits = limits(settings, facts.room);
                        let store = place.and_then(|place| store(place, &network));
                        let live = facts.kv_bytes_per_token;
                        let kept = kept::Keeper::new(&network, live, settings.kv, store);
                        let drafts = drafts::Drafts::new(draft, &network, limits.chunk);
                        let stepping =
                            step::Stepping::new(network, drafts, limits, kept, orders, shared);
                        stepping.run();
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(body)
            .map_err(|error| EngineError::Device(error.to_string()))?;
        let facts = when_built
            .recv()
            .map_err(|_| EngineError::Device("it panicked while loading".to_owned()))??;
        let engine = Self {
            commands,
            facts,
            counts,
            next: AtomicU64::new(0),
        };
        Ok((engine, ended))
    }

    /// What is known of the network.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// How things stand.
    pub fn counted(&self) -> Counted {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counted {
            running: read(&self.counts.running),
            waiting: read(&self.counts.waiting),
            reserved: read(&self.counts.reserved),
            read: read(&self.counts.read),
            made: read(&self.counts.made),
            guessed: read(&self.counts.guessed),
            accepted: read(&self.counts.accepted),
            kept: self.counts.kept.read(),
        }
    }

    /// Forgets what is kept of prompts.
    pub fn forget(&self) {
        drop(self.commands.send(Command::Forget));
    }

    /// Writes to the disk what is kept of prompts, for as long as that, and ends the
    /// thread. Sequences that are open end with it.
    pub fn leave(&self, until: Instant) {
        drop(self.commands.send(Command::Leave(until)));
    }

    /// Begins a sequence. Its place in the order is that of this call.
    pub fn begin(&self, job: Job) -> Sequence {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (inlet, outlet) = outlet();
        // Without a thread the inlet is dropped, and the outlet says so.
        drop(self.commands.send(Command::Begin(id, Box::new(job), inlet)));
        Sequence {
            id,
            outlet,
            commands: self.commands.clone(),
            over: false,
        }
    }
}

impl Sequence {
    /// Guesses that were tried for it, and those of them that were right.
    pub fn guesses(&self) -> (u64, u64) {
        self.outlet.guesses()
    }

    /// What the sequence says next; nothing if the engine is gone.
    pub async fn next(&mut self) -> Option<Said> {
        let taken = self.outlet.take().await?;
        if taken.was_full {
            drop(self.commands.send(Command::GoOn(self.id)));
        }
        self.over = !matches!(taken.said, Said::Began { .. } | Said::Token(_));
        Some(taken.said)
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if !self.over {
            drop(self.commands.send(Command::Cancel(self.id)));
        }
    }
}

/// The prompts on disk of this network. Without them everything is as it is with none.
fn store<N: Network>(place: Place, network: &N) -> Option<Store> {
    let opened = Store::open(place, &network.stored_form()?);
    opened
        .inspect_err(|error| tracing::warn!(?error, "prompts are not kept on disk"))
        .ok()
}

fn facts<N: Network>(network: &N, draft: &Draft<N>, settings: Settings) -> Facts {
    let (device, compute) = network.device();
    let (draft_held, draft_kv) = match draft {
        Draft::Network(smaller) => (smaller.bytes_held(), smaller.kv_bytes_per_token()),
        Draft::Nothing | Draft::Prompt => (0, 0),
    };
    let kv_bytes_per_token = (network.kv_bytes_per_token() + draft_kv).max(1);
    // More than this can never be taken.
    let most = u64::from(settings.context) * u64::from(settings.parallel.get());
    Facts {
        device,
        compute,
        bytes_held: network.bytes_held() + draft_held,
        vocabulary: network.vocabulary(),
        kv_bytes_per_token,
        room: (settings.kv / kv_bytes_per_token).min(most),
        load_times: network.load_times(),
    }
}

fn limits(settings: Settings, room: u64) -> Limits {
    Limits {
        parallel: settings.parallel.get() as usize,
        room,
        chunk: u64::from(settings.chunk.get()),
        together: TOGETHER,
        block: BLOCK,
    }
}

#[cfg(test)]
mod tests;
