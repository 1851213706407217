//! Stories about the machine: the bugs that users of other routers met, each by
//! its name, and what this one promises.

use std::time::Duration;

use super::world::{World, plan, resident, settings};
use super::{Event, back_off};
use crate::pool::{ModelState, Refused, UnloadError, UnloadMode};
use crate::units::ByteSize;

const SECOND: Duration = Duration::from_secs(1);

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
fn a_failed_load_refuses_all_once_and_backs_off() {
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

#[test]
fn preload_is_loaded_at_start_and_may_go_later() {
    let mut first = resident("first", 6);
    first.preload = true;
    let mut world = World::with(settings(10), vec![first, resident("b", 6)]);
    world.finish_load("first");
    world.ask("b");
    world.reap();
    assert_eq!(world.loaded, ["first", "b"]);
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
fn unload_asks_waits_or_takes() {
    let mut world = World::new(10, &[("a", 6)]);
    let nothing = world.unload("a", UnloadMode::Idle);
    assert!(matches!(
        world.unloads[&nothing],
        Err(UnloadError::NotLoaded { .. })
    ));
    let a = world.ask("a");
    world.finish_load("a");
    let busy = world.unload("a", UnloadMode::Idle);
    assert!(matches!(
        world.unloads[&busy],
        Err(UnloadError::Busy { leases: 1, .. })
    ));
    let drain = world.unload("a", UnloadMode::Drain);
    assert_eq!(world.state("a"), ModelState::Draining);
    let behind = world.ask("a");
    let second = world.unload("a", UnloadMode::Drain);
    world.give_back(a);
    assert!(!world.unloads.contains_key(&drain), "not reaped yet");
    world.reap();
    assert_eq!(
        (&world.unloads[&drain], &world.unloads[&second]),
        (&Ok(()), &Ok(()))
    );
    world.finish_load("a");
    assert!(
        world.held.contains_key(&behind),
        "served by the next instance"
    );
    let now = world.unload("a", UnloadMode::Now);
    assert_eq!(world.state("a"), ModelState::Stopping);
    world.give_back(behind);
    world.reap();
    assert_eq!(world.unloads[&now], Ok(()));
    assert_eq!(world.gone, ["a requested", "a requested"]);
}

#[test]
fn unload_while_loading() {
    let check = |mode: UnloadMode, waiters: usize, expected: ModelState| {
        let mut world = World::new(10, &[("a", 6)]);
        let first = world.ask("a");
        if waiters == 0 {
            world.leave(first);
        }
        let reply = world.unload("a", mode);
        assert_eq!(world.state("a"), expected, "{mode:?} {waiters}");
        if expected == ModelState::Loading && mode == UnloadMode::Drain {
            world.finish_load("a");
            assert_eq!(world.state("a"), ModelState::Draining);
            world.give_back(first);
        }
        world.reap();
        assert!(world.unloads.contains_key(&reply));
    };
    check(UnloadMode::Idle, 0, ModelState::Stopping);
    check(UnloadMode::Idle, 1, ModelState::Loading);
    check(UnloadMode::Drain, 0, ModelState::Stopping);
    check(UnloadMode::Drain, 1, ModelState::Loading);
    check(UnloadMode::Now, 0, ModelState::Stopping);
    check(UnloadMode::Now, 1, ModelState::Stopping);
}

#[test]
fn release_lets_go_of_everything_idle() {
    let mut kept = resident("kept", 1);
    kept.keep = true;
    let models = vec![kept, resident("a", 1), resident("b", 1)];
    let mut world = World::with(settings(10), models);
    world.finish_load("kept");
    let (a, b) = (world.ask("a"), world.ask("b"));
    world.finish_load("a");
    world.finish_load("b");
    world.give_back(a);
    world.on(Event::Release { reply: 7 });
    assert_eq!(world.released, ["a"]);
    world.give_back(b);
}

#[test]
fn a_reload_touches_only_what_was_edited() {
    let mut world = World::new(20, &[("same", 4), ("gone", 4), ("other", 4)]);
    let leases = ["same", "gone", "other"].map(|model| {
        let lease = world.ask(model);
        world.finish_load(model);
        lease
    });
    world.residents.remove("gone");
    world
        .residents
        .insert("other".to_owned(), resident("other", 5));
    world.apply();
    assert_eq!(world.state("same"), ModelState::Ready);
    assert_eq!(
        world.state("other"),
        ModelState::Ready,
        "holds at the next load"
    );
    assert_eq!(world.state("gone"), ModelState::Draining);
    let refused = world.ask("gone");
    assert!(matches!(world.refused[&refused], Refused::Unlisted { .. }));
    for lease in leases {
        world.give_back(lease);
    }
    world.reap();
    assert_eq!(world.gone, ["gone config"]);
    assert!(world.machine.view(world.now).model("gone").is_none());
    assert_eq!(world.view("other").need, ByteSize(5));
}

#[test]
fn a_model_listed_again_before_it_went_stays() {
    let mut world = World::new(10, &[("a", 4)]);
    let a = world.ask("a");
    world.finish_load("a");
    let entry = world.residents.remove("a").expect("it is there");
    world.apply();
    assert_eq!(world.state("a"), ModelState::Draining);
    world.residents.insert("a".to_owned(), entry);
    world.apply();
    assert_eq!(world.state("a"), ModelState::Ready);
    let more = world.ask("a");
    assert!(world.held.contains_key(&more) && world.held.contains_key(&a));
}

#[test]
fn who_waited_when_the_model_was_taken_off_the_list_is_still_served() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let b = world.ask("b");
    world.finish_load("b");
    let a = world.ask("a");
    world.residents.remove("a");
    world.apply();
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
    assert_eq!(world.state("a"), ModelState::Draining);
    world.give_back(a);
    world.reap();
    assert_eq!(world.gone, ["b evicted", "a config"]);
}

#[test]
fn a_request_may_know_a_model_before_the_pool_does() {
    let mut world = World::new(10, &[]);
    world.residents.insert("new".to_owned(), resident("new", 3));
    let new = world.ask("new");
    world.finish_load("new");
    assert!(world.held.contains_key(&new));
    world.apply();
    assert_eq!(world.state("new"), ModelState::Ready);
}

#[test]
fn a_lower_budget_lets_idle_models_go_and_new_ones_wait() {
    let mut world = World::new(12, &[("a", 6), ("b", 6)]);
    let (a, b) = (world.ask("a"), world.ask("b"));
    world.finish_load("a");
    world.finish_load("b");
    world.give_back(a);
    world.is_honest = false;
    world.settings.budget = ByteSize(7);
    world.apply();
    assert_eq!(world.state("a"), ModelState::Stopping);
    assert_eq!(world.state("b"), ModelState::Ready);
    world.reap();
    assert_eq!(world.gone, ["a memory"]);
    world.give_back(b);
}

#[test]
fn shutdown_refuses_waits_revokes_and_ends() {
    let mut world = World::new(20, &[("busy", 6), ("idle", 6), ("cold", 6), ("queued", 9)]);
    let (busy, idle) = (world.ask("busy"), world.ask("idle"));
    world.finish_load("busy");
    world.finish_load("idle");
    world.give_back(idle);
    let cold = world.ask("cold");
    let queued = world.ask("queued");
    world.on(Event::Shutdown { drain: 10 * SECOND });
    for waiter in [cold, queued] {
        assert_eq!(world.refused[&waiter], Refused::ShuttingDown);
    }
    let late = world.ask("idle");
    assert_eq!(world.refused[&late], Refused::ShuttingDown);
    assert_eq!(world.state("busy"), ModelState::Draining);
    world.reap();
    world.wait(9 * SECOND);
    assert_eq!(world.state("busy"), ModelState::Draining);
    assert!(!world.machine.is_over());
    world.wait(SECOND);
    assert_eq!(world.state("busy"), ModelState::Stopping);
    world.give_back(busy);
    world.reap();
    assert!(world.machine.is_over());
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

#[test]
fn entries_that_share_a_load_are_one_resident() {
    let mut first = resident("a", 4);
    first.idle_unload = Some(SECOND);
    let mut second = resident("a", 4);
    second.idle_unload = Some(60 * SECOND);
    second.preload = true;
    let mut world = World::with(settings(10), vec![first, second]);
    assert_eq!(world.loaded, ["a"]);
    world.finish_load("a");
    world.wait(59 * SECOND);
    assert_eq!(
        world.state("a"),
        ModelState::Ready,
        "the more patient one counts"
    );
    assert_eq!(world.view("a").plan, plan("a", 4));
}
