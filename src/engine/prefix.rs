//! The prompt cache's memory of which tokens have been read: a tree over token ids,
//! whose nodes are pieces of at most [`PIECE`] tokens with whatever belongs to them.
//! Pure: it knows neither what the pieces hold nor how large the room is; whoever
//! owns it says how many bytes there may be, and it gives up what is worth least.
//!
//! Each caller has a tree of its own, so that nobody learns from the time or the
//! usage of an answer what somebody else has asked.
//!
//! The children of a node are free of prefixes of each other. So at most one of them
//! is met whole by given tokens, and going down there finds the longest prefix; two
//! of them may begin alike, which keeps fewer than [`PIECE`] tokens twice and never
//! cuts a piece that is there.
//!
//! What is worth least: a leaf's worth is the tokens that it saves per byte each time
//! it is used, times its uses, plus the worth of what was given up last when it was
//! used last. So what was worth much once grows old as others come and go, without a
//! clock (GreedyDual-Size with frequency: Cao and Irani, "Cost-aware WWW proxy
//! caching algorithms", 1997; Cherkasova, HPL-98-69, 1998).

use std::collections::{BTreeMap, BTreeSet};

/// Most tokens of a piece.
pub const PIECE: usize = 64;

/// Whose prefixes these are: a mark that says nothing else of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u128);

impl Owner {
    /// Nobody's mark: prompts that the file wants read for whoever may use the model.
    pub const ANYBODY: Self = Self(0);
}

/// The prefixes of all callers.
#[derive(Debug)]
pub struct Prefixes<P> {
    nodes: BTreeMap<Number, Node<P>>,
    /// The first pieces of each caller.
    first: BTreeMap<Owner, Vec<Number>>,
    /// Nodes without children, least worth first.
    leaves: BTreeSet<(Worth, Number)>,
    /// The worth of what was given up last.
    age: Worth,
    next: Number,
    bytes: u64,
    tokens: u64,
}

type Number = u64;

/// Tokens per byte in units of 2⁻⁴⁰.
type Worth = u128;

#[derive(Debug)]
struct Node<P> {
    owner: Owner,
    parent: Option<Number>,
    children: Vec<Number>,
    tokens: Vec<u32>,
    piece: P,
    bytes: u64,
    uses: u64,
    worth: Worth,
}

/// The longest prefix that is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<P> {
    /// How many tokens it has.
    pub tokens: usize,
    /// Its pieces in order, each with how many of its tokens count: all, but for the last.
    pub pieces: Vec<(P, usize)>,
}

/// What is to be added so that all tokens are there, as far as there is room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The first token that no whole piece has.
    pub from: usize,
    /// How many tokens each piece is to have.
    pub lengths: Vec<usize>,
}

/// A piece among all there are.
#[derive(Debug)]
pub struct Ranked<'p, P> {
    /// Whose it is.
    pub owner: Owner,
    /// The place of the piece ahead of it; nothing if it is a first one.
    pub parent: Option<usize>,
    /// How many tokens are ahead of its own.
    pub from: u64,
    /// Its tokens.
    pub tokens: &'p [u32],
    /// What belongs to them.
    pub piece: &'p P,
    /// Its bytes.
    pub bytes: u64,
}

/// A way down from the root, over pieces that are met whole.
struct Way {
    whole: Vec<Number>,
    /// Their tokens.
    tokens: usize,
    /// The piece that goes on with the most of the tokens left, and how many.
    partly: Option<(Number, usize)>,
}

impl<P> Default for Prefixes<P> {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            first: BTreeMap::new(),
            leaves: BTreeSet::new(),
            age: 0,
            next: 0,
            bytes: 0,
            tokens: 0,
        }
    }
}

impl<P> Prefixes<P> {
    /// Bytes of all pieces.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tokens of all pieces.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The longest prefix of `tokens` that `owner` has. It counts as used.
    pub fn find(&mut self, owner: Owner, tokens: &[u32]) -> Found<P>
    where
        P: Clone,
    {
        let way = self.way(owner, tokens);
        let mut used = way.whole;
        let last = way.partly.map(|(node, _)| node);
        used.extend(last);
        let pieces = used.iter().filter_map(|number| {
            let node = self.use_once(*number)?;
            let count = match way.partly {
                Some((last, count)) if last == *number => count,
                _ => node.tokens.len(),
            };
            Some((node.piece.clone(), count))
        });
        let pieces: Vec<(P, usize)> = pieces.collect();
        Found {
            tokens: pieces.iter().map(|(_, count)| count).sum(),
            pieces,
        }
    }

    /// How many tokens [`Prefixes::find`] would find. Nothing counts as used.
    pub fn longest(&self, owner: Owner, tokens: &[u32]) -> usize {
        let way = self.way(owner, tokens);
        way.tokens + way.partly.map_or(0, |(_, count)| count)
    }

    /// Gives up what is worth least until what `tokens` of `owner` lack has room within
    /// `most` bytes, at `each` bytes for a token, and says what they lack. What they
    /// have already stays; what has no room even so is left out from the end.
    pub fn make_room(&mut self, owner: Owner, tokens: &[u32], each: u64, most: u64) -> Missing {
        let way = self.way(owner, tokens);
        let left = tokens.len() - way.tokens;
        // The rest is the beginning of a piece that is there.
        let lacks = match way.partly {
            Some((_, count)) if count == left => 0,
            _ => left,
        };
        let needs = (lacks as u64).saturating_mul(each);
        // All above it has children as long as it is there.
        let stays = match (lacks, way.partly) {
            (0, Some((node, _))) => Some(node),
            _ => way.whole.last().copied(),
        };
        self.shrink_but(most.saturating_sub(needs), stays);
        let room = most.saturating_sub(self.bytes) / each.max(1);
        let lacks = lacks.min(usize::try_from(room).unwrap_or(usize::MAX));
        let lengths = (0..lacks).step_by(PIECE);
        Missing {
            from: way.tokens,
            lengths: lengths.map(|begin| PIECE.min(lacks - begin)).collect(),
        }
    }

    /// Adds pieces, each with its bytes, after the first `from` tokens of `owner`: what
    /// [`Prefixes::make_room`] said is missing, with nothing changed in between.
    pub fn add(&mut self, owner: Owner, tokens: &[u32], from: usize, pieces: Vec<(P, usize, u64)>) {
        let way = self.way(owner, &tokens[..from.min(tokens.len())]);
        if way.tokens != from {
            return;
        }
        let mut parent = way.whole.last().copied();
        let mut begin = from;
        for (piece, length, bytes) in pieces {
            let Some(run) = tokens.get(begin..begin + length) else {
                return;
            };
            begin += length;
            parent = Some(self.insert(owner, parent, run, piece, bytes));
        }
    }

    /// Adds pieces that lie one after the other from the first of `tokens` on, as far as
    /// they are not there and there is room within `most` bytes; what is worth least
    /// gives way. Pieces that are cut otherwise than what is there are left out.
    pub fn adopt(&mut self, owner: Owner, tokens: &[u32], pieces: Vec<(P, usize, u64)>, most: u64) {
        let way = self.way(owner, tokens);
        let (mut left, mut from) = (pieces.into_iter().peekable(), 0);
        while from < way.tokens {
            let Some((_, length, _)) = left.next() else {
                return;
            };
            from += length;
        }
        let begins = |length: usize| way.partly.is_some_and(|(_, count)| count >= length);
        if from != way.tokens || left.peek().is_none_or(|(_, length, _)| begins(*length)) {
            return;
        }
        let left: Vec<_> = left.collect();
        let needs = left.iter().map(|(_, _, bytes)| bytes).sum();
        let stays = way.whole.last().copied();
        self.shrink_but(most.saturating_sub(needs), stays);
        let mut room = most.saturating_sub(self.bytes);
        let fit = left.into_iter().take_while(|(_, _, bytes)| {
            let fits = *bytes <= room;
            room = room.saturating_sub(*bytes);
            fits
        });
        let fit = fit.collect();
        self.add(owner, tokens, from, fit);
    }

    /// All pieces, most worth first, each after the one ahead of it.
    pub fn ranked(&self) -> Vec<Ranked<'_, P>> {
        let mut order: Vec<(Worth, Number)> = Vec::with_capacity(self.nodes.len());
        order.extend(
            self.nodes
                .iter()
                .map(|(number, node)| (node.worth, *number)),
        );
        order.sort_unstable_by(|one, other| other.cmp(one));
        let mut places: BTreeMap<Number, usize> = BTreeMap::new();
        let mut ranked: Vec<Ranked<'_, P>> = Vec::with_capacity(order.len());
        for (_, number) in order {
            let (mut above, mut at) = (Vec::new(), Some(number));
            while let Some(number) = at.filter(|number| !places.contains_key(number)) {
                above.push(number);
                at = self.nodes.get(&number).and_then(|node| node.parent);
            }
            for number in above.into_iter().rev() {
                let Some(node) = self.nodes.get(&number) else {
                    continue;
                };
                let parent = node.parent.and_then(|parent| places.get(&parent).copied());
                let ahead = parent.map(|parent| &ranked[parent]);
                let from = ahead.map_or(0, |ahead| ahead.from + ahead.tokens.len() as u64);
                places.insert(number, ranked.len());
                ranked.push(Ranked {
                    owner: node.owner,
                    parent,
                    from,
                    tokens: &node.tokens,
                    piece: &node.piece,
                    bytes: node.bytes,
                });
            }
        }
        ranked
    }

    /// Gives up what is worth least until no more than `most` bytes are left.
    pub fn shrink(&mut self, most: u64) {
        self.shrink_but(most, None);
    }

    /// Gives up everything.
    pub fn clear(&mut self) {
        self.shrink(0);
        self.age = 0;
    }

    fn insert(
        &mut self,
        owner: Owner,
        parent: Option<Number>,
        run: &[u32],
        piece: P,
        bytes: u64,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        let worth = self.age + saved(run.len(), 1, bytes);
        let siblings = match parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            Some(node) => {
                if let (Some(parent), true) = (parent, node.children.is_empty()) {
                    self.leaves.remove(&(node.worth, parent));
                }
                &mut node.children
            }
            None => self.first.entry(owner).or_default(),
        };
        siblings.push(number);
        self.leaves.insert((worth, number));
        self.bytes += bytes;
        self.tokens += run.len() as u64;
        let node = Node {
            owner,
            parent,
            children: Vec::new(),
            tokens: run.to_vec(),
            piece,
            bytes,
            uses: 1,
            worth,
        };
        self.nodes.insert(number, node);
        number
    }

    /// Goes down as far as `tokens` meet whole pieces.
    fn way(&self, owner: Owner, tokens: &[u32]) -> Way {
        let mut way = Way {
            whole: Vec::new(),
            tokens: 0,
            partly: None,
        };
        let mut children = self.first.get(&owner);
        while let Some(numbers) = children {
            let left = &tokens[way.tokens..];
            let common = |number: &Number| {
                let node = self.nodes.get(number)?;
                Some((*number, common(&node.tokens, left), node))
            };
            let best = numbers.iter().filter_map(common);
            let Some((number, count, node)) = best.max_by_key(|(_, count, _)| *count) else {
                break;
            };
            if count < node.tokens.len() {
                way.partly = (count > 0).then_some((number, count));
                break;
            }
            way.whole.push(number);
            way.tokens += count;
            children = Some(&node.children);
        }
        way
    }

    /// Counts a use and answers the node.
    fn use_once(&mut self, number: Number) -> Option<&Node<P>> {
        let age = self.age;
        let node = self.nodes.get_mut(&number)?;
        let before = node.worth;
        node.uses += 1;
        node.worth = age + saved(node.tokens.len(), node.uses, node.bytes);
        if node.children.is_empty() {
            self.leaves.remove(&(before, number));
            self.leaves.insert((node.worth, number));
        }
        self.nodes.get(&number)
    }

    /// The same as [`Prefixes::shrink`], but this piece stays.
    fn shrink_but(&mut self, most: u64, stays: Option<Number>) {
        while self.bytes > most {
            let mut leaves = self.leaves.iter();
            let Some(&(worth, number)) = leaves.find(|(_, number)| stays != Some(*number)) else {
                return;
            };
            self.age = self.age.max(worth);
            self.give_up(number);
        }
    }

    /// Removes a leaf.
    fn give_up(&mut self, number: Number) {
        let Some(node) = self.nodes.remove(&number) else {
            return;
        };
        self.leaves.remove(&(node.worth, number));
        self.bytes -= node.bytes;
        self.tokens -= node.tokens.len() as u64;
        match node.parent {
            Some(parent) => {
                if let Some(above) = self.nodes.get_mut(&parent) {
                    above.children.retain(|child| *child != number);
                    if above.children.is_empty() {
                        self.leaves.insert((above.worth, parent));
                    }
                }
            }
            None => {
                if let Some(first) = self.first.get_mut(&node.owner) {
                    first.retain(|child| *child != number);
                    if first.is_empty() {
                        self.first.remove(&node.owner);
                    }
                }
            }
        }
    }
}

/// How many tokens two runs have in common from the beginning.
pub fn common(one: &[u32], other: &[u32]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// What `tokens` in `bytes` have saved in `uses`.
fn saved(tokens: usize, uses: u64, bytes: u64) -> Worth {
    ((tokens as u128 * u128::from(uses)) << 40) / u128::from(bytes.max(1))
}

#[cfg(test)]
mod tests;
