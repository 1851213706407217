//! Which aliases with a `*` say equally much of a name that both match: it would be a
//! matter of chance which has it. Pure, and quick for thousands of them.

use std::collections::{BTreeSet, HashMap};

use crate::config::Pattern;

/// The pairs among these that could have the same name and have as many literals, by
/// their places in the list, the later one first; at most so many. Equal ones are no
/// pair.
pub(super) fn clashes(patterns: &[&Pattern], most: usize) -> Vec<(usize, usize)> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut alike: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    for (index, pattern) in patterns.iter().enumerate() {
        if known.insert(pattern.as_str(), index).is_none() {
            let shape = (pattern.literals(), pattern.parts().count());
            alike.entry(shape).or_default().push(index);
        }
    }
    let mut found = Vec::new();
    for members in alike.values() {
        in_one_shape(patterns, members, most, &mut found);
    }
    found.sort_unstable();
    found
}

/// The pairs among patterns with as many literals and as many parts.
fn in_one_shape(
    patterns: &[&Pattern],
    members: &[usize],
    most: usize,
    found: &mut Vec<(usize, usize)>,
) {
    let mut sides = Vec::new();
    for &later in members {
        // Two that meet agree in how each part begins and ends: only those that agree
        // with it where the fewest do have to be looked at.
        let keys = keys(patterns[later]);
        sides.resize_with(keys.len(), Side::default);
        let candidates = sides.iter().zip(&keys).map(|(side, key)| side.like(key));
        let fewest =
            candidates.min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        for earlier in fewest.into_iter().flatten().flatten() {
            if patterns[later].meets(patterns[*earlier]) {
                found.push((later, *earlier));
            }
            if found.len() >= most {
                return;
            }
        }
        for (side, key) in sides.iter_mut().zip(keys) {
            side.insert(key, later);
        }
    }
}

/// How each part begins, and how it ends, the last byte first.
fn keys(pattern: &Pattern) -> Vec<Vec<u8>> {
    let both = |part: crate::config::pattern::Part| {
        let end = part.end().bytes().rev().collect();
        [part.beginning().as_bytes().to_vec(), end]
    };
    pattern.parts().flat_map(both).collect()
}

/// Patterns by one of their keys.
#[derive(Default)]
struct Side {
    by_key: HashMap<Vec<u8>, Vec<usize>>,
    sorted: BTreeSet<Vec<u8>>,
}

impl Side {
    fn insert(&mut self, key: Vec<u8>, pattern: usize) {
        if !self.by_key.contains_key(&key) {
            self.sorted.insert(key.clone());
        }
        self.by_key.entry(key).or_default().push(pattern);
    }

    /// Those with a key that this one begins with, or that begins with it.
    fn like(&self, key: &[u8]) -> Vec<&Vec<usize>> {
        let shorter = (0..key.len()).filter_map(|end| self.by_key.get(&key[..end]));
        let longer = self.sorted.range(key.to_vec()..);
        let longer = longer.take_while(|other| other.starts_with(key));
        shorter
            .chain(longer.filter_map(|key| self.by_key.get(key)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn patterns(texts: &[String]) -> Vec<Pattern> {
        let pattern = |text: &String| Pattern::parse(text).expect("a pattern");
        texts.iter().map(pattern).collect()
    }

    proptest! {
        #[test]
        fn they_are_those_that_comparing_all_finds(
            texts in proptest::collection::vec("[ab/*]{1,5}", 0..12)
        ) {
            let patterns = patterns(&texts);
            let patterns: Vec<_> = patterns.iter().collect();
            let found = clashes(&patterns, usize::MAX);
            let first = |index: usize| !texts[..index].contains(&texts[index]);
            let mut expected = Vec::new();
            for (later, one) in patterns.iter().enumerate().filter(|(index, _)| first(*index)) {
                for (earlier, other) in patterns[..later].iter().enumerate() {
                    let alike = one.literals() == other.literals() && one.meets(other);
                    if alike && first(earlier) {
                        expected.push((later, earlier));
                    }
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn thousands_are_compared_in_no_time() {
        let check = |shape: fn(usize) -> String, clash: usize| {
            let texts: Vec<_> = (0..20_000).map(shape).collect();
            let patterns = patterns(&texts);
            let patterns: Vec<_> = patterns.iter().collect();
            let start = Instant::now();
            assert_eq!(clashes(&patterns, 100).len(), clash, "{}", texts[0]);
            // Comparing all with all would take minutes.
            assert!(start.elapsed() < Duration::from_secs(20), "{}", texts[0]);
        };
        check(|n| format!("model-{n:05}-*"), 0);
        check(|n| format!("*-model-{n:05}"), 0);
        check(|n| format!("*/{n:05}*"), 0);
        check(|n| format!("a{:03}-*-{:03}", n % 150, n / 150), 0);
        check(|n| format!("*{n:05}*"), 100);
        check(|_| "x*".to_owned(), 0);
    }
}
