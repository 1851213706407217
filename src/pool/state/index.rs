//! The indexes beside the slots, and what they hold of each: kept in step by taking
//! out what stood there of a slot before and putting in what stands there now.
//! `slots` says when.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::Instant;

use super::slot::{Slot, Turn};
use super::slots::Number;
use crate::pool::Priority;
use crate::pool::evict::Room;

/// What the indexes hold of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Entry {
    /// What its worker takes.
    pub running: Option<Room>,
    /// It is to be loaded, and no worker comes up for it.
    pub claim: Option<Claim>,
    /// Until when a failure keeps it out of the line.
    pub rests_until: Option<Instant>,
    /// What it takes, or will, for good.
    pub kept: Option<Room>,
    pub is_forgettable: bool,
}

/// A claim on a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub turn: Turn,
    pub class: Priority,
    pub need: Room,
}

/// A sum that comes back to nothing when everything is taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    bytes: u128,
    places: usize,
}

/// The indexes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    /// Who has a worker, by name.
    pub running: BTreeMap<String, Number>,
    pub books: Sum,
    /// Who stands in the line, by age and by class.
    pub by_age: BTreeMap<(Instant, u64), String>,
    pub by_class: BTreeMap<(Priority, u64), String>,
    /// How many in the line need so many bytes.
    pub needs: BTreeMap<u64, usize>,
    /// What all claims need, also of those that rest.
    pub claimed: Sum,
    /// When failures end.
    pub failures: BTreeSet<(Instant, String)>,
    pub kept: Sum,
    pub kept_running: Sum,
    /// Who came into the line since this was last taken, or needs more.
    pub fresh: Vec<String>,
    pub forgettable: BTreeSet<String>,
}

impl Sum {
    fn add(&mut self, room: Room) {
        self.bytes += u128::from(room.bytes);
        self.places += room.places;
    }

    fn take(&mut self, room: Room) {
        self.bytes -= u128::from(room.bytes);
        self.places -= room.places;
    }

    pub fn room(self) -> Room {
        Room {
            bytes: u64::try_from(self.bytes).unwrap_or(u64::MAX),
            places: self.places,
        }
    }
}

impl Entry {
    pub fn of(slot: &Slot, now: Instant) -> Self {
        let running = slot.running.as_ref().map(|worker| worker.room());
        let claim = slot.claim().filter(|_| !slot.is_served());
        Self {
            running,
            claim: claim.map(|turn| Claim {
                turn,
                class: slot.priority(),
                need: slot.need(),
            }),
            rests_until: slot.quarantine(now).map(|failure| failure.retry_at),
            kept: slot.keep.then(|| running.unwrap_or(slot.need())),
            is_forgettable: slot.is_forgettable(),
        }
    }

    /// Its claim, if that stands in the line.
    pub fn in_line(&self) -> Option<Claim> {
        self.claim.filter(|_| self.rests_until.is_none())
    }
}

impl Index {
    pub fn remove(&mut self, model: &str, entry: &Entry) {
        if let Some(room) = entry.running {
            self.running.remove(model);
            self.books.take(room);
        }
        if let Some(claim) = entry.claim {
            self.claimed.take(claim.need);
        }
        if let Some(Claim { turn, class, need }) = entry.in_line() {
            if let btree_map::Entry::Occupied(mut count) = self.needs.entry(need.bytes) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            self.by_age.remove(&(turn.since, turn.number));
            self.by_class.remove(&(class, turn.number));
        }
        if let Some(until) = entry.rests_until {
            self.failures.remove(&(until, model.to_owned()));
        }
        if let Some(room) = entry.kept {
            self.kept.take(room);
            if entry.running.is_some() {
                self.kept_running.take(room);
            }
        }
        if entry.is_forgettable {
            self.forgettable.remove(model);
        }
    }

    pub fn insert(&mut self, model: &str, number: Number, entry: &Entry) {
        let name = || model.to_owned();
        if let Some(room) = entry.running {
            self.running.insert(name(), number);
            self.books.add(room);
        }
        if let Some(claim) = entry.claim {
            self.claimed.add(claim.need);
        }
        if let Some(Claim { turn, class, need }) = entry.in_line() {
            *self.needs.entry(need.bytes).or_default() += 1;
            self.by_age.insert((turn.since, turn.number), name());
            self.by_class.insert((class, turn.number), name());
        }
        if let Some(until) = entry.rests_until {
            self.failures.insert((until, name()));
        }
        if let Some(room) = entry.kept {
            self.kept.add(room);
            if entry.running.is_some() {
                self.kept_running.add(room);
            }
        }
        if entry.is_forgettable {
            self.forgettable.insert(name());
        }
    }
}
