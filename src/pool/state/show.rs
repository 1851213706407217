//! The machine as it is shown to people and programs.

use std::time::Instant;

use super::Machine;
use super::slot::{Phase, Slot};
use crate::pool::view::{ModelView, Models, View};
use crate::units::ByteSize;

impl Machine {
    /// The view at this moment.
    pub fn view(&self, now: Instant) -> View {
        View {
            budget: self.settings.budget,
            reserved: self.reserved(),
            switch_after: self.settings.switch_after,
            models: self.model_views(now),
            counters: self.counters.clone(),
            preloading: self.preloading.len(),
            stopping: self.shutdown.is_some(),
        }
    }

    /// Brings a view up to date: what has changed since this was last asked is made
    /// anew, the rest stays.
    pub fn refresh(&mut self, view: &mut View, now: Instant) {
        for number in self.slots.take_stale() {
            let known = self.slots.numbered(number);
            let is_known = known.is_some_and(|(model, slot)| {
                let shown = self.model_view(model, slot, now);
                view.models.replace(number, shown)
            });
            if !is_known {
                view.models = self.model_views(now);
                self.slots.take_stale();
                break;
            }
        }
        view.budget = self.settings.budget;
        view.reserved = self.reserved();
        view.switch_after = self.settings.switch_after;
        view.preloading = self.preloading.len();
        view.stopping = self.shutdown.is_some();
        if view.counters != self.counters {
            view.counters = self.counters.clone();
        }
    }

    /// All models.
    fn model_views(&self, now: Instant) -> Models {
        let views = self.slots.ordered().into_iter();
        let views = views.map(|(number, model, slot)| (number, self.model_view(model, slot, now)));
        Models::new(views.collect())
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
            seen: self.learnt_of(slot),
            ready,
            pid: worker.and_then(|worker| worker.pid),
            generation: worker.map(|worker| worker.generation),
            waiting: slot.waiters.len(),
            waiting_since: slot.waiters.oldest().map(|turn| turn.since),
            progress: worker
                .filter(|_| loading)
                .and_then(|worker| worker.progress),
            loading_since: worker.filter(|_| loading).map(|worker| worker.started),
            ready_since: since,
            idle_since,
            unload_at: self.unload_at(slot),
            held: self.held_by(model),
            held_up_until: slot.claim().and_then(|_| self.held_up_until(model)),
            last_failure: slot.failure.clone(),
            load_times: slot.load_times.iter().copied().collect(),
            gate: gate.cloned(),
        }
    }
}
