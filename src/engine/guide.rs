//! What keeps an answer within a grammar, as the engine's thread sees it: the tokens
//! that may come next, and what has come. It knows no grammars.

use std::fmt::Debug;

/// Why an answer cannot be kept within its grammar any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be kept within its grammar: {0}")]
pub struct GuideError(pub String);

/// A grammar that answers can be kept within.
pub trait Grammar: Debug + Send + Sync {
    /// A guide for one answer. May take a while.
    fn begin(&self) -> Box<dyn Guide>;
}

/// How far one answer has come in its grammar.
pub trait Guide: Send {
    /// The tokens that may come next; the end tokens are among them where the answer may
    /// end. `left` is how many there may still be, the next one among them: towards the end
    /// those may be left out that lead away from it. May take a while.
    ///
    /// # Errors
    /// If there are none, or finding them costs more than it may.
    fn allowed(&mut self, left: u32) -> Result<Allowed, GuideError>;

    /// Takes in what has come, which is no end token. Quick. Answers whether the answer
    /// is whole and nothing may follow.
    ///
    /// # Errors
    /// If the token was not allowed.
    fn take(&mut self, token: u32) -> Result<bool, GuideError>;

    /// Whether the answer was brought to an end because its tokens came to theirs.
    fn is_cut_short(&self) -> bool;
}

/// A set of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Vec<u32>);

impl Allowed {
    /// From bits, the lowest of the first word for token 0.
    pub fn of_bits(words: Vec<u32>) -> Self {
        Self(words)
    }

    /// Those that are in both.
    pub fn and(&self, other: &Self) -> Self {
        let others = other.0.iter().chain(std::iter::repeat(&0));
        let both = self.0.iter().zip(others);
        Self(both.map(|(one, other)| one & other).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether `token` is in it.
    pub fn contains(&self, token: u32) -> bool {
        let word = self.0.get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Those in it, the lowest first.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let words = (0..).zip(&self.0);
        words.flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let lowest = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(32 * at + lowest)
            })
        })
    }

    /// Makes all other tokens impossible in a row of logits.
    pub fn apply(&self, logits: &mut [f32]) {
        let mut words = self.0.iter();
        for logits in logits.chunks_mut(32) {
            let word = words.next().copied().unwrap_or(0);
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

impl FromIterator<u32> for Allowed {
    fn from_iter<T: IntoIterator<Item = u32>>(tokens: T) -> Self {
        let mut words = Vec::new();
        for token in tokens {
            let at = token as usize / 32;
            if words.len() <= at {
                words.resize(at + 1, 0);
            }
            words[at] |= 1 << (token % 32);
        }
        Self(words)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_both_is_in_each(
            one in prop::collection::btree_set(0u32..130, 0..40),
            other in prop::collection::btree_set(0u32..130, 0..40),
        ) {
            let all = |tokens: &std::collections::BTreeSet<u32>| -> Allowed {
                tokens.iter().copied().collect()
            };
            let both = all(&one).and(&all(&other));
            for token in 0..130 {
                let expected = one.contains(&token) && other.contains(&token);
                prop_assert_eq!(both.contains(token), expected);
            }
            prop_assert_eq!(both.is_empty(), one.is_disjoint(&other));
            prop_assert_eq!(all(&one).and(&all(&one)), all(&one));
            prop_assert!(all(&one).tokens().eq(one.iter().copied()));
        }

        #[test]
        fn what_is_not_allowed_is_impossible(
            tokens in prop::collection::btree_set(0u32..130, 0..40),
            length in 0usize..150,
        ) {
            let allowed: Allowed = tokens.iter().copied().collect();
            let mut logits = vec![0.5; length];
            allowed.apply(&mut logits);
            for (token, logit) in (0u32..).zip(logits) {
                prop_assert_eq!(allowed.contains(token), tokens.contains(&token));
                prop_assert_eq!(logit == 0.5, tokens.contains(&token));
            }
        }
    }
}
