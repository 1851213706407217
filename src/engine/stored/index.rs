//! Which pieces are on the disk, by the tokens that lead to them. Pure.

use std::collections::BTreeMap;

use super::Key;

/// The pieces of any number of callers, each of whom has a root of their own.
#[derive(Debug, Default)]
pub struct Index {
    pieces: BTreeMap<Key, Piece>,
    children: BTreeMap<Key, Vec<Key>>,
}

#[derive(Debug)]
struct Piece {
    parent: Key,
    tokens: Vec<u32>,
}

/// A piece on the way along some tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Which.
    pub key: Key,
    /// All its tokens.
    pub tokens: Vec<u32>,
    /// How many of them are the asked ones: all, but for the last link.
    pub count: usize,
}

impl Index {
    /// Adds a piece after another, or after a root.
    pub fn add(&mut self, key: Key, parent: Key, tokens: Vec<u32>) {
        if tokens.is_empty() || self.pieces.contains_key(&key) {
            return;
        }
        self.children.entry(parent).or_default().push(key);
        self.pieces.insert(key, Piece { parent, tokens });
    }

    /// Removes a piece and all that come after it, and says which.
    pub fn remove(&mut self, key: Key) -> Vec<Key> {
        let mut gone = Vec::new();
        let mut left = vec![key];
        while let Some(key) = left.pop() {
            let Some(piece) = self.pieces.remove(&key) else {
                continue;
            };
            if let Some(siblings) = self.children.get_mut(&piece.parent) {
                siblings.retain(|sibling| *sibling != key);
            }
            left.extend(self.children.remove(&key).unwrap_or_default());
            gone.push(key);
        }
        gone
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The pieces along `tokens` from a root on: at each step the one with the most of
    /// them.
    pub fn find(&self, root: Key, tokens: &[u32]) -> Vec<Link> {
        let mut links = Vec::new();
        let (mut at, mut left) = (root, tokens);
        while let Some(children) = self.children.get(&at) {
            let child = |key: &Key| {
                let piece = self.pieces.get(key)?;
                let pairs = piece.tokens.iter().zip(left);
                let count = pairs.take_while(|(one, other)| one == other).count();
                Some((count, *key, piece))
            };
            let best = children.iter().filter_map(child);
            let Some((count, key, piece)) = best.max_by_key(|(count, ..)| *count) else {
                break;
            };
            if count == 0 {
                break;
            }
            links.push(Link {
                key,
                tokens: piece.tokens.clone(),
                count,
            });
            if count < piece.tokens.len() {
                break;
            }
            (at, left) = (key, &left[count..]);
        }
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        Key([number; 16])
    }

    #[test]
    fn the_way_along_the_tokens_is_found_and_what_hangs_on_a_piece_goes_with_it() {
        let mut index = Index::default();
        let (anne, bert) = (key(100), key(101));
        index.add(key(1), anne, vec![1, 2, 3]);
        index.add(key(2), key(1), vec![4, 5]);
        index.add(key(3), key(1), vec![4, 6, 7]);
        index.add(key(4), bert, vec![1]);
        let check = |index: &Index, root, tokens: &[u32], expected: &[(u8, usize)]| {
            let found = index.find(root, tokens);
            let found: Vec<_> = found
                .iter()
                .map(|link| (link.key.0[0], link.count))
                .collect();
            assert_eq!(found, expected, "{tokens:?}");
        };
        check(&index, anne, &[1, 2, 3, 4, 6, 9], &[(1, 3), (3, 2)]);
        check(&index, anne, &[1, 2, 3, 4, 5, 9], &[(1, 3), (2, 2)]);
        check(&index, anne, &[1, 2, 9], &[(1, 2)]);
        check(&index, anne, &[9], &[]);
        check(&index, bert, &[1, 2, 3], &[(4, 1)]);
        check(&index, key(102), &[1], &[]);
        let mut gone = index.remove(key(1));
        gone.sort();
        assert_eq!(gone, [key(1), key(2), key(3)]);
        check(&index, anne, &[1, 2, 3], &[]);
        assert_eq!(index.remove(key(1)), [Key([0; 16]); 0]);
        index.clear();
        check(&index, bert, &[1], &[]);
    }
}
