//! Which model will probably be loaded next, told from the loads so far, and whether
//! there is memory to have its files read before it is asked for. Pure. It reads no file
//! and asks for no load: what comes of a wrong guess is some reading for nothing.
//!
//! A guess is what most often came after the last load (a Markov chain of the first order over
//! the last loads of each model). Agents that go round among a few models load them in
//! the same order again and again, however their requests are mixed, because what
//! stays in memory is no load.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::{ModelView, View};
use crate::units::ByteSize;

/// Models whose successors are remembered; of more, those loaded longest ago are forgotten.
const MODELS: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

/// The last successors of a model that count.
const SUCCESSORS: usize = 8;

/// A successor seen less often is no guess.
const SEEN: usize = 2;

/// The part of all memory that stays free whatever is read: one in so many.
const SPARED: u64 = 10;

/// The loads so far.
#[derive(Debug)]
pub struct Transitions {
    last: Option<String>,
    after: LruCache<String, VecDeque<String>>,
}

impl Default for Transitions {
    fn default() -> Self {
        Self {
            last: None,
            after: LruCache::new(MODELS),
        }
    }
}

impl Transitions {
    /// A load begins.
    pub fn loads(&mut self, model: &str) {
        if let Some(last) = self.last.replace(model.to_owned()) {
            let successors = self.after.get_or_insert_mut(last, VecDeque::new);
            if successors.len() == SUCCESSORS {
                successors.pop_front();
            }
            successors.push_back(model.to_owned());
        }
    }

    /// What will probably be loaded next: what came after the last load at least
    /// [`SEEN`] times and in at least half of the cases.
    pub fn next(&self) -> Option<&str> {
        let successors = self.after.peek(self.last.as_ref()?)?;
        let count = |model: &String| successors.iter().filter(|it| *it == model).count();
        // Of equals the one that came last.
        let likeliest = successors.iter().max_by_key(|model| count(model))?;
        let seen = count(likeliest);
        (seen >= SEEN && seen * 2 >= successors.len()).then_some(likeliest)
    }
}

/// How much may be read into memory that nobody uses or was promised. `free` is what the
/// system says can be had of `total`; it counts pages of files that models have mapped as
/// such, and knows nothing of what workers have been promised and do not hold yet.
pub fn room(free: ByteSize, total: ByteSize, view: &View) -> ByteSize {
    let wanted = view.models.iter().map(still_takes);
    let wanted = wanted.fold(ByteSize::ZERO, ByteSize::saturating_add);
    let spared = wanted.saturating_add(ByteSize(total.0 / SPARED));
    ByteSize(free.0.saturating_sub(spared.0))
}

/// What a model may yet take of the memory that the system counts as free: all that is
/// reserved but what it holds beyond its mapped weights.
fn still_takes(model: &ModelView) -> ByteSize {
    let held = model.footprint.unwrap_or(ByteSize::ZERO).0;
    let private = held.saturating_sub(model.plan.weights.0);
    ByteSize(model.reserved.0.saturating_sub(private))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::ModelState;
    use crate::pool::view::{of, sample};

    fn guess(loads: &str) -> Option<String> {
        let mut transitions = Transitions::default();
        for model in loads.split_whitespace() {
            transitions.loads(model);
        }
        transitions.next().map(str::to_owned)
    }

    #[test]
    fn the_next_model_is_the_one_that_came_next_before() {
        let check = |loads: &str, expected: Option<&str>| {
            assert_eq!(guess(loads).as_deref(), expected, "{loads}");
        };
        check("", None);
        check("a", None);
        check("a b a", None);
        check("a b a b a", Some("b"));
        check("a b a b a b", Some("a"));
        check("a b c a b c a", Some("b"));
        // Half of the cases will do, a third will not.
        check("a b a b a c a c a", Some("c"));
        check("a b a b a c a c a d a d a", None);
        // What was long ago does not count.
        check(
            "a b a b a b a b a c a c a c a c a c a c a c a c a",
            Some("c"),
        );
        // A model that crashes and is loaded again is its own successor.
        check("a a a", Some("a"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut transitions = Transitions::default();
        for number in 0..10 * MODELS.get() {
            transitions.loads(&number.to_string());
        }
        assert_eq!(transitions.after.len(), MODELS.get());
        for _ in 0..10 * SUCCESSORS {
            transitions.loads("same");
        }
        let most = transitions.after.iter().map(|(_, it)| it.len()).max();
        assert_eq!(most, Some(SUCCESSORS));
    }

    #[test]
    fn what_models_were_promised_is_not_read_into() {
        let check = |free: u64, total: u64, view: &View, expected: u64| {
            let got = room(ByteSize(free), ByteSize(total), view);
            assert_eq!(got, ByteSize(expected), "{free} of {total}");
        };
        check(800, 1000, &of(Vec::new()), 700);
        check(50, 1000, &of(Vec::new()), 0);

        let mut model = sample("m", 300, ModelState::Ready);
        let weights = model.plan.weights.0;
        model.reserved = ByteSize(weights + 200);
        // Nothing is known to be its own yet: all of it may still be taken.
        check(weights + 800, 1000, &of(vec![model.clone()]), 500);
        // Its weights are mapped, and can be had in the eyes of the system.
        model.footprint = Some(ByteSize(weights));
        check(weights + 800, 1000, &of(vec![model.clone()]), 500);
        model.footprint = Some(ByteSize(weights + 150));
        check(weights + 800, 1000, &of(vec![model]), 650);
    }
}
