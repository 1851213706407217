//! The rule that llama-swap documents (its `docs/kb/guides/routing` and
//! `internal/router/design.md`, 2026): a request for a model that is up, and that
//! nobody is about to put out, is served at once, also past others that wait; one
//! for a model that is being swapped in joins that swap. A swap begins when
//! nothing that has to go for it is in use, else the request waits in line; the
//! line is walked again, in the order of coming, whenever a model becomes idle or
//! a swap is done. Nothing bounds how long that takes.
//!
//! Which models may be up together is written down by its users (groups, or a
//! matrix of combinations of which the one that costs the least load time is
//! taken). Here every combination may that fits the budget. Its limit of ten
//! requests at once to a model, past which it refuses, is left out.

use std::collections::BTreeMap;
use std::time::Instant;

use super::books::{Books, State};
use super::{Action, Happening, Policy};
use crate::pool::evict::Room;
use crate::simulate::trace::Model;
use crate::simulate::{ModelIndex, RequestIndex};

/// The line, the swaps and the books.
pub struct LlamaSwap {
    books: Books,
    /// The models, those that load soonest first.
    cheapest: Vec<ModelIndex>,
    line: Vec<(RequestIndex, ModelIndex)>,
    /// By the model that comes.
    swaps: BTreeMap<ModelIndex, Swap>,
}

/// A swap from its beginning until its model is ready.
#[derive(Default)]
struct Swap {
    victims: Vec<ModelIndex>,
    waiters: Vec<RequestIndex>,
}

impl LlamaSwap {
    /// Nothing is up yet.
    pub fn new(models: &[Model], limit: Room) -> Self {
        let mut cheapest: Vec<_> = (0..models.len()).collect();
        cheapest.sort_by_key(|&model| models[model].load);
        Self {
            books: Books::new(models, limit),
            cheapest,
            line: Vec::new(),
            swaps: BTreeMap::new(),
        }
    }

    /// Serves a request, lets it join or begin a swap, or puts it in line.
    fn place(&mut self, request: RequestIndex, model: ModelIndex, out: &mut Vec<Action>) {
        if let Some(swap) = self.swaps.get_mut(&model) {
            swap.waiters.push(request);
            return;
        }
        if self.books.state(model) == State::Up {
            self.books.serve(request, model, out);
            return;
        }
        match self.room_for(model) {
            Some(victims) => self.swap(request, model, victims, out),
            None => self.line.push((request, model)),
        }
    }

    /// Who goes for a model, if the swap may begin now.
    fn room_for(&self, model: ModelIndex) -> Option<Vec<ModelIndex>> {
        if self.books.state(model) != State::Out {
            return None;
        }
        let is_up = |model: &ModelIndex| self.books.state(*model) == State::Up;
        let candidates: Vec<_> = self.cheapest.iter().copied().filter(is_up).collect();
        // Those that wait for their victims to go have their room already.
        let pending = self
            .swaps
            .keys()
            .filter(|&&m| self.books.state(m) == State::Out);
        let promised = pending.fold(Room::default(), |sum, &model| {
            sum.plus(self.books.models[model].room)
        });
        let victims = self.books.to_go(model, promised, &candidates)?;
        let is_busy = |victim: &ModelIndex| self.books.models[*victim].leases > 0;
        (!victims.iter().any(is_busy)).then_some(victims)
    }

    fn swap(
        &mut self,
        request: RequestIndex,
        model: ModelIndex,
        victims: Vec<ModelIndex>,
        out: &mut Vec<Action>,
    ) {
        for &victim in &victims {
            self.books.evict(victim, model, out);
        }
        let waiters = vec![request];
        self.swaps.insert(model, Swap { victims, waiters });
        self.load_what_fits(out);
    }

    /// Starts the models whose victims have gone.
    fn load_what_fits(&mut self, out: &mut Vec<Action>) {
        for (&model, swap) in &self.swaps {
            let is_gone = |victim: &ModelIndex| self.books.state(*victim) == State::Out;
            let is_next = self.books.state(model) == State::Out && swap.victims.iter().all(is_gone);
            if is_next && self.books.fits_now(model) {
                self.books.load(model, out);
            }
        }
    }

    /// Walks the line again, in the order of coming.
    fn walk(&mut self, out: &mut Vec<Action>) {
        for (request, model) in std::mem::take(&mut self.line) {
            self.place(request, model, out);
        }
    }
}

impl Policy for LlamaSwap {
    fn on(&mut self, what: &Happening<'_>, _now: Instant) -> Vec<Action> {
        let mut out = Vec::new();
        match *what {
            Happening::Asked { request, model, .. } if !self.books.can_fit(model) => {
                out.push(Action::Refuse { request });
            }
            Happening::Asked { request, model, .. } => self.place(request, model, &mut out),
            Happening::Ready { model } => {
                self.books.models[model].state = State::Up;
                for request in self.swaps.remove(&model).unwrap_or_default().waiters {
                    self.books.serve(request, model, &mut out);
                }
                self.walk(&mut out);
            }
            Happening::Gone { model } => {
                self.books.models[model].state = State::Out;
                self.load_what_fits(&mut out);
            }
            Happening::Done { request } => {
                if self.books.done(request).is_some() {
                    self.walk(&mut out);
                }
            }
            Happening::Tick => {}
        }
        out
    }

    fn swaps(&self) -> u64 {
        self.books.swaps
    }
}
