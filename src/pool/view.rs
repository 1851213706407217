//! What the pool shows of itself: to the status call, the model list, metrics
//! and dashboard. Being a moment old harms nobody there; nothing decides by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::ledger::Seen;
use super::{ModelState, UnloadReason};
use crate::engine::progress::Progress;
use crate::units::ByteSize;
use crate::worker::{LoadPlan, Ready};

/// The pool at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The budget.
    pub budget: ByteSize,
    /// Reserved by everything loaded, loading and not yet reaped.
    pub reserved: ByteSize,
    /// How long a request waits before busy models are drained for it.
    pub switch_after: Duration,
    /// Every model the pool knows, ordered by name.
    pub models: Models,
    /// What has happened since the start.
    pub counters: Counters,
    /// Models still to be brought up before the server is ready.
    pub preloading: usize,
    /// Whether the pool is going down.
    pub stopping: bool,
}

/// Models, ordered by name. They stand on pages, pages in chapters, and views share
/// what has not changed: so a new view costs what is new in it.
#[derive(Clone, Debug, Default)]
pub struct Models {
    chapters: Vec<Arc<Vec<Page>>>,
    /// Where in the order each stands, by the number under which it is shown anew.
    places: Arc<Vec<usize>>,
}

type Page = Arc<Vec<Arc<ModelView>>>;

/// Models on one page, and pages in one chapter.
const PAGE: usize = 10;

/// One model at one moment.
#[derive(Clone, Debug)]
pub struct ModelView {
    /// The pool's key.
    pub model: String,
    /// Its state.
    pub state: ModelState,
    /// Whether new requests are taken.
    pub listed: bool,
    /// `keep: always`.
    pub keep: bool,
    /// How it is, or would be, brought up. While it is up: how it was.
    pub plan: Arc<LoadPlan>,
    /// What the next load reserves: the plan's figure, or what was learnt.
    pub need: ByteSize,
    /// What is reserved now, for its worker or for what stands by for it.
    pub reserved: ByteSize,
    /// What its worker held when it was looked at last.
    pub footprint: Option<ByteSize>,
    /// What the ledger knows of it.
    pub seen: Option<Seen>,
    /// How often the ledger had changed when it was asked for that.
    pub(super) lessons: Option<u64>,
    /// What the worker said of itself, when it is up.
    pub ready: Option<Arc<Ready>>,
    /// The worker process.
    pub pid: Option<u32>,
    /// The process that waits for another model's end before it loads this one.
    pub standby: Option<u32>,
    /// Counts the processes the pool has started.
    pub generation: Option<u64>,
    /// Requests that wait.
    pub waiting: usize,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Instant>,
    /// How far the load is, where the engine tells.
    pub progress: Option<Progress>,
    /// Since when the load runs.
    pub loading_since: Option<Instant>,
    /// Since when it is ready.
    pub ready_since: Option<Instant>,
    pub(super) idle_since: Option<Instant>,
    pub(super) unload_at: Option<Instant>,
    /// Who holds it by a residency lease, the first to end first.
    pub held: Vec<HeldBy>,
    /// Until when residency leases on others keep it waiting.
    pub held_up_until: Option<Instant>,
    /// The last failed load or early crash since it was last up.
    pub last_failure: Option<LastFailure>,
    /// How long the last loads took, the newest last.
    pub load_times: Vec<Duration>,
    pub(super) gate: Option<Arc<Gate>>,
}

/// A residency lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// Its number.
    pub hold: u64,
    /// Who has it.
    pub holder: String,
    /// When it ends.
    pub until: Instant,
}

/// A failed load, or a crash right after loading.
#[derive(Clone, Debug, PartialEq)]
pub struct LastFailure {
    /// What the worker said, or how it ended.
    pub reason: String,
    /// When it failed.
    pub at: Instant,
    /// Until then requests are refused.
    pub retry_at: Instant,
    /// How many in a row.
    pub in_a_row: u32,
}

/// What has happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Loads that were begun.
    pub loads: u64,
    /// Loads that failed or took too long.
    pub load_failures: u64,
    /// Loads for which another model had to go.
    pub swaps: u64,
    /// Models that had gone for a load which failed, and were loaded again.
    pub rollbacks: u64,
    /// Models that were ready and went, by reason.
    pub unloads: BTreeMap<UnloadReason, u64>,
}

impl View {
    /// One model.
    pub fn model(&self, model: &str) -> Option<&ModelView> {
        let [chapter, page, index] = self.models.find(model)?;
        Some(&self.models.chapters[chapter][page][index])
    }

    /// What all workers held when they were looked at last.
    pub fn footprint(&self) -> ByteSize {
        let held = self.models.iter().filter_map(|model| model.footprint);
        held.fold(ByteSize::ZERO, ByteSize::saturating_add)
    }

    /// Requests that wait, of all models.
    pub fn waiting(&self) -> usize {
        self.models.iter().map(|model| model.waiting).sum()
    }
}

impl Models {
    /// Of models that are ordered by name, each with a number of its own; numbers are
    /// small.
    pub(super) fn new(models: Vec<(usize, ModelView)>) -> Self {
        let most = models.iter().map(|(number, _)| number + 1).max();
        let mut places = vec![usize::MAX; most.unwrap_or_default()];
        for (place, (number, _)) in models.iter().enumerate() {
            places[*number] = place;
        }
        let models: Vec<_> = models.into_iter().map(|(_, view)| Arc::new(view)).collect();
        let pages = models.chunks(PAGE).map(|page| Arc::new(page.to_vec()));
        let pages: Vec<Page> = pages.collect();
        let chapters = pages.chunks(PAGE).map(|pages| Arc::new(pages.to_vec()));
        Self {
            chapters: chapters.collect(),
            places: Arc::new(places),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ModelView> {
        let pages = self.chapters.iter().flat_map(|chapter| chapter.iter());
        pages.flat_map(|page| page.iter().map(Arc::as_ref))
    }

    /// The model of a number, to be shown anew; nothing if it does not stand here under
    /// that. What no other view shares is changed where it is.
    pub(super) fn shown(&mut self, number: usize, model: &str) -> Option<&mut ModelView> {
        let place = *self.places.get(number)?;
        let (page, index) = (place / PAGE, place % PAGE);
        let pages = self.chapters.get_mut(page / PAGE)?;
        if pages[page % PAGE][index].model != model {
            return None;
        }
        let page = &mut Arc::make_mut(pages)[page % PAGE];
        Some(Arc::make_mut(&mut Arc::make_mut(page)[index]))
    }

    /// In which chapter a model stands, on which page of it, and where there.
    fn find(&self, model: &str) -> Option<[usize; 3]> {
        let starts_before = |page: &Page| page[0].model.as_str() <= model;
        let begins_before = |chapter: &Arc<Vec<Page>>| starts_before(&chapter[0]);
        let chapter = self
            .chapters
            .partition_point(begins_before)
            .checked_sub(1)?;
        let pages = &self.chapters[chapter];
        let page = pages.partition_point(starts_before).checked_sub(1)?;
        let by_name = |view: &Arc<ModelView>| view.model.as_str().cmp(model);
        let index = pages[page].binary_search_by(by_name).ok()?;
        Some([chapter, page, index])
    }
}

impl ModelView {
    /// A model that is not up, of which nothing is known but how it would be.
    pub(super) fn new(model: String, plan: Arc<LoadPlan>) -> Self {
        Self {
            model,
            state: ModelState::Unloaded,
            listed: true,
            keep: false,
            need: plan.memory,
            plan,
            reserved: ByteSize::ZERO,
            footprint: None,
            seen: None,
            lessons: None,
            held: Vec::new(),
            held_up_until: None,
            ready: None,
            pid: None,
            standby: None,
            generation: None,
            waiting: 0,
            waiting_since: None,
            progress: None,
            loading_since: None,
            ready_since: None,
            idle_since: None,
            unload_at: None,
            last_failure: None,
            load_times: Vec::new(),
            gate: None,
        }
    }

    /// Since when nobody uses it. A lease that is taken now tells nobody, so this is
    /// read from the gate as well.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.filter(|_| self.leases() == 0)
    }

    /// When it will be unloaded if nobody uses it.
    pub fn unload_at(&self) -> Option<Instant> {
        self.unload_at.filter(|_| self.leases() == 0)
    }

    /// Leases out right now: read from the gate, not from the moment of the view.
    pub fn leases(&self) -> u64 {
        self.gate.as_ref().map_or(0, |gate| gate.leases())
    }
}

/// A view of these models, which are ordered by name.
#[cfg(test)]
pub fn of(models: Vec<ModelView>) -> View {
    View {
        models: Models::new(models.into_iter().enumerate().collect()),
        ..View::default()
    }
}

/// A model of which nothing is known but its size.
#[cfg(test)]
pub fn sample(name: &str, bytes: u64, state: ModelState) -> ModelView {
    let plan = super::state::resident(name, bytes).plan;
    ModelView {
        state,
        need: ByteSize(bytes),
        ..ModelView::new(name.to_owned(), plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_shown_anew_leaves_earlier_views_as_they_were() {
        for count in [0, 1, 9, 10, 11, 99, 100, 101, 1_234] {
            let name = |number: usize| format!("m{number:05}");
            let numbers = || (0..count).map(|number| number * 2);
            let unloaded = |number| sample(&name(number), 1, ModelState::Unloaded);
            // Numbers say nothing of the order.
            let own = |number: usize| count * 2 - number;
            let numbered = numbers().map(|number| (own(number), unloaded(number)));
            let mut models = Models::new(numbered.collect());
            for number in numbers() {
                let before = View {
                    models: models.clone(),
                    ..View::default()
                };
                let ready = sample(&name(number), 2, ModelState::Ready);
                let shown = models.shown(own(number), &name(number));
                *shown.expect("it stands there") = ready;
                let old = before.model(&name(number)).expect("it is known");
                assert_eq!((old.state, old.need), (ModelState::Unloaded, ByteSize(1)));
                assert!(before.model(&name(number + 1)).is_none());
            }
            let mut stands = |number| models.shown(number, &name(1)).is_some();
            assert!(!stands(1), "nobody's number");
            assert!(!stands(own(0)), "another's number");
            assert!(!stands(9_999), "beyond all numbers");
            let shown: Vec<_> = models.iter().map(|model| model.model.clone()).collect();
            assert_eq!(shown, numbers().map(name).collect::<Vec<_>>());
            assert!(models.iter().all(|model| model.state == ModelState::Ready));
        }
    }
}
