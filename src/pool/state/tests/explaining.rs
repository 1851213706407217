//! What the machine says of itself: how far loads are, who would go for whom. Asking
//! changes nothing, and what is said comes true.

use std::time::Duration;

use super::super::world::{World, plan, resident, settings};
use crate::engine::progress::Progress;
use crate::pool::forecast::{Course, Forecast};
use crate::pool::state::Event;
use crate::pool::{ModelState, Refused, Terms};

const SECOND: Duration = Duration::from_secs(1);

fn told(world: &mut World, model: &str, done: u64) {
    let generation = world.worker(model);
    let progress = Progress { done, all: 100 };
    world.on(Event::Progress {
        generation,
        progress,
    });
}

fn forecast(world: &World, model: &str) -> Forecast {
    let known = world.residents.get(model);
    let plan = known.map_or_else(|| plan(model, 6), |resident| resident.plan.clone());
    world.machine.forecast(&plan, &Terms::default(), world.now)
}

#[test]
fn the_limit_of_a_load_counts_from_its_last_step() {
    let patient = crate::pool::Settings {
        queue_timeout: 3600 * SECOND,
        ..settings(10)
    };
    let mut world = World::with(patient, vec![resident("a", 6)]);
    let waiter = world.ask("a");
    for done in [10, 20, 62] {
        world.wait(299 * SECOND);
        told(&mut world, "a", done);
        assert_eq!(world.state("a"), ModelState::Loading);
    }
    let shown = world.view("a").progress.map(Progress::percent);
    assert_eq!(shown, Some(62));
    world.wait(299 * SECOND);
    assert_eq!(world.state("a"), ModelState::Loading);
    world.wait(SECOND);
    assert_eq!(world.ending().len(), 1, "a hung worker is ended");
    assert!(matches!(
        world.refused.get(&waiter),
        Some(Refused::LoadTimeout { .. })
    ));
    // What it says now is too late.
    let generation = world.ending()[0];
    let progress = Progress { done: 99, all: 100 };
    world.on(Event::Progress {
        generation,
        progress,
    });
    world.reap();
    assert_eq!(world.state("a"), ModelState::Failed);
}

#[test]
fn a_load_that_tells_nothing_has_the_limit_for_all_of_it() {
    let mut world = World::new(10, &[("a", 6)]);
    world.ask("a");
    world.wait(299 * SECOND);
    assert_eq!(world.state("a"), ModelState::Loading);
    world.wait(SECOND);
    assert_eq!(world.ending().len(), 1);
}

#[test]
fn the_course_of_a_request_is_told() {
    let mut world = World::new(10, &[("a", 6), ("b", 6), ("whale", 11)]);
    let check = |world: &World, model: &str, course: Course, victims: &[&str]| {
        let told = forecast(world, model);
        assert_eq!(told.course, course, "{told:?}");
        let names: Vec<_> = told.victims.iter().map(|it| it.model.as_str()).collect();
        assert_eq!(names, victims, "{told:?}");
    };
    check(&world, "a", Course::Load, &[]);
    check(&world, "whale", Course::Refuse, &[]);
    check(&world, "stranger", Course::Load, &[]);
    let waiter = world.ask("a");
    check(&world, "a", Course::Join, &[]);
    world.wait(8 * SECOND);
    world.finish_load("a");
    check(&world, "a", Course::Answer, &[]);
    check(&world, "b", Course::Drain, &["a"]);
    world.give_back(waiter);
    check(&world, "b", Course::Evict, &["a"]);
    let told = forecast(&world, "b");
    assert_eq!(
        told.eta,
        Some(8 * SECOND),
        "as long as one of its size took"
    );
    world.unload("a", crate::pool::UnloadMode::Idle);
    world.reap();
    check(&world, "b", Course::Load, &[]);
}

#[test]
fn those_who_wait_are_told_in_the_order_in_which_they_stand() {
    let mut world = World::new(10, &[("a", 6), ("b", 6), ("c", 6)]);
    world.ask("a");
    world.finish_load("a");
    let (first, second) = (world.ask("b"), world.ask("c"));
    let low = Terms {
        priority: crate::pool::Priority::High,
        ..Terms::default()
    };
    let high = world.ask_on("c", low);
    world.wait(SECOND);
    let queue = world.machine.queue(world.now);
    let order: Vec<_> = queue.iter().map(|waiting| waiting.waiter).collect();
    assert_eq!(order, [high, first, second]);
    let positions: Vec<_> = queue.iter().map(|waiting| waiting.position).collect();
    assert_eq!(positions, [0, 1, 2]);
    assert!(queue.iter().all(|waiting| waiting.waited == SECOND));
}

/// Any walk through the machine's life: all questions at each step change nothing,
/// and a request that is to be loaded or to take the place of idle models does that.
#[test]
fn asking_changes_nothing_and_comes_true() {
    const MODELS: [(&str, u64); 5] = [("a", 6), ("b", 4), ("c", 3), ("d", 5), ("whale", 11)];
    let (mut came_true, mut state) = (0, 1_u64);
    let mut any = move |below: usize| {
        // Knuth's multiplicative generator: the same walk each time.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..200 {
        let mut world = World::new(10, &MODELS);
        for _ in 0..40 {
            let before = format!("{:?}", world.machine);
            let asked = MODELS.map(|(model, _)| forecast(&world, model));
            let again = MODELS.map(|(model, _)| forecast(&world, model));
            assert_eq!(asked, again);
            drop(world.machine.queue(world.now));
            assert_eq!(
                format!("{:?}", world.machine),
                before,
                "asked is not changed"
            );
            match any(5) {
                0 | 1 => {
                    let index = any(MODELS.len());
                    let told = &asked[index];
                    let going = world.ending().len();
                    let waiter = world.ask(MODELS[index].0);
                    match told.course {
                        Course::Answer => assert!(world.held.contains_key(&waiter)),
                        Course::Refuse => assert!(world.refused.contains_key(&waiter)),
                        Course::Evict => {
                            let gone = world.ending().len() - going;
                            assert_eq!(gone, told.victims.len(), "{told:?}");
                            came_true += 1;
                        }
                        Course::Load | Course::Join | Course::Wait | Course::Drain => {
                            assert_eq!(world.ending().len(), going, "{told:?}");
                        }
                    }
                }
                2 => {
                    let loading = world.workers.values();
                    let loading: Vec<_> = loading
                        .filter(|it| it.gate.is_none() && !it.is_told_to_end)
                        .map(|it| it.model.clone())
                        .collect();
                    if let Some(model) = loading.first() {
                        world.finish_load(model);
                    }
                }
                3 => {
                    let held: Vec<_> = world.held.keys().copied().collect();
                    if !held.is_empty() {
                        world.give_back(held[any(held.len())]);
                    }
                }
                _ => world.reap(),
            }
        }
    }
    assert!(came_true > 50, "only {came_true} evictions were foretold");
}
