//! The rule of the ledger, and what is read back from a text.

use super::*;
use crate::pool::state::{plan, ready};

const MOST_OF_ALL: ByteSize = ByteSize(u64::MAX);
const SECOND: Duration = Duration::from_secs(1);

/// A load of `a` whose estimate is so large, caches included.
fn load(estimate: u64, kv: u64) -> LoadPlan {
    LoadPlan {
        kv: ByteSize(kv),
        estimated: true,
        standby: None,
        ..LoadPlan::clone(&plan("a", estimate))
    }
}

/// One life: loaded, seen with each of these figures, ended in peace.
fn live(ledger: &mut Ledger, plan: &LoadPlan, held: u64, peaks: &[u64]) {
    ledger.loaded(plan, &ready(held), SECOND);
    for peak in peaks {
        ledger.peaked(plan, ByteSize(*peak));
    }
    ledger.lived(plan);
}

#[test]
fn what_was_seen_replaces_the_estimate_by_the_rule() {
    let check = |lives: usize, peak: u64, held: u64, kv: u64, most: u64, expected: u64| {
        let plan = load(1000, kv);
        let mut ledger = Ledger::default();
        for _ in 0..lives {
            live(&mut ledger, &plan, held, &[peak]);
        }
        let reserved = ledger.reserve(&plan, ByteSize(most));
        let case = (lives, peak, held, kv, most);
        assert_eq!(reserved, ByteSize(expected), "{case:?}");
    };
    // Nothing seen: the estimate.
    check(0, 0, 100, 0, 5000, 1000);
    // Less, but not often: the estimate. More: at once, with the margin.
    check(2, 400, 100, 0, 5000, 1000);
    check(1, 2000, 100, 0, 5000, 2300);
    // Less, and often enough.
    check(3, 400, 100, 0, 5000, 460);
    // Never below weights and room for caches.
    check(3, 400, 300, 500, 5000, 800);
    check(9, 1, 300, 0, 5000, 300);
    // Never beyond what can be had, as long as the estimate can.
    check(1, 4900, 100, 0, 5000, 5000);
    check(1, 9000, 100, 0, 5000, 5000);
    check(1, 2000, 100, 0, 500, 1000);
    // What the engine holds for certain is no guess.
    check(1, 0, 6000, 0, 5000, 6000);
    // A life in which nothing was seen is none.
    check(9, 0, 100, 0, 5000, 1000);
}

#[test]
fn a_figure_that_the_owner_wrote_is_never_lowered() {
    let mut owned = load(1000, 0);
    owned.estimated = false;
    let mut ledger = Ledger::default();
    for _ in 0..5 {
        live(&mut ledger, &owned, 10, &[400]);
    }
    assert_eq!(ledger.reserve(&owned, MOST_OF_ALL), ByteSize(1000));
    live(&mut ledger, &owned, 10, &[2000]);
    assert_eq!(ledger.reserve(&owned, MOST_OF_ALL), ByteSize(2300));
}

#[test]
fn an_old_peak_is_forgotten_after_eight_lives() {
    let plan = load(1000, 0);
    let mut ledger = Ledger::default();
    live(&mut ledger, &plan, 10, &[100, 9000, 200]);
    assert_eq!(ledger.reserve(&plan, MOST_OF_ALL), ByteSize(10_350));
    for _ in 0..8 {
        live(&mut ledger, &plan, 10, &[400]);
    }
    assert_eq!(ledger.reserve(&plan, MOST_OF_ALL), ByteSize(460));
}

#[test]
fn another_snapshot_setting_or_device_is_another_line() {
    let known = load(1000, 0);
    let mut ledger = Ledger::default();
    live(&mut ledger, &known, 10, &[2000]);
    let check = |what: &str, change: &dyn Fn(&mut LoadPlan)| {
        let mut other = known.clone();
        change(&mut other);
        assert_eq!(ledger.line(&other), None, "{what}");
    };
    check("a commit", &|plan| plan.commit = Some("c0ffee".to_owned()));
    check("a context", &|plan| plan.context += 1);
    check("sequences", &|plan| plan.parallel += 1);
    check("room for caches", &|plan| plan.kv = ByteSize(1));
    check("other files", &|plan| plan.memory = ByteSize(1001));
    check("a model", &|plan| plan.model = "b".to_owned());
    assert!(ledger.line(&known).is_some());
    let mut elsewhere = ready(10);
    elsewhere.device = "metal".to_owned();
    ledger.loaded(&known, &elsewhere, SECOND);
    let seen = ledger.line(&known).map(Line::seen);
    assert_eq!(seen.map(|seen| (seen.loads, seen.peak_bytes)), Some((1, 0)));
}

#[test]
fn what_is_written_is_read_back() {
    let plan = load(1000, 7);
    let mut ledger = Ledger::default();
    live(&mut ledger, &plan, 10, &[400]);
    ledger.settled(&plan, ByteSize(390));
    let text = ledger.text().expect("a text");
    assert_eq!(
        Ledger::parse(text.as_bytes()).expect("read").lines,
        ledger.lines
    );
    let seen = ledger.line(&plan).expect("a line").seen();
    let expected = Seen {
        estimate_bytes: 1000,
        peak_bytes: 400,
        settled_bytes: 390,
        loads: 1,
        trusted: false,
    };
    assert_eq!(seen, expected);
}

#[test]
fn what_is_no_ledger_says_so() {
    let check = |text: &str, part: &str| {
        let error = Ledger::parse(text.as_bytes()).expect_err("refused");
        assert!(error.to_string().contains(part), "{error}");
    };
    check("", "no ledger");
    check("[1]", "no ledger");
    check("{\"entries\":[]}", "no ledger");
    check("{\"version\":1,\"entries\":[{\"model\":7}]}", "no ledger");
    check("{\"version\":2,\"entries\":\"anything\"}", "form 2");
}

#[test]
fn it_does_not_grow_for_ever() {
    let mut ledger = Ledger::default();
    for number in 0..MOST + 20 {
        let mut plan = load(1000, 0);
        plan.model = format!("m{number}");
        live(&mut ledger, &plan, 10, &[400]);
    }
    assert_eq!(ledger.lines.len(), MOST);
    let mut oldest = load(1000, 0);
    oldest.model = "m0".to_owned();
    assert!(ledger.line(&oldest).is_none());
    let plan = load(1000, 0);
    for _ in 0..100 {
        live(&mut ledger, &plan, 10, &[400]);
    }
    let line = ledger.line(&plan).expect("a line");
    assert_eq!((line.peak_bytes.len(), line.load_ms.len()), (LIVES, LIVES));
}
