//! The plain way: one line for all models, served strictly in the order of coming.
//! Whoever stands first waits until he can be served, and everybody waits behind
//! him; to make room, the least recently used idle models go.

use std::collections::VecDeque;
use std::time::Instant;

use super::books::{Books, State};
use super::{Action, Happening, Policy};
use crate::pool::evict::Room;
use crate::simulate::trace::Model;
use crate::simulate::{ModelIndex, RequestIndex};

/// The line and the books.
pub struct FifoLru {
    books: Books,
    line: VecDeque<(RequestIndex, ModelIndex)>,
}

impl FifoLru {
    /// Nothing is up yet.
    pub fn new(models: &[Model], limit: Room) -> Self {
        Self {
            books: Books::new(models, limit),
            line: VecDeque::new(),
        }
    }

    /// Serves from the head of the line for as long as that is possible.
    fn serve(&mut self, out: &mut Vec<Action>) {
        while let Some(&(request, model)) = self.line.front() {
            match self.books.state(model) {
                State::Up => {
                    self.books.serve(request, model, out);
                    self.line.pop_front();
                }
                State::Loading | State::Leaving => return,
                State::Out => return self.bring_up(model, out),
            }
        }
    }

    fn bring_up(&mut self, model: ModelIndex, out: &mut Vec<Action>) {
        let idle = |held: &super::books::Held| held.state == State::Up && held.leases == 0;
        let all = self.books.models.iter().enumerate();
        let mut candidates: Vec<_> = all.filter(|(_, held)| idle(held)).map(|(i, _)| i).collect();
        candidates.sort_by_key(|&model| self.books.models[model].used);
        let Some(victims) = self.books.to_go(model, Room::default(), &candidates) else {
            return;
        };
        for victim in victims {
            self.books.evict(victim, model, out);
        }
        if self.books.fits_now(model) {
            self.books.load(model, out);
        }
    }
}

impl Policy for FifoLru {
    fn on(&mut self, what: &Happening<'_>, _now: Instant) -> Vec<Action> {
        let mut out = Vec::new();
        match *what {
            Happening::Asked { request, model, .. } if !self.books.can_fit(model) => {
                return vec![Action::Refuse { request }];
            }
            Happening::Asked { request, model, .. } => self.line.push_back((request, model)),
            Happening::Ready { model } => self.books.models[model].state = State::Up,
            Happening::Gone { model } => self.books.models[model].state = State::Out,
            Happening::Done { request } => drop(self.books.done(request)),
            Happening::Tick => {}
        }
        self.serve(&mut out);
        out
    }

    fn swaps(&self) -> u64 {
        self.books.swaps
    }
}
