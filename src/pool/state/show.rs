//! The machine as it is shown to people and programs.

use std::sync::Arc;
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
                let shown = view.models.shown(number, model);
                shown.map(|shown| self.show(slot, shown, now)).is_some()
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
        let mut shown = ModelView::new(model.to_owned(), slot.plan.clone());
        self.show(slot, &mut shown, now);
        shown
    }

    /// Brings what is shown of a model up to date. What is costly to find or to copy
    /// and has not changed stays as it is.
    fn show(&self, slot: &Slot, shown: &mut ModelView, now: Instant) {
        let worker = slot.running.as_ref();
        let phase = worker.map(|worker| &worker.phase);
        let (ready, since, idle_since) = match phase {
            Some(Phase::Up {
                ready,
                since,
                idle_since,
                ..
            }) => (Some(ready), Some(*since), *idle_since),
            _ => (None, None, None),
        };
        let plan = worker.map_or(&slot.plan, |worker| &worker.plan);
        let is_same_plan = Arc::ptr_eq(plan, &shown.plan);
        if !is_same_plan || shown.lessons != Some(self.lessons) {
            shown.plan = plan.clone();
            shown.seen = self.ledger.line(plan).map(|line| line.seen());
            shown.lessons = Some(self.lessons);
        }
        let loading = worker.filter(|_| matches!(phase, Some(Phase::Loading { .. })));
        shown.state = slot.state(now);
        shown.listed = slot.listed;
        shown.keep = slot.keep;
        shown.need = ByteSize(slot.need().bytes);
        let standby = self.standby_of(&shown.model);
        let held_ready = standby.map_or(ByteSize::ZERO, |it| ByteSize(it.room().bytes));
        shown.reserved = worker.map_or(held_ready, |worker| worker.reserved);
        let held = worker.map(|worker| worker.holding.held);
        shown.footprint = held.or(standby.map(|standby| standby.held));
        shown.standby = standby.and_then(|standby| standby.pid);
        shown.ready = ready.cloned();
        shown.pid = worker.and_then(|worker| worker.pid);
        shown.generation = worker.map(|worker| worker.generation);
        shown.waiting = slot.waiters.len();
        shown.waiting_since = slot.waiters.oldest().map(|turn| turn.since);
        shown.progress = loading.and_then(|worker| worker.progress);
        shown.loading_since = loading.map(|worker| worker.started);
        shown.ready_since = since;
        shown.idle_since = idle_since;
        shown.unload_at = self.unload_at(slot);
        shown.held = self.held_by(&shown.model);
        let claim = slot.claim();
        shown.held_up_until = claim.and_then(|_| self.held_up_until(&shown.model));
        if shown.last_failure != slot.failure {
            shown.last_failure = slot.failure.clone();
        }
        if !slot.load_times.iter().eq(&shown.load_times) {
            shown.load_times = slot.load_times.iter().copied().collect();
        }
        shown.gate = worker.and_then(|worker| worker.gate()).cloned();
    }
}
