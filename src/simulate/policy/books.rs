//! What a simple policy keeps of its models: who is up, who uses what, what is
//! held. It decides nothing; the order in which models go is said by the caller.

use std::collections::HashMap;

use super::Action;
use crate::pool::evict::{Room, victims};
use crate::simulate::trace::Model;
use crate::simulate::{ModelIndex, RequestIndex};

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Out,
    Loading,
    Up,
    Leaving,
}

/// One model.
#[derive(Debug)]
pub(super) struct Held {
    pub room: Room,
    pub state: State,
    pub leases: usize,
    /// When it was used last, in uses.
    pub used: u64,
    /// Another one had to go for the load that comes.
    displaces: bool,
}

/// The books of all models.
#[derive(Debug)]
pub(super) struct Books {
    pub models: Vec<Held>,
    limit: Room,
    uses: u64,
    holders: HashMap<RequestIndex, ModelIndex>,
    pub swaps: u64,
}

impl Books {
    pub fn new(models: &[Model], limit: Room) -> Self {
        let held = models.iter().map(|model| Held {
            room: Room {
                bytes: model.memory.0,
                places: 1,
            },
            state: State::Out,
            leases: 0,
            used: 0,
            displaces: false,
        });
        Self {
            models: held.collect(),
            limit,
            uses: 0,
            holders: HashMap::new(),
            swaps: 0,
        }
    }

    pub fn state(&self, model: ModelIndex) -> State {
        self.models[model].state
    }

    /// Whether a model fits when it is alone.
    pub fn can_fit(&self, model: ModelIndex) -> bool {
        self.models[model].room.fits(self.limit)
    }

    /// The sum over the models in some states.
    fn sum(&self, counts: impl Fn(State) -> bool) -> Room {
        let counted = self.models.iter().filter(|model| counts(model.state));
        counted.fold(Room::default(), |sum, model| sum.plus(model.room))
    }

    /// Which of `candidates`, in their order, have to go so that `model` fits
    /// beside `promised` and what stays; nothing if even all of them would not do.
    pub fn to_go(
        &self,
        model: ModelIndex,
        promised: Room,
        candidates: &[ModelIndex],
    ) -> Option<Vec<ModelIndex>> {
        let staying = self.sum(|state| matches!(state, State::Loading | State::Up));
        let missing = staying
            .plus(promised)
            .plus(self.models[model].room)
            .less(self.limit);
        let rooms: Vec<_> = candidates
            .iter()
            .map(|&model| self.models[model].room)
            .collect();
        let chosen = victims(missing, &rooms)?;
        Some(chosen.into_iter().map(|index| candidates[index]).collect())
    }

    /// Whether a model fits beside everything that has not gone yet.
    pub fn fits_now(&self, model: ModelIndex) -> bool {
        let held = self.sum(|state| state != State::Out);
        held.plus(self.models[model].room).fits(self.limit)
    }

    /// Ends a worker to make room for another.
    pub fn evict(&mut self, victim: ModelIndex, for_whom: ModelIndex, out: &mut Vec<Action>) {
        self.models[victim].state = State::Leaving;
        self.models[for_whom].displaces = true;
        out.push(Action::Unload { model: victim });
    }

    pub fn load(&mut self, model: ModelIndex, out: &mut Vec<Action>) {
        let held = &mut self.models[model];
        held.state = State::Loading;
        self.swaps += u64::from(std::mem::take(&mut held.displaces));
        out.push(Action::Load { model });
    }

    /// Hands a model that is up to a request.
    pub fn serve(&mut self, request: RequestIndex, model: ModelIndex, out: &mut Vec<Action>) {
        self.uses += 1;
        let held = &mut self.models[model];
        held.leases += 1;
        held.used = self.uses;
        self.holders.insert(request, model);
        out.push(Action::Serve { request, model });
    }

    /// A request has ended; answers the model that is idle by that.
    pub fn done(&mut self, request: RequestIndex) -> Option<ModelIndex> {
        let model = self.holders.remove(&request)?;
        self.uses += 1;
        let held = &mut self.models[model];
        held.leases -= 1;
        held.used = self.uses;
        (held.leases == 0).then_some(model)
    }
}
