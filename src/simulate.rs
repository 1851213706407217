//! What a policy makes of a trace: requests that were recorded or made up are
//! played, in virtual time, to the pool's own machine with modelled workers, and
//! beside it to simpler policies in the same world. Pure: it reads no clock and
//! no file, starts no thread; the whole run is a loop over an agenda.
//!
//! It is no model of an engine: a sequence takes as long as its tokens at the
//! model's rates, whoever runs beside it.

mod fields;
pub mod policy;
pub mod recorded;
pub mod report;
pub mod trace;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Compute;
use crate::config::kv::KvFormat;
use crate::engine::speculation::Draft;
use crate::pool::evict::Room;
use crate::pool::{Resident, Settings};
use crate::units::ByteSize;
use crate::worker::{EngineKind, LoadPlan};

use self::policy::{FifoLru, LlamaSwap, Policy, Roundhouse};
use self::report::Outcome;
use self::trace::{Model, Trace};

/// A number for one model of a trace.
pub type ModelIndex = usize;

/// A number for one request of a run.
pub type RequestIndex = usize;

/// Which policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Rule {
    /// The pool of this program.
    Roundhouse,
    /// One line for all models, served strictly in order; the least recently used
    /// idle models go.
    FifoLru,
    /// What llama-swap documents: a model that is up serves at once, a swap waits
    /// until what would have to go is idle.
    LlamaSwap,
}

impl Rule {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Roundhouse, Self::FifoLru, Self::LlamaSwap];

    /// The word on the command line and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Roundhouse => "roundhouse",
            Self::FifoLru => "fifo-lru",
            Self::LlamaSwap => "llama-swap",
        }
    }
}

/// What the pool is told of a model of a trace that no configuration knows.
pub fn resident(model: &Model, idle_unload: Option<std::time::Duration>) -> Resident {
    Resident {
        plan: Arc::new(LoadPlan {
            model: model.name.clone(),
            dir: PathBuf::new(),
            commit: None,
            engine: EngineKind::Scripted.into(),
            context: 0,
            parallel: u32::try_from(model.parallel).unwrap_or(u32::MAX),
            kv: ByteSize::ZERO,
            kv_format: KvFormat::Auto,
            adapters: ByteSize::ZERO,
            compute: Compute::Auto,
            draft: Draft::Nothing,
            warmup: false,
            warm_prompts: Default::default(),
            weights: model.memory,
            memory: model.memory,
            estimated: false,
            standby: None,
        }),
        keep: false,
        preload: false,
        idle_unload,
        never_with: Default::default(),
    }
}

/// Plays a trace to one policy. `residents` stand for the trace's models, in their
/// order; `start` is where virtual time begins.
pub fn run(
    trace: &Trace,
    rule: Rule,
    settings: &Settings,
    residents: &[Resident],
    start: Instant,
) -> Outcome {
    let limit = Room {
        bytes: settings.budget.0,
        places: settings.max_models.unwrap_or(usize::MAX),
    };
    let mut policy: Box<dyn Policy> = match rule {
        Rule::Roundhouse => Box::new(Roundhouse::new(settings.clone(), residents, start)),
        Rule::FifoLru => Box::new(FifoLru::new(&trace.models, limit)),
        Rule::LlamaSwap => Box::new(LlamaSwap::new(&trace.models, limit)),
    };
    let tally = world::play(trace, policy.as_mut(), start);
    report::sum_up(rule, policy.swaps(), tally)
}
