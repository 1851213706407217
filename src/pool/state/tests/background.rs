//! Requests by a background alias: whatever is up answers, and nothing goes for them.

use super::*;
use crate::pool::Terms;

const ANY: [&str; 3] = ["own", "b", "c"];

fn ask(world: &mut World) -> u64 {
    world.ask_any(&ANY, Terms::default())
}

/// Room for one of four.
fn world() -> World {
    World::new(10, &[("own", 6), ("b", 6), ("c", 6), ("stranger", 6)])
}

/// The model that answers.
fn answers(world: &World, waiter: u64) -> String {
    let generation = world.held[&waiter];
    world.workers[&generation].model.clone()
}

/// The model in whose queue it stands.
fn place(world: &World, waiter: u64) -> &str {
    world.machine.waiting.model_of(waiter).expect("it waits")
}

#[test]
fn a_resident_candidate_answers_and_nothing_is_loaded() {
    let mut world = world();
    let b = world.ask("b");
    world.finish_load("b");
    let first = ask(&mut world);
    assert_eq!(answers(&world, first), "b", "though it is in use");
    world.give_back(b);
    world.give_back(first);
    let second = ask(&mut world);
    assert_eq!(answers(&world, second), "b");
    assert_eq!(world.loaded, ["b"]);
}

#[test]
fn one_that_is_up_and_full_is_queued_for() {
    let mut limits = settings(10);
    (limits.queue, limits.queue_per_caller) = (100, 100);
    let models = ["own", "b", "c"].map(|name| resident(name, 6)).to_vec();
    let mut world = World::with(limits, models);
    // More than a quarter above its plan's 64 sequences.
    let leases: Vec<_> = (0..90).map(|_| world.ask("b")).collect();
    world.finish_load("b");
    let waiter = ask(&mut world);
    assert_eq!(place(&world, waiter), "b");
    for lease in leases.iter().take(11) {
        world.give_back(*lease);
    }
    assert_eq!(answers(&world, waiter), "b");
    assert_eq!(world.loaded, ["b"]);
}

#[test]
fn its_own_model_comes_first_and_then_the_one_used_last() {
    let sizes = [("own", 2), ("b", 2), ("c", 2), ("d", 2)];
    let mut world = World::new(10, &sizes);
    for model in ["c", "b", "d"] {
        let lease = world.ask(model);
        world.finish_load(model);
        world.wait(SECOND);
        world.give_back(lease);
    }
    let any = ["own", "c", "b", "d"];
    let ask = |world: &mut World| {
        let waiter = world.ask_any(&any, Terms::default());
        let model = answers(world, waiter);
        world.give_back(waiter);
        model
    };
    assert_eq!(ask(&mut world), "d", "used last");
    let c = world.ask("c");
    assert_eq!(ask(&mut world), "c", "in use now");
    world.wait(SECOND);
    world.give_back(c);
    assert_eq!(ask(&mut world), "c", "used last");
    let own = world.ask("own");
    world.finish_load("own");
    world.give_back(own);
    assert_eq!(ask(&mut world), "own");
}

#[test]
fn without_a_candidate_its_own_model_is_loaded() {
    let mut world = world();
    let stranger = world.ask("stranger");
    world.finish_load("stranger");
    world.give_back(stranger);
    let waiter = ask(&mut world);
    world.reap();
    world.finish_load("own");
    assert_eq!(answers(&world, waiter), "own");
}

#[test]
fn what_is_loading_or_next_answers_when_it_is_there() {
    let mut world = world();
    let c = world.ask("c");
    let loading = ask(&mut world);
    world.finish_load("c");
    assert_eq!(answers(&world, loading), "c");
    world.give_back(loading);
    let b = world.ask("b");
    world.wait(30 * SECOND);
    assert_eq!(world.state("c"), ModelState::Draining);
    let next = ask(&mut world);
    world.give_back(c);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
    assert_eq!(answers(&world, next), "b");
    assert_eq!(world.loaded, ["c", "b"], "its own was not needed");
}

#[test]
fn what_has_room_waits_for_nobody_that_has_none() {
    for (size, waits_for) in [(3, "own"), (4, "big")] {
        let sizes = [("busy", 6), ("big", 7), ("own", size)];
        let mut world = World::new(10, &sizes);
        world.ask("busy");
        world.finish_load("busy");
        world.ask("big");
        let waiter = world.ask_any(&["own", "big"], Terms::default());
        assert_eq!(place(&world, waiter), waits_for, "7 and {size}");
        let is_loading = world.state("own") == ModelState::Loading;
        assert_eq!(is_loading, waits_for == "own");
    }
}

#[test]
fn nobody_joins_one_that_waits_for_a_residency_lease() {
    let mut world = World::new(10, &[("busy", 5), ("big", 7), ("own", 6), ("d", 5)]);
    let busy = world.ask("busy");
    world.finish_load("busy");
    world.hold(busy, 3600 * SECOND);
    world.ask("big");
    let waiter = world.ask_any(&["d", "big"], Terms::default());
    assert_eq!(place(&world, waiter), "d");
    assert_eq!(world.state("d"), ModelState::Loading);
}

#[test]
fn when_the_other_does_not_come_its_own_model_does() {
    let mut world = world();
    let c = world.ask("c");
    let waiter = ask(&mut world);
    world.fail_load("c");
    assert!(world.refused.contains_key(&c), "that one asked for it");
    assert!(!world.refused.contains_key(&waiter));
    world.reap();
    world.finish_load("own");
    assert_eq!(answers(&world, waiter), "own");
    // And when that does not come either, nothing is left to try.
    let mut world = self::world();
    world.ask("c");
    let waiter = ask(&mut world);
    world.fail_load("c");
    world.reap();
    world.fail_load("own");
    assert!(matches!(&world.refused[&waiter], Refused::LoadFailed { model, .. } if model == "own"));
}

#[test]
fn one_that_leaves_while_it_waits_for_another_is_gone() {
    let mut world = world();
    let c = world.ask("c");
    let waiter = ask(&mut world);
    world.leave(waiter);
    world.leave(c);
    assert_eq!(world.unanswered(), 0);
    world.fail_load("c");
    world.reap();
    assert_eq!(world.loaded, ["c"]);
}

#[test]
fn at_a_shutdown_it_hears_so_wherever_it_waits() {
    let mut world = world();
    world.ask("c");
    let waiter = ask(&mut world);
    let drain = Duration::ZERO;
    world.on(Event::Shutdown { drain });
    assert_eq!(world.refused[&waiter], Refused::ShuttingDown);
}
