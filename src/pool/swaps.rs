//! What swaps cost, and for whom they were. The owner shows it what the machine
//! answers, one effect after the other; from these it makes a book of the last
//! swaps, which people read. It decides nothing and is never asked by the machine.

mod book;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foldhash::HashMap;

pub use self::book::{Book, Exit, Happened, Swap, Victim};
use super::Asker;
use super::state::{Effect, Generation, WaiterId};

/// Follows the machine's effects.
#[derive(Debug, Default)]
pub(super) struct Witness {
    book: Book,
    /// Who waits; nobody is known behind a load that the configuration wants.
    askers: HashMap<WaiterId, Arc<Asker>>,
    /// By the model for which others go.
    coming: HashMap<String, Coming>,
    /// Loads that run, with the swap that each ends, if it ends one.
    loading: HashMap<Generation, Loading>,
}

/// A swap whose own load has not begun.
#[derive(Debug)]
struct Coming {
    begun: Instant,
    time: SystemTime,
    asker: Option<Arc<Asker>>,
    victims: Vec<Going>,
}

/// A model that goes for another.
#[derive(Debug)]
struct Going {
    model: String,
    generation: Generation,
    told: Option<Instant>,
    gone: Option<Instant>,
}

/// A load that runs.
#[derive(Debug)]
struct Loading {
    model: String,
    started: Instant,
    swap: Option<Coming>,
}

impl Witness {
    /// A witness that writes into this book.
    pub fn new(book: Book) -> Self {
        Self {
            book,
            ..Self::default()
        }
    }

    /// Somebody asks.
    pub fn asked(&mut self, waiter: WaiterId, asker: Option<Arc<Asker>>) {
        if let Some(asker) = asker {
            self.askers.insert(waiter, asker);
        }
    }

    /// Somebody has left.
    pub fn left(&mut self, waiter: WaiterId) {
        self.askers.remove(&waiter);
    }

    /// Who waits under this number.
    pub fn asker(&self, waiter: WaiterId) -> Option<&Arc<Asker>> {
        self.askers.get(&waiter)
    }

    /// The machine lost its state: nothing that was begun will be seen to end.
    pub fn forget(&mut self) {
        *self = Self::new(self.book.clone());
    }

    /// What the machine wants done now, all that follows from one event.
    pub fn see(&mut self, effects: &[Effect], now: Instant) {
        for effect in effects {
            match effect {
                Effect::Queued { waiter, position } => {
                    if let Some(asker) = self.askers.get(waiter) {
                        asker.queued(*position);
                    }
                }
                Effect::Displace {
                    model,
                    victim,
                    generation,
                    waiter,
                } => {
                    let asker = waiter.and_then(|waiter| self.askers.get(&waiter)).cloned();
                    let going = Going::new(victim, *generation);
                    self.displaced(model, going, asker, now);
                }
                Effect::Spare { generation } => self.spared(*generation),
                Effect::Stop { generation, .. } => {
                    if let Some(going) = self.going(*generation) {
                        going.told.get_or_insert(now);
                    }
                }
                Effect::Start { generation, plan } => self.started(*generation, &plan.model, now),
                Effect::Open { generation, .. } => self.opened(*generation, effects, now),
                Effect::Grant { waiter, .. } | Effect::Refuse { waiter, .. } => {
                    self.left(*waiter);
                }
                Effect::Forget {
                    generation,
                    model,
                    reason,
                    how,
                } => {
                    if let Some(going) = self.going(*generation) {
                        going.gone = Some(now);
                    }
                    // It never was ready.
                    if let Some(loading) = self.loading.remove(generation) {
                        self.over(loading, &[], false, now);
                    }
                    self.book.exited(Exit {
                        model: model.clone(),
                        reason: *reason,
                        how: how.clone(),
                    });
                }
                Effect::StandBy { .. }
                | Effect::End { .. }
                | Effect::Unloaded { .. }
                | Effect::Released { .. }
                | Effect::Held { .. }
                | Effect::LetGo { .. }
                | Effect::BringBack { .. } => {}
            }
        }
    }

    /// A model has to go for another one.
    fn displaced(&mut self, model: &str, going: Going, asker: Option<Arc<Asker>>, now: Instant) {
        let coming = || Coming {
            begun: now,
            time: SystemTime::now(),
            asker,
            victims: Vec::new(),
        };
        let coming = self.coming.entry(model.to_owned()).or_insert_with(coming);
        coming.victims.push(going);
    }

    /// A model stays after all: whoever it was to go for has left.
    fn spared(&mut self, generation: Generation) {
        self.coming.retain(|_, coming| {
            coming.victims.retain(|it| it.generation != generation);
            !coming.victims.is_empty()
        });
    }

    /// The victim with this number.
    fn going(&mut self, generation: Generation) -> Option<&mut Going> {
        let victims = self.coming.values_mut().flat_map(|it| &mut it.victims);
        let mut found = victims.filter(|it| it.generation == generation);
        found.next()
    }

    /// A process is started. It ends a swap if anything went for it.
    fn started(&mut self, generation: Generation, model: &str, now: Instant) {
        self.book.loads(model);
        let mut swap = self.coming.remove(model);
        if let Some(swap) = &mut swap {
            swap.victims.retain(|victim| victim.gone.is_some());
        }
        let loading = Loading {
            model: model.to_owned(),
            started: now,
            swap: swap.filter(|swap| !swap.victims.is_empty()),
        };
        self.loading.insert(generation, loading);
    }

    /// A load is done, and whoever waited for it has the model now.
    fn opened(&mut self, generation: Generation, effects: &[Effect], now: Instant) {
        let waits: Vec<Duration> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Grant {
                    generation: of,
                    waited,
                    ..
                } if *of == generation => Some(*waited),
                _ => None,
            })
            .collect();
        if let Some(loading) = self.loading.remove(&generation) {
            let took = now.saturating_duration_since(loading.started);
            self.book.took(&loading.model, "load", took);
            self.book.ready(&loading.model);
            self.over(loading, &waits, true, now);
        }
    }

    /// A load is over, and with it the swap that it ended.
    fn over(&mut self, loading: Loading, waits: &[Duration], ready: bool, now: Instant) {
        let Some(swap) = loading.swap else {
            return;
        };
        let told = swap.victims.iter().filter_map(|victim| victim.told).max();
        let told = told.unwrap_or(swap.begun).max(swap.begun);
        let phase = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let (drain, unload) = (phase(swap.begun, told), phase(told, loading.started));
        self.book.took(&loading.model, "drain", drain);
        self.book.took(&loading.model, "unload", unload);
        let victims = swap.victims.into_iter().map(|victim| Victim {
            drain_ms: victim.told.map_or(0, |told| ms(phase(swap.begun, told))),
            unload_ms: victim
                .told
                .zip(victim.gone)
                .map_or(0, |(told, gone)| ms(phase(told, gone))),
            model: victim.model,
        });
        let asker = swap.asker.as_deref();
        self.book.write(Swap {
            number: 0,
            time_ms: ms(swap.time.duration_since(UNIX_EPOCH).unwrap_or_default()),
            model: loading.model,
            request_id: asker.map(|asker| asker.request_id.clone()),
            caller: asker.map(|asker| asker.caller.clone()),
            name: asker.map(|asker| asker.name.clone()),
            victims: victims.collect(),
            drain_ms: ms(drain),
            unload_ms: ms(unload),
            load_ms: ms(phase(loading.started, now)),
            waiters: waits.len() as u64,
            waited_ms: ms(waits.iter().sum()),
            ready,
        });
    }
}

impl Going {
    fn new(model: &str, generation: Generation) -> Self {
        Self {
            model: model.to_owned(),
            generation,
            told: None,
            gone: None,
        }
    }
}

/// Whole milliseconds.
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
