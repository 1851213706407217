//! Guessing on the engine's thread: asks how much is worth it, gets it out of the text or
//! from the smaller network, and keeps the books. What counts of it is decided by the
//! steps of the network itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::scheduler::Id;
use crate::engine::speculation::pace::{Chance, MOST_AHEAD, Pace, Record};
use crate::engine::speculation::{Draft, lookup};
use crate::engine::{EngineError, Network};

/// Tokens that the smaller network reads with a guess; more of them are read before it,
/// without the logits of each.
const AT_ONCE: usize = 4;

/// Guesses for the sequences of one network.
pub(super) struct Drafts<N: Network> {
    draft: Draft<N>,
    /// What the smaller network has read of sequences: their tokens from the first on.
    caches: BTreeMap<Id, N::Cache>,
    pace: Pace,
    /// Tokens of the network that takes the guesses.
    vocabulary: usize,
    /// Most tokens of a prompt that are read in one step.
    chunk: usize,
}

/// A sequence that makes a step.
pub(super) struct Stepping<'s> {
    pub(super) id: Id,
    /// Its prompt and what it has said.
    pub(super) tokens: &'s [u32],
    /// How many guesses it can have.
    pub(super) most: usize,
    /// How its guesses went.
    pub(super) record: Record,
}

/// What is guessed of one sequence.
#[derive(Debug, Default)]
pub(super) struct Guess {
    tokens: Vec<u32>,
    /// How many of them are tried. The first counts in the books even if none is.
    tried: usize,
}

impl Guess {
    /// The tokens that are tried.
    pub(super) fn tried(&self) -> &[u32] {
        self.tokens.get(..self.tried).unwrap_or_default()
    }

    /// What is seen of it when the tokens `chosen` came: guessed so many, right so many.
    pub(super) fn outcome(&self, chosen: &[u32]) -> (usize, usize) {
        let told = self.tried.max(self.tokens.len().min(1)).min(chosen.len());
        let pairs = self.tokens.iter().zip(chosen).take(told);
        (told, pairs.take_while(|(one, other)| one == other).count())
    }
}

impl<N: Network> Drafts<N> {
    /// With what there is to guess, for `network`, in chunks of so many tokens.
    pub(super) fn new(draft: Draft<N>, network: &N, chunk: u64) -> Self {
        let can_go_back = match &draft {
            Draft::Network(smaller) => network.is_trimmable() && smaller.is_trimmable(),
            Draft::Nothing | Draft::Prompt => network.is_trimmable(),
        };
        if !can_go_back && !matches!(draft, Draft::Nothing) {
            tracing::warn!("nothing is guessed: this model's caches cannot go back");
        }
        let draft = match can_go_back {
            true => draft,
            false => Draft::Nothing,
        };
        Self {
            pace: Pace::new(matches!(draft, Draft::Network(_))),
            draft,
            caches: BTreeMap::new(),
            vocabulary: network.vocabulary(),
            chunk: usize::try_from(chunk).unwrap_or(usize::MAX),
        }
    }

    /// The most guesses that any sequence can have.
    pub(super) fn most(&self) -> usize {
        match self.draft {
            Draft::Nothing => 0,
            Draft::Prompt | Draft::Network(_) => MOST_AHEAD,
        }
    }

    /// Guesses for the sequences that make a step together, in their order.
    pub(super) fn guess(&mut self, sequences: &[Stepping<'_>]) -> Vec<Guess> {
        match self.draft {
            Draft::Nothing => sequences.iter().map(|_| Guess::default()).collect(),
            Draft::Prompt => self.look_up(sequences),
            Draft::Network(_) => match self.ask(sequences) {
                Ok(guesses) => guesses,
                Err(error) => {
                    // Answers do without it.
                    tracing::error!(?error, "the draft model failed; nothing is guessed");
                    self.draft = Draft::Nothing;
                    self.caches.clear();
                    sequences.iter().map(|_| Guess::default()).collect()
                }
            },
        }
    }

    fn look_up(&mut self, sequences: &[Stepping<'_>]) -> Vec<Guess> {
        let guess = |sequence: &Stepping<'_>| Guess {
            tokens: lookup::guess(sequence.tokens, sequence.most),
            tried: 0,
        };
        let mut guesses: Vec<Guess> = sequences.iter().map(guess).collect();
        let chances = sequences.iter().zip(&guesses);
        let chances = chances.map(|(sequence, guess)| Chance {
            record: sequence.record,
            most: guess.tokens.len(),
        });
        let depths = self.pace.depths(&chances.collect::<Vec<_>>());
        for (guess, depth) in guesses.iter_mut().zip(depths) {
            guess.tried = depth;
        }
        guesses
    }

    /// Guesses of the smaller network, always what is likeliest: the more likely, the more
    /// often it is what is chosen.
    fn ask(&mut self, sequences: &[Stepping<'_>]) -> Result<Vec<Guess>, EngineError> {
        let mut guesses: Vec<Guess> = sequences.iter().map(|_| Guess::default()).collect();
        let Draft::Network(network) = &mut self.draft else {
            return Ok(guesses);
        };
        let chances = sequences.iter().map(|sequence| Chance {
            record: sequence.record,
            most: sequence.most,
        });
        let depths = self.pace.depths(&chances.collect::<Vec<_>>());
        // Who is asked for: which sequence, its cache, what it has to read, how many guesses.
        let mut asked: Vec<(usize, N::Cache, Vec<u32>, usize)> = Vec::new();
        for (of, (sequence, depth)) in sequences.iter().zip(depths).enumerate() {
            if depth == 0 {
                continue;
            }
            let cache = self.caches.remove(&sequence.id);
            let mut cache = cache.unwrap_or_else(|| network.new_cache());
            let held = network.tokens_in(&cache);
            let unread = sequence.tokens.get(held..).unwrap_or_default();
            let own = network.vocabulary();
            if unread.is_empty() || unread.iter().any(|token| *token as usize >= own) {
                // It cannot say how this text goes on.
                continue;
            }
            let before = unread.len().saturating_sub(AT_ONCE).min(self.chunk);
            network.prefill(&mut cache, &unread[..before], false)?;
            if unread.len() - before > AT_ONCE {
                self.caches.insert(sequence.id, cache);
                continue;
            }
            asked.push((of, cache, unread[before..].to_vec(), depth));
        }
        let deepest = asked.iter().map(|(.., depth)| *depth).max().unwrap_or(0);
        let began = Instant::now();
        for place in 0..deepest {
            let mut batch: Vec<(&mut N::Cache, &[u32])> = Vec::new();
            let mut of_batch = Vec::new();
            for (of, cache, unread, depth) in &mut asked {
                if *depth > place {
                    of_batch.push((*of, unread.len()));
                    batch.push((cache, unread));
                }
            }
            let rows = network.decode(&mut batch)?;
            let mut rows = rows.into_iter();
            for (of, count) in of_batch {
                let row = rows.by_ref().take(count).last();
                let row = row.ok_or_else(|| EngineError::Device("no logits".to_owned()))?;
                guesses[of].tokens.push(likeliest(&row, self.vocabulary));
            }
            for (of, _, unread, _) in &mut asked {
                unread.clear();
                unread.extend(guesses[*of].tokens.last());
            }
        }
        self.pace.guessed(deepest, began.elapsed());
        for (of, cache, ..) in asked {
            guesses[of].tried = guesses[of].tokens.len();
            self.caches.insert(sequences[of].id, cache);
        }
        Ok(guesses)
    }

    /// A step of so many rows took this.
    pub(super) fn stepped(&mut self, rows: usize, took: Duration) {
        self.pace.stepped(rows, took);
    }

    /// Guesses for a sequence went so.
    pub(super) fn seen(&mut self, guessed: usize, right: usize) {
        self.pace.seen(guessed, right);
    }

    /// Only the first `tokens` of what was read of a sequence are what it says.
    pub(super) fn trim(&mut self, id: Id, tokens: usize) {
        if let (Draft::Network(network), Some(cache)) = (&self.draft, self.caches.get_mut(&id)) {
            network.trim(cache, tokens);
        }
    }

    /// The sequence is over, or its cache is given up.
    pub(super) fn forget(&mut self, id: Id) {
        self.caches.remove(&id);
    }
}

/// The likeliest of the first `count` tokens.
fn likeliest(row: &[f32], count: usize) -> u32 {
    let tokens = (0u32..).zip(row).take(count);
    let likeliest = tokens.max_by(|(_, one), (_, other)| one.total_cmp(other));
    likeliest.map_or(0, |(token, _)| token)
}
