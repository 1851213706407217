//! Who is served when, and who has to go for it.

use super::*;

#[test]
fn overlapping_requests_for_a_do_not_starve_b() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let mut current = world.ask("a");
    world.finish_load("a");
    let b = world.ask("b");
    for _ in 0..29 {
        world.wait(SECOND);
        let next = world.ask("a");
        assert!(world.held.contains_key(&next), "served without a pause");
        world.give_back(current);
        current = next;
    }
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Draining);
    let late = world.ask("a");
    assert!(!world.held.contains_key(&late), "it queues behind b");
    world.give_back(current);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&late));
    assert_eq!(world.gone, ["a evicted", "b evicted"]);
}

#[test]
fn a_request_for_the_victim_between_choice_and_end_is_served_by_the_next_instance() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    let b = world.ask("b");
    assert_eq!(world.state("a"), ModelState::Stopping);
    let again = world.ask("a");
    assert!(!world.held.contains_key(&again), "nobody revives a victim");
    world.reap();
    world.finish_load("b");
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&again));
}

#[test]
fn a_model_whose_waiters_were_just_let_in_is_no_victim() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    let b = world.ask("b");
    world.finish_load("a");
    assert!(world.held.contains_key(&a), "handed over in the same step");
    assert!(world.ending().is_empty());
    world.give_back(a);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
}

#[test]
fn two_cold_models_with_room_for_one_are_both_served_in_order() {
    let mut world = World::new(10, &[("a", 10), ("b", 10)]);
    let (b, a) = (world.ask("b"), world.ask("a"));
    assert_eq!(world.loaded, ["b"]);
    world.finish_load("b");
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
    assert_eq!(world.loaded, ["b", "a"]);
}

#[test]
fn many_requests_for_a_cold_model_are_one_load() {
    let mut world = World::new(10, &[("a", 10)]);
    let all: Vec<_> = (0..50).map(|_| world.ask("a")).collect();
    world.finish_load("a");
    assert_eq!(world.loaded, ["a"]);
    assert!(all.iter().all(|waiter| world.held.contains_key(waiter)));
}

#[test]
fn a_request_during_an_idle_unload_waits_and_is_served() {
    let mut model = resident("a", 10);
    model.idle_unload = Some(60 * SECOND);
    let mut world = World::with(settings(10), vec![model]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.wait(59 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Stopping);
    let again = world.ask("a");
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&again));
    assert_eq!(world.gone, ["a idle"]);
}

#[test]
fn the_idle_clock_starts_with_the_last_lease() {
    let mut model = resident("a", 10);
    model.idle_unload = Some(60 * SECOND);
    let mut world = World::with(settings(10), vec![model]);
    let a = world.ask("a");
    world.finish_load("a");
    world.wait(300 * SECOND);
    let b = world.ask("a");
    world.give_back(a);
    world.wait(300 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready, "b uses it");
    world.give_back(b);
    world.wait(59 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Stopping);
}

#[test]
fn the_last_lease_may_move_the_idle_unload_within_its_ceiling() {
    // The ceiling, the wish, and when it is unloaded; in seconds.
    let check = |ceiling: Option<u64>, wish: Option<u64>, expected: Option<u64>| {
        let mut model = resident("a", 10);
        model.idle_unload = ceiling.map(Duration::from_secs);
        let mut world = World::with(settings(10), vec![model]);
        let a = world.ask("a");
        world.finish_load("a");
        world.give_back_wishing(a, wish.map(Duration::from_secs));
        let at = world.view("a").unload_at.map(|at| at - world.now);
        let expected_at = expected.filter(|after| *after > 0).map(Duration::from_secs);
        assert_eq!(at, expected_at, "{ceiling:?} {wish:?}");
        let is_gone = world.state("a") == ModelState::Stopping;
        assert_eq!(is_gone, expected == Some(0), "{ceiling:?} {wish:?}");
    };
    check(Some(60), None, Some(60));
    check(Some(60), Some(10), Some(10));
    check(Some(60), Some(600), Some(60));
    check(Some(60), Some(0), Some(0));
    check(None, None, None);
    check(None, Some(600), Some(600));
}

#[test]
fn whoever_gives_the_model_back_last_decides_when_it_goes() {
    let mut model = resident("a", 4);
    model.idle_unload = Some(60 * SECOND);
    let mut world = World::with(settings(10), vec![model, resident("b", 8)]);
    let first = world.ask("a");
    world.finish_load("a");
    let second = world.ask("a");
    world.give_back_wishing(first, Some(SECOND));
    world.give_back(second);
    world.wait(59 * SECOND);
    assert_eq!(
        world.state("a"),
        ModelState::Ready,
        "the second said nothing"
    );
    let third = world.ask("a");
    world.give_back_wishing(third, Some(3600 * SECOND));
    world.ask("b");
    assert_eq!(
        world.state("a"),
        ModelState::Stopping,
        "it protects from nothing"
    );
}

#[test]
fn what_can_never_fit_is_refused_at_once_and_evicts_nobody() {
    let mut world = World::new(10, &[("a", 6), ("whale", 11)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    let whale = world.ask("whale");
    assert!(matches!(world.refused[&whale], Refused::NeverFits { .. }));
    assert_eq!(world.state("a"), ModelState::Ready);
}

#[test]
fn beside_what_is_kept_it_may_never_fit_and_the_refusal_names_it() {
    let mut kept = resident("kept", 6);
    kept.keep = true;
    let mut world = World::with(settings(10), vec![kept, resident("b", 5)]);
    assert_eq!(world.loaded, ["kept"], "kept models are loaded at start");
    let b = world.ask("b");
    let text = world.refused[&b].to_string();
    assert_eq!(
        text,
        "b needs 5 B and the budget is 10 B, of which 6 B is kept for kept"
    );
}

#[test]
fn an_idle_server_loads_what_fits_exactly() {
    let mut world = World::new(10, &[("a", 10)]);
    let a = world.ask("a");
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
}

#[test]
fn memory_is_free_only_when_the_process_is_reaped() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.wait(10_000 * SECOND);
    world.ask("b");
    assert_eq!(world.state("a"), ModelState::Stopping);
    assert_eq!(world.state("b"), ModelState::Waiting);
    assert_eq!(world.loaded, ["a"], "the old one is not gone yet");
    world.reap();
    assert_eq!(world.loaded, ["a", "b"]);
}

#[test]
fn callers_of_a_resident_model_never_notice_another_load() {
    let mut world = World::new(10, &[("a", 4), ("b", 6), ("c", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.ask("b");
    world.ask("c");
    let more: Vec<_> = (0..9).map(|_| world.ask("a")).collect();
    assert!(more.iter().all(|waiter| world.held.contains_key(waiter)));
    world.fail_load("b");
    assert!(world.held.contains_key(&a));
    assert_eq!(world.state("a"), ModelState::Ready);
}

#[test]
fn a_loading_model_is_never_killed_for_another() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    let b = world.ask("b");
    world.wait(100 * SECOND);
    assert_eq!(world.state("a"), ModelState::Loading);
    assert!(world.ending().is_empty());
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
    assert_eq!(
        world.state("a"),
        ModelState::Draining,
        "b has waited enough"
    );
    world.give_back(a);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
}

#[test]
fn the_queue_is_bounded_and_a_place_in_it_is_given_up_by_leaving() {
    let mut limits = settings(10);
    limits.queue = 2;
    let mut world = World::with(limits, vec![resident("a", 6)]);
    let (first, _second, third) = (world.ask("a"), world.ask("a"), world.ask("a"));
    let Refused::QueueFull {
        waiting: 2,
        retry_after,
        ..
    } = &world.refused[&third]
    else {
        panic!("{:?}", world.refused[&third]);
    };
    assert!(*retry_after >= SECOND);
    world.leave(first);
    let fourth = world.ask("a");
    assert!(!world.refused.contains_key(&fourth));
}

#[test]
fn nobody_waits_longer_than_allowed() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    let b = world.ask("b");
    world.wait(600 * SECOND);
    assert!(matches!(world.refused[&b], Refused::QueueTimeout { .. }));
    assert_eq!(world.unanswered(), 0);
    assert_eq!(
        world.state("a"),
        ModelState::Ready,
        "nobody needs its room any more"
    );
    world.give_back(a);
}

#[test]
fn a_drain_begun_for_somebody_who_left_is_taken_back() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    let b = world.ask("b");
    world.wait(30 * SECOND);
    let behind = world.ask("a");
    assert_eq!(world.state("a"), ModelState::Draining);
    world.leave(b);
    assert_eq!(world.state("a"), ModelState::Ready);
    assert!(world.held.contains_key(&behind));
    world.give_back(a);
}

#[test]
fn when_all_waiters_leave_the_load_goes_on_and_the_model_is_idle() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let all: Vec<_> = (0..3).map(|_| world.ask("a")).collect();
    for waiter in all {
        world.leave(waiter);
    }
    assert_eq!(world.state("a"), ModelState::Loading);
    world.finish_load("a");
    assert_eq!(world.state("a"), ModelState::Ready);
    world.ask("b");
    assert_eq!(world.state("a"), ModelState::Stopping, "idle, so a victim");
}

#[test]
fn a_small_model_overtakes_only_into_room_that_the_first_in_line_will_not_need() {
    let sizes = [("busy", 6), ("big", 7), ("small", 3), ("tiny", 4)];
    let mut world = World::new(10, &sizes);
    let busy = world.ask("busy");
    world.finish_load("busy");
    world.ask("big");
    let tiny = world.ask("tiny");
    assert_eq!(world.state("tiny"), ModelState::Waiting, "7 and 4 are 11");
    world.leave(tiny);
    world.ask("small");
    assert_eq!(world.state("small"), ModelState::Loading, "7 and 3 are 10");
    world.finish_load("small");
    world.give_back(busy);
    world.reap();
    assert_eq!(world.state("big"), ModelState::Loading);
}

#[test]
fn only_as_many_go_as_are_needed_the_least_recently_used_first() {
    let mut world = World::new(10, &[("a", 3), ("b", 3), ("c", 3), ("d", 4)]);
    let leases = ["a", "b", "c"].map(|model| {
        let lease = world.ask(model);
        world.finish_load(model);
        lease
    });
    for index in [1, 0, 2] {
        world.give_back(leases[index]);
    }
    let again = world.ask("b");
    world.give_back(again);
    world.ask("d");
    assert_eq!(world.state("a"), ModelState::Stopping, "b was used since");
    assert_eq!(world.state("b"), ModelState::Ready);
    assert_eq!(world.state("c"), ModelState::Ready);
}

#[test]
fn what_is_kept_is_never_a_victim() {
    let mut kept = resident("kept", 4);
    kept.keep = true;
    kept.idle_unload = Some(SECOND);
    let mut world = World::with(settings(10), vec![kept, resident("b", 6), resident("c", 6)]);
    world.finish_load("kept");
    let kept = world.worker("kept");
    for model in ["b", "c", "b", "c"] {
        let waiter = world.ask(model);
        world.wait(100 * SECOND);
        world.reap();
        world.finish_load(model);
        world.give_back(waiter);
    }
    assert_eq!(world.worker("kept"), kept);
}

#[test]
fn the_number_of_models_is_bounded_too() {
    let mut limits = settings(100);
    limits.max_models = Some(1);
    let mut world = World::with(limits, vec![resident("a", 1), resident("b", 1)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("b");
    assert_eq!(world.state("b"), ModelState::Waiting);
    world.reap();
    assert_eq!(world.state("b"), ModelState::Loading);
}

#[test]
fn swaps_are_counted_and_batches_share_one() {
    let mut world = World::new(10, &[("a", 6), ("b", 6), ("c", 6)]);
    let all = ["a", "b", "a", "a", "c", "a", "b", "c"].map(|model| world.ask(model));
    for model in ["a", "b", "c"] {
        world.finish_load(model);
        let here: Vec<_> = world.held.keys().copied().collect();
        for waiter in here {
            world.give_back(waiter);
        }
        world.reap();
    }
    assert_eq!(world.loaded, ["a", "b", "c"]);
    assert_eq!(world.machine.view(world.now).counters.swaps, 2);
    assert!(all.iter().all(|waiter| !world.refused.contains_key(waiter)));
}
