//! The prompt cache on the engine's thread: what sequences leave behind, and what later
//! ones go on from. It has the room that sequences leave and gives way to them.
//! Which tokens are there is [`Prefixes`]' business, what belongs to them the network's.
//! What more there is on the disk is taken up again when a prompt begins with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::engine::prefix::{Found, Owner, Prefixes};
use crate::engine::stored::index::Link;
use crate::engine::stored::store::Store;
use crate::engine::{EngineError, Network};

/// The prompt cache of one network.
pub(super) struct Keeper<N: Network> {
    prefixes: Prefixes<N::Piece>,
    /// Bytes of a token.
    each: u64,
    /// Bytes of a token of a sequence, with what a draft model has of it.
    live: u64,
    /// Bytes for all caches.
    room: u64,
    /// The same on the disk.
    store: Option<Store>,
}

/// What was on the disk of a prompt.
struct Restored<P> {
    /// All tokens of its pieces.
    tokens: Vec<u32>,
    /// The pieces with their lengths.
    pieces: Vec<(P, usize)>,
    /// How much of the last one counts.
    last: usize,
}

/// What is counted, for whoever wants to look.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes: AtomicU64,
    tokens: AtomicU64,
    asked: AtomicU64,
    hits: AtomicU64,
    saved: AtomicU64,
    restored: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> super::Kept {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        super::Kept {
            bytes: read(&self.bytes),
            tokens: read(&self.tokens),
            asked: read(&self.asked),
            hits: read(&self.hits),
            saved: read(&self.saved),
            restored: read(&self.restored),
        }
    }
}

impl<N: Network> Keeper<N> {
    pub(super) fn new(network: &N, live: u64, room: u64, store: Option<Store>) -> Self {
        Self {
            store,
            prefixes: Prefixes::default(),
            each: network.kv_bytes_per_token().max(1),
            live,
            room,
        }
    }

    /// The cache of a sequence of `tokens` that begins, with the longest prefix that
    /// `owner` or everybody has but for its last token; and how many tokens that is. What
    /// everybody has was read without an adapter, and is nothing for one that is `adapted`.
    /// The sequences hold `live` tokens of the room, this one's among them.
    pub(super) fn begin(
        &mut self,
        network: &mut N,
        owner: Option<Owner>,
        adapted: bool,
        tokens: &[u32],
        live: u64,
        counts: &Counts,
    ) -> (N::Cache, u64) {
        let (Some(owner), Some((_, but_last))) = (owner, tokens.split_last()) else {
            self.give_way(live, counts);
            return (network.new_cache(), 0);
        };
        counts.asked.fetch_add(1, Ordering::Relaxed);
        let mut found = self.prefixes.find(owner, but_last);
        if !adapted {
            let common = self.prefixes.find(Owner::ANYBODY, but_last);
            if common.tokens > found.tokens {
                found = common;
            }
        }
        let restored = self.restore(network, owner, but_last, found.tokens);
        if let Some(restored) = &restored {
            found = restored.found();
        }
        // What has no room beside the sequence goes first: its share takes the place.
        self.give_way(live, counts);
        if found.tokens == 0 {
            return (network.new_cache(), 0);
        }
        let saved = found.tokens as u64;
        match network.evaluate_cache(found.pieces) {
            Ok(cache) => {
                counts.hits.fetch_add(1, Ordering::Relaxed);
                counts.saved.fetch_add(saved, Ordering::Relaxed);
                if let Some(restored) = restored {
                    counts.restored.fetch_add(saved, Ordering::Relaxed);
                    self.adopt(owner, restored, live);
                    self.count(counts);
                }
                (cache, saved)
            }
            Err(error) => {
                tracing::warn!(
                    ?error,
                    "a prompt could not be gone on from; it is read anew"
                );
                (network.new_cache(), 0)
            }
        }
    }

    /// What is on the disk of a prompt, if that is more than the `have` tokens in memory.
    /// A piece that is not as it was written is removed, and those after it with it.
    fn restore(
        &mut self,
        network: &N,
        owner: Owner,
        tokens: &[u32],
        have: usize,
    ) -> Option<Restored<N::Piece>> {
        let store = self.store.as_mut()?;
        let mut links = store.find(owner, tokens);
        let count = |links: &[Link]| links.iter().map(|link| link.count).sum::<usize>();
        if count(&links) <= have {
            return None;
        }
        let mut restored = Restored {
            tokens: Vec::new(),
            pieces: Vec::with_capacity(links.len()),
            last: 0,
        };
        for (place, link) in links.iter().enumerate() {
            let length = link.tokens.len();
            let mapped = store.verified(link.key).map_err(|bad| bad.to_string());
            let mapped = mapped.and_then(|path| {
                let piece = network.map_piece(&path, length);
                piece.map_err(|error| error.to_string())
            });
            match mapped {
                Ok(piece) => {
                    restored.tokens.extend(&link.tokens);
                    restored.pieces.push((piece, length));
                    restored.last = link.count;
                }
                Err(reason) => {
                    tracing::warn!(reason, "a prompt on disk is damaged and removed");
                    store.remove(link.key);
                    links.truncate(place);
                    break;
                }
            }
        }
        if count(&links) <= have {
            return None;
        }
        store.used(&links);
        Some(restored)
    }

    /// Has in memory what was on the disk, as far as there is room beside the sequences.
    fn adopt(&mut self, owner: Owner, restored: Restored<N::Piece>, live: u64) {
        let (each, most) = (self.each, self.room_beside(live));
        let pieces = restored.pieces.into_iter();
        let pieces = pieces.map(|(piece, length)| (piece, length, length as u64 * each));
        self.prefixes
            .adopt(owner, &restored.tokens, pieces.collect(), most);
    }

    /// Writes to the disk what is not there, most worth first, until then.
    pub(super) fn write(&mut self, network: &N, until: Instant) {
        let Some(store) = self.store.as_mut() else {
            return;
        };
        let began = Instant::now();
        let ranked = self.prefixes.ranked();
        match store.write(&ranked, |piece| network.tensors_of(piece), until) {
            Ok(written) => {
                let took_ms = began.elapsed().as_millis() as u64;
                tracing::info!(?written, took_ms, "prompts were written to the disk");
            }
            Err(error) => tracing::warn!(?error, "prompts could not be written to the disk"),
        }
    }

    /// Notes how long so many tokens of a prompt took.
    pub(super) fn prefilled(&mut self, tokens: u64, time: Duration) {
        if let Some(store) = &mut self.store {
            store.prefilled(tokens, time);
        }
    }

    /// Keeps what a sequence leaves: `tokens` are those that its cache holds. The other
    /// sequences hold `live` tokens of the room.
    pub(super) fn keep(
        &mut self,
        network: &mut N,
        owner: Owner,
        tokens: &[u32],
        cache: N::Cache,
        live: u64,
        counts: &Counts,
    ) {
        let most = self.room_beside(live);
        let missing = self.prefixes.make_room(owner, tokens, self.each, most);
        if !missing.lengths.is_empty() {
            match network.evaluate_pieces(cache, missing.from, &missing.lengths) {
                Ok(pieces) => self.add(owner, tokens, missing.from, pieces, &missing.lengths),
                Err(error) => warn(&error),
            }
        }
        self.count(counts);
    }

    fn add(
        &mut self,
        owner: Owner,
        tokens: &[u32],
        from: usize,
        pieces: Vec<N::Piece>,
        lengths: &[usize],
    ) {
        let each = self.each;
        let pieces = pieces.into_iter().zip(lengths);
        let pieces = pieces.map(|(piece, length)| (piece, *length, *length as u64 * each));
        self.prefixes.add(owner, tokens, from, pieces.collect());
    }

    /// Gives up what has no room beside sequences that hold `live` tokens of it.
    pub(super) fn give_way(&mut self, live: u64, counts: &Counts) {
        self.prefixes.shrink(self.room_beside(live));
        self.count(counts);
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self, counts: &Counts) {
        self.prefixes.clear();
        if let Some(store) = &mut self.store {
            store.forget();
        }
        self.count(counts);
    }

    /// Bytes that sequences with `live` tokens leave.
    fn room_beside(&self, live: u64) -> u64 {
        self.room.saturating_sub(live.saturating_mul(self.live))
    }

    fn count(&self, counts: &Counts) {
        let set = |number: &AtomicU64, value| number.store(value, Ordering::Relaxed);
        set(&counts.bytes, self.prefixes.bytes());
        set(&counts.tokens, self.prefixes.tokens());
    }
}

impl<P: Clone> Restored<P> {
    /// The same as what is found in memory.
    fn found(&self) -> Found<P> {
        let last = self.pieces.len().saturating_sub(1);
        let pieces = self.pieces.iter().enumerate();
        let pieces = pieces.map(|(place, (piece, length))| match place == last {
            true => (piece.clone(), self.last),
            false => (piece.clone(), *length),
        });
        let pieces: Vec<(P, usize)> = pieces.collect();
        Found {
            tokens: pieces.iter().map(|(_, count)| count).sum(),
            pieces,
        }
    }
}

fn warn(error: &EngineError) {
    tracing::warn!(?error, "a prompt could not be kept");
}
