//! The machine as it is shown to people and programs.

use std::time::Instant;

use super::Machine;
use super::slot::{Phase, Slot};
use crate::pool::view::{ModelView, View};
use crate::units::ByteSize;

impl Machine {
    /// The view at this moment.
    pub fn view(&self, now: Instant) -> View {
        View {
            budget: self.settings.budget,
            reserved: self.reserved(),
            models: self
                .slots
                .iter()
                .map(|(model, slot)| self.model_view(model, slot, now))
                .collect(),
            counters: self.counters.clone(),
            preloading: self.preloading.len(),
            stopping: self.shutdown.is_some(),
        }
    }

    /// One model.
    fn model_view(&self, model: &str, slot: &Slot, now: Instant) -> ModelView {
        let worker = slot.running.as_ref();
        let phase = worker.map(|worker| &worker.phase);
        let (ready, since, idle_since) = match phase {
            Some(Phase::Up {
                ready,
                since,
                idle_since,
                ..
            }) => (Some(ready.clone()), Some(*since), *idle_since),
            _ => (None, None, None),
        };
        let gate = worker.and_then(|worker| worker.gate());
        // A lease taken through the gate does not tell the machine.
        let is_idle = gate.is_some_and(|gate| gate.leases() == 0);
        let loading = matches!(phase, Some(Phase::Loading { .. }));
        ModelView {
            model: model.to_owned(),
            state: slot.state(now),
            listed: slot.listed,
            keep: slot.keep,
            plan: worker.map_or(&slot.plan, |worker| &worker.plan).clone(),
            need: ByteSize(slot.need().bytes),
            reserved: worker.map_or(ByteSize::ZERO, |worker| worker.reserved),
            footprint: worker.map(|worker| worker.holding.held),
            seen: self.seen(slot),
            ready,
            pid: worker.and_then(|worker| worker.pid),
            generation: worker.map(|worker| worker.generation),
            waiting: slot.waiters.len(),
            waiting_since: slot.waiters.front().map(|waiter| waiter.turn.since),
            loading_since: worker.filter(|_| loading).map(|worker| worker.started),
            ready_since: since,
            idle_since: idle_since.filter(|_| is_idle),
            unload_at: self.unload_at(slot).filter(|_| is_idle),
            last_failure: slot.failure.clone(),
            load_times: slot.load_times.iter().copied().collect(),
            gate: gate.cloned(),
        }
    }
}
