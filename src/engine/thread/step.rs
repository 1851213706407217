//! The engine thread's loop: takes what it is told, asks the scheduler what to do,
//! does it. One step is one chunk of one prompt, several short ones, or one token of
//! every sequence that is being answered, and some more of those whose next ones can be guessed, so
//! whoever cancels waits for one step at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use super::drafts::{self, Drafts, Guess};
use super::kept::{Beginning, Keeper};
use super::masks::{Coming, Masks};
use super::outlet::{Inlet, Said};
use super::{Command, Counts, Job};
use crate::engine::sampling::Sampler;
use crate::engine::scheduler::{Chunk, Id, Limits, Scheduler, Work};
use crate::engine::speculation::pace::Record;
use crate::engine::{EngineError, Finish, Network, Reading};
use crate::platform::allocator;

/// How long the thread waits for work before memory is given back: the next turn of a
/// conversation takes what the last one left.
const REST: Duration = Duration::from_secs(30);

/// Everything the engine thread owns.
pub(super) struct Stepping<N: Network> {
    network: N,
    drafts: Drafts<N>,
    scheduler: Scheduler,
    orders: Receiver<Command>,
    sequences: BTreeMap<Id, Open<N::Cache>>,
    kept: Keeper<N>,
    masks: Masks,
    counts: Arc<Counts>,
    /// Set when it is to end: until when it may write.
    leaves: Option<Instant>,
}

/// A sequence that is not over.
struct Open<C> {
    /// Its prompt and what it has said.
    tokens: Vec<u32>,
    made: u32,
    job: Job,
    sampler: Sampler,
    /// How guesses of its tokens went.
    record: Record,
    /// Which tokens may come next, if it has a grammar.
    allowed: Option<Coming>,
    inlet: Inlet,
    /// Nothing while it waits.
    cache: Option<C>,
    /// Whether it has had a cache before.
    has_begun: bool,
}

impl<C> Open<C> {
    /// The tokens that its cache holds, and the cache; nothing while it waits. The step of
    /// all sequences is over.
    fn held<N: Network<Cache = C>>(&self, network: &N) -> Option<(&[u32], &C)> {
        let cache = self.cache.as_ref()?;
        Some((self.tokens.get(..network.tokens_in(cache))?, cache))
    }
}

/// A token that was chosen.
struct Choice {
    token: u32,
    /// Whether its sequence may have another one at once.
    goes_on: bool,
}

impl<N: Network> Stepping<N> {
    pub(super) fn new(
        network: N,
        drafts: Drafts<N>,
        limits: Limits,
        kept: Keeper<N>,
        orders: Receiver<Command>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            network,
            drafts,
            scheduler: Scheduler::new(limits),
            orders,
            sequences: BTreeMap::new(),
            kept,
            masks: Masks::default(),
            counts,
            leaves: None,
        }
    }

    /// Steps until nobody is left who could tell it something, and nothing to do.
    pub(super) fn run(mut self) {
        loop {
            let told_more = self.take_orders();
            if let Some(until) = self.leaves {
                return self.leave(until);
            }
            for id in self.scheduler.start() {
                self.start(id);
            }
            let plan = self.scheduler.plan();
            for id in plan.put_back {
                if let Some(open) = self.sequences.get_mut(&id) {
                    open.cache = None;
                }
                self.drafts.forget(id);
            }
            let reserved = self.scheduler.reserved();
            self.kept
                .give_way(&mut self.network, reserved, &self.counts.kept);
            self.count();
            match plan.work {
                Work::Idle if !told_more => return,
                Work::Idle => match self.rest() {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Work::Prefill(chunks) => self.prefill(&chunks),
                Work::Decode(batch) => self.decode(&batch),
            }
        }
    }

    /// Waits for what is told next; nothing if nobody can tell any more. After a while of
    /// waiting the memory that the work before has left behind is given back.
    fn rest(&self) -> Option<Command> {
        match self.orders.recv_timeout(REST) {
            Err(RecvTimeoutError::Timeout) => {
                allocator::give_back();
                self.orders.recv().ok()
            }
            told => told.ok(),
        }
    }

    /// Takes what has been told so far; false if nobody can tell any more.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Begin(id, job, inlet) => self.begin(id, *job, inlet),
            Command::GoOn(id) => self.scheduler.go_on(id),
            Command::Cancel(id) => {
                if let Some(open) = self.close(id) {
                    self.keep(open);
                }
            }
            Command::Forget => self.kept.forget(&self.counts.kept),
            Command::Leave(until) => self.leaves = Some(until),
        }
    }

    /// Keeps what the open sequences have, and writes what is kept. They end with this.
    fn leave(mut self, until: Instant) {
        let open: Vec<Id> = self.sequences.keys().copied().collect();
        for id in open {
            if let Some(open) = self.close(id) {
                self.keep(open);
            }
        }
        self.kept.write(&mut self.network, until);
    }

    fn begin(&mut self, id: Id, mut job: Job, inlet: Inlet) {
        let (prompt, answer) = (job.prompt.len() as u64, u64::from(job.max_tokens));
        if prompt == 0 || answer == 0 {
            let reason = "a sequence needs a token to begin with and one to make";
            let _ = inlet.say(Said::Failed(EngineError::Unsupported(reason.to_owned())));
            return;
        }
        let vocabulary = self.network.vocabulary();
        let beyond = |token: &&u32| **token as usize >= vocabulary;
        if let Some(token) = job.prompt.iter().find(beyond) {
            // It would fail those that are read with it.
            let reason = format!("token {token} is not in the vocabulary of {vocabulary}");
            let _ = inlet.say(Said::Failed(EngineError::Unsupported(reason)));
            return;
        }
        if let Err(never) = self.scheduler.arrive(id, prompt, answer) {
            let reason = format!(
                "the sequence needs room for {} tokens, and there is room for {}",
                never.tokens, never.room
            );
            let _ = inlet.say(Said::Failed(EngineError::Unsupported(reason)));
            return;
        }
        // Worked out while the prompt is read.
        let grammar = job.grammar.take();
        let begun = grammar.map(|grammar| self.masks.begin(grammar, job.max_tokens));
        let allowed = match begun.transpose() {
            Ok(allowed) => allowed,
            Err(error) => {
                self.scheduler.leave(id);
                let _ = inlet.say(Said::Failed(error));
                return;
            }
        };
        let mut sampler = Sampler::new(job.sampling.clone());
        sampler.observe_prompt(&job.prompt);
        let open = Open {
            tokens: std::mem::take(&mut job.prompt),
            made: 0,
            job,
            sampler,
            record: Record::default(),
            allowed,
            inlet,
            cache: None,
            has_begun: false,
        };
        self.sequences.insert(id, open);
    }

    /// Gives a sequence its cache, with what is kept of its prompt.
    fn start(&mut self, id: Id) {
        let Some(mut open) = self.sequences.remove(&id) else {
            return;
        };
        let network = &mut self.network;
        let running = self.sequences.values();
        let running = running.filter(|other| other.job.owner == open.job.owner);
        let running = running.filter_map(|other| other.held(network));
        let running: Vec<(&[u32], &N::Cache)> = running.collect();
        let beginning = Beginning {
            owner: open.job.owner,
            adapted: open.job.adapter.is_some(),
            tokens: &open.tokens,
            live: self.scheduler.reserved(),
        };
        let counts = &self.counts.kept;
        let (mut cache, held) = self.kept.begin(network, beginning, &running, counts);
        let adapter = open.job.adapter.as_ref();
        let adapted = adapter.map_or(Ok(()), |adapter| network.adapt(&mut cache, adapter));
        open.cache = Some(cache);
        self.scheduler.holds(id, held);
        // One that was put back has told what its prompt cost, and its own tokens are
        // none of the prompt's.
        if adapted.is_ok() && !std::mem::replace(&mut open.has_begun, true) {
            let _ = open.inlet.say(Said::Began { cached: held });
        }
        self.sequences.insert(id, open);
        if let Err(error) = adapted {
            self.fail(id, &error);
        }
    }

    fn prefill(&mut self, chunks: &[Chunk]) {
        // Both are in the order of ids.
        let opens = self.sequences.iter_mut();
        let opens = opens.filter_map(|(id, open)| {
            let place = chunks.binary_search_by_key(id, |chunk| chunk.id).ok()?;
            Some((open, &chunks[place]))
        });
        let mut batch: Vec<Reading<'_, N::Cache>> = opens
            .filter_map(|(open, chunk)| {
                let (from, length) = (chunk.from as usize, chunk.length as usize);
                Some(Reading {
                    tokens: open.tokens.get(from..from + length)?,
                    cache: open.cache.as_mut()?,
                    want_logits: chunk.last,
                })
            })
            .collect();
        let expected = batch.len();
        let began = Instant::now();
        let result = self.network.prefill_batch(&mut batch);
        let error = match result {
            Ok(logits) if logits.len() == chunks.len() && expected == chunks.len() => {
                let length = chunks.iter().map(|chunk| chunk.length).sum();
                self.kept.prefilled(length, began.elapsed());
                self.counts.read.fetch_add(length, Ordering::Relaxed);
                for (chunk, logits) in chunks.iter().zip(logits) {
                    match logits {
                        Some(logits) if chunk.last => drop(self.choose(chunk.id, logits, None)),
                        None if chunk.last => self.fail(chunk.id, &missing()),
                        _ => {}
                    }
                }
                return;
            }
            Ok(_) => missing(),
            Err(error) => error,
        };
        for chunk in chunks {
            self.fail(chunk.id, &error);
        }
    }

    fn decode(&mut self, ids: &[Id]) {
        let guesses = self.guess(ids);
        // Both are in the order of ids.
        let opens = self.sequences.iter_mut();
        let opens = opens.filter(|(id, _)| ids.binary_search(id).is_ok());
        let mut fed: Vec<(&mut N::Cache, Vec<u32>)> = opens
            .zip(&guesses)
            .filter_map(|((_, open), guess)| {
                let last = *open.tokens.last()?;
                let tokens = std::iter::once(last).chain(guess.tried().iter().copied());
                Some((open.cache.as_mut()?, tokens.collect()))
            })
            .collect();
        let expected = fed.len();
        let mut batch: Vec<(&mut N::Cache, &[u32])> = fed
            .iter_mut()
            .map(|(cache, tokens)| (&mut **cache, &tokens[..]))
            .collect();
        let count = batch.iter().map(|(_, tokens)| tokens.len()).sum();
        let began = Instant::now();
        let result = self.network.decode(&mut batch);
        let error = match result {
            Ok(rows) if rows.len() == count && expected == ids.len() => {
                self.drafts.stepped(count, began.elapsed());
                let mut rows = rows.into_iter();
                for (id, guess) in ids.iter().zip(guesses) {
                    let own = rows.by_ref().take(1 + guess.tried().len());
                    self.take(*id, &guess, own.collect());
                }
                return;
            }
            Ok(_) => missing(),
            Err(error) => error,
        };
        for id in ids {
            self.fail(*id, &error);
        }
    }

    /// Guesses for a step of these sequences, in their order: no more than leave each row what
    /// it would be without them.
    fn guess(&mut self, ids: &[Id]) -> Vec<Guess> {
        let mut most = self.drafts.most() as u64;
        if let Some(rows) = self.network.rows_alike() {
            let each = rows / ids.len().max(1);
            most = most.min(each.saturating_sub(1) as u64);
        }
        let (scheduler, sequences) = (&mut self.scheduler, &self.sequences);
        let stepping = ids.iter().filter_map(|id| {
            let open = sequences.get(id)?;
            Some(drafts::Stepping {
                id: *id,
                tokens: &open.tokens,
                most: match most {
                    0 => 0,
                    most => scheduler.ahead(*id, most) as usize,
                },
                record: open.record,
            })
        });
        let stepping: Vec<_> = stepping.collect();
        self.drafts.guess(&stepping)
    }

    /// Chooses the next tokens of a sequence, each as without a guess, as long as they are
    /// what was guessed.
    fn take(&mut self, id: Id, guess: &Guess, rows: Vec<Vec<f32>>) {
        let tried = guess.tried();
        if let (Some(open), false) = (self.sequences.get(&id), tried.is_empty()) {
            open.inlet.guessed(tried.len() as u64, 0);
            let count = &self.counts.guessed;
            count.fetch_add(tried.len() as u64, Ordering::Relaxed);
        }
        let mut chosen = Vec::with_capacity(rows.len());
        for (place, logits) in rows.into_iter().enumerate() {
            let guessed = tried.get(place).copied();
            let Some(choice) = self.choose(id, logits, guessed) else {
                break;
            };
            chosen.push(choice.token);
            if !choice.goes_on || guessed != Some(choice.token) {
                break;
            }
        }
        let (told, right) = guess.outcome(&chosen);
        self.drafts.seen(told, right);
        self.scheduler
            .made(id, (chosen.len() as u64).saturating_sub(1));
        if let Some(open) = self.sequences.get_mut(&id) {
            open.record.seen(told, right);
            let held = open.tokens.len() - 1;
            if let (Some(cache), false) = (&mut open.cache, tried.is_empty()) {
                self.network.trim(cache, held);
                self.drafts.trim(id, held);
            }
        }
    }

    /// Chooses the next token of a sequence and says it; nothing if it cannot go on.
    fn choose(&mut self, id: Id, logits: Vec<f32>, guessed: Option<u32>) -> Option<Choice> {
        let chosen = self.try_choose(id, logits, guessed);
        chosen
            .inspect_err(|error| self.fail(id, error))
            .unwrap_or(None)
    }

    fn try_choose(
        &mut self,
        id: Id,
        mut logits: Vec<f32>,
        guessed: Option<u32>,
    ) -> Result<Option<Choice>, EngineError> {
        let Some(open) = self.sequences.get_mut(&id) else {
            return Ok(None);
        };
        let alternatives = open.job.logprobs.unwrap_or(0);
        let told = open.job.logprobs.is_some();
        let guided = open.allowed.take().map(Coming::wait).transpose()?;
        let allowed = guided.as_ref().map(|(_, allowed)| allowed);
        let sampled = open
            .sampler
            .sample(&mut logits, allowed, alternatives, told);
        self.counts.made.fetch_add(1, Ordering::Relaxed);
        open.made += 1;
        let token = sampled.token;
        open.tokens.push(token);
        if guessed == Some(token) {
            open.inlet.guessed(0, 1);
            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        }
        let end_token = open.job.end_tokens.contains(&sampled.token);
        let (mut whole, mut cut_short) = (end_token, false);
        if let Some((mut guide, _)) = guided {
            if !end_token {
                whole = guide.take(sampled.token)?;
            }
            cut_short = guide.is_cut_short();
            let left = open.job.max_tokens - open.made;
            if !whole && left > 0 {
                // Worked out while the next step is made.
                open.allowed = Some(self.masks.go_on(guide, left)?);
            }
        }
        let mut full = false;
        if !end_token {
            full = open.inlet.say(Said::Token(sampled));
        }
        let finish = match whole {
            // It fits its grammar, and would have been longer.
            true if cut_short => Some(Finish::Length),
            true => Some(Finish::Stop),
            false => (open.made == open.job.max_tokens).then_some(Finish::Length),
        };
        if let Some(finish) = finish {
            self.close_with(id, Said::End { finish, end_token });
        } else if full {
            self.scheduler.pause(id);
        }
        Ok(Some(Choice {
            token,
            goes_on: finish.is_none() && !full,
        }))
    }

    /// Nothing is kept of what the device has failed at.
    fn fail(&mut self, id: Id, error: &EngineError) {
        tracing::error!(?error, "a sequence cannot go on");
        if let Some(open) = self.close(id) {
            let _ = open.inlet.say(Said::Failed(error.clone()));
        }
    }

    /// Takes a sequence out; its place and its room are free at once.
    fn close(&mut self, id: Id) -> Option<Open<N::Cache>> {
        self.scheduler.leave(id);
        self.drafts.forget(id);
        let open = self.sequences.remove(&id);
        self.count();
        open
    }

    /// Takes out a sequence that is over, tells why, and keeps what it leaves. Whoever
    /// hears it finds the place free, and what comes from them later finds it kept.
    fn close_with(&mut self, id: Id, said: Said) {
        if let Some(open) = self.close(id) {
            let _ = open.inlet.say(said);
            self.keep(open);
        }
    }

    /// Keeps what a sequence leaves, for those of its caller.
    fn keep(&mut self, open: Open<N::Cache>) {
        let (Some(owner), Some(mut cache)) = (open.job.owner, open.cache) else {
            return;
        };
        // After a step with guesses it holds more than was said, until the step is over.
        let known = open.tokens.len().saturating_sub(1);
        if known < self.network.tokens_in(&cache) {
            self.network.trim(&mut cache, known);
        }
        let Some(tokens) = open.tokens.get(..self.network.tokens_in(&cache)) else {
            return;
        };
        let (network, reserved) = (&mut self.network, self.scheduler.reserved());
        let counts = &self.counts.kept;
        self.kept
            .keep(network, owner, tokens, cache, reserved, counts);
    }

    fn count(&self) {
        let (running, waiting) = self.scheduler.counts();
        let counts = &self.counts;
        counts.running.store(running as u64, Ordering::Relaxed);
        counts.waiting.store(waiting as u64, Ordering::Relaxed);
        let reserved = self.scheduler.reserved();
        counts.reserved.store(reserved, Ordering::Relaxed);
    }
}

/// The network answered less than it was asked for.
fn missing() -> EngineError {
    EngineError::Device("it answered without logits".to_owned())
}
