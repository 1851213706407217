//! Loads that fail, workers that crash or hold more than they said.

use super::*;

#[test]
fn a_worker_that_holds_more_than_it_said_is_counted_with_what_it_holds() {
    let mut world = World::new(10, &[("a", 4), ("b", 6)]);
    world.is_honest = false;
    let a = world.ask("a");
    world.finish_load_holding("a", 5);
    assert_eq!(world.machine.reserved(), ByteSize(5));
    let b = world.ask("b");
    assert_eq!(world.state("b"), ModelState::Waiting, "5 and 6 are 11");
    world.give_back(a);
    world.reap();
    assert_eq!(world.state("b"), ModelState::Loading);
    assert_eq!(
        world.view("a").need,
        ByteSize(5),
        "the next load reserves it"
    );
    world.leave(b);
}

#[test]
fn f04_a_failed_load_refuses_all_once_and_backs_off() {
    let mut world = World::new(10, &[("a", 6)]);
    for (attempt, seconds) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        let all: Vec<_> = (0..3).map(|_| world.ask("a")).collect();
        assert_eq!(world.loaded.len(), attempt + 1);
        world.fail_load("a");
        for waiter in all {
            let Refused::LoadFailed { retry_after, .. } = &world.refused[&waiter] else {
                panic!("{:?}", world.refused[&waiter]);
            };
            assert_eq!(*retry_after, seconds * SECOND);
        }
        world.reap();
        assert_eq!(world.state("a"), ModelState::Failed);
        let early = world.ask("a");
        assert!(matches!(world.refused[&early], Refused::LoadFailed { .. }));
        world.wait(seconds * SECOND);
        assert_eq!(world.state("a"), ModelState::Unloaded);
    }
    let spawns_in_a_minute = (1..).scan(Duration::ZERO, |at, failure| {
        *at += back_off(failure);
        Some(*at)
    });
    assert_eq!(
        1 + spawns_in_a_minute
            .take_while(|at| *at < 60 * SECOND)
            .count(),
        6
    );
}

#[test]
fn a_load_that_dies_is_a_failed_load() {
    let mut world = World::new(10, &[("a", 6)]);
    let a = world.ask("a");
    world.exit("a");
    assert!(matches!(world.refused[&a], Refused::LoadFailed { .. }));
    assert_eq!(world.state("a"), ModelState::Failed);
    assert_eq!(world.gone, ["a never"]);
}

#[test]
fn a_changed_plan_ends_the_quarantine() {
    let mut world = World::new(10, &[("a", 6)]);
    world.ask("a");
    world.fail_load("a");
    world.reap();
    world.apply();
    assert_eq!(world.state("a"), ModelState::Failed, "nothing was changed");
    world.residents.insert("a".to_owned(), resident("a", 5));
    world.apply();
    assert_eq!(world.state("a"), ModelState::Unloaded);
    world.ask("a");
    assert_eq!(world.loaded.len(), 2);
}

#[test]
fn a_load_that_takes_too_long_is_killed() {
    let mut world = World::new(10, &[("a", 6)]);
    let a = world.ask("a");
    world.wait(300 * SECOND);
    assert!(matches!(world.refused[&a], Refused::LoadTimeout { .. }));
    assert_eq!(world.state("a"), ModelState::Stopping);
    world.reap();
    assert_eq!(world.state("a"), ModelState::Failed);
}

#[test]
fn a_crash_is_seen_at_once_and_the_next_request_loads_again() {
    let mut world = World::new(10, &[("a", 6), ("b", 4)]);
    let b = world.ask("b");
    world.finish_load("b");
    for _ in 0..3 {
        // One request in peace, then a crash in the middle of the next.
        let fine = world.ask("a");
        if !world.held.contains_key(&fine) {
            world.finish_load("a");
        }
        world.give_back(fine);
        let cut = world.ask("a");
        world.exit("a");
        assert_eq!(world.state("a"), ModelState::Unloaded);
        world.give_back(cut);
    }
    assert_eq!(world.gone, ["a crashed", "a crashed", "a crashed"]);
    assert!(world.held.contains_key(&b), "others keep serving");
}

#[test]
fn a_model_that_crashes_on_each_first_request_is_quarantined() {
    let mut world = World::new(10, &[("a", 6)]);
    for _ in 0..2 {
        let first = world.ask("a");
        world.finish_load("a");
        world.exit("a");
        world.give_back(first);
    }
    assert_eq!(world.state("a"), ModelState::Failed);
    let refused = world.ask("a");
    assert!(matches!(
        world.refused[&refused],
        Refused::LoadFailed { .. }
    ));
    world.wait(SECOND);
    let third = world.ask("a");
    world.finish_load("a");
    world.give_back(third);
    world.exit("a");
    assert_eq!(world.state("a"), ModelState::Unloaded, "it had served");
}

#[test]
fn what_is_kept_comes_back_after_a_crash_and_after_a_failed_load() {
    let mut kept = resident("kept", 6);
    kept.keep = true;
    let mut world = World::with(settings(10), vec![kept]);
    assert_eq!(world.machine.view(world.now).preloading, 1);
    world.fail_load("kept");
    assert_eq!(
        world.machine.view(world.now).preloading,
        0,
        "it had its outcome"
    );
    world.reap();
    world.wait(SECOND);
    world.finish_load("kept");
    let used = world.ask("kept");
    world.exit("kept");
    assert_eq!(world.state("kept"), ModelState::Loading);
    world.give_back(used);
}
