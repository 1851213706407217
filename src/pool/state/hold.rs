//! Residency leases: somebody holds a model for a while. Until it ends nothing
//! that the pool decides by itself takes the model out of memory: neither room for
//! others, whoever has waited how long, nor idleness, nor a lower budget. What the
//! owner asks for does. It is bound to the model, not to its worker: after a crash
//! it protects the next one.
//!
//! Nobody waits behind a chain of them: while a request for another model has
//! waited `switch_after`, no new one is given.

use std::time::{Duration, Instant};

use super::slot::Phase;
use super::{Effect, Generation, HoldId, Machine, ReplyId};
use crate::pool::evict::Room;
use crate::pool::{HeldBy, HoldError};

/// Most residency leases on one model.
const MOST: usize = 64;

/// One residency lease.
#[derive(Debug)]
pub(super) struct Hold {
    model: String,
    holder: String,
    until: Instant,
}

impl Machine {
    /// Somebody who uses a worker wants to hold its model.
    pub(super) fn hold(
        &mut self,
        hold: HoldId,
        generation: Generation,
        holder: String,
        time: Duration,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let result = self.may_be_held(generation, now);
        if let Ok(model) = &result {
            let model = model.clone();
            let until = now + time;
            let new = Hold {
                model: model.clone(),
                holder,
                until,
            };
            self.holds.insert(hold, new);
            self.protect(&model, now);
        }
        let result = result.map(drop);
        out.push(Effect::Held { hold, result });
    }

    /// The model of a worker, if it can be held.
    fn may_be_held(&self, generation: Generation, now: Instant) -> Result<String, HoldError> {
        if self.shutdown.is_some() {
            return Err(HoldError::ShuttingDown);
        }
        let model = self.workers.get(&generation).cloned();
        let slot = model.as_ref().and_then(|model| self.slots.get(model));
        let phase = slot
            .and_then(|slot| slot.running.as_ref())
            .map(|w| &w.phase);
        let (Some(model), Some(Phase::Up { draining: None, .. })) = (model, phase) else {
            return Err(HoldError::Leaving);
        };
        if self
            .holds
            .values()
            .filter(|hold| hold.model == model)
            .count()
            >= MOST
        {
            return Err(HoldError::TooMany { model, most: MOST });
        }
        let is_due = |name: &String| {
            let claim = self.slots[name].claim();
            claim.is_some_and(|turn| turn.since + self.settings.switch_after <= now)
        };
        let mut line = self.slots.line_by_age();
        let is_awaited = line.any(|name| *name != model && is_due(name));
        match is_awaited {
            true => Err(HoldError::Awaited { model }),
            false => Ok(model),
        }
    }

    /// A residency lease is given back; a `holder` may give back only its own.
    pub(super) fn let_go(
        &mut self,
        reply: ReplyId,
        hold: HoldId,
        holder: Option<&str>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let known = self.holds.get(&hold);
        let model = known
            .filter(|hold| holder.is_none_or(|holder| hold.holder == holder))
            .map(|hold| hold.model.clone());
        if let Some(model) = &model {
            self.holds.remove(&hold);
            self.protect(model, now);
        }
        let result = model.ok_or(HoldError::Unknown);
        out.push(Effect::LetGo { reply, result });
    }

    /// Ends what has lasted its time.
    pub(super) fn expire_holds(&mut self, now: Instant) {
        let over = self.holds.values().filter(|hold| hold.until <= now);
        let models: Vec<_> = over.map(|hold| hold.model.clone()).collect();
        self.holds.retain(|_, hold| hold.until > now);
        for model in models {
            self.protect(&model, now);
        }
    }

    /// Ends all of a model: its owner decided so.
    pub(super) fn end_holds(&mut self, model: &str, now: Instant) {
        if !self.holds.values().any(|hold| hold.model == model) {
            return;
        }
        self.holds.retain(|_, hold| hold.model != model);
        self.protect(model, now);
    }

    /// When the next one ends.
    pub(super) fn next_hold_end(&self) -> Option<Instant> {
        self.holds.values().map(|hold| hold.until).min()
    }

    /// Writes down until when a model is held. Whoever waits for room may be shown
    /// another time from now on.
    fn protect(&mut self, model: &str, now: Instant) {
        let of_model = self.holds.values().filter(|hold| hold.model == model);
        let until = of_model.map(|hold| hold.until).max();
        if let Some(slot) = self.slots.get_mut(model) {
            slot.held_until = until;
        }
        self.slots.settle(now);
        for waiting in self.slots.line_by_age().cloned().collect::<Vec<_>>() {
            self.slots.get_mut(&waiting);
        }
        self.slots.settle(now);
    }

    /// Whether a load has to wait for a residency lease to end, whatever else goes.
    pub(super) fn is_held_up(&self, model: &str) -> bool {
        !self.holds.is_empty() && !self.fits_beside(model, |until| until.is_some())
    }

    /// Until when that is so.
    pub(super) fn held_up_until(&self, model: &str) -> Option<Instant> {
        if !self.is_held_up(model) {
            return None;
        }
        let running = self.slots.running();
        let mut ends: Vec<_> = running.filter_map(|(_, slot)| slot.held_until).collect();
        ends.sort();
        let fits_at = |end: Instant| {
            let is_held = |until: Option<Instant>| until.is_some_and(|until| until > end);
            self.fits_beside(model, is_held)
        };
        ends.into_iter().find(|end| fits_at(*end))
    }

    /// Whether a load would fit with everything gone but what is kept and those
    /// of the held for which this holds.
    fn fits_beside(&self, model: &str, is_held: impl Fn(Option<Instant>) -> bool) -> bool {
        let Some(slot) = self.slots.get(model) else {
            return true;
        };
        let others = self.slots.running().filter(|(name, _)| *name != model);
        let held = others.filter_map(|(_, other)| {
            let worker = other.running.as_ref()?;
            let stays = is_held(other.held_until) && !other.keep && !worker.is_leaving();
            stays.then(|| worker.room())
        });
        let staying = held.fold(self.slots.held_against(slot), Room::plus);
        staying.plus(slot.need()).fits(self.limit())
    }

    /// Who holds a model, the first to end first.
    pub(super) fn held_by(&self, model: &str) -> Vec<HeldBy> {
        let of_model = self.holds.iter().filter(|(_, hold)| hold.model == model);
        let mut held: Vec<_> = of_model
            .map(|(id, hold)| HeldBy {
                hold: *id,
                holder: hold.holder.clone(),
                until: hold.until,
            })
            .collect();
        held.sort_by_key(|held| held.until);
        held
    }
}
