//! The prompt cache on the engine's thread: what sequences leave behind, and what later
//! ones go on from. It has the room that sequences leave and gives way to them.
//! Which tokens are there is [`Prefixes`]' business, what belongs to them the network's.
//! What more there is on the disk is taken up again when a prompt begins with it.
//!
//! The last caches stay whole ([`Park`]), since what comes next is most often the next turn
//! of the same conversation, which takes its cache as it is. When another sequence begins
//! alike, when room is short and when the worker ends, they are taken apart into pieces.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::BLOCK;
use super::parked::{Match, Park, Parked};
use crate::engine::prefix::{Found, Owner, PIECE, Prefixes, common};
use crate::engine::stored::index::Link;
use crate::engine::stored::store::Store;
use crate::engine::{EngineError, Network};

/// Most tokens of a whole cache that are dropped when a sequence takes it: a template may
/// say the end of an answer otherwise than the model did, and that much is read again in
/// little more than the time of a token.
const DROPPED: usize = 8;

/// The prompt cache of one network.
pub(super) struct Keeper<N: Network> {
    prefixes: Prefixes<N::Piece>,
    /// Never more than half of the room.
    parked: Park<N::Cache>,
    /// Bytes of a token.
    each: u64,
    /// Bytes of a token of a sequence, with what a draft model has of it.
    live: u64,
    /// Bytes for all caches.
    room: u64,
    /// The same on the disk.
    store: Option<Store>,
}

/// A sequence that begins.
#[derive(Clone, Copy)]
pub(super) struct Beginning<'t> {
    /// Whose it is; nothing if it goes on from nothing and leaves nothing.
    pub(super) owner: Option<Owner>,
    /// Whether it runs with an adapter.
    pub(super) adapted: bool,
    /// Its tokens.
    pub(super) tokens: &'t [u32],
    /// Tokens of the room that the sequences hold, it among them.
    pub(super) live: u64,
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
            parked: Park::default(),
            each: network.kv_bytes_per_token().max(1),
            live,
            room,
        }
    }

    /// The cache of a sequence that begins, with the longest prefix that its owner or
    /// everybody has of all but its last token; and how many tokens that is. What
    /// everybody has was read without an adapter, and is nothing for one that has one.
    /// `running` are the owner's other sequences: the tokens that their caches hold, and
    /// those.
    pub(super) fn begin(
        &mut self,
        network: &mut N,
        beginning: Beginning<'_>,
        running: &[(&[u32], &N::Cache)],
        counts: &Counts,
    ) -> (N::Cache, u64) {
        let Beginning { tokens, live, .. } = beginning;
        let (Some(owner), Some((_, but_last))) = (beginning.owner, tokens.split_last()) else {
            self.give_way(network, live, counts);
            return (network.new_cache(), 0);
        };
        counts.asked.fetch_add(1, Ordering::Relaxed);
        let in_pieces = self.in_pieces(owner, beginning.adapted, but_last);
        let parked = self.parked.find(owner, but_last);
        let parked = parked.filter(|found| found.tokens >= in_pieces);
        let here = parked.map_or(in_pieces, |found| found.tokens);
        let restored = self.restore(network, owner, but_last, here);
        let mut found = match &restored {
            Some(restored) => restored.found(),
            None => {
                let longest = |held: &&(&[u32], &N::Cache)| common(held.0, but_last);
                let running = running.iter().max_by_key(longest);
                let running = running.map(|held| (longest(&held), held.1));
                let running = running.filter(|(count, _)| *count >= here + PIECE);
                if let Some(cache) = self.whole(network, parked, running, tokens.len()) {
                    self.give_way(network, live, counts);
                    let saved = network.tokens_in(&cache) as u64;
                    counts.hits.fetch_add(1, Ordering::Relaxed);
                    counts.saved.fetch_add(saved, Ordering::Relaxed);
                    return (cache, saved);
                }
                if let Some((count, cache)) = running {
                    self.add_pieces(network, owner, &tokens[..count], cache.clone(), live);
                } else if let Some(found) = parked.filter(|found| found.tokens > in_pieces)
                    && let Some(parked) = self.parked.take(found)
                {
                    self.take_apart(network, parked, live);
                }
                self.prefixes.find(owner, but_last)
            }
        };
        if restored.is_none() && !beginning.adapted {
            let common = self.prefixes.find(Owner::ANYBODY, but_last);
            if common.tokens > found.tokens {
                found = common;
            }
        }
        // What has no room beside the sequence goes first: its share takes the place.
        self.give_way(network, live, counts);
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

    /// How many of `tokens` there are pieces of, for `owner` or for everybody.
    fn in_pieces(&self, owner: Owner, adapted: bool, tokens: &[u32]) -> usize {
        let own = self.prefixes.longest(owner, tokens);
        match adapted {
            true => own,
            false => own.max(self.prefixes.longest(Owner::ANYBODY, tokens)),
        }
    }

    /// A whole cache for a sequence of so many tokens: one that begins like that of a
    /// `running` sequence, which has so many in common with it, or else one that was left:
    /// itself if little of it is dropped, another one that begins alike if not.
    fn whole(
        &mut self,
        network: &N,
        parked: Option<Match>,
        running: Option<(usize, &N::Cache)>,
        tokens: usize,
    ) -> Option<N::Cache> {
        if let Some((count, cache)) = running {
            return begun(network, cache, count, tokens);
        }
        let found = parked?;
        let cache = &self.parked.get(found)?.cache;
        let cache = begun(network, cache, found.tokens, tokens)?;
        if found.beyond <= DROPPED {
            self.parked.take(found);
        }
        Some(cache)
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
        let (each, most) = (self.each, self.room_for_pieces(live));
        let pieces = restored.pieces.into_iter();
        let pieces = pieces.map(|(piece, length)| (piece, length, length as u64 * each));
        self.prefixes
            .adopt(owner, &restored.tokens, pieces.collect(), most);
    }

    /// Writes to the disk what is not there, most worth first, until then. No sequence
    /// runs any more.
    pub(super) fn write(&mut self, network: &mut N, until: Instant) {
        let began = Instant::now();
        while self.store.is_some()
            && Instant::now() < until
            && let Some(parked) = self.parked.take_newest()
        {
            self.take_apart(network, parked, 0);
        }
        let Some(store) = self.store.as_mut() else {
            return;
        };
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
        let bytes = network.room_in(&cache) as u64 * self.each;
        // What is there for everybody is nobody's to take.
        if owner == Owner::ANYBODY || bytes > self.room_for_parked(live) {
            self.add_pieces(network, owner, tokens, cache, live);
        } else if !tokens.is_empty() {
            if self.parked.is_full()
                && let Some(oldest) = self.parked.take_oldest()
            {
                self.take_apart(network, oldest, live);
            }
            self.parked.leave(Parked {
                owner,
                tokens: tokens.to_vec(),
                cache,
                bytes,
            });
        }
        self.give_way(network, live, counts);
    }

    /// Has pieces of what was left whole.
    fn take_apart(&mut self, network: &mut N, parked: Parked<N::Cache>, live: u64) {
        let (owner, cache) = (parked.owner, parked.cache);
        self.add_pieces(network, owner, &parked.tokens, cache, live);
    }

    /// Has pieces of `tokens`, the first that `cache` holds, as far as there is room beside
    /// `live` tokens of sequences.
    fn add_pieces(
        &mut self,
        network: &mut N,
        owner: Owner,
        tokens: &[u32],
        cache: N::Cache,
        live: u64,
    ) {
        let most = self.room_for_pieces(live);
        let missing = self.prefixes.make_room(owner, tokens, self.each, most);
        if !missing.lengths.is_empty() {
            match network.evaluate_pieces(cache, missing.from, &missing.lengths) {
                Ok(pieces) => self.add(owner, tokens, missing.from, pieces, &missing.lengths),
                Err(error) => warn(&error),
            }
        }
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
    pub(super) fn give_way(&mut self, network: &mut N, live: u64, counts: &Counts) {
        while self.parked.bytes() > self.room_for_parked(live)
            && let Some(oldest) = self.parked.take_oldest()
        {
            self.take_apart(network, oldest, live);
        }
        self.prefixes.shrink(self.room_for_pieces(live));
        self.count(counts);
    }

    /// Forgets everything.
    pub(super) fn forget(&mut self, counts: &Counts) {
        self.prefixes.clear();
        self.parked.clear();
        if let Some(store) = &mut self.store {
            store.forget();
        }
        self.count(counts);
    }

    /// Bytes that sequences with `live` tokens leave.
    fn room_beside(&self, live: u64) -> u64 {
        self.room.saturating_sub(live.saturating_mul(self.live))
    }

    /// Bytes for whole caches.
    fn room_for_parked(&self, live: u64) -> u64 {
        self.room_beside(live) / 2
    }

    /// Bytes that sequences and whole caches leave.
    fn room_for_pieces(&self, live: u64) -> u64 {
        self.room_beside(live).saturating_sub(self.parked.bytes())
    }

    fn count(&self, counts: &Counts) {
        let set = |number: &AtomicU64, value| number.store(value, Ordering::Relaxed);
        set(&counts.bytes, self.prefixes.bytes() + self.parked.bytes());
        set(
            &counts.tokens,
            self.prefixes.tokens() + self.parked.tokens(),
        );
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

/// A cache of the first `held` tokens of another one for a sequence of so many tokens, if it
/// takes no more room than one that is made for the sequence. It shares what it holds with
/// the other one until either is written to.
fn begun<N: Network>(
    network: &N,
    cache: &N::Cache,
    held: usize,
    tokens: usize,
) -> Option<N::Cache> {
    let is_cut = network.tokens_in(cache) > held;
    let room = network.room_in(cache) as u64;
    if room > (tokens as u64 + 1).next_multiple_of(BLOCK) || is_cut && !network.is_trimmable() {
        return None;
    }
    let mut begun = cache.clone();
    if is_cut {
        network.trim(&mut begun, held);
    }
    Some(begun)
}

fn warn(error: &EngineError) {
    tracing::warn!(?error, "a prompt could not be kept");
}
