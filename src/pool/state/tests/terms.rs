//! On what terms requests wait: classes, contention, loads that are not wanted.

use super::*;
use crate::config::Contention;
use crate::pool::{Priority, Terms};

fn of(priority: Priority) -> Terms {
    Terms {
        priority,
        ..Terms::default()
    }
}

/// A world with room for one, in which `busy` is in use and three others wait.
fn three_wait(terms: [Terms; 3]) -> (World, [u64; 3], u64) {
    let mut world = World::new(10, &[("busy", 6), ("x", 6), ("y", 6), ("z", 6)]);
    let busy = world.ask("busy");
    world.finish_load("busy");
    let mut models = ["x", "y", "z"].into_iter();
    let waiters = terms.map(|terms| world.ask_on(models.next().expect("a model"), terms));
    (world, waiters, busy)
}

/// Serves one after the other, each as soon as it can be.
fn order(world: &mut World, first: u64) -> Vec<String> {
    world.give_back(first);
    world.reap();
    while world.unanswered() > 0 {
        let model = world.loaded.last().expect("something loads").clone();
        world.finish_load(&model);
        let held: Vec<_> = world.held.keys().copied().collect();
        for waiter in held {
            world.give_back(waiter);
        }
        world.reap();
    }
    world.loaded[1..].to_vec()
}

#[test]
fn the_higher_class_is_first_and_within_a_class_who_came_first() {
    let (mut world, _, busy) =
        three_wait([Priority::Low, Priority::Normal, Priority::High].map(of));
    assert_eq!(order(&mut world, busy), ["z", "y", "x"]);
    let (mut world, _, busy) = three_wait([Priority::High, Priority::Low, Priority::High].map(of));
    assert_eq!(order(&mut world, busy), ["x", "z", "y"]);
}

#[test]
fn nobody_starves_behind_a_higher_class() {
    let (mut world, _, busy) = three_wait([Priority::Low, Priority::High, Priority::High].map(of));
    world.wait(30 * SECOND);
    let fresh = world.ask_on("z", of(Priority::High));
    assert!(!world.held.contains_key(&fresh));
    assert_eq!(order(&mut world, busy), ["x", "y", "z"]);
}

#[test]
fn a_model_stands_where_its_first_waiter_does() {
    let mut world = World::new(10, &[("busy", 6), ("x", 6), ("y", 6)]);
    let busy = world.ask("busy");
    world.finish_load("busy");
    world.ask("y");
    world.ask_on("x", of(Priority::Low));
    world.ask_on("x", of(Priority::High));
    assert_eq!(
        order(&mut world, busy),
        ["x", "y"],
        "both of x are served by one load"
    );
}

#[test]
fn the_position_counts_those_who_are_served_before() {
    let (mut world, waiters, busy) =
        three_wait([Priority::Normal, Priority::Low, Priority::High].map(of));
    assert_eq!(order(&mut world, busy), ["z", "x", "y"]);
    let positions = waiters.map(|waiter| world.positions[&waiter]);
    assert_eq!(positions, [0, 1, 0]);
    assert_eq!(world.positions[&busy], 0);
}

#[test]
fn where_contention_fails_only_busy_models_are_in_the_way() {
    let mut limits = settings(10);
    limits.contention = Contention::Fail;
    let models = ["a", "b", "c"].map(|name| resident(name, 6)).to_vec();
    let mut world = World::with(limits, models);
    let a = world.ask("a");
    let b = world.ask("b");
    assert!(
        matches!(&world.refused[&b], Refused::Contended { model, .. } if model == "b"),
        "a loads for somebody"
    );
    world.finish_load("a");
    let b = world.ask("b");
    assert!(
        matches!(world.refused[&b], Refused::Contended { .. }),
        "a is in use"
    );
    world.give_back(a);
    let b = world.ask("b");
    assert!(!world.refused.contains_key(&b), "an idle one goes");
    let c = world.ask("c");
    assert!(
        matches!(world.refused[&c], Refused::Contended { .. }),
        "the room is b's"
    );
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
    let again = world.ask("b");
    assert!(world.held.contains_key(&again), "what is up needs no room");
}

#[test]
fn where_contention_preempts_the_user_of_a_busy_model_loses_it_after_a_while() {
    let mut limits = settings(10);
    limits.contention = Contention::Preempt;
    let models = ["a", "b"].map(|name| resident(name, 6)).to_vec();
    let mut world = World::with(limits, models);
    let a = world.ask("a");
    world.finish_load("a");
    let b = world.ask("b");
    world.wait(29 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Stopping);
    let generation = world.worker("a");
    assert!(world.workers[&generation].is_revoked, "its user hears why");
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
    assert_eq!(world.gone, ["a evicted"]);
    world.give_back(a);
}

#[test]
fn without_autoload_only_what_is_up_or_coming_up_answers() {
    let (once, globally) = (
        Terms {
            autoload: false,
            ..Terms::default()
        },
        Terms::default(),
    );
    for (terms, autoload) in [(once, true), (globally, false)] {
        let mut limits = settings(10);
        limits.autoload = autoload;
        let mut world = World::with(limits, vec![resident("a", 6)]);
        let cold = world.ask_on("a", terms);
        assert!(matches!(&world.refused[&cold], Refused::NotLoaded { model } if model == "a"));
        assert_eq!(world.state("a"), ModelState::Unloaded);
        world.load("a");
        let coming = world.ask_on("a", terms);
        world.finish_load("a");
        assert!(world.held.contains_key(&coming));
        let up = world.ask_on("a", terms);
        assert!(world.held.contains_key(&up));
    }
}
