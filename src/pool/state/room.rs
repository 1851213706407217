//! Room for loads: what is held, what may go for it, what is promised to those
//! further ahead. Who is next is told by `schedule`, who must go by `evict`.

use std::time::Instant;

use super::prospect::{Candidate, Holdings, Prospect};
use super::slot::{Phase, Slot, Turn};
use super::{Effect, GRACE, Generation, Machine};
use crate::config::Contention;
use crate::pool::evict::{Room, victims};
use crate::pool::residency::{Facts, spared_until};
use crate::pool::{Refused, UnloadReason};
use crate::units::ByteSize;

/// What it takes until a model can be started.
enum Way {
    /// Nobody has to go.
    Open,
    /// These candidates have to go.
    Through {
        chosen: Vec<usize>,
        /// Somebody uses one of them.
        is_busy: bool,
    },
    /// There is none, whoever goes.
    Barred,
}

/// What somebody would find who asked for room.
pub(super) struct Outlook {
    /// There is room now.
    pub is_free: bool,
    /// The models that would go, with what each frees and whether it is busy.
    pub going: Vec<(String, Room, bool)>,
}

impl Machine {
    /// Whether a model could be loaded with everything gone that may go.
    pub(super) fn can_ever_fit(&self, model: &str) -> Result<(), Refused> {
        let Some(slot) = self.slots.get(model) else {
            return Ok(());
        };
        let held = self.slots.held_against(slot);
        let wanted = held.plus(slot.need());
        if wanted.fits(self.limit()) {
            return self.can_ever_be_without_rivals(model, slot);
        }
        let holds = self.slots.iter().filter(|(name, other)| {
            *name != model && other.keep && (!slot.keep || other.running.is_some())
        });
        let mut names: Vec<_> = holds.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let names = names.join(", ");
        let bytes_fit = wanted.bytes <= self.limit().bytes;
        Err(Refused::NeverFits {
            model: model.to_owned(),
            need: ByteSize(slot.need().bytes),
            budget: self.settings.budget,
            held: match held.places {
                0 => String::new(),
                places if bytes_fit => format!(", but all {places} places are kept for {names}"),
                _ => format!(", of which {} is kept for {names}", ByteSize(held.bytes)),
            },
        })
    }

    /// Whether a load would fit without anything that is in use having to go,
    /// behind all that wait already.
    pub(super) fn fits_beside_busy(&self, model: &str) -> bool {
        let slot = &self.slots[model];
        let need = match slot.claim() {
            // It is among those who wait.
            Some(_) => self.slots.claimed(),
            None => self.slots.claimed().plus(slot.need()),
        };
        if self.does_a_rival_stay(slot) || self.is_a_rival_awaited(slot) {
            return false;
        }
        let holdings = self.holdings(&[], None);
        match self.way_among(slot, &holdings, need) {
            Way::Open => true,
            Way::Through { is_busy, .. } => !is_busy,
            Way::Barred => false,
        }
    }

    /// Lets idle models go while more is held than there is: the budget was
    /// lowered, or a worker holds more than was reserved for it.
    pub(super) fn shed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.slots.settle(now);
        if self.slots.books().fits(self.limit()) {
            return;
        }
        let holdings = self.holdings(&[], None);
        let missing = holdings.sum().less(self.limit());
        if missing == Room::default() {
            return;
        }
        let rooms = holdings.idle_rooms();
        let chosen = victims(missing, &rooms).unwrap_or_else(|| (0..rooms.len()).collect());
        for index in chosen {
            let model = self.workers[&holdings.candidates[index].generation].clone();
            if let Some(Phase::Up { gate, .. }) = self.phase(&model)
                && let Some(vacant) = gate.close_if_idle()
            {
                self.retire(&model, vacant, UnloadReason::Memory, out);
            }
        }
    }

    /// Sees to it that a model will fit beside what stays and what is promised.
    /// Answers whether it can be started now.
    pub(super) fn make_room(
        &mut self,
        model: &str,
        may_drain: bool,
        prospect: &mut Prospect,
        now: Instant,
        out: &mut Vec<Effect>,
    ) -> bool {
        loop {
            self.slots.settle(now);
            let slot = &self.slots[model];
            let chosen = match self.way(slot, prospect, now) {
                Way::Open => {
                    let is_gone = slot.running.is_none() && self.has_calm(slot);
                    return is_gone
                        && self.is_free(slot, prospect, now)
                        && self.can_start_beside_standby(model, out);
                }
                Way::Barred => return false,
                Way::Through { chosen, is_busy } if is_busy && !may_drain => {
                    prospect.earmark(&chosen);
                    return false;
                }
                Way::Through { chosen, .. } => chosen,
            };
            let holdings = self.seen(prospect, now);
            let chosen: Vec<_> = chosen.iter().map(|&i| holdings.candidates[i]).collect();
            prospect.look_again();
            for victim in chosen {
                let name = self.workers[&victim.generation].clone();
                // An idle one that was taken in this very moment is looked at anew.
                self.displace(victim, model, now, out);
                self.remember_displaced(model, &name);
            }
            if let Some(slot) = self.slots.get_mut(model) {
                slot.displaces = true;
            }
        }
    }

    /// What would be found by somebody who wants a model and stands behind others who
    /// want these. Changes nothing.
    pub(super) fn room_for(&self, ahead: &[&Slot], slot: &Slot, now: Instant) -> Outlook {
        let mut prospect = Prospect::default();
        for other in ahead {
            if let Way::Through { chosen, .. } = self.way(other, &mut prospect, now) {
                prospect.earmark(&chosen);
            }
            prospect.promise(other);
        }
        let (fits, chosen) = match self.way(slot, &mut prospect, now) {
            Way::Open => (true, Vec::new()),
            Way::Through { chosen, .. } => (false, chosen),
            Way::Barred => (false, Vec::new()),
        };
        let holdings = self.seen(&mut prospect, now);
        let going: Vec<_> = chosen.iter().map(|&i| holdings.candidates[i]).collect();
        Outlook {
            is_free: fits && self.is_free(slot, &mut prospect, now),
            going: going
                .into_iter()
                .map(|it| (self.workers[&it.generation].clone(), it.room, it.busy))
                .collect(),
        }
    }

    /// Whether nobody has to be told to go any more for whoever is first in the line.
    pub(super) fn is_way_open(&self, slot: &Slot, now: Instant) -> bool {
        matches!(self.way(slot, &mut Prospect::default(), now), Way::Open)
    }

    /// What it takes until a model fits beside what stays and what is promised.
    fn way(&self, slot: &Slot, prospect: &mut Prospect, now: Instant) -> Way {
        if prospect.barred.contains(&slot.plan.model) || self.does_a_rival_stay(slot) {
            return Way::Barred;
        }
        let need = prospect.promised.plus(slot.need());
        self.way_among(slot, self.seen(prospect, now), need)
    }

    /// The same among those who may go: rivals have to in any case, idle ones before busy
    /// ones of the others.
    fn way_among(&self, slot: &Slot, holdings: &Holdings, need: Room) -> Way {
        let is_rival = |candidate: &Candidate| {
            let name = self.workers.get(&candidate.generation);
            name.is_some_and(|name| slot.rivals.contains(name))
        };
        let candidates = holdings.candidates.iter();
        let (mut rooms, mut chosen, mut sum) = (Vec::new(), Vec::new(), holdings.staying);
        for (index, candidate) in candidates.enumerate() {
            match !slot.rivals.is_empty() && is_rival(candidate) {
                true => {
                    chosen.push(index);
                    rooms.push(Room::default());
                }
                false => {
                    sum = sum.plus(candidate.room);
                    rooms.push(candidate.room);
                }
            }
        }
        let missing = sum.plus(need).less(self.limit());
        if missing == Room::default() && chosen.is_empty() {
            return Way::Open;
        }
        let idle = holdings.candidates.iter().take_while(|it| !it.busy).count();
        let others = victims(missing, &rooms[..idle]).or_else(|| victims(missing, &rooms));
        let Some(others) = others else {
            return Way::Barred;
        };
        chosen.extend(others);
        chosen.sort_unstable();
        let is_busy = chosen.last().is_some_and(|&last| last >= idle);
        Way::Through { chosen, is_busy }
    }

    /// Whether there is room already for a model for which nobody has to go any more:
    /// who goes may still be there, and those further ahead are not to lose by it.
    fn is_free(&self, slot: &Slot, prospect: &mut Prospect, now: Instant) -> bool {
        let staying = self.seen(prospect, now).sum();
        let need = slot.need();
        self.slots.books().plus(need).fits(self.limit())
            && !self.is_a_rival_there(slot)
            && prospect.spares_those_ahead(staying, need, self.limit())
    }

    /// Whether nothing can come of asking whoever is next in the line, nor anybody
    /// behind him: what stays and what is promised leave no room, whoever goes; or
    /// nothing is free and nobody may go.
    pub(super) fn is_over_for_all(
        &self,
        may_drain: bool,
        prospect: &mut Prospect,
        now: Instant,
    ) -> bool {
        let promised = prospect.promised;
        let least = self.slots.least_need();
        let is_free = self.slots.books().plus(least).fits(self.limit());
        // The usual case of a busy pool, told without looking at who holds what.
        if !may_drain && !is_free && self.idle.is_empty() {
            return true;
        }
        let holdings = self.seen(prospect, now);
        if !holdings
            .staying
            .plus(promised)
            .plus(least)
            .fits(self.limit())
        {
            return true;
        }
        let mut candidates = holdings.candidates.iter();
        let may_go = candidates.any(|candidate| may_drain || !candidate.busy);
        !may_go && !is_free
    }

    /// Closes the gate of a model that has to go: at once if nobody uses it, else
    /// it drains or is taken away.
    fn displace(&mut self, victim: Candidate, by: &str, now: Instant, out: &mut Vec<Effect>) {
        let reason = UnloadReason::Evicted;
        let preempts = self.settings.contention == Contention::Preempt;
        let number = self.turn();
        let model = self.workers[&victim.generation].clone();
        let Some(slot) = self.slots.get_mut(&model) else {
            return;
        };
        if victim.busy {
            slot.overtaken = Some(Turn { since: now, number });
        }
        let Some(Phase::Up { gate, draining, .. }) = slot.phase() else {
            return;
        };
        let vacant = if victim.busy {
            gate.close()
        } else {
            gate.close_if_idle()
        };
        match vacant {
            Some(vacant) => {
                self.goes_for(&model, by, out);
                self.retire(&model, vacant, reason, out);
            }
            None if !victim.busy => {}
            None if preempts => {
                self.goes_for(&model, by, out);
                self.revoke(&model, reason, GRACE, out);
            }
            None => {
                *draining = Some(reason);
                self.goes_for(&model, by, out);
            }
        }
    }

    /// What the machine holds, without what is earmarked.
    fn seen<'p>(&self, prospect: &'p mut Prospect, now: Instant) -> &'p Holdings {
        let earmarked = &prospect.earmarked;
        let look = || self.holdings(earmarked, Some(now));
        prospect.seen.get_or_insert_with(look)
    }

    /// Until when an idle model is kept for those who may come back to it, although
    /// others wait for a load.
    pub(super) fn spared_until(&self, slot: &Slot) -> Option<Instant> {
        let Phase::Up {
            since,
            idle_since: Some(idle_since),
            draining: None,
            ..
        } = slot.running.as_ref()?.phase
        else {
            return None;
        };
        let oldest = self.slots.next_due(None)?;
        let own = slot.swap_time();
        let next = self.slots.line_by_age().next();
        let next = next.and_then(|model| self.slots.get(model)?.swap_time());
        let facts = Facts {
            ready_since: since,
            idle_since,
            is_somebody_away: self.present() < self.crowd.lately(),
            swaps: own.map(|own| own + next.unwrap_or(own)),
            oldest,
            switch_after: self.settings.switch_after,
        };
        spared_until(self.settings.min_residency, &facts)
    }

    /// What is held by those who neither go nor are earmarked to go. With a moment,
    /// idle ones that are kept for who may come back count as busy.
    fn holdings(&self, earmarked: &[(Generation, Room)], now: Option<Instant>) -> Holdings {
        let age: Vec<&String> = self.idle.iter().rev().map(|(model, ())| model).collect();
        let mut staying = Room::default();
        let mut found = Vec::new();
        for (model, slot) in self.slots.running() {
            let Some(worker) = &slot.running else {
                continue;
            };
            let is_earmarked = earmarked.iter().any(|(it, _)| *it == worker.generation);
            if worker.is_leaving() || is_earmarked {
                continue;
            }
            let Phase::Up { gate, since, .. } = &worker.phase else {
                staying = staying.plus(worker.room());
                continue;
            };
            if slot.keep || slot.held_until.is_some() {
                staying = staying.plus(worker.room());
                continue;
            }
            let is_spared = |now| self.spared_until(slot).is_some_and(|until| until > now);
            let busy = gate.leases() > 0 || gate.is_queued() || now.is_some_and(is_spared);
            let rank = age.iter().position(|idle| *idle == model);
            let rank = rank.filter(|_| !busy).unwrap_or(usize::MAX);
            let candidate = Candidate {
                generation: worker.generation,
                room: worker.room(),
                busy,
            };
            found.push(((busy, rank, *since), candidate));
        }
        found.sort_by_key(|(order, _)| *order);
        Holdings {
            staying,
            candidates: found.into_iter().map(|(_, candidate)| candidate).collect(),
        }
    }
}
