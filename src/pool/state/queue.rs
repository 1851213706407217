//! The queue of one model: who of those that wait for it gets the next lease.
//! It does not know the line across models, nor whether there is a lease to give.
//!
//! Callers take turns, so that one with sixty requests does not hold up one with
//! a single request. This is deficit round robin (Shreedhar and Varghese,
//! "Efficient Fair Queuing using Deficit Round Robin", 1996) with every request
//! costing one and a quantum of one, where no deficit is ever carried over. A
//! higher class goes first, unless somebody has waited too long: then his class does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use foldhash::HashMap;

use super::WaiterId;
use super::candidates::Wanted;
use super::slot::Turn;
use crate::pool::{CallerId, Priority};

/// One waiting request.
#[derive(Debug)]
pub(super) struct Waiter {
    pub id: WaiterId,
    pub turn: Turn,
    pub priority: Priority,
    pub caller: CallerId,
    /// How many stood before it when it came.
    pub position: usize,
    /// What else may answer it, if it waits for another model than its own.
    pub elsewhere: Option<Box<Wanted>>,
}

/// All who wait for one model.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Who waits, for each class and caller, in the order of coming.
    flows: HashMap<(Priority, CallerId), Flow>,
    /// Whose turn it is in each class: the lowest ticket.
    rounds: BTreeMap<(Priority, u64), CallerId>,
    /// Everybody, the oldest first.
    by_age: BTreeMap<u64, Age>,
    last_ticket: u64,
}

/// Requests of one caller in one class.
#[derive(Debug)]
struct Flow {
    ticket: u64,
    waiters: VecDeque<Waiter>,
}

/// Since when somebody waits, and in which flow.
#[derive(Clone, Copy, Debug)]
struct Age {
    since: Instant,
    flow: (Priority, CallerId),
}

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// How many requests of one caller wait.
    pub fn of(&self, caller: CallerId) -> usize {
        let flows = Priority::ALL.map(|class| self.flows.get(&(class, caller)));
        flows.into_iter().flatten().map(|f| f.waiters.len()).sum()
    }

    /// The turn of whoever has waited longest.
    pub fn oldest(&self) -> Option<Turn> {
        self.by_age.first_key_value().map(|(&number, age)| Turn {
            since: age.since,
            number,
        })
    }

    /// The highest class of those who wait.
    pub fn class(&self) -> Option<Priority> {
        let first = self.rounds.first_key_value();
        first.map(|((class, _), _)| *class)
    }

    /// Somebody joins at the end.
    pub fn push(&mut self, waiter: Waiter) {
        let flow = (waiter.priority, waiter.caller);
        let since = waiter.turn.since;
        self.by_age.insert(waiter.turn.number, Age { since, flow });
        let known = self.flows.entry(flow).or_insert_with(|| {
            self.last_ticket += 1;
            self.rounds.insert((flow.0, self.last_ticket), flow.1);
            Flow {
                ticket: self.last_ticket,
                waiters: VecDeque::new(),
            }
        });
        known.waiters.push_back(waiter);
    }

    /// Whoever is next leaves the queue. Whoever came at `due` or before has
    /// waited too long.
    pub fn pop(&mut self, due: Option<Instant>) -> Option<Waiter> {
        let (_, oldest) = self.by_age.first_key_value()?;
        let is_due = due.is_some_and(|due| oldest.since <= due);
        let class = if is_due { oldest.flow.0 } else { self.class()? };
        let mut round = self.rounds.range((class, 0)..=(class, u64::MAX));
        let (&(_, ticket), &caller) = round.next()?;
        let flow = self.flows.get_mut(&(class, caller))?;
        let waiter = flow.waiters.pop_front()?;
        self.by_age.remove(&waiter.turn.number);
        self.rounds.remove(&(class, ticket));
        if flow.waiters.is_empty() {
            self.flows.remove(&(class, caller));
        } else {
            self.last_ticket += 1;
            flow.ticket = self.last_ticket;
            self.rounds.insert((class, flow.ticket), caller);
        }
        Some(waiter)
    }

    /// The one with this turn leaves the queue.
    pub fn remove(&mut self, number: u64) -> Option<Waiter> {
        let key = self.by_age.remove(&number)?.flow;
        let flow = self.flows.get_mut(&key)?;
        let place = flow
            .waiters
            .binary_search_by_key(&number, |w| w.turn.number);
        let waiter = flow.waiters.remove(place.ok()?);
        if flow.waiters.is_empty() {
            self.rounds.remove(&(key.0, flow.ticket));
            self.flows.remove(&key);
        }
        waiter
    }

    /// Everybody leaves, the oldest first.
    pub fn take_all(&mut self) -> Vec<Waiter> {
        let mut all = std::mem::take(self);
        let numbers: Vec<_> = all.by_age.keys().copied().collect();
        let waiters = numbers.into_iter().filter_map(|number| all.remove(number));
        waiters.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A queue into which these came, a caller and a class each, a second apart.
    fn queue(came: &[(u64, Priority)], start: Instant) -> Queue {
        let mut queue = Queue::default();
        for (number, &(caller, priority)) in (0..).zip(came) {
            let since = start + Duration::from_secs(number);
            queue.push(Waiter {
                id: number,
                turn: Turn { since, number },
                priority,
                caller: CallerId(caller),
                position: 0,
                elsewhere: None,
            });
        }
        queue
    }

    fn served(queue: &mut Queue, due: Option<Instant>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop(due))
            .map(|w| w.id)
            .collect()
    }

    #[test]
    fn callers_take_turns_within_a_class_and_higher_classes_go_first() {
        use Priority::{High, Low, Normal};
        let check = |came: &[(u64, Priority)], order: &[u64]| {
            let mut queue = queue(came, Instant::now());
            assert_eq!(queue.len(), came.len());
            assert_eq!(served(&mut queue, None), order, "{came:?}");
            assert!(queue.is_empty() && queue.class().is_none() && queue.flows.is_empty());
        };
        check(&[], &[]);
        check(&[(1, Normal), (1, Normal), (1, Normal)], &[0, 1, 2]);
        check(
            &[(1, Normal), (1, Normal), (1, Normal), (2, Normal)],
            &[0, 3, 1, 2],
        );
        check(
            &[(1, Low), (2, Low), (1, High), (1, High), (3, Normal)],
            &[2, 3, 4, 0, 1],
        );
    }

    #[test]
    fn whoever_has_waited_too_long_has_his_class_go_first() {
        use Priority::{High, Low};
        let start = Instant::now();
        let mut queue = queue(&[(1, Low), (2, High), (3, High)], start);
        assert_eq!(served(&mut queue, Some(start)), [0, 1, 2]);
    }

    #[test]
    fn who_leaves_is_forgotten_wherever_he_stood() {
        use Priority::Normal;
        let came = [(1, Normal), (1, Normal), (2, Normal), (1, Normal)];
        for gone in 0..4 {
            let mut queue = queue(&came, Instant::now());
            assert_eq!(queue.remove(gone).map(|w| w.id), Some(gone));
            assert!(queue.remove(gone).is_none());
            assert_eq!(queue.of(CallerId(1)), if gone == 2 { 3 } else { 2 });
            let left = queue.take_all();
            assert_eq!(left.len(), 3);
            assert!(left.is_sorted_by_key(|waiter| waiter.turn.number));
        }
    }
}
