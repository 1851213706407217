//! The engine thread's loop: takes what it is told, asks the scheduler what to do,
//! does it. One step is one chunk of one prompt or one token of every sequence
//! that is being answered, so whoever cancels waits for one step at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use super::kept::Keeper;
use super::masks::{Coming, Masks};
use super::outlet::{Inlet, Said};
use super::{Command, Counts, Job};
use crate::engine::sampling::Sampler;
use crate::engine::scheduler::{Id, Limits, Scheduler, Work};
use crate::engine::{EngineError, Finish, Network};

/// Everything the engine thread owns.
pub(super) struct Stepping<N: Network> {
    network: N,
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
    /// Which tokens may come next, if it has a grammar.
    allowed: Option<Coming>,
    inlet: Inlet,
    /// Nothing while it waits.
    cache: Option<C>,
    /// Whether it has had a cache before.
    has_begun: bool,
}

impl<N: Network> Stepping<N> {
    pub(super) fn new(
        network: N,
        limits: Limits,
        kept: Keeper<N>,
        orders: Receiver<Command>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            network,
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
            }
            let reserved = self.scheduler.reserved();
            self.kept.give_way(reserved, &self.counts.kept);
            self.count();
            match plan.work {
                Work::Idle if !told_more => return,
                Work::Idle => match self.orders.recv() {
                    Ok(command) => self.obey(command),
                    Err(_) => return,
                },
                Work::Prefill {
                    id,
                    from,
                    length,
                    last,
                } => self.prefill(id, from as usize, length as usize, last),
                Work::Decode(batch) => self.decode(&batch),
            }
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
        self.kept.write(&self.network, until);
    }

    fn begin(&mut self, id: Id, mut job: Job, inlet: Inlet) {
        let (prompt, answer) = (job.prompt.len() as u64, u64::from(job.max_tokens));
        if prompt == 0 || answer == 0 {
            let reason = "a sequence needs a token to begin with and one to make";
            let _ = inlet.say(Said::Failed(EngineError::Unsupported(reason.to_owned())));
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
            allowed,
            inlet,
            cache: None,
            has_begun: false,
        };
        self.sequences.insert(id, open);
    }

    /// Gives a sequence its cache, with what is kept of its prompt.
    fn start(&mut self, id: Id) {
        let reserved = self.scheduler.reserved();
        let Some(open) = self.sequences.get_mut(&id) else {
            return;
        };
        let (network, counts) = (&mut self.network, &self.counts.kept);
        let (owner, adapted) = (open.job.owner, open.job.adapter.is_some());
        let (mut cache, held) =
            self.kept
                .begin(network, owner, adapted, &open.tokens, reserved, counts);
        if let Some(adapter) = &open.job.adapter
            && let Err(error) = network.adapt(&mut cache, adapter)
        {
            return self.fail(id, &error);
        }
        self.scheduler.holds(id, held);
        open.cache = Some(cache);
        // One that was put back has told what its prompt cost, and its own tokens are
        // none of the prompt's.
        if !std::mem::replace(&mut open.has_begun, true) {
            let _ = open.inlet.say(Said::Began { cached: held });
        }
    }

    fn prefill(&mut self, id: Id, from: usize, length: usize, last: bool) {
        let Some(open) = self.sequences.get_mut(&id) else {
            return;
        };
        let (Some(cache), Some(tokens)) =
            (open.cache.as_mut(), open.tokens.get(from..from + length))
        else {
            return self.fail(id, &missing());
        };
        let began = Instant::now();
        match self.network.prefill(cache, tokens, last) {
            Err(error) => self.fail(id, &error),
            Ok(logits) => {
                self.kept.prefilled(length as u64, began.elapsed());
                self.counts.read.fetch_add(length as u64, Ordering::Relaxed);
                match logits {
                    Some(logits) if last => self.choose(id, logits),
                    None if last => self.fail(id, &missing()),
                    _ => {}
                }
            }
        }
    }

    fn decode(&mut self, ids: &[Id]) {
        // Both are in the order of ids.
        let mut batch: Vec<(&mut N::Cache, u32)> = self
            .sequences
            .iter_mut()
            .filter(|(id, _)| ids.binary_search(id).is_ok())
            .filter_map(|(_, open)| Some((open.cache.as_mut()?, *open.tokens.last()?)))
            .collect();
        let expected = batch.len();
        let result = self.network.decode(&mut batch);
        let error = match result {
            Ok(rows) if rows.len() == ids.len() && expected == ids.len() => {
                for (id, logits) in ids.iter().zip(rows) {
                    self.choose(*id, logits);
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

    /// Chooses the next token of a sequence and says it.
    fn choose(&mut self, id: Id, logits: Vec<f32>) {
        if let Err(error) = self.try_choose(id, logits) {
            self.fail(id, &error);
        }
    }

    fn try_choose(&mut self, id: Id, mut logits: Vec<f32>) -> Result<(), EngineError> {
        let Some(open) = self.sequences.get_mut(&id) else {
            return Ok(());
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
        open.tokens.push(sampled.token);
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
        Ok(())
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
        let (Some(owner), Some(cache)) = (open.job.owner, open.cache) else {
            return;
        };
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
