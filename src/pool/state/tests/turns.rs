//! Turns among those who wait for one model: leases up to what its worker can use,
//! callers in turns, bounds for each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::properties::hold;
use super::*;
use crate::pool::{CallerId, Resident, Terms};

fn caller(name: usize) -> CallerId {
    CallerId::of(&[&name.to_string()])
}

fn of(name: usize) -> Terms {
    Terms {
        caller: caller(name),
        ..Terms::default()
    }
}

/// A model whose worker takes so many sequences at once, and a quarter more leases.
fn with_parallel(model: &str, memory: u64, parallel: u32) -> Resident {
    let mut resident = resident(model, memory);
    Arc::make_mut(&mut resident.plan).parallel = parallel;
    resident
}

#[test]
fn beyond_what_a_worker_can_use_requests_queue_in_the_pool() {
    let mut world = World::with(settings(10), vec![with_parallel("a", 6, 4)]);
    let all: Vec<_> = (0..8).map(|_| world.ask("a")).collect();
    world.finish_load("a");
    let let_in = |world: &World| all.iter().filter(|w| world.held.contains_key(w)).count();
    assert_eq!(let_in(&world), 5, "four sequences and one at hand");
    let late = world.ask("a");
    for (count, waiter) in (6..).zip(&all[..3]) {
        world.give_back(*waiter);
        assert_eq!(
            let_in(&world) + count - 5,
            count,
            "one comes for one that goes"
        );
        assert!(
            !world.held.contains_key(&late),
            "nobody overtakes the queue"
        );
    }
    world.give_back(all[3]);
    assert!(world.held.contains_key(&late));
    world.give_back(all[4]);
    let at_once = world.ask("a");
    assert!(world.held.contains_key(&at_once), "the gate is free again");
}

#[test]
fn a_caller_with_sixty_requests_does_not_hold_up_one_with_a_single_one() {
    let mut world = World::with(settings(10), vec![with_parallel("a", 6, 1)]);
    let many: Vec<_> = (0..60).map(|_| world.ask_on("a", of(1))).collect();
    let single = world.ask_on("a", of(2));
    world.finish_load("a");
    for waiter in &many[..1] {
        world.give_back(*waiter);
    }
    assert!(world.held.contains_key(&single), "{:?}", world.held);
}

#[test]
fn a_caller_may_fill_the_queue_only_so_far() {
    let mut limits = settings(10);
    (limits.queue, limits.queue_per_caller) = (4, 3);
    let mut world = World::with(limits, vec![resident("a", 6)]);
    let many: Vec<_> = (0..4).map(|_| world.ask_on("a", of(1))).collect();
    let Refused::QueueFull { waiting, own, .. } = &world.refused[&many[3]] else {
        panic!("{:?}", world.refused[&many[3]]);
    };
    assert_eq!((*waiting, *own), (3, Some(3)));
    let other = world.ask_on("a", of(2));
    assert!(!world.refused.contains_key(&other));
    let last = world.ask_on("a", of(3));
    let text = world.refused[&last].to_string();
    assert_eq!(text, "4 requests already wait for a");
}

#[test]
fn a_model_that_drains_for_others_with_a_queue_of_its_own_comes_after_them() {
    let models = vec![with_parallel("a", 6, 1), resident("b", 6)];
    let mut world = World::with(settings(10), models);
    let all: Vec<_> = (0..9).map(|_| world.ask("a")).collect();
    world.finish_load("a");
    world.wait(10 * SECOND);
    let b = world.ask("b");
    world.wait(30 * SECOND);
    assert_eq!(world.state("a"), ModelState::Draining);
    world.give_back(all[0]);
    world.give_back(all[1]);
    world.reap();
    assert_eq!(
        world.state("b"),
        ModelState::Loading,
        "those of a are older"
    );
    world.finish_load("b");
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&all[2]));
}

#[test]
fn who_wants_a_model_up_does_not_queue_behind_its_users() {
    let mut world = World::with(settings(10), vec![with_parallel("a", 6, 1)]);
    let used = [world.ask("a"), world.ask("a")];
    world.finish_load("a");
    let up = world.load("a");
    assert!(world.held.contains_key(&up));
    for waiter in used.into_iter().chain([up]) {
        world.give_back(waiter);
    }
}

#[test]
fn when_to_come_back_is_told_by_how_fast_the_queue_moves() {
    let mut limits = settings(10);
    limits.queue = 8;
    let mut world = World::with(limits, vec![with_parallel("a", 6, 1)]);
    let all: Vec<_> = (0..8).map(|_| world.ask("a")).collect();
    world.finish_load("a");
    for waiter in &all[..3] {
        world.wait(4 * SECOND);
        world.give_back(*waiter);
    }
    for _ in 0..5 {
        world.ask("a");
    }
    let refused = world.ask("a");
    let Refused::QueueFull { retry_after, .. } = &world.refused[&refused] else {
        panic!("{:?}", world.refused.get(&refused));
    };
    assert_eq!(*retry_after, 16 * SECOND, "four go before, each after four");
}

/// Callers who always have work are served in rounds, in whatever order they came.
#[test]
fn with_work_waiting_for_all_no_caller_is_a_round_ahead() {
    let input = (
        2..6usize,
        prop::collection::vec(0..6usize, 4..16),
        prop::collection::vec(0..64usize, 20..40),
    );
    hold(100, input, |(callers, arrivals, ends)| {
        rounds(callers, &arrivals, &ends);
        Ok(())
    });
}

/// These come, each with four requests; then one lease after the other ends.
fn rounds(callers: usize, arrivals: &[usize], ends: &[usize]) {
    let mut limits = settings(10);
    (limits.queue, limits.queue_per_caller) = (1_000, 1_000);
    let mut world = World::with(limits, vec![with_parallel("a", 6, 2)]);
    let mut whose = BTreeMap::new();
    for name in arrivals.iter().map(|name| name % callers).chain(0..callers) {
        for _ in 0..4 {
            whose.insert(world.ask_on("a", of(name)), name);
        }
    }
    world.finish_load("a");
    let mut served = vec![0; callers];
    let mut let_in: Vec<_> = world.held.keys().copied().collect();
    for number in ends {
        let waiter = let_in.remove(number % let_in.len());
        world.give_back(waiter);
        let mut new = world.held.keys().filter(|waiter| !let_in.contains(waiter));
        let new = *new.next().expect("somebody comes for who goes");
        let_in.push(new);
        let name = whose[&new];
        served[name] += 1;
        // Whoever was served asks again.
        whose.insert(world.ask_on("a", of(name)), name);
        let ahead = served.iter().max().zip(served.iter().min());
        assert!(
            ahead.is_some_and(|(most, least)| most - least <= 1),
            "{served:?}"
        );
    }
}
