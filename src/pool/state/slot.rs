//! What the machine keeps of one model, and of its one worker.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::{Holding, Outlook};
use super::patience::Pace;
use super::queue::Queue;
use super::slots::Marks;
use super::{Generation, ReplyId};
use crate::engine::progress::Progress;
use crate::pool::evict::Room;
use crate::pool::gate::Gate;
use crate::pool::view::LastFailure;
use crate::pool::{ModelState, Priority, Resident, UnloadReason};
use crate::units::ByteSize;
use crate::worker::{LoadPlan, Ready};

/// How many load times are remembered.
const LOAD_TIMES: usize = 8;

/// One model.
#[derive(Debug)]
pub(super) struct Slot {
    /// How the next load is done.
    pub plan: Arc<LoadPlan>,
    /// Whether new requests are taken.
    pub listed: bool,
    pub keep: bool,
    pub preload: bool,
    pub idle_unload: Option<Duration>,
    /// Models that are never in memory beside it.
    pub rivals: BTreeSet<String>,
    /// It is to be loaded though nobody waits: kept or preloaded.
    pub wanted: Option<Turn>,
    pub waiters: Queue,
    /// Its worker drained for others while these waiters still stood there: they
    /// stand in the line from then on, behind those others.
    pub overtaken: Option<Turn>,
    pub running: Option<Worker>,
    pub failure: Option<LastFailure>,
    /// Crashes in a row, each soon after loading and before any lease ended in peace.
    pub early_crashes: u32,
    /// What is known of the memory of the next load.
    pub outlook: Outlook,
    /// The most that a process which stood by for it was seen to hold.
    pub standby_held: ByteSize,
    pub load_times: VecDeque<Duration>,
    /// Another model had to go for the load that comes.
    pub displaces: bool,
    /// How fast its queue moves.
    pub pace: Pace,
    /// When its worker was told to end, and how long the last one took.
    pub ending_since: Option<Instant>,
    pub unload_time: Option<Duration>,
    /// Until when residency leases hold it.
    pub held_until: Option<Instant>,
    /// Its place in the indexes.
    pub marks: Marks,
}

/// A place in the line across all models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub since: Instant,
    pub number: u64,
}

/// One worker process, from the decision to start it until it has been reaped.
#[derive(Debug)]
pub(super) struct Worker {
    pub generation: Generation,
    pub plan: Arc<LoadPlan>,
    pub reserved: ByteSize,
    pub holding: Holding,
    pub pid: Option<u32>,
    pub started: Instant,
    /// How far its load is, where the engine tells.
    pub progress: Option<Progress>,
    pub phase: Phase,
    /// Who asked for the unload and waits for the reaping.
    pub replies: Vec<ReplyId>,
}

/// Where a worker stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// It loads.
    Loading {
        /// It has to have come further by then.
        deadline: Instant,
        /// Hand over to the waiters, then drain.
        then_drain: Option<UnloadReason>,
    },
    /// It answers; while `draining` its gate is closed.
    Up {
        gate: Arc<Gate>,
        ready: Arc<Ready>,
        since: Instant,
        idle_since: Option<Instant>,
        /// How long it is to stay idle, as whoever used it last wishes.
        idle_unload: Option<Duration>,
        /// A last lease was given back while it lived.
        served: bool,
        draining: Option<UnloadReason>,
    },
    /// It was told to end. Nothing means it never was ready.
    Stopping { reason: Option<UnloadReason> },
}

impl Slot {
    /// A model that is not in memory.
    pub fn new(plan: Arc<LoadPlan>) -> Self {
        Self {
            plan,
            listed: true,
            keep: false,
            preload: false,
            idle_unload: None,
            rivals: BTreeSet::new(),
            wanted: None,
            waiters: Queue::default(),
            overtaken: None,
            running: None,
            failure: None,
            early_crashes: 0,
            outlook: Outlook::default(),
            standby_held: ByteSize::ZERO,
            load_times: VecDeque::new(),
            displaces: false,
            pace: Pace::default(),
            ending_since: None,
            unload_time: None,
            held_until: None,
            marks: Marks::default(),
        }
    }

    /// Takes over what a reload says.
    pub fn configure(&mut self, resident: &Resident) {
        if self.plan != resident.plan {
            self.plan = resident.plan.clone();
            self.failure = None;
            self.early_crashes = 0;
            self.outlook = Outlook::default();
            self.standby_held = ByteSize::ZERO;
        }
        self.listed = true;
        self.keep = resident.keep;
        self.preload = resident.preload;
        self.idle_unload = resident.idle_unload;
    }

    /// What the next load reserves: the plan's figure, or what was learnt.
    pub fn need(&self) -> Room {
        Room {
            bytes: self.outlook.reserve.unwrap_or(self.plan.memory).0,
            places: 1,
        }
    }

    /// The failure that keeps requests out for now.
    pub fn quarantine(&self, now: Instant) -> Option<&LastFailure> {
        self.failure
            .as_ref()
            .filter(|failure| failure.retry_at > now)
    }

    /// The oldest claim on a load, of a waiter or of the configuration.
    pub fn claim(&self) -> Option<Turn> {
        let oldest = self.waiters.oldest();
        let waiters = oldest.map(|turn| match self.overtaken {
            Some(overtaken) if overtaken.number > turn.number => overtaken,
            _ => turn,
        });
        [waiters, self.wanted]
            .into_iter()
            .flatten()
            .min_by_key(|turn| turn.number)
    }

    /// The class in which it stands in the line: the first one of those who wait.
    pub fn priority(&self) -> Priority {
        let wanted = self.wanted.map(|_| Priority::Normal);
        let classes = self.waiters.class().into_iter().chain(wanted);
        classes.min().unwrap_or_default()
    }

    /// Whether a worker loads or answers through an open gate, so that a claim needs no room.
    pub fn is_served(&self) -> bool {
        match self.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Loading { .. }) => true,
            Some(Phase::Up { draining, .. }) => draining.is_none(),
            Some(Phase::Stopping { .. }) | None => false,
        }
    }

    /// Where its worker stands.
    pub fn phase(&mut self) -> Option<&mut Phase> {
        self.running.as_mut().map(|worker| &mut worker.phase)
    }

    /// Whether it drains for `reason`.
    pub fn drains_for(&self, reason: UnloadReason) -> bool {
        matches!(
            self.running.as_ref().map(|worker| &worker.phase),
            Some(Phase::Up { draining: Some(why), .. }) if *why == reason
        )
    }

    /// Whether nothing is left to remember.
    pub fn is_forgettable(&self) -> bool {
        !self.listed && self.running.is_none() && self.waiters.is_empty()
    }

    /// What it costs to let it go and bring it back, as it was last.
    pub fn swap_time(&self) -> Option<Duration> {
        let load = self.load_times.back()?;
        Some(*load + self.unload_time.unwrap_or_default())
    }

    /// Remembers how long a load took.
    pub fn remember_load(&mut self, took: Duration) {
        if self.load_times.len() == LOAD_TIMES {
            self.load_times.pop_front();
        }
        self.load_times.push_back(took);
    }

    /// The one word for where it stands.
    pub fn state(&self, now: Instant) -> ModelState {
        match self.running.as_ref().map(|worker| &worker.phase) {
            Some(Phase::Loading { .. }) => ModelState::Loading,
            Some(Phase::Up { draining: None, .. }) => ModelState::Ready,
            Some(Phase::Up { .. }) => ModelState::Draining,
            Some(Phase::Stopping { .. }) => ModelState::Stopping,
            None if self.quarantine(now).is_some() => ModelState::Failed,
            None if self.claim().is_some() => ModelState::Waiting,
            None => ModelState::Unloaded,
        }
    }
}

/// How many leases there may be on a worker at once: a quarter more than the
/// sequences it works on, so that it has the next one at hand when one ends. Whoever
/// comes beyond that waits here, where callers take turns, and not in its engine.
pub(super) fn most_leases(plan: &LoadPlan) -> u64 {
    let parallel = u64::from(plan.parallel.max(1));
    parallel + parallel.div_ceil(4)
}

impl Phase {
    /// Whether its worker is on its way out.
    pub fn is_leaving(&self) -> bool {
        match self {
            Self::Loading { then_drain, .. } => then_drain.is_some(),
            Self::Up { draining, .. } => draining.is_some(),
            Self::Stopping { .. } => true,
        }
    }

    /// Whether its worker is on its way out for the sake of somebody who waits.
    pub fn makes_room(&self) -> bool {
        match self {
            Self::Loading { .. } => false,
            Self::Up { draining, .. } => *draining == Some(UnloadReason::Evicted),
            Self::Stopping { reason } => *reason == Some(UnloadReason::Evicted),
        }
    }
}

impl Worker {
    /// What it takes of the budget.
    pub fn room(&self) -> Room {
        Room {
            bytes: self.reserved.0,
            places: 1,
        }
    }

    /// Whether its memory will come back without anything more being decided.
    pub fn is_leaving(&self) -> bool {
        self.phase.is_leaving()
    }

    /// The gate, while it is up.
    pub fn gate(&self) -> Option<&Arc<Gate>> {
        match &self.phase {
            Phase::Up { gate, .. } => Some(gate),
            _ => None,
        }
    }
}
