//! Aliases and names of upstreams with a `*`: which of them has a name. What else may have it is asked
//! before, by `route`.

use super::Leads;
use crate::config::Pattern;

/// All of them. A name is looked up in a tree of their bytes, so a lookup costs what
/// the name is long and how many of them still fit it, however many there are.
#[derive(Debug)]
pub struct Wildcards {
    all: Vec<Wildcard>,
    /// The first is the root: nothing has been read yet.
    nodes: Vec<Node>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Wildcard {
    /// The pattern.
    pub pattern: Pattern,
    /// Where it leads.
    pub leads: Leads,
    /// Whether any permitted model of the kind may answer.
    pub background: bool,
}

/// What is left of the patterns that begin alike.
#[derive(Debug, Default)]
struct Node {
    /// Where each byte leads, by the byte.
    next: Vec<(u8, usize)>,
    /// Where a star leads, which may stand for nothing.
    star: Option<usize>,
    /// Whether a star leads here: it may take in more.
    is_star: bool,
    /// The pattern that ends here.
    ends: Option<usize>,
}

impl Wildcards {
    /// The one that has a name: of those that match, the one with the most literals.
    pub fn find(&self, name: &str) -> Option<&Wildcard> {
        let (mut here, mut next) = (Vec::with_capacity(16), Vec::with_capacity(16));
        self.enter(&mut here, 0);
        for byte in name.bytes() {
            for node in &here {
                self.step(&mut next, *node, byte);
            }
            std::mem::swap(&mut here, &mut next);
            next.clear();
            if here.is_empty() {
                return None;
            }
        }
        let ends = here.into_iter().filter_map(|node| self.nodes[node].ends);
        let ends = ends.map(|index| &self.all[index]);
        ends.max_by_key(|wildcard| wildcard.pattern.literals())
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Wildcard> {
        self.all.iter()
    }

    /// Goes on from a node by one byte of the name.
    fn step(&self, next: &mut Vec<usize>, from: usize, byte: u8) {
        let node = &self.nodes[from];
        if node.is_star && byte != b'/' {
            add(next, from);
        }
        if let Ok(at) = node.next.binary_search_by_key(&byte, |(byte, _)| *byte) {
            self.enter(next, node.next[at].1);
        }
    }

    /// A node, and what a star after it leads to without another byte.
    fn enter(&self, reached: &mut Vec<usize>, node: usize) {
        add(reached, node);
        if let Some(star) = self.nodes[node].star {
            add(reached, star);
        }
    }

    /// Lays a pattern into the tree.
    fn insert(&mut self, wildcard: Wildcard) {
        let mut here = 0;
        for byte in wildcard.pattern.as_str().bytes() {
            here = match byte {
                // Two stars are one.
                b'*' if self.nodes[here].is_star => here,
                b'*' => self.star_after(here),
                byte => self.byte_after(here, byte),
            };
        }
        self.nodes[here].ends.get_or_insert(self.all.len());
        self.all.push(wildcard);
    }

    fn star_after(&mut self, node: usize) -> usize {
        if let Some(star) = self.nodes[node].star {
            return star;
        }
        let star = self.nodes.len();
        self.nodes[node].star = Some(star);
        self.nodes.push(Node {
            is_star: true,
            ..Node::default()
        });
        star
    }

    fn byte_after(&mut self, node: usize, byte: u8) -> usize {
        let new = self.nodes.len();
        let next = &mut self.nodes[node].next;
        match next.binary_search_by_key(&byte, |(byte, _)| *byte) {
            Ok(at) => next[at].1,
            Err(at) => {
                next.insert(at, (byte, new));
                self.nodes.push(Node::default());
                new
            }
        }
    }
}

/// Notes a node once: a star is reached from before and from itself.
fn add(reached: &mut Vec<usize>, node: usize) {
    if !reached.contains(&node) {
        reached.push(node);
    }
}

impl FromIterator<Wildcard> for Wildcards {
    fn from_iter<I: IntoIterator<Item = Wildcard>>(all: I) -> Self {
        let mut wildcards = Self {
            all: Vec::new(),
            nodes: vec![Node::default()],
        };
        for wildcard in all {
            wildcards.insert(wildcard);
        }
        wildcards
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::fixture::{Shelf, snapshot};

    fn wildcards(patterns: &[String]) -> Wildcards {
        let snapshot = snapshot("models: {a/b: {}}", &Shelf::of(&["a/b"]));
        let served = snapshot.served["a/b"].clone();
        let wildcard = |pattern: &String| Wildcard {
            pattern: Pattern::parse(pattern).expect("a pattern"),
            leads: Leads::Model(served.clone()),
            background: false,
        };
        patterns.iter().map(wildcard).collect()
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_one_by_one_would(
            patterns in proptest::collection::vec("[ab/*]{1,6}", 0..12), name in "[ab/]{1,8}"
        ) {
            let tree = wildcards(&patterns);
            let matching = tree.iter().filter(|wildcard| wildcard.pattern.matches(&name));
            let most = matching.map(|wildcard| wildcard.pattern.literals()).max();
            let found = tree.find(&name);
            prop_assert!(found.is_none_or(|found| found.pattern.matches(&name)));
            prop_assert_eq!(found.map(|found| found.pattern.literals()), most);
        }
    }
}
