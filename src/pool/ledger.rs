//! What models were really seen to hold, and what the next load reserves by it.
//! Pure: nothing here reads a clock or a disk (`file` does), and it learns only
//! what the machine tells it.
//!
//! The rule. An estimate holds until something was seen. What was seen is the
//! largest figure of the last lives of a worker, with a margin. It raises what is
//! reserved at once. It lowers an estimate (never a figure that the owner wrote)
//! only after several lives that served somebody, and never below the weights as
//! the engine holds them with the room for caches that it may fill at any time.
//! It never raises a need beyond what the model can have: whoever fits by the
//! estimate may always try alone.

pub mod file;

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::units::ByteSize;
use crate::worker::{LoadPlan, PlannedEngine, Ready};

/// The form of the file. Another one is not read.
const VERSION: u32 = 1;

/// Most lines; whoever was not loaded for the longest time is forgotten.
const MOST: usize = 1000;

/// How many lives of a worker are remembered, and how many load times.
const LIVES: usize = 8;

/// After so many lives that served somebody the figure is trusted to be lower.
const TRUSTED: usize = 3;

/// What is added to the largest figure that was seen, percent.
const MARGIN: u64 = 15;

/// What a line is about. Other settings of a load, or another snapshot, hold
/// another amount and have a line of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// The pool's key.
    pub model: String,
    /// The commit of the snapshot, where there is one.
    pub revision: Option<String>,
    /// Most tokens of one sequence.
    pub context: u32,
    /// Most sequences at once.
    pub parallel: u32,
    /// Room for caches.
    pub kv_bytes: u64,
    /// Which engine; one of the file with a digest of what the file says of it.
    pub engine: String,
    /// Number format of activations.
    pub compute: String,
}

/// What is known of one subject. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    subject: Subject,
    /// Where it computed, as the worker said.
    device: String,
    /// What was reserved before anything was seen. It follows from the files, so
    /// another figure means that they were changed.
    estimate_bytes: u64,
    /// Weights in the form in which the engine holds them.
    held_bytes: u64,
    /// What it held last while nobody used it.
    settled_bytes: u64,
    /// The most that it held in each of the last lives, the newest last.
    peak_bytes: VecDeque<u64>,
    /// Lives that served somebody and ended in peace.
    lives: u32,
    /// Loads since the line was begun.
    loads: u64,
    /// How long the last loads took, milliseconds, the newest last.
    load_ms: VecDeque<u64>,
    /// Counts the loads of the whole ledger: the larger, the younger.
    turn: u64,
}

/// What of a line is shown beside the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// What the files alone lead to, or what the owner wrote.
    pub estimate_bytes: u64,
    /// The most that was held in the last lives.
    pub peak_bytes: u64,
    /// What was held last while nobody used it.
    pub settled_bytes: u64,
    /// How many loads were seen.
    pub loads: u64,
    /// Whether it was seen often enough to reserve less than the estimate.
    pub trusted: bool,
}

/// All lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    lines: HashMap<Subject, Line>,
    turn: u64,
}

/// The ledger as it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    entries: Vec<Line>,
}

/// Only the version, which is looked at before the rest.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a text is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum NoLedger {
    /// It was written by another version of this program.
    #[error("it has the form {0} and this program reads {VERSION}")]
    Version(u32),
    /// It is something else, or damaged.
    #[error("it is no ledger: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Subject {
    /// What a load is remembered under.
    pub fn of(plan: &LoadPlan) -> Self {
        Self {
            model: plan.model.clone(),
            revision: plan.commit.clone(),
            context: plan.context,
            parallel: plan.parallel,
            kv_bytes: plan.kv.0,
            engine: engine(&plan.engine),
            compute: plan.compute.as_str().to_owned(),
        }
    }
}

impl Ledger {
    /// Reads what [`Ledger::text`] wrote.
    pub fn parse(text: &[u8]) -> Result<Self, NoLedger> {
        let Versioned { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(NoLedger::Version(version));
        }
        let written: Written = serde_json::from_slice(text)?;
        let mut ledger = Self::default();
        for mut line in written.entries {
            keep_last(&mut line.peak_bytes, LIVES);
            keep_last(&mut line.load_ms, LIVES);
            ledger.turn = ledger.turn.max(line.turn);
            ledger.lines.insert(line.subject.clone(), line);
        }
        ledger.forget();
        Ok(ledger)
    }

    /// The ledger as text, the oldest line first.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        let mut entries: Vec<_> = self.lines.values().cloned().collect();
        entries.sort_by(|a, b| (a.turn, &a.subject.model).cmp(&(b.turn, &b.subject.model)));
        let written = Written {
            version: VERSION,
            entries,
        };
        serde_json::to_string_pretty(&written).map(|text| text + "\n")
    }

    /// The line of a load, unless its files were changed since.
    pub fn line(&self, plan: &LoadPlan) -> Option<&Line> {
        let line = self.lines.get(&Subject::of(plan))?;
        (line.estimate_bytes == plan.memory.0).then_some(line)
    }

    /// What the next load reserves, of which `most` can be had at all.
    pub fn reserve(&self, plan: &LoadPlan, most: ByteSize) -> ByteSize {
        let line = self.line(plan);
        line.map_or(plan.memory, |line| line.reserve(plan, most))
    }

    /// A worker is ready: a new life begins.
    pub fn loaded(&mut self, plan: &LoadPlan, ready: &Ready, took: Duration) {
        self.turn += 1;
        let turn = self.turn;
        let fresh = || Line::new(plan, ready);
        let line = self.lines.entry(Subject::of(plan)).or_insert_with(fresh);
        if line.estimate_bytes != plan.memory.0 || line.device != ready.device {
            *line = fresh();
        }
        line.turn = turn;
        line.held_bytes = ready.bytes_held;
        line.loads += 1;
        line.peak_bytes.push_back(0);
        keep_last(&mut line.peak_bytes, LIVES);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        line.load_ms.push_back(took);
        keep_last(&mut line.load_ms, LIVES);
        self.forget();
    }

    /// The most that the worker which was loaded last has held. Answers whether
    /// that is news.
    pub fn peaked(&mut self, plan: &LoadPlan, bytes: ByteSize) -> bool {
        let peak = self.of(plan).and_then(|line| line.peak_bytes.back_mut());
        peak.is_some_and(|peak| {
            let is_news = *peak < bytes.0;
            *peak = bytes.0.max(*peak);
            is_news
        })
    }

    /// What the worker holds while nobody uses it.
    pub fn settled(&mut self, plan: &LoadPlan, bytes: ByteSize) {
        if let Some(line) = self.of(plan) {
            line.settled_bytes = bytes.0;
        }
    }

    /// The worker has served somebody and ended in peace. A life in which nothing
    /// was seen counts for nothing.
    pub fn lived(&mut self, plan: &LoadPlan) {
        if let Some(line) = self.of(plan)
            && line.peak_bytes.back().is_some_and(|peak| *peak > 0)
        {
            line.lives = line.lives.saturating_add(1);
        }
    }

    fn of(&mut self, plan: &LoadPlan) -> Option<&mut Line> {
        let line = self.lines.get_mut(&Subject::of(plan))?;
        (line.estimate_bytes == plan.memory.0).then_some(line)
    }

    /// Keeps to the number of lines that there may be.
    fn forget(&mut self) {
        while self.lines.len() > MOST {
            let oldest = self.lines.values().min_by_key(|line| line.turn);
            let Some(subject) = oldest.map(|line| line.subject.clone()) else {
                return;
            };
            self.lines.remove(&subject);
        }
    }
}

impl Line {
    fn new(plan: &LoadPlan, ready: &Ready) -> Self {
        Self {
            subject: Subject::of(plan),
            device: ready.device.clone(),
            estimate_bytes: plan.memory.0,
            held_bytes: ready.bytes_held,
            settled_bytes: 0,
            peak_bytes: VecDeque::new(),
            lives: 0,
            loads: 0,
            load_ms: VecDeque::new(),
            turn: 0,
        }
    }

    /// What is shown.
    pub fn seen(&self) -> Seen {
        Seen {
            estimate_bytes: self.estimate_bytes,
            peak_bytes: self.peak(),
            settled_bytes: self.settled_bytes,
            loads: self.loads,
            trusted: self.is_trusted(),
        }
    }

    /// How long the last loads took, the newest last.
    pub fn load_times(&self) -> impl Iterator<Item = Duration> + '_ {
        self.load_ms.iter().copied().map(Duration::from_millis)
    }

    fn peak(&self) -> u64 {
        self.peak_bytes.iter().copied().max().unwrap_or(0)
    }

    fn is_trusted(&self) -> bool {
        self.lives as usize >= TRUSTED
    }

    /// See the rule above.
    fn reserve(&self, plan: &LoadPlan, most: ByteSize) -> ByteSize {
        let peak = self.peak();
        let seen = peak.saturating_add(peak / 100 * MARGIN);
        let least = self
            .held_bytes
            .saturating_add(plan.kv.0)
            .saturating_add(plan.adapters.0);
        let wanted = match self.is_trusted() && plan.estimated {
            true => seen,
            false => seen.max(plan.memory.0),
        };
        ByteSize(wanted.min(most.0.max(plan.memory.0)).max(least))
    }
}

/// What an engine is remembered as. One that is started otherwise holds another amount.
fn engine(engine: &PlannedEngine) -> String {
    let name = engine.name();
    match engine {
        PlannedEngine::Own(_) => name.to_owned(),
        PlannedEngine::Spawned(spawned) => format!("{name}#{}", spawned.digest),
    }
}

/// Drops what is too old.
fn keep_last<T>(values: &mut VecDeque<T>, most: usize) {
    values.drain(..values.len().saturating_sub(most));
}

#[cfg(test)]
mod tests;
