//! Which sequences the next step works on. Pure: sequences arrive, are paused,
//! go on and leave; the plan for the next step comes out. It knows numbers of
//! tokens, no tokens, no caches and no clock.
//!
//! Room for caches is taken in blocks as a sequence grows, not for the longest
//! answer at once: most answers end early. When the room is used up, the youngest
//! sequence is put back to the waiting ones, its cache is dropped, and what it has
//! said so far is read in again when there is room. Sequences start in the order
//! in which they came, so the oldest one always goes on and each has its turn.
//! A paused sequence (its reader is slow) is put back first and holds up nobody.
//!
//! Prompts are read in chunks, one chunk of one sequence at a time and in turn,
//! and between two chunks all other sequences make a step. What is left of short
//! prompts is read together: a pass over few rows takes hardly longer than one over
//! fewer, so that each would wait longer for its turn than for the others' rows. Those
//! that come while the first of them is read go on at once, as if they had been there:
//! a step of the first alone would cost as much as one of all.

use std::collections::{BTreeMap, VecDeque};

/// A sequence. Numbers rise in the order of arrival.
pub type Id = u64;

/// What the scheduler has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most sequences at once; at least 1.
    pub parallel: usize,
    /// Room for caches, tokens.
    pub room: u64,
    /// Most tokens of prompts that are read in one step; at least 1.
    pub chunk: u64,
    /// Most tokens that are read of several prompts, in one step or in steps without one of
    /// others between them.
    pub together: u64,
    /// Tokens by which a sequence's share of the room grows; at least 1.
    pub block: u64,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// There is nothing to do until something arrives or goes on.
    Idle,
    /// Read a chunk of each of these sequences in one pass, oldest first.
    Prefill(Vec<Chunk>),
    /// Make a token for each of these sequences, oldest first.
    Decode(Vec<Id>),
}

/// Some tokens of a sequence that are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The sequence.
    pub id: Id,
    /// How many of its tokens its cache holds already: the first to read.
    pub from: u64,
    /// How many to read.
    pub length: u64,
    /// Whether these are the last, and the next token is to be chosen.
    pub last: bool,
}

/// What to do now, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sequences whose caches are to be dropped.
    pub put_back: Vec<Id>,
    /// The step.
    pub work: Work,
}

/// A sequence that can never have enough room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverFits {
    /// Tokens of its prompt and its longest answer.
    pub tokens: u64,
    /// The room, tokens.
    pub room: u64,
}

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    sequences: BTreeMap<Id, Sequence>,
    /// Running sequences that are not read in yet, next one first.
    reading: VecDeque<Id>,
    /// Tokens of prompts that were read since the last step in which tokens were made.
    read_since: u64,
}

#[derive(Debug)]
struct Sequence {
    /// Tokens that are known: its prompt and what it has said.
    known: u64,
    /// Tokens its cache holds. When it lacks one token only, that one is the last
    /// it has said, and the next step takes it in.
    filled: u64,
    /// Whether its prompt is read in and tokens are being made.
    decoding: bool,
    /// Tokens of its prompt and its longest answer.
    most: u64,
    /// Its share of the room, tokens; nothing while it waits.
    reserved: Option<u64>,
    paused: bool,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            sequences: BTreeMap::new(),
            reading: VecDeque::new(),
            read_since: 0,
        }
    }

    /// A sequence comes, with a prompt of `prompt` tokens for at most `answer` more.
    ///
    /// # Errors
    /// If the room can never hold both.
    pub fn arrive(&mut self, id: Id, prompt: u64, answer: u64) -> Result<(), NeverFits> {
        let most = prompt.saturating_add(answer);
        if most > self.limits.room {
            let room = self.limits.room;
            return Err(NeverFits { tokens: most, room });
        }
        let sequence = Sequence {
            known: prompt,
            filled: 0,
            decoding: false,
            most,
            reserved: None,
            paused: false,
        };
        self.sequences.insert(id, sequence);
        Ok(())
    }

    /// A sequence is over or is cancelled: its place and its room are free at once.
    pub fn leave(&mut self, id: Id) {
        self.sequences.remove(&id);
        self.reading.retain(|reading| *reading != id);
    }

    /// Nobody takes what the sequence says: it makes no token until it goes on.
    pub fn pause(&mut self, id: Id) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.paused = true;
        }
    }

    /// What the sequence says is taken again.
    pub fn go_on(&mut self, id: Id) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.paused = false;
        }
    }

    /// The cache of a sequence that was just started holds its first `tokens` already;
    /// at least one is left to be read.
    pub fn holds(&mut self, id: Id, tokens: u64) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.filled = tokens.min(sequence.known.saturating_sub(1));
        }
    }

    /// Running and waiting sequences.
    pub fn counts(&self) -> (usize, usize) {
        let running = self.running().count();
        (running, self.sequences.len() - running)
    }

    /// Tokens of the room that are taken.
    pub fn reserved(&self) -> u64 {
        self.running().map(|(_, reserved)| reserved).sum()
    }

    /// Plans the next step. The step counts as made. What can be started is to have
    /// been started before.
    pub fn plan(&mut self) -> Plan {
        let mut put_back = Vec::new();
        let mut making = None;
        if self.read_since > 0 && !self.reads_on() {
            making = self.decode(&mut put_back);
            // If nobody makes a token, reading holds up nobody.
            self.read_since = 0;
        }
        let work = making
            .or_else(|| self.read())
            .or_else(|| self.decode(&mut put_back))
            .unwrap_or(Work::Idle);
        if !matches!(work, Work::Prefill(_)) {
            self.read_since = 0;
        }
        Plan { put_back, work }
    }

    /// Makes room for more tokens in the step that is planned for a sequence, guessed ones
    /// beside the one it takes in: at most `wanted`, as many as answered. Nobody is put back
    /// for them.
    pub fn ahead(&mut self, id: Id, wanted: u64) -> u64 {
        let (limits, taken) = (self.limits, self.reserved());
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return 0;
        };
        // After them comes one more, which is chosen and not guessed.
        let wanted = wanted.min(sequence.most.saturating_sub(sequence.known));
        let has = sequence.reserved.unwrap_or(0);
        let needs = sequence.share(sequence.filled + wanted, limits).max(has);
        if taken - has + needs > limits.room {
            return wanted.min(has.saturating_sub(sequence.filled));
        }
        sequence.reserved = Some(needs);
        wanted
    }

    /// The step of a sequence has made so many tokens more than was planned.
    pub fn made(&mut self, id: Id, more: u64) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.filled += more;
            sequence.known += more;
        }
    }

    fn running(&self) -> impl Iterator<Item = (Id, u64)> {
        let reserved = |(id, sequence): (&Id, &Sequence)| Some((*id, sequence.reserved?));
        self.sequences.iter().filter_map(reserved)
    }

    /// Starts waiting sequences, oldest first, as long as there is a place and room
    /// for what they have to read and for everybody to grow by a block. They get a
    /// cache, which is empty unless [`Scheduler::holds`] says otherwise.
    pub fn start(&mut self) -> Vec<Id> {
        let mut started = Vec::new();
        loop {
            let (running, taken) = (self.running().count(), self.reserved());
            let waits = |(_, sequence): &(&Id, &mut Sequence)| {
                sequence.reserved.is_none() && !sequence.paused
            };
            let Some((id, next)) = self.sequences.iter_mut().find(waits) else {
                break;
            };
            let share = next.share(next.known + 1, self.limits);
            let growth = self.limits.block.saturating_mul(running as u64);
            if running >= self.limits.parallel
                || taken.saturating_add(share).saturating_add(growth) > self.limits.room
            {
                break;
            }
            next.reserved = Some(share);
            self.reading.push_back(*id);
            started.push(*id);
        }
        started
    }

    /// Whether what is left of the next sequence that is not read in is little, with what
    /// was read since others made a step.
    fn reads_on(&self) -> bool {
        let next = self.reading.front();
        let next = next.and_then(|id| self.sequences.get(id));
        next.is_some_and(|next| self.read_since + next.left() <= self.limits.little())
    }

    /// The next chunk of the next sequence that is not read in, and with it what is left
    /// of those behind it, as long as all of it is little.
    fn read(&mut self) -> Option<Work> {
        let (mut chunks, mut tokens) = (Vec::new(), self.read_since);
        while let Some(id) = self.reading.front().copied() {
            let sequence = self.sequences.get_mut(&id)?;
            let left = sequence.left();
            if tokens > 0 && tokens + left > self.limits.little() {
                break;
            }
            self.reading.pop_front();
            let (from, length) = (sequence.filled, left.min(self.limits.chunk));
            sequence.filled += length;
            tokens += length;
            let last = sequence.filled == sequence.known;
            if last {
                // The token that is chosen now is known and not yet in the cache.
                sequence.known += 1;
                sequence.decoding = true;
            } else {
                self.reading.push_back(id);
            }
            chunks.push(Chunk {
                id,
                from,
                length,
                last,
            });
        }
        self.read_since = tokens;
        chunks.sort_unstable_by_key(|chunk| chunk.id);
        (!chunks.is_empty()).then_some(Work::Prefill(chunks))
    }

    /// A step of all sequences that are read in and not paused. Whoever needs more
    /// room gets it, from the youngest if need be.
    fn decode(&mut self, put_back: &mut Vec<Id>) -> Option<Work> {
        let ready = |sequence: &Sequence| {
            sequence.reserved.is_some() && sequence.decoding && !sequence.paused
        };
        let mut batch = Vec::new();
        let ids: Vec<Id> = self.sequences.keys().copied().collect();
        for id in ids {
            // One that was put back for an older one is not ready any more.
            while self.sequences.get(&id).is_some_and(ready) {
                if self.grow(id) {
                    batch.push(id);
                    break;
                }
                self.put_back_one(id, put_back);
            }
        }
        // Nobody in the batch was put back for a later one: victims are paused, or
        // not older than whoever asks, and the batch is built oldest first.
        for id in &batch {
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.filled += 1;
                sequence.known += 1;
            }
        }
        (!batch.is_empty()).then_some(Work::Decode(batch))
    }

    /// Gives a running sequence room for one more token; false if there is none.
    fn grow(&mut self, id: Id) -> bool {
        let free = self.limits.room - self.reserved();
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        let has = sequence.reserved.unwrap_or(0);
        let needs = sequence.share(sequence.filled + 1, self.limits).max(has);
        if needs - has > free {
            return false;
        }
        sequence.reserved = Some(needs);
        true
    }

    /// Puts one running sequence back to the waiting ones: the youngest paused one,
    /// else the youngest, which may be the one that asks.
    fn put_back_one(&mut self, asks: Id, put_back: &mut Vec<Id>) {
        let mut running = self.sequences.iter().rev();
        let holds = |sequence: &Sequence| sequence.reserved.is_some();
        let paused = running.find(|(_, sequence)| holds(sequence) && sequence.paused);
        let mut running = self.sequences.iter().rev();
        let youngest = || running.find(|(_, sequence)| holds(sequence));
        let victim = paused.or_else(youngest).map_or(asks, |(id, _)| *id);
        self.reading.retain(|reading| *reading != victim);
        if let Some(sequence) = self.sequences.get_mut(&victim) {
            sequence.reserved = None;
            sequence.filled = 0;
            sequence.decoding = false;
        }
        put_back.push(victim);
    }
}

impl Limits {
    /// Most tokens of several prompts that are read before others make a step.
    fn little(self) -> u64 {
        self.together.min(self.chunk)
    }
}

impl Sequence {
    /// How many of its tokens are to be read.
    fn left(&self) -> u64 {
        self.known - self.filled
    }

    /// The share of the room for `tokens` tokens: whole blocks, but never more than
    /// the sequence can use or than there is.
    fn share(&self, tokens: u64, limits: Limits) -> u64 {
        let blocks = tokens.div_ceil(limits.block).saturating_mul(limits.block);
        blocks.min(self.most.max(tokens)).min(limits.room)
    }
}

#[cfg(test)]
mod tests;
