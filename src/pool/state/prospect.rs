//! The room as those see it who stand in the line, one behind the other: what is held,
//! what is promised to those further ahead, and whose room they will get. Plain sums; what
//! follows from them is decided in `room`.

use std::collections::BTreeSet;

use super::Generation;
use super::slot::Slot;
use crate::pool::evict::Room;

/// The room as those see it who stand in the line, while one after the other is
/// asked.
#[derive(Default)]
pub(super) struct Prospect {
    /// What those further ahead will need.
    pub promised: Room,
    /// Whose room they will get, and how much that is.
    pub earmarked: Vec<(Generation, Room)>,
    /// What was promised, and to how many of the earmarked, each time before somebody
    /// could only wait for busy ones.
    stages: Vec<(Room, usize)>,
    /// Who is never beside somebody further ahead, and so does not overtake him.
    pub barred: BTreeSet<String>,
    /// What the machine holds; nothing once that has changed.
    pub seen: Option<Holdings>,
}

/// What is held by those who are not on their way out.
pub(super) struct Holdings {
    /// Whoever stays in any case: what loads, what is kept, what somebody holds.
    pub staying: Room,
    /// Whoever may go: idle ones, the least recently used first, then busy ones,
    /// the longest resident first.
    pub candidates: Vec<Candidate>,
}

/// A ready model that may go.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub generation: Generation,
    pub room: Room,
    pub busy: bool,
}

impl Prospect {
    /// Somebody further ahead will need room for this model.
    pub fn promise(&mut self, slot: &Slot) {
        self.promised = self.promised.plus(slot.need());
        self.barred.extend(slot.rivals.iter().cloned());
    }

    /// Somebody further ahead will get the room of these candidates.
    pub fn earmark(&mut self, chosen: &[usize]) {
        let Some(seen) = &mut self.seen else {
            return;
        };
        self.stages.push((self.promised, self.earmarked.len()));
        for &index in chosen.iter().rev() {
            let Candidate {
                generation, room, ..
            } = seen.candidates.remove(index);
            self.earmarked.push((generation, room));
        }
    }

    /// Whether so much, beside what is `staying`, takes nothing from those further
    /// ahead: not now, while all that is earmarked is still there, nor at any stage
    /// later, when some of it is gone.
    pub fn spares_those_ahead(&self, staying: Room, need: Room, limit: Room) -> bool {
        self.stages.iter().all(|&(promised, gone)| {
            let still_there = self.earmarked[gone..].iter().map(|(_, room)| *room);
            let there = still_there.fold(staying, Room::plus);
            there.plus(promised).plus(need).fits(limit)
        })
    }

    /// What the machine holds has changed.
    pub fn look_again(&mut self) {
        self.seen = None;
    }
}

impl Holdings {
    /// All of it.
    pub fn sum(&self) -> Room {
        let candidates = self.candidates.iter();
        candidates.fold(self.staying, |sum, candidate| sum.plus(candidate.room))
    }

    /// What each idle candidate would free.
    pub fn idle_rooms(&self) -> Vec<Room> {
        let idle = self.candidates.iter().take_while(|it| !it.busy);
        idle.map(|candidate| candidate.room).collect()
    }
}
