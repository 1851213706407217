//! A swap whose load fails: what went comes back, if nothing else wants the room.

use super::*;

/// Room for one, which is `a` and idle; `b` is asked for and loads.
fn swapping() -> (World, u64) {
    let mut world = World::new(10, &[("a", 6), ("b", 6), ("c", 6), ("small", 4)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    let b = world.ask("b");
    world.reap();
    assert_eq!(world.state("b"), ModelState::Loading);
    (world, b)
}

#[test]
fn what_went_for_a_load_that_fails_comes_back() {
    let (mut world, b) = swapping();
    world.fail_load("b");
    assert!(world.refused.contains_key(&b));
    assert_eq!(world.loaded, ["a", "b"], "the failed one is not reaped yet");
    world.reap();
    assert_eq!(world.loaded, ["a", "b", "a"]);
    world.finish_load("a");
    assert_eq!(world.state("a"), ModelState::Ready);
    assert_eq!(world.brought_back, ["a for b"]);
    assert_eq!(world.machine.view(world.now).counters.rollbacks, 1);
}

#[test]
fn a_load_that_dies_or_takes_too_long_has_failed_too() {
    let (mut world, _) = swapping();
    world.exit("b");
    assert_eq!(world.brought_back, ["a for b"]);
    let (mut world, _) = swapping();
    world.wait(300 * SECOND);
    world.reap();
    assert_eq!(world.brought_back, ["a for b"]);
}

#[test]
fn whoever_waits_has_the_room_instead() {
    let (mut world, _) = swapping();
    let c = world.ask("c");
    world.fail_load("b");
    world.reap();
    world.finish_load("c");
    assert!(world.held.contains_key(&c));
    world.give_back(c);
    assert_eq!(world.loaded, ["a", "b", "c"]);
    assert!(world.brought_back.is_empty());
}

#[test]
fn whoever_asks_for_it_meanwhile_is_served_by_an_ordinary_load() {
    let (mut world, _) = swapping();
    world.fail_load("b");
    let a = world.ask("a");
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
    assert_eq!(world.loaded, ["a", "b", "a"]);
    assert!(world.brought_back.is_empty());
}

#[test]
fn a_later_failure_brings_nothing_back_for_a_swap_that_went_well() {
    let (mut world, b) = swapping();
    world.finish_load("b");
    world.give_back(b);
    world.unload("b", UnloadMode::Now);
    world.reap();
    world.ask("b");
    world.fail_load("b");
    world.reap();
    assert_eq!(world.loaded, ["a", "b", "b"]);
    assert!(world.brought_back.is_empty());
}

#[test]
fn what_was_taken_off_the_list_or_no_longer_fits_stays_away() {
    let (mut world, _) = swapping();
    world.residents.remove("a");
    world.apply();
    world.fail_load("b");
    world.reap();
    assert_eq!(world.loaded, ["a", "b"]);
    let (mut world, _) = swapping();
    world.settings.budget = ByteSize(5);
    world.is_honest = false;
    world.apply();
    world.fail_load("b");
    world.reap();
    assert_eq!(world.loaded, ["a", "b"]);
}
