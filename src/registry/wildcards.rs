//! Aliases with a `*`: which of them has a name. What else may have it is asked
//! before, by `route`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Served;
use crate::config::Pattern;

/// All of them. A name is looked up by what it begins with, so a lookup costs the
/// patterns that begin like the name, however many others there are.
#[derive(Debug, Default)]
pub struct Wildcards {
    /// By what they begin with; in each, the one with the most literals first.
    by_prefix: HashMap<String, Vec<Wildcard>>,
    /// How long the beginnings are.
    lengths: BTreeSet<usize>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Wildcard {
    /// The pattern.
    pub pattern: Pattern,
    /// Where it leads.
    pub served: Arc<Served>,
    /// Whether any permitted model of the kind may answer.
    pub background: bool,
}

impl Wildcards {
    /// The one that has a name: of those that match, the one with the most literals.
    pub fn find(&self, name: &str) -> Option<&Wildcard> {
        let mut best: Option<&Wildcard> = None;
        for length in &self.lengths {
            let Some(prefix) = name.get(..*length) else {
                break;
            };
            let known = best.map_or(0, |best| best.pattern.literals() + 1);
            let alike = self.by_prefix.get(prefix).into_iter().flatten();
            let mut longer = alike.take_while(|wildcard| wildcard.pattern.literals() >= known);
            best = longer
                .find(|wildcard| wildcard.pattern.matches(name))
                .or(best);
        }
        best
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Wildcard> {
        self.by_prefix.values().flatten()
    }
}

impl FromIterator<Wildcard> for Wildcards {
    fn from_iter<I: IntoIterator<Item = Wildcard>>(all: I) -> Self {
        let mut wildcards = Self::default();
        for wildcard in all {
            let prefix = wildcard.pattern.prefix().to_owned();
            wildcards.lengths.insert(prefix.len());
            wildcards
                .by_prefix
                .entry(prefix)
                .or_default()
                .push(wildcard);
        }
        for alike in wildcards.by_prefix.values_mut() {
            alike.sort_by_key(|wildcard| std::cmp::Reverse(wildcard.pattern.literals()));
        }
        wildcards
    }
}
