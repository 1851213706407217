use std::sync::Arc;

use super::*;
use crate::engine::progress::Progress;
use crate::pool::gate::Gate;
use crate::pool::view::{LastFailure, of, sample as model};
use crate::units::ByteSize;

const SECOND: Duration = Duration::from_secs(1);

fn view(models: Vec<ModelView>) -> View {
    let held = models.iter().map(|model| model.reserved.0).sum();
    View {
        budget: ByteSize(10),
        reserved: ByteSize(held),
        switch_after: 30 * SECOND,
        ..of(models)
    }
}

#[track_caller]
fn check(models: Vec<ModelView>, now: Instant, expected: Option<u64>) {
    let eta = view(models).eta("b", now);
    assert_eq!(eta.map(|eta| eta.as_secs()), expected);
}

#[test]
fn a_load_ends_by_its_own_pace_and_before_that_by_earlier_ones() {
    let start = Instant::now();
    let now = start + 10 * SECOND;
    let loading = |done: Option<u64>, times: &[u64]| ModelView {
        loading_since: Some(start),
        progress: done.map(|done| Progress { done, all: 100 }),
        load_times: times
            .iter()
            .map(|seconds| Duration::from_secs(*seconds))
            .collect(),
        ..model("b", 6, ModelState::Loading)
    };
    check(vec![loading(None, &[])], now, None);
    check(vec![loading(None, &[12, 40, 12])], now, Some(2));
    check(vec![loading(None, &[3])], now, Some(0));
    check(vec![loading(Some(2), &[12])], now, Some(2));
    check(vec![loading(Some(50), &[400])], now, Some(10));
    check(vec![loading(Some(100), &[400])], now, Some(0));
}

#[test]
fn what_is_not_there_takes_a_load_and_what_stands_before_it() {
    let start = Instant::now();
    let now = start + 10 * SECOND;
    let cold = ModelView {
        load_times: vec![8 * SECOND],
        ..model("b", 6, ModelState::Unloaded)
    };
    check(vec![], now, None);
    check(vec![model("b", 6, ModelState::Ready)], now, Some(0));
    check(vec![model("b", 6, ModelState::Unloaded)], now, None);
    check(vec![cold.clone()], now, Some(8));
    let large = ModelView {
        need: ByteSize(11),
        ..cold.clone()
    };
    check(vec![large], now, None);
    // Others of its size tell how long it takes.
    let measured = ModelView {
        load_times: vec![2 * SECOND],
        ..model("a", 3, ModelState::Unloaded)
    };
    check(
        vec![measured, model("b", 6, ModelState::Unloaded)],
        now,
        Some(4),
    );
    // An idle model goes at once, a busy one when the wait is over.
    let up = |leases| ModelView {
        reserved: ByteSize(6),
        gate: Some(Gate::new(true, leases, 8)),
        ..model("a", 6, ModelState::Ready)
    };
    check(vec![up(0), cold.clone()], now, Some(8));
    check(vec![up(1), cold.clone()], now, Some(38));
    let waiting = ModelView {
        state: ModelState::Waiting,
        waiting_since: Some(start),
        ..cold.clone()
    };
    check(vec![up(1), waiting.clone()], now, Some(28));
    // Whoever has waited longer is loaded first.
    let first = ModelView {
        state: ModelState::Waiting,
        waiting_since: Some(start - SECOND),
        load_times: vec![5 * SECOND],
        ..model("a", 2, ModelState::Waiting)
    };
    check(vec![first, waiting], now, Some(13));
    let failed = ModelView {
        last_failure: Some(LastFailure {
            reason: String::new(),
            at: start,
            retry_at: now + 4 * SECOND,
            in_a_row: 1,
        }),
        state: ModelState::Failed,
        plan: Arc::clone(&cold.plan),
        ..cold
    };
    check(vec![failed], now, Some(12));
}
