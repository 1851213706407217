//! The process of the next model: started while another one ends, given up when plans
//! change, and never in anybody's way.

use std::sync::Arc;

use super::*;
use crate::pool::{Priority, Terms};

/// What a process takes that stands by.
const STANDBY: u64 = 2;

/// A budget of 10 and models of 6 and one of 3, any of whose processes may be started ahead.
fn world() -> World {
    let sizes = [("a", 6), ("b", 6), ("c", 6), ("small", 3)];
    let residents = sizes.map(|(name, size)| {
        let mut resident = resident(name, size);
        Arc::make_mut(&mut resident.plan).standby = Some(ByteSize(STANDBY));
        resident
    });
    World::with(settings(10), residents.to_vec())
}

/// `a` is used, and drains for `b`: who uses the one and waits for the other.
fn draining() -> (World, u64, u64) {
    let mut world = world();
    let a = world.ask("a");
    world.finish_load("a");
    let b = world.ask("b");
    world.wait(30 * SECOND);
    assert_eq!(world.state("a"), ModelState::Draining);
    (world, a, b)
}

/// The model whose process stands by and has not been told to end.
fn stands_by(world: &World) -> Option<String> {
    let mut workers = world.workers.values();
    let standby = workers.find(|worker| worker.stands_by && !worker.is_told_to_end);
    standby.map(|worker| worker.model.clone())
}

#[test]
fn the_next_model_has_a_process_while_an_idle_one_ends() {
    let mut world = world();
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    assert_eq!(stands_by(&world), None, "nobody comes");
    let b = world.ask("b");
    assert_eq!(world.state("a"), ModelState::Stopping);
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    assert_eq!(world.state("b"), ModelState::Waiting);
    assert_eq!(world.machine.reserved(), ByteSize(6 + STANDBY));
    assert_eq!(world.loaded, ["a"]);
    let generation = world.worker("b");
    world.on(Event::Spawned {
        generation,
        pid: 77,
    });
    let shown = world.view("b");
    assert_eq!((shown.standby, shown.pid), (Some(77), None));
    assert_eq!(shown.reserved, ByteSize(STANDBY));
    world.exit("a");
    assert_eq!((world.loaded.len(), world.worker("b")), (2, generation));
    let shown = world.view("b");
    assert_eq!((shown.standby, shown.pid), (None, Some(77)));
    assert_eq!(world.machine.reserved(), ByteSize(6));
    world.finish_load("b");
    assert_eq!(world.held.get(&b), Some(&generation));
}

#[test]
fn the_time_of_a_load_is_counted_from_where_it_begins() {
    let (mut world, a, _) = draining();
    world.wait(100 * SECOND);
    world.give_back(a);
    world.exit("a");
    world.wait(299 * SECOND);
    assert_eq!(world.state("b"), ModelState::Loading);
    world.finish_load("b");
    assert_eq!(world.view("b").load_times, [299 * SECOND]);
}

#[test]
fn it_goes_when_whoever_waited_leaves() {
    let (mut world, _, b) = draining();
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    world.leave(b);
    assert_eq!(world.state("a"), ModelState::Ready);
    assert_eq!(stands_by(&world), None);
    assert_eq!(
        world.machine.reserved(),
        ByteSize(6 + STANDBY),
        "not reaped"
    );
    world.reap();
    assert_eq!(world.machine.reserved(), ByteSize(6));
    assert_eq!(world.gone, ["b never"]);
    assert_eq!(world.machine.view(world.now).counters.loads, 1);
}

#[test]
fn whoever_waits_again_before_it_is_reaped_gets_another_one() {
    let (mut world, a, b) = draining();
    let first = world.worker("b");
    world.leave(b);
    let b = world.ask("b");
    world.wait(30 * SECOND);
    assert_eq!(world.state("a"), ModelState::Draining);
    world.give_back(a);
    world.exit("a");
    assert_eq!(world.loaded, ["a"], "two workers of one model");
    world.exit_of(first);
    assert_eq!(world.loaded, ["a", "b"]);
    assert_ne!(world.worker("b"), first);
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
}

#[test]
fn it_changes_with_whoever_comes_next() {
    let high = Terms {
        priority: Priority::High,
        ..Terms::default()
    };
    let (mut world, a, _) = draining();
    world.ask_on("c", high);
    assert_eq!(
        stands_by(&world).as_deref(),
        Some("b"),
        "who is due is first"
    );
    world.give_back(a);
    world.exit("a");
    assert_eq!(world.loaded, ["a", "b"]);

    let mut world = self::world();
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("b");
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    world.ask_on("c", high);
    assert_eq!(stands_by(&world), None, "one after the other");
    world.exit("b");
    assert_eq!(stands_by(&world).as_deref(), Some("c"));
    world.exit("a");
    assert_eq!(world.loaded, ["a", "c"]);
}

#[test]
fn a_budget_without_room_for_it_has_none() {
    let (mut world, _, _) = draining();
    world.settings.budget = ByteSize(7);
    world.is_honest = false;
    world.apply();
    assert_eq!(stands_by(&world), None);
    world.reap();
    assert_eq!(stands_by(&world), None);
    assert_eq!(world.machine.reserved(), ByteSize(6));
    world.settings.budget = ByteSize(8);
    world.apply();
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
}

#[test]
fn what_it_is_seen_to_hold_counts_for_the_next_one_too() {
    let (mut world, a, _) = draining();
    world.footprint("b", 4);
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    assert_eq!(world.machine.reserved(), ByteSize(6 + 4));
    world.footprint("b", 5);
    assert_eq!(stands_by(&world), None, "beyond the budget");
    world.reap();
    assert_eq!(stands_by(&world), None, "as much again");
    world.give_back(a);
    world.exit("a");
    assert_eq!(world.loaded, ["a", "b"]);
}

#[test]
fn it_takes_no_place_of_a_model() {
    let mut world = world();
    world.settings.max_models = Some(1);
    world.apply();
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("small");
    assert_eq!(world.loaded, ["a"]);
    assert_eq!(stands_by(&world).as_deref(), Some("small"));
}

#[test]
fn it_gives_way_to_whoever_could_be_loaded_beside_what_drains() {
    let (mut world, _, _) = draining();
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    let small = world.ask("small");
    assert_eq!(stands_by(&world), None, "6 and 3 and 2 are more than 10");
    assert_eq!(world.loaded, ["a"]);
    world.exit("b");
    assert_eq!(world.loaded, ["a", "small"]);
    assert_eq!(stands_by(&world), None);
    world.finish_load("small");
    assert!(world.held.contains_key(&small));
}

#[test]
fn a_crash_before_the_load_is_a_load_that_failed() {
    for says_so in [false, true] {
        let (mut world, _, b) = draining();
        match says_so {
            true => world.fail_load("b"),
            false => world.exit("b"),
        }
        let Some(Refused::LoadFailed { reason, .. }) = world.refused.get(&b) else {
            panic!("{:?}", world.refused);
        };
        let expected = match says_so {
            true => "no tensor",
            false => "its worker ended before it was ready",
        };
        assert_eq!(reason, expected);
        assert_eq!(world.state("a"), ModelState::Ready, "nobody wants it gone");
        assert_eq!(world.state("b"), ModelState::Failed);
        world.reap();
        let counters = world.machine.view(world.now).counters;
        assert_eq!((counters.loads, counters.load_failures), (2, 1));
        assert_eq!(world.machine.reserved(), ByteSize(6));
    }
}

#[test]
fn what_went_for_a_load_that_failed_ahead_comes_back() {
    let mut world = world();
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("b");
    world.fail_load("b");
    assert!(world.brought_back.is_empty(), "it is still there");
    world.exit("a");
    assert_eq!(world.brought_back, ["a for b"]);
    assert_eq!(world.loaded, ["a", "a"], "beside what is not reaped yet");
    world.exit("b");
    assert_eq!(world.machine.reserved(), ByteSize(6));
}

#[test]
fn it_ends_with_the_server() {
    let (mut world, _, _) = draining();
    world.on(Event::Shutdown {
        drain: Duration::ZERO,
    });
    assert_eq!(stands_by(&world), None);
    let standby = world.worker("b");
    world.exit("a");
    assert!(!world.machine.is_over(), "a process is still there");
    world.exit_of(standby);
    assert!(world.machine.is_over());
}

#[test]
fn another_plan_is_another_process() {
    let (mut world, _, _) = draining();
    let first = world.worker("b");
    let plan = &mut world.residents.get_mut("b").expect("served").plan;
    Arc::make_mut(plan).context += 1;
    world.apply();
    assert_eq!(stands_by(&world), None);
    world.exit_of(first);
    assert_eq!(stands_by(&world).as_deref(), Some("b"));
    assert_ne!(world.worker("b"), first);
}

#[test]
fn an_engine_that_cannot_wait_is_not_started_ahead() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("b");
    assert_eq!(world.workers.len(), 1);
    world.exit("a");
    assert_eq!(world.loaded, ["a", "b"]);
}
