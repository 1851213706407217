use super::*;
use crate::pool::UnloadReason;
use crate::pool::gate::Gate;
use crate::pool::state::{GRACE, ready, resident};
use crate::worker::Leave;

/// A witness, and the clock of its story.
struct Story {
    witness: Witness,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        Self {
            witness: Witness::default(),
            now: Instant::now(),
        }
    }

    /// These effects, so many seconds later.
    fn after(&mut self, seconds: u64, effects: &[Effect]) {
        self.now += Duration::from_secs(seconds);
        self.witness.see(effects, self.now);
    }

    fn swaps(&self) -> Vec<Arc<Swap>> {
        self.witness.book.swaps().0
    }
}

fn displace(victim: &str, generation: Generation, waiter: Option<WaiterId>) -> Effect {
    Effect::Displace {
        model: "b".to_owned(),
        victim: victim.to_owned(),
        generation,
        waiter,
    }
}

fn stop(generation: Generation) -> Effect {
    Effect::Stop {
        generation,
        leave: Leave::within(GRACE),
        reason: Some(UnloadReason::Evicted),
    }
}

fn gone(model: &str, generation: Generation) -> Effect {
    Effect::Forget {
        generation,
        model: model.to_owned(),
        reason: Some(UnloadReason::Evicted),
        how: "ended".to_owned(),
    }
}

fn start(generation: Generation) -> Effect {
    let plan = resident("b", 1).plan;
    Effect::Start { generation, plan }
}

fn open(generation: Generation) -> Effect {
    Effect::Open {
        generation,
        gate: Gate::new(true, 0, 8),
        ready: Arc::new(ready(1)),
    }
}

fn grant(waiter: WaiterId, generation: Generation, seconds: u64) -> Effect {
    Effect::Grant {
        waiter,
        generation,
        waited: Duration::from_secs(seconds),
        position: 0,
    }
}

#[test]
fn a_swap_is_told_by_phase_with_who_it_was_for() {
    let mut story = Story::new();
    let asker = Arc::new(Asker::new("req-1", "key-1", "coder"));
    story.witness.asked(7, Some(asker.clone()));
    let queued = Effect::Queued {
        waiter: 7,
        position: 2,
    };
    story.after(0, &[queued]);
    assert_eq!(asker.position(), Some(2));
    story.after(
        30,
        &[
            displace("a", 1, Some(7)),
            displace("c", 2, Some(7)),
            stop(2),
        ],
    );
    story.after(4, &[gone("c", 2)]);
    story.after(1, &[stop(1)]);
    story.after(2, &[gone("a", 1), start(3)]);
    story.after(8, &[open(3), grant(7, 3, 45), grant(8, 3, 5)]);
    let [swap] = story.swaps().try_into().expect("one swap");
    let expected = Swap {
        number: 1,
        time_ms: swap.time_ms,
        model: "b".to_owned(),
        request_id: Some("req-1".to_owned()),
        caller: Some("key-1".to_owned()),
        name: Some("coder".to_owned()),
        victims: vec![
            Victim {
                model: "a".to_owned(),
                drain_ms: 5_000,
                unload_ms: 2_000,
            },
            Victim {
                model: "c".to_owned(),
                drain_ms: 0,
                unload_ms: 4_000,
            },
        ],
        drain_ms: 5_000,
        unload_ms: 2_000,
        load_ms: 8_000,
        waiters: 2,
        waited_ms: 50_000,
        ready: true,
    };
    assert_eq!(*swap, expected);
    assert_eq!(swap.lost_ms(), 15_000);
    assert!(story.witness.asker(7).is_none(), "answered");
}

#[test]
fn a_load_into_free_room_is_no_swap_and_a_failed_one_is() {
    let mut story = Story::new();
    story.after(1, &[start(1)]);
    story.after(1, &[open(1)]);
    assert!(story.swaps().is_empty());
    story.after(1, &[displace("a", 2, None), stop(2)]);
    story.after(1, &[gone("a", 2), start(3)]);
    story.after(1, &[gone("b", 3)]);
    let [swap] = story.swaps().try_into().expect("one swap");
    assert!(!swap.ready && swap.caller.is_none(), "{swap:?}");
}

#[test]
fn a_drain_that_was_taken_back_cost_nothing() {
    let mut story = Story::new();
    story.after(0, &[displace("a", 1, None)]);
    story.after(5, &[Effect::Spare { generation: 1 }]);
    story.after(600, &[displace("a", 1, None)]);
    story.after(1, &[stop(1)]);
    story.after(1, &[gone("a", 1), start(2)]);
    story.after(1, &[open(2)]);
    let [swap] = story.swaps().try_into().expect("one swap");
    assert_eq!((swap.drain_ms, swap.victims.len()), (1_000, 1));
    // A victim that stayed after all went for nobody.
    story.after(1, &[displace("a", 3, None)]);
    story.after(1, &[start(4)]);
    story.after(1, &[open(4)]);
    assert_eq!(story.swaps().len(), 1);
}

#[test]
fn the_book_keeps_the_last_ones_and_counts_all() {
    let book = Book::default();
    let mut followed = book.follow();
    let mut story = Story::new();
    story.witness = Witness::new(book.clone());
    for round in 0..1_100 {
        let (victim, came) = (2 * round, 2 * round + 1);
        story.after(1, &[displace("a", victim, None), stop(victim)]);
        story.after(1, &[gone("a", victim), start(came)]);
        story.after(1, &[open(came)]);
    }
    let (kept, all) = book.swaps();
    assert_eq!((kept.len(), all), (1_000, 1_100));
    assert_eq!(kept.first().map(|swap| swap.number), Some(101));
    let behind = followed.try_recv();
    assert!(
        matches!(
            behind,
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_))
        ),
        "a slow follower is told: {behind:?}"
    );
}
