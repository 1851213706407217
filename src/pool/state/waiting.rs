//! Everybody who waits, whatever for: by number, and by age. It answers whose
//! time is up and how many stand before a newcomer without looking at each. Who
//! is next in a model's queue is told by `queue`.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;

use super::WaiterId;
use super::slot::Turn;
use crate::pool::Priority;
use crate::worker::LoadPlan;

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    places: HashMap<WaiterId, Place>,
    /// The oldest first.
    by_age: BTreeMap<u64, (Instant, WaiterId)>,
    /// Those up to this number have waited `patience`; nobody else was found to.
    due_up_to: u64,
    patience: Duration,
    /// How many of each class are due, and how many are not.
    due: [usize; 3],
    young: [usize; 3],
}

/// Where somebody waits.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// For whose model.
    pub plan: Arc<LoadPlan>,
    pub turn: Turn,
    pub priority: Priority,
}

impl Place {
    /// The model.
    pub fn model(&self) -> &str {
        &self.plan.model
    }
}

impl Waiting {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Somebody begins to wait, after all others.
    pub fn insert(&mut self, waiter: WaiterId, place: Place) {
        self.by_age
            .insert(place.turn.number, (place.turn.since, waiter));
        self.young[place.priority as usize] += 1;
        self.places.insert(waiter, place);
    }

    /// Somebody waits no longer.
    pub fn remove(&mut self, waiter: WaiterId) -> Option<Place> {
        let place = self.places.remove(&waiter)?;
        self.by_age.remove(&place.turn.number);
        let counts = if place.turn.number <= self.due_up_to {
            &mut self.due
        } else {
            &mut self.young
        };
        counts[place.priority as usize] -= 1;
        Some(place)
    }

    /// Time passes; whoever has waited `patience` is due.
    pub fn age(&mut self, patience: Duration, now: Instant) {
        if patience != self.patience {
            self.patience = patience;
            self.due_up_to = 0;
            for (young, due) in self.young.iter_mut().zip(&mut self.due) {
                *young += std::mem::take(due);
            }
        }
        let young = (Excluded(self.due_up_to), Unbounded);
        for (&number, (since, waiter)) in self.by_age.range(young) {
            if *since + patience > now {
                break;
            }
            let class = self.places[waiter].priority as usize;
            self.young[class] -= 1;
            self.due[class] += 1;
            self.due_up_to = number;
        }
    }

    /// How many stand before a newcomer of this class, as of the last [`Self::age`].
    pub fn before(&self, priority: Priority) -> usize {
        let young: usize = self.young[..=priority as usize].iter().sum();
        young + self.due.iter().sum::<usize>()
    }

    /// Whoever has waited longest, and since when.
    pub fn oldest(&self) -> Option<(Instant, WaiterId)> {
        self.by_age.first_key_value().map(|(_, oldest)| *oldest)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (WaiterId, &Place)> {
        self.places.iter().map(|(waiter, place)| (*waiter, place))
    }

    /// Whoever has this turn.
    pub fn with(&self, turn: Turn) -> Option<WaiterId> {
        self.by_age.get(&turn.number).map(|(_, waiter)| *waiter)
    }

    /// The model for which somebody waits.
    #[cfg(test)]
    pub fn model_of(&self, waiter: WaiterId) -> Option<&str> {
        self.places.get(&waiter).map(|place| place.model())
    }

    /// All of them.
    #[cfg(test)]
    pub fn keys(&self) -> impl Iterator<Item = &WaiterId> {
        self.places.keys()
    }

    /// That the counts are those of a recount.
    #[cfg(test)]
    pub fn check(&self) {
        let mut counts = ([0; 3], [0; 3]);
        for place in self.places.values() {
            let is_due = place.turn.number <= self.due_up_to;
            let counts = if is_due { &mut counts.0 } else { &mut counts.1 };
            counts[place.priority as usize] += 1;
        }
        assert_eq!(counts, (self.due, self.young), "who is due");
        assert_eq!(self.by_age.len(), self.places.len(), "by age");
    }
}
