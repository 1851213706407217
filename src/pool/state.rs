//! The pool's machine: what happened goes in, what is to be done comes out. It
//! reads no clock, starts nothing and waits for nothing; the only thing it
//! shares with others are gates, each one atomic word.
//!
//! A model has at most one worker, and its single flight is that worker's phase:
//! loading, up (open or draining), stopping. What a worker reserves is held from
//! the decision to start it until it has been reaped. Waiters stand in one line
//! across all models; `schedule` decides who is next and who must go, and `standby` has the
//! process of whoever is next started while others still go.

mod candidates;
mod control;
mod crowd;
mod expire;
mod forecast;
mod handle;
mod hold;
mod index;
mod memory;
mod patience;
mod progress;
mod prospect;
mod queue;
mod rivals;
mod rollback;
mod room;
mod schedule;
mod show;
mod slot;
mod slots;
mod standby;
mod tell;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use lru::LruCache;

use self::candidates::Wanted;
use self::crowd::Crowd;
use self::hold::Hold;
use self::slot::Slot;
use self::slots::Slots;
use self::standby::Standby;
use self::waiting::Waiting;
use super::evict::Room;
use super::gate::Gate;
use super::ledger::Ledger;
use super::view::Counters;
use super::{
    Ending, HoldError, Refused, Resident, Settings, Terms, UnloadError, UnloadMode, UnloadReason,
};
use crate::engine::progress::Progress;
use crate::units::ByteSize;
use crate::worker::{Leave, LoadPlan, Ready};

/// Counts the processes the pool has started.
pub type Generation = u64;

/// Names one waiting request.
pub type WaiterId = u64;

/// Names one management call that waits for its result.
pub type ReplyId = u64;

/// Names one residency lease.
pub type HoldId = u64;

/// How long a worker may take between being asked to end and being killed.
pub const GRACE: Duration = Duration::from_secs(5);

/// The same while the server goes down, and for workers that misbehaved.
pub const SHORT_GRACE: Duration = Duration::from_secs(1);

/// A worker that crashes sooner than this after it was ready, without having
/// ended a single lease in peace, counts as broken when it happens again.
const EARLY: Duration = Duration::from_secs(60);

/// The longest back-off after failed loads.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A request wants a lease.
    Acquire {
        /// Who waits.
        waiter: WaiterId,
        /// The model, as the request's snapshot describes it.
        plan: Arc<LoadPlan>,
        /// Models that may answer in its place if they are up or coming up.
        others: Vec<Arc<LoadPlan>>,
        /// On what terms.
        terms: Terms,
    },
    /// Somebody wants a lease for a model known only by name.
    Load {
        /// Who waits.
        waiter: WaiterId,
        /// The pool's key.
        model: String,
    },
    /// A waiter has left.
    Cancel {
        /// Who.
        waiter: WaiterId,
    },
    /// A worker's process runs.
    Spawned {
        /// Which.
        generation: Generation,
        /// Its process id.
        pid: u32,
    },
    /// A load has come further.
    Progress {
        /// Whose.
        generation: Generation,
        /// How far.
        progress: Progress,
    },
    /// A worker was looked at.
    Footprint {
        /// Which.
        generation: Generation,
        /// What it holds of memory that cannot be had otherwise.
        held: ByteSize,
        /// The most that it ever held.
        peak: ByteSize,
    },
    /// A worker ran out of memory; how that ended is told by what follows.
    OutOfMemory {
        /// Which.
        generation: Generation,
    },
    /// A worker is ready.
    Ready {
        /// Which.
        generation: Generation,
        /// What it says of itself.
        ready: Arc<Ready>,
    },
    /// A worker could not load; its process may still be there.
    LoadFailed {
        /// Which.
        generation: Generation,
        /// Why.
        reason: String,
    },
    /// A worker's process has been reaped, or there never was one.
    Exited {
        /// Which.
        generation: Generation,
        /// How it ended, as words.
        how: String,
    },
    /// A lease on a worker was given back that somebody may wait for: the last one,
    /// or any while requests queue for the model.
    Idle {
        /// Which.
        generation: Generation,
        /// How long its model is to stay, as whoever gave it back wishes.
        idle_unload: Option<Duration>,
    },
    /// Somebody wants a model out of memory.
    Unload {
        /// Who waits for the result.
        reply: ReplyId,
        /// The pool's key.
        model: String,
        /// How.
        mode: UnloadMode,
    },
    /// Somebody who uses a worker wants to hold its model.
    Hold {
        /// The number that the residency lease will have.
        hold: HoldId,
        /// The worker.
        generation: Generation,
        /// Who.
        holder: String,
        /// For how long.
        time: Duration,
    },
    /// A residency lease is given back.
    LetGo {
        /// Who waits for the result.
        reply: ReplyId,
        /// Which.
        hold: HoldId,
        /// Whose it must be; nothing means anybody's.
        holder: Option<String>,
    },
    /// Everything idle and not kept is to go.
    Release {
        /// Who waits for the result.
        reply: ReplyId,
    },
    /// The router itself stood still for so long, as when it was stopped or its machine
    /// was frozen: what was due meanwhile has a reprieve.
    StoodStill {
        /// How long.
        time: Duration,
    },
    /// A reload.
    Apply {
        /// The settings from now on.
        settings: Settings,
        /// Every served model.
        models: Vec<Resident>,
    },
    /// The server goes down.
    Shutdown {
        /// How long leases may still run.
        drain: Duration,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Start the process of a worker ahead of its load: it is to wait with that until it is
    /// started under the same number.
    StandBy {
        /// Its number.
        generation: Generation,
        /// How it will be brought up.
        plan: Arc<LoadPlan>,
    },
    /// Start a worker, whose process may stand by already; its memory is reserved.
    Start {
        /// Its number.
        generation: Generation,
        /// How to bring it up.
        plan: Arc<LoadPlan>,
    },
    /// End a worker's process group.
    Stop {
        /// Which.
        generation: Generation,
        /// How.
        leave: Leave,
        /// Why, for the log; nothing for a worker that could not load.
        reason: Option<UnloadReason>,
    },
    /// A worker may be used through this gate.
    Open {
        /// Which.
        generation: Generation,
        /// Its gate; leases for the grants that follow are already counted.
        gate: Arc<Gate>,
        /// What it says of itself.
        ready: Arc<Ready>,
    },
    /// Hand a lease, already counted, to a waiter.
    Grant {
        /// To whom.
        waiter: WaiterId,
        /// On which worker.
        generation: Generation,
        /// How long the request waited.
        waited: Duration,
        /// How many stood before it when it came.
        position: usize,
    },
    /// A waiter stands in the line now.
    Queued {
        /// Who.
        waiter: WaiterId,
        /// How many stand before it.
        position: usize,
    },
    /// Tell a waiter no.
    Refuse {
        /// Whom.
        waiter: WaiterId,
        /// Why.
        refused: Refused,
    },
    /// A model goes for another one, at once or after its last lease.
    Displace {
        /// The one that comes.
        model: String,
        /// The one that goes.
        victim: String,
        /// Its worker.
        generation: Generation,
        /// For whom; nothing for what the configuration wants loaded.
        waiter: Option<WaiterId>,
    },
    /// A model that was to go for another one stays.
    Spare {
        /// Its worker.
        generation: Generation,
    },
    /// Tell all holders of leases on a worker that it is over.
    End {
        /// Which.
        generation: Generation,
        /// Why.
        ending: Ending,
    },
    /// A load failed, and what had gone for it is loaded again. The start follows.
    BringBack {
        /// What comes back.
        model: String,
        /// Whose load failed.
        failed: String,
    },
    /// The result of an unload.
    Unloaded {
        /// Who asked.
        reply: ReplyId,
        /// What came of it.
        result: Result<(), UnloadError>,
    },
    /// Whether a residency lease was given.
    Held {
        /// Which.
        hold: HoldId,
        /// Why not, if not.
        result: Result<(), HoldError>,
    },
    /// Whether a residency lease was given back.
    LetGo {
        /// Who asked.
        reply: ReplyId,
        /// Of which model.
        result: Result<String, HoldError>,
    },
    /// The result of a release.
    Released {
        /// Who asked.
        reply: ReplyId,
        /// What was closed.
        models: Vec<String>,
    },
    /// A worker is history.
    Forget {
        /// Which.
        generation: Generation,
        /// The pool's key.
        model: String,
        /// Why it went; nothing if it never was ready.
        reason: Option<UnloadReason>,
        /// How its process ended, as words.
        how: String,
    },
}

/// What outlives a machine that panicked.
#[derive(Clone, Debug)]
pub struct Past {
    last_generation: Generation,
    counters: Counters,
    ledger: Ledger,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    slots: Slots,
    /// Which model a worker belongs to.
    workers: HashMap<Generation, String>,
    /// The process that waits to be told to load.
    standby: Option<Standby>,
    /// Everybody who waits, for whatever model.
    waiting: Waiting,
    /// Waiters whose model does not come and who may be answered by others.
    unplaced: Vec<(WaiterId, Box<Wanted>)>,
    /// The residency leases that run.
    holds: BTreeMap<HoldId, Hold>,
    /// Who went for which load that is still to come.
    displaced: BTreeMap<String, Vec<String>>,
    /// Who is to come back, and whose load failed.
    restoring: Vec<(String, String)>,
    /// The idle models; the least recently used goes first.
    idle: LruCache<String, ()>,
    /// Models that a reload has taken away, so that late requests do not bring them back.
    unlisted: HashSet<String>,
    /// Kept and preloaded models that have had no outcome yet.
    preloading: BTreeSet<String>,
    /// When leases are revoked; set when the server goes down.
    shutdown: Option<Instant>,
    /// Until then nobody is told that he has waited too long, since the router stood
    /// still meanwhile.
    patient_until: Instant,
    /// The moment of the event that is taken in.
    now: Instant,
    last_generation: Generation,
    last_turn: u64,
    counters: Counters,
    /// What models were seen to hold.
    ledger: Ledger,
    /// How often the ledger has changed, and how often it had when it was asked for.
    lessons: u64,
    told_lessons: u64,
    /// A worker holds more than it promised, or drains for that reason.
    is_beyond: bool,
    crowd: Crowd,
    /// Limit and kept models when it was last asked of all who wait whether what
    /// they wait for can ever fit.
    ground: (Room, Room, Room),
}

impl Machine {
    /// A machine that wants what is kept or preloaded; the first event starts it.
    pub fn new(settings: Settings, models: Vec<Resident>, now: Instant) -> Self {
        let mut machine = Self {
            settings: settings.clone(),
            slots: Slots::default(),
            workers: HashMap::default(),
            standby: None,
            waiting: Waiting::default(),
            unplaced: Vec::new(),
            holds: BTreeMap::new(),
            displaced: BTreeMap::new(),
            restoring: Vec::new(),
            idle: LruCache::unbounded(),
            unlisted: HashSet::default(),
            preloading: BTreeSet::new(),
            shutdown: None,
            patient_until: now,
            now,
            last_generation: 0,
            last_turn: 0,
            counters: Counters::default(),
            ledger: Ledger::default(),
            lessons: 0,
            told_lessons: 0,
            is_beyond: false,
            crowd: Crowd::default(),
            ground: Default::default(),
        };
        machine.apply(settings, models, now, &mut Vec::new());
        machine.slots.settle(now);
        let wanted = machine.slots.iter().filter(|(_, s)| s.wanted.is_some());
        machine.preloading = wanted.map(|(model, _)| model.clone()).collect();
        machine
    }

    /// A machine that starts again with nothing loaded, in the place of one that
    /// panicked: every process that it started has been reaped. Numbers go on, so
    /// that a late word about one of those means nobody, and so do the counters.
    pub fn after(past: Past, settings: Settings, models: Vec<Resident>, now: Instant) -> Self {
        let mut machine = Self {
            last_generation: past.last_generation,
            counters: past.counters,
            ..Self::new(settings, models, now)
        };
        machine.teach(past.ledger, now);
        machine
    }

    /// What outlives the machine.
    pub fn past(&self) -> Past {
        Past {
            last_generation: self.last_generation,
            counters: self.counters.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// Takes in one event and answers what is to be done, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        self.now = now;
        match event {
            Event::Acquire {
                waiter,
                plan,
                others,
                terms,
            } => self.acquire_any(waiter, plan, others, terms, now, out),
            Event::Load { waiter, model } => self.load_by_hand(waiter, &model, now, out),
            Event::Cancel { waiter } => self.cancel(waiter),
            Event::Spawned { generation, pid } => self.spawned(generation, pid),
            Event::Progress {
                generation,
                progress,
            } => self.progressed(generation, progress, now),
            Event::Footprint {
                generation,
                held,
                peak,
            } => self.footprint(generation, held, peak, now),
            Event::OutOfMemory { generation } => self.ran_out(generation),
            Event::Ready { generation, ready } => self.ready(generation, ready, now, out),
            Event::LoadFailed { generation, reason } => {
                self.load_failed(generation, reason, now, out);
            }
            Event::Exited { generation, how } => self.exited(generation, how, now, out),
            Event::Idle {
                generation,
                idle_unload,
            } => self.idle(generation, idle_unload, now, out),
            Event::Unload { reply, model, mode } => self.unload(reply, &model, mode, now, out),
            Event::Hold {
                hold,
                generation,
                holder,
                time,
            } => self.hold(hold, generation, holder, time, now, out),
            Event::LetGo {
                reply,
                hold,
                holder,
            } => self.let_go(reply, hold, holder.as_deref(), now, out),
            Event::Release { reply } => self.release(reply, now, out),
            Event::Apply { settings, models } => self.apply(settings, models, now, out),
            Event::Shutdown { drain } => self.begin_shutdown(drain, now, out),
            Event::StoodStill { time } => self.stood_still(time, now),
            Event::Tick => {}
        }
        self.slots.settle(now);
        self.crowd.see(self.present(), now);
        self.pass(now, out);
        while self.place_anew(now, out) {
            self.pass(now, out);
        }
        self.slots.settle(now);
        effects
    }

    /// Whether the server goes down and every process has been reaped.
    pub fn is_over(&self) -> bool {
        self.shutdown.is_some() && self.workers.is_empty() && self.standby.is_none()
    }

    /// What is reserved now: loading, loaded and not yet reaped, and what stands by.
    pub fn reserved(&self) -> ByteSize {
        ByteSize(self.books().bytes)
    }

    /// Bytes and places that are taken now.
    fn books(&self) -> Room {
        let standby = self.standby.as_ref().map(Standby::room);
        self.slots.books().plus(standby.unwrap_or_default())
    }

    /// Requests that run or wait.
    fn present(&self) -> usize {
        let running = self.slots.running();
        let workers = running.filter_map(|(_, slot)| slot.running.as_ref());
        let leases = workers.filter_map(|worker| Some(worker.gate()?.leases() as usize));
        self.waiting.len() + leases.sum::<usize>()
    }

    /// Bytes and places that there are.
    fn limit(&self) -> Room {
        Room {
            bytes: self.settings.budget.0,
            places: self.settings.max_models.unwrap_or(usize::MAX),
        }
    }

    /// The next number in the line of everything that waits.
    fn turn(&mut self) -> u64 {
        self.last_turn += 1;
        self.last_turn
    }

    /// The model and slot of a worker.
    fn worker(&mut self, generation: Generation) -> Option<(String, &mut Slot)> {
        let model = self.workers.get(&generation)?.clone();
        let slot = self.slots.get_mut(&model)?;
        Some((model, slot))
    }
}

/// 1, 2, 4 … 60 seconds for the first, second, third … failure in a row.
fn back_off(in_a_row: u32) -> Duration {
    let doublings = in_a_row.saturating_sub(1).min(6);
    Duration::from_secs(1 << doublings).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

#[cfg(test)]
pub(crate) use self::world::{plan, ready, resident, settings};
