//! What the machine says for people alone: for whom a model goes, that it stays
//! after all. Nothing is decided here.

use super::{Effect, Machine};

impl Machine {
    /// A model goes for another one. Told before what is done about it.
    pub(super) fn goes_for(&self, victim: &str, model: &str, out: &mut Vec<Effect>) {
        let (Some(going), Some(coming)) = (self.slots.get(victim), self.slots.get(model)) else {
            return;
        };
        if let Some(worker) = &going.running {
            out.push(Effect::Displace {
                model: model.to_owned(),
                victim: victim.to_owned(),
                generation: worker.generation,
                waiter: coming.claim().and_then(|turn| self.waiting.with(turn)),
            });
        }
    }

    /// A model that was to go stays.
    pub(super) fn spare(&self, model: &str, out: &mut Vec<Effect>) {
        let slot = self.slots.get(model);
        if let Some(worker) = slot.and_then(|slot| slot.running.as_ref()) {
            let generation = worker.generation;
            out.push(Effect::Spare { generation });
        }
    }
}
