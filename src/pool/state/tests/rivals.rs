//! Models that are never in memory together, with room for both.

use super::*;
use crate::config::Contention;
use crate::pool::Resident;
use crate::pool::forecast::Course;
use crate::pool::{Terms, UnloadReason};

/// A model that is never beside others, of which there is room for ten.
fn never_with(model: &str, others: &[&str]) -> Resident {
    Resident {
        never_with: others.iter().map(|name| (*name).to_owned()).collect(),
        ..resident(model, 1)
    }
}

fn world(models: Vec<Resident>) -> World {
    World::with(settings(10), models)
}

/// Loads these models, each of which nobody uses afterwards.
fn load(world: &mut World, models: &[&str]) {
    for model in models {
        let waiter = world.ask(model);
        world.finish_load(model);
        world.give_back(waiter);
        world.now += SECOND;
    }
}

#[test]
fn an_idle_rival_goes_first_and_others_stay() {
    let models = vec![never_with("a", &["b"]), resident("b", 1), resident("c", 1)];
    let mut world = world(models);
    load(&mut world, &["c", "b"]);
    // Who said it does not matter, nor who was used last.
    let waiter = world.ask("a");
    assert_eq!(world.state("b"), ModelState::Stopping);
    assert_eq!(world.loaded, ["c", "b"], "not before the other is gone");
    world.reap();
    assert_eq!(world.loaded, ["c", "b", "a"]);
    world.finish_load("a");
    assert!(world.held.contains_key(&waiter));
    assert_eq!(world.state("c"), ModelState::Ready);
    world.give_back(waiter);
    world.ask("b");
    assert_eq!(world.state("a"), ModelState::Stopping);
}

#[test]
fn a_rival_in_use_has_its_time_and_then_drains() {
    let mut world = world(vec![never_with("a", &["b"]), resident("b", 1)]);
    let first = world.ask("b");
    world.finish_load("b");
    let second = world.ask("a");
    world.wait(29 * SECOND);
    assert_eq!(world.state("b"), ModelState::Ready);
    world.wait(2 * SECOND);
    assert_eq!(world.state("b"), ModelState::Draining);
    world.give_back(first);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&second));
}

#[test]
fn nobody_behind_takes_a_rivals_place_before_one_who_waits() {
    let models = vec![
        never_with("a", &["b", "c"]),
        resident("b", 1),
        resident("c", 1),
        resident("d", 1),
    ];
    let mut world = world(models);
    let first = world.ask("b");
    world.finish_load("b");
    world.ask("a");
    // There is room for both; one of them would be in the way of who came before.
    world.ask("c");
    world.ask("d");
    assert_eq!(world.loaded, ["b", "d"]);
    world.give_back(first);
    world.wait(31 * SECOND);
    world.reap();
    assert_eq!(world.loaded, ["b", "d", "a"]);
}

#[test]
fn what_is_kept_is_never_left_for_a_rival() {
    let kept = Resident {
        keep: true,
        ..resident("k", 1)
    };
    let mut world = world(vec![kept, never_with("a", &["k"])]);
    world.finish_load("k");
    let waiter = world.ask("a");
    let refused = &world.refused[&waiter];
    assert_eq!(
        refused.to_string(),
        "a is never in memory beside k, which is kept"
    );
    // It was kept until a reload.
    world.residents.get_mut("k").expect("it is there").keep = false;
    world.apply();
    world.ask("a");
    world.reap();
    assert_eq!(world.loaded, ["k", "a"]);
}

#[test]
fn of_two_that_become_rivals_the_idle_one_goes() {
    let mut world = world(vec![resident("a", 1), resident("b", 1), resident("c", 1)]);
    let user = world.ask("a");
    world.finish_load("a");
    load(&mut world, &["b", "c"]);
    for (model, rivals) in [("b", ["a"]), ("c", ["b"])] {
        let known = world.residents.get_mut(model).expect("it is there");
        known.never_with = rivals.map(str::to_owned).into();
    }
    world.apply();
    world.reap();
    assert_eq!(world.gone, [format!("b {}", UnloadReason::Config.as_str())]);
    assert_eq!(world.state("a"), ModelState::Ready);
    assert_eq!(world.state("c"), ModelState::Ready);
    world.give_back(user);
    // And in use both, one goes after its last lease.
    let users = [world.ask("a"), world.ask("c")];
    let known = world.residents.get_mut("c").expect("it is there");
    known.never_with = ["a"].map(str::to_owned).into();
    world.apply();
    assert_eq!(world.state("a"), ModelState::Draining);
    world.give_back(users[0]);
    world.reap();
    assert_eq!(world.state("c"), ModelState::Ready);
}

#[test]
fn a_rival_does_not_come_back_beside_what_it_went_for() {
    let mut world = world(vec![never_with("a", &["b"]), resident("b", 1)]);
    load(&mut world, &["b"]);
    let waiter = world.ask("a");
    world.reap();
    world.fail_load("a");
    assert!(world.refused.contains_key(&waiter));
    assert_eq!(world.loaded, ["b", "a"], "its worker is still there");
    world.reap();
    assert_eq!(world.brought_back, ["b for a"]);
    assert_eq!(world.loaded, ["b", "a", "b"]);
}

#[test]
fn nothing_goes_for_a_rival_that_could_come_back() {
    let models = vec![
        never_with("a", &["b"]),
        resident("b", 1),
        never_with("c", &["b"]),
    ];
    let mut world = world(models);
    load(&mut world, &["b"]);
    world.ask("a");
    world.reap();
    load(&mut world, &["c"]);
    world.fail_load("a");
    world.reap();
    assert_eq!(world.loaded, ["b", "a", "c"]);
    assert_eq!(world.state("c"), ModelState::Ready);
}

#[test]
fn a_busy_rival_is_contention_and_is_told_beforehand() {
    let mut limits = settings(10);
    limits.contention = Contention::Fail;
    let mut world = World::with(limits, vec![never_with("a", &["b"]), resident("b", 1)]);
    let user = world.ask("b");
    world.finish_load("b");
    let refused = world.ask("a");
    assert!(matches!(world.refused[&refused], Refused::Contended { .. }));
    world.give_back(user);
    let told = world
        .machine
        .forecast(&plan("a", 1), &Terms::default(), world.now);
    assert_eq!(told.course, Course::Evict);
    let names = told.victims.iter().map(|it| it.model.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["b"]);
    world.ask("a");
    world.reap();
    assert_eq!(world.loaded, ["b", "a"]);
}
