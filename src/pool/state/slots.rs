//! All models, and what is looked up among them without looking at each: which
//! have a worker, what those hold, who stands in the line, which failures end
//! when. Whoever changes a slot takes it through here, which notes its name;
//! [`Slots::settle`] then brings the indexes up to date with those that were
//! noted. So an event costs what it changes, however many models there are.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Instant;

use foldhash::HashMap;

use super::index::{Entry, Index};
use super::slot::Slot;
use crate::pool::Priority;
use crate::pool::evict::Room;

/// Where a slot stands among all.
pub(super) type Number = usize;

/// All models.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By number; those that were forgotten left a gap.
    all: Vec<Option<(String, Slot)>>,
    gaps: Vec<Number>,
    numbers: HashMap<String, Number>,
    /// Changed since the indexes were settled.
    touched: Vec<Number>,
    /// Changed since the view was made.
    stale: Vec<Number>,
    index: Index,
}

/// What is kept in a slot of its place in the indexes.
#[derive(Debug, Default)]
pub(super) struct Marks {
    entry: Entry,
    is_touched: bool,
    is_stale: bool,
}

/// Where somebody stands in the line: first those who are due, by age, then the
/// others by class.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Due(Instant, u64),
    Young {
        class: Priority,
        number: u64,
        /// Everybody who is not due has this number or a higher one.
        first: u64,
    },
}

impl Place {
    /// Whether whoever stands there has waited so long that nothing goes before him.
    pub fn is_due(self) -> bool {
        matches!(self, Self::Due(..))
    }
}

impl Slots {
    /// A model.
    pub fn get(&self, model: &str) -> Option<&Slot> {
        let (_, slot) = self.numbered(*self.numbers.get(model)?)?;
        Some(slot)
    }

    /// A model by its number.
    pub fn numbered(&self, number: Number) -> Option<(&String, &Slot)> {
        let (model, slot) = self.all.get(number)?.as_ref()?;
        Some((model, slot))
    }

    /// A model that is about to change.
    pub fn get_mut(&mut self, model: &str) -> Option<&mut Slot> {
        let number = *self.numbers.get(model)?;
        let (_, slot) = self.all[number].as_mut()?;
        if !std::mem::replace(&mut slot.marks.is_touched, true) {
            self.touched.push(number);
        }
        Some(slot)
    }

    /// A model that is about to change, made if it is not known.
    pub fn get_or_insert(&mut self, model: &str, new: impl FnOnce() -> Slot) -> &mut Slot {
        let number = match self.numbers.get(model) {
            Some(number) => *number,
            None => self.next_number(model),
        };
        let (_, slot) = self.all[number].get_or_insert_with(|| (model.to_owned(), new()));
        if !std::mem::replace(&mut slot.marks.is_touched, true) {
            self.touched.push(number);
        }
        slot
    }

    /// A place for a model that is new.
    fn next_number(&mut self, model: &str) -> Number {
        let number = self.gaps.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.numbers.insert(model.to_owned(), number);
        number
    }

    /// Every model, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Slot)> {
        let all = self.all.iter().flatten();
        all.map(|(model, slot)| (model, slot))
    }

    /// Every model with its number, ordered by name.
    pub fn ordered(&self) -> Vec<(Number, &String, &Slot)> {
        let all = self.all.iter().enumerate();
        let known =
            all.filter_map(|(number, it)| it.as_ref().map(|(model, slot)| (number, model, slot)));
        let mut ordered: Vec<_> = known.collect();
        ordered.sort_unstable_by_key(|(_, model, _)| *model);
        ordered
    }

    /// The names of all models, in order, to change one after the other.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.numbers.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Brings the indexes up to date.
    pub fn settle(&mut self, now: Instant) {
        while let Some(number) = self.touched.pop() {
            let Some((model, slot)) = &mut self.all[number] else {
                continue;
            };
            slot.marks.is_touched = false;
            let entry = Entry::of(slot, now);
            let before = std::mem::replace(&mut slot.marks.entry, entry);
            if entry != before {
                self.index.remove(model, &before);
                self.index.insert(model, number, &entry);
                let need = |entry: &Entry| entry.in_line().map(|claim| claim.need);
                if need(&entry).is_some() && need(&entry) != need(&before) {
                    self.index.fresh.push(model.clone());
                }
            }
            if !std::mem::replace(&mut slot.marks.is_stale, true) {
                self.stale.push(number);
            }
        }
    }

    /// Those whose failure is over stand in the line again.
    pub fn end_rests(&mut self, now: Instant) {
        let over = |index: &Index| index.failures.first().filter(|(at, _)| *at <= now).cloned();
        while let Some((_, model)) = over(self.index()) {
            self.get_mut(&model);
            self.settle(now);
        }
    }

    /// Forgets models of which nothing is left to remember.
    pub fn forget(&mut self) {
        while let Some(model) = self.index.forgettable.first().cloned() {
            let number = self.numbers.remove(&model);
            let gone = number.and_then(|number| Some((number, self.all[number].take()?)));
            if let Some((number, (_, slot))) = gone {
                self.index.remove(&model, &slot.marks.entry);
                self.gaps.push(number);
                self.stale.push(number);
            }
        }
    }

    /// Those that may look different, or are gone, since this was last asked.
    pub fn take_stale(&mut self) -> Vec<Number> {
        let stale = std::mem::take(&mut self.stale);
        for number in &stale {
            if let Some((_, slot)) = &mut self.all[*number] {
                slot.marks.is_stale = false;
            }
        }
        stale
    }

    /// The indexes, which must be settled.
    fn index(&self) -> &Index {
        debug_assert!(self.touched.is_empty(), "{:?} changed", self.touched);
        &self.index
    }

    /// The models with a worker, by name.
    pub fn running(&self) -> impl Iterator<Item = (&String, &Slot)> {
        let numbers = self.index().running.values();
        numbers.filter_map(|number| self.numbered(*number))
    }

    /// What all workers take.
    pub fn books(&self) -> Room {
        self.index().books.room()
    }

    /// What all who wait for a load will need, whoever they are.
    pub fn claimed(&self) -> Room {
        self.index().claimed.room()
    }

    /// What is held for good in the way of one model. Among kept models it is first
    /// come, first served: otherwise two that do not fit together would keep each
    /// other out.
    pub fn held_against(&self, slot: &Slot) -> Room {
        let index = self.index();
        match slot.marks.entry.kept {
            None => index.kept.room(),
            Some(own) if slot.running.is_some() => index.kept_running.room().less(own),
            Some(_) => index.kept_running.room(),
        }
    }

    /// What is kept, and what of that is there.
    pub fn kept(&self) -> (Room, Room) {
        (self.index().kept.room(), self.index().kept_running.room())
    }

    /// The least that anybody in the line needs.
    pub fn least_need(&self) -> Room {
        let bytes = self.index().needs.first_key_value();
        Room {
            bytes: bytes.map_or(0, |(bytes, _)| *bytes),
            places: 1,
        }
    }

    /// Who has come into the line since this was last asked, or needs more.
    pub fn take_fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.index.fresh)
    }

    /// Everybody in the line, by age.
    pub fn line_by_age(&self) -> impl Iterator<Item = &String> {
        self.index().by_age.values()
    }

    /// Whoever stands in the line behind a place, or first in it; those who came at
    /// `due` or before are due.
    pub fn next_in_line(
        &self,
        place: Option<Place>,
        due: Option<Instant>,
    ) -> Option<(Place, &String)> {
        let index = self.index();
        let (mut class, mut from, first) = match place {
            Some(Place::Young {
                class,
                number,
                first,
            }) => (class, number + 1, first),
            None | Some(Place::Due(..)) => {
                let after = match place {
                    Some(Place::Due(since, number)) => Excluded((since, number)),
                    _ => Unbounded,
                };
                let until = due.map(|due| (due, u64::MAX));
                if let Some(until) = until
                    && let Some((&(since, number), model)) =
                        range(&index.by_age, after, Included(until))
                {
                    return Some((Place::Due(since, number), model));
                }
                let young = until.map_or(Unbounded, Excluded);
                let (&(_, first), _) = range(&index.by_age, young, Unbounded)?;
                (Priority::High, first, first)
            }
        };
        loop {
            let until = Included((class, u64::MAX));
            let found = range(&index.by_class, Included((class, from)), until);
            if let Some((&(class, number), model)) = found {
                let place = Place::Young {
                    class,
                    number,
                    first,
                };
                return Some((place, model));
            }
            (class, from) = (class.lower()?, first);
        }
    }

    /// Since when the first one waits in the line who is not due.
    pub fn next_due(&self, due: Option<Instant>) -> Option<Instant> {
        let young = due.map_or(Unbounded, |due| Excluded((due, u64::MAX)));
        range(&self.index().by_age, young, Unbounded).map(|(&(since, _), _)| since)
    }

    /// When the next failure ends.
    pub fn next_end_of_rest(&self) -> Option<Instant> {
        self.index().failures.first().map(|(at, _)| *at)
    }

    /// That the indexes are those of a recount.
    #[cfg(test)]
    pub fn check(&self, now: Instant) {
        let mut index = Index::default();
        for (model, slot) in self.iter() {
            index.insert(model, self.numbers[model], &Entry::of(slot, now));
        }
        assert_eq!(self.iter().count(), self.numbers.len());
        assert_eq!(self.all.len(), self.numbers.len() + self.gaps.len());
        index.fresh = self.index.fresh.clone();
        assert_eq!(index, *self.index());
    }
}

impl<N: AsRef<str> + ?Sized> std::ops::Index<&N> for Slots {
    type Output = Slot;

    fn index(&self, model: &N) -> &Slot {
        self.get(model.as_ref()).expect("a model that is known")
    }
}

/// The first entry between two bounds, of which the lower may lie above the upper.
fn range<K: Ord + Copy, V>(
    map: &BTreeMap<K, V>,
    from: std::ops::Bound<K>,
    until: std::ops::Bound<K>,
) -> Option<(&K, &V)> {
    let found = map.range((from, Unbounded)).next()?;
    let is_within = match until {
        Included(until) => *found.0 <= until,
        Excluded(until) => *found.0 < until,
        Unbounded => true,
    };
    is_within.then_some(found)
}
