//! Random sequences of everything that can happen. What must always hold is
//! checked by the world after every single event: the budget is kept, counting
//! what loads and what is not yet reaped; a model has one worker at a time; what
//! is in use or kept is no victim; each waiter is answered once. Every request is
//! told what the reference says, and nothing is left undone that the reference would
//! have done; the indexes are those of a recount. And when things come to an end,
//! nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};

use super::Event;
use super::world::{World, resident, settings};
use crate::config::{Contention, MinResidency};
use crate::pool::{CallerId, ModelState, Priority, Resident, Terms, UnloadMode};
use crate::units::ByteSize;

/// Names of the models; the index is what a step says.
const MODELS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The budget at the beginning.
const BUDGET: u64 = 10;

/// One thing that happens. Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
enum Step {
    Ask(usize, Terms),
    AskAny(usize, usize, Terms),
    GiveBack(usize, Option<u64>),
    Leave(usize),
    FinishLoad(usize),
    FailLoad(usize),
    Exit(usize),
    Reap(usize),
    Wait(u64),
    Unload(usize, UnloadMode),
    Hold(usize, u64),
    LetGo(usize),
    Release,
    List(usize),
    Resize(usize, u64),
    Budget(u64),
    Footprint(usize, u64),
    RunOut(usize),
}

/// Mostly those of a request that says nothing.
fn terms() -> impl Strategy<Value = Terms> {
    let priority = prop_oneof![
        3 => Just(Priority::Normal),
        1 => Just(Priority::High),
        1 => Just(Priority::Low)
    ];
    let caller = (0..4u8).prop_map(|caller| CallerId::of(&[&caller.to_string()]));
    (priority, caller, prop::bool::weighted(0.9)).prop_map(|(priority, caller, autoload)| Terms {
        priority,
        caller,
        autoload,
        idle_unload: None,
    })
}

fn contention() -> impl Strategy<Value = Contention> {
    prop_oneof![
        Just(Contention::Wait),
        Just(Contention::Fail),
        Just(Contention::Preempt)
    ]
}

fn residency() -> impl Strategy<Value = MinResidency> {
    let time = (0..90u64).prop_map(|time| MinResidency::For(Duration::from_secs(time)));
    prop_oneof![3 => Just(MinResidency::Auto), 1 => time]
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![
        Just(UnloadMode::Idle),
        Just(UnloadMode::Drain),
        Just(UnloadMode::Now)
    ];
    let model = 0..MODELS.len();
    prop_oneof![
        10 => (model.clone(), terms()).prop_map(|(model, terms)| Step::Ask(model, terms)),
        2 => (model.clone(), 1..MODELS.len(), terms())
            .prop_map(|(model, others, terms)| Step::AskAny(model, others, terms)),
        8 => (0..64usize, prop::option::weighted(0.2, 0..100u64))
            .prop_map(|(number, wish)| Step::GiveBack(number, wish)),
        2 => (0..64usize).prop_map(Step::Leave),
        6 => (0..8usize).prop_map(Step::FinishLoad),
        1 => (0..8usize).prop_map(Step::FailLoad),
        1 => (0..8usize).prop_map(Step::Exit),
        5 => (0..8usize).prop_map(Step::Reap),
        3 => (1..200u64).prop_map(Step::Wait),
        1 => (model.clone(), mode).prop_map(|(model, mode)| Step::Unload(model, mode)),
        2 => (0..64usize, 1..3000u64).prop_map(|(number, seconds)| Step::Hold(number, seconds)),
        1 => (0..64usize).prop_map(Step::LetGo),
        1 => Just(Step::Release),
        1 => model.clone().prop_map(Step::List),
        1 => (model, 1..12u64).prop_map(|(model, size)| Step::Resize(model, size)),
        1 => (5..16u64).prop_map(Step::Budget),
        2 => (0..8usize, 1..16u64).prop_map(|(number, size)| Step::Footprint(number, size)),
        1 => (0..8usize).prop_map(Step::RunOut),
    ]
}

/// Five models of some sizes, some kept or preloaded or timed.
fn models() -> impl Strategy<Value = Vec<Resident>> {
    let rival = prop::option::weighted(0.2, 0..MODELS.len());
    let standby = prop::option::weighted(0.7, 1..4u64);
    let one = (
        1..9u64,
        0..6u8,
        prop::option::of(1..300u64),
        1..5u32,
        (rival, standby),
    );
    prop::collection::vec(one, MODELS.len()).prop_map(|all| {
        let residents = all.into_iter().zip(MODELS);
        residents
            .map(|((size, role, idle, parallel, (rival, standby)), name)| {
                let mut resident = resident(name, size);
                let plan = Arc::make_mut(&mut resident.plan);
                plan.parallel = parallel;
                plan.standby = standby.map(ByteSize);
                Resident {
                    keep: role == 0,
                    preload: role == 1,
                    idle_unload: idle.map(Duration::from_secs),
                    never_with: rival
                        .map(|rival| MODELS[rival].to_owned())
                        .into_iter()
                        .collect(),
                    ..resident
                }
            })
            .collect()
    })
}

/// The one of `all` that a number chooses.
fn choose<T: Clone>(all: &[T], number: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[number % all.len()].clone())
}

/// The models whose workers load.
fn loading(world: &World) -> Vec<String> {
    let workers = world.workers.values();
    let loading = workers.filter(|w| w.gate.is_none() && !w.is_told_to_end && !w.stands_by);
    loading.map(|worker| worker.model.clone()).collect()
}

/// The models whose workers load or stand by.
fn coming(world: &World) -> Vec<String> {
    let workers = world.workers.values();
    let coming = workers.filter(|w| w.gate.is_none() && !w.is_told_to_end);
    coming.map(|worker| worker.model.clone()).collect()
}

/// Lets one thing happen, if it can.
fn happen(world: &mut World, all: &[Resident], step: &Step) {
    match *step {
        Step::Ask(model, terms) => drop(world.ask_on(MODELS[model], terms)),
        Step::AskAny(model, others, terms) => {
            let mut wanted = MODELS;
            wanted.rotate_left(model);
            world.ask_any(&wanted[..=others], terms);
        }
        Step::GiveBack(number, wish) => {
            let held: Vec<_> = world.held.keys().copied().collect();
            if let Some(waiter) = choose(&held, number) {
                world.give_back_wishing(waiter, wish.map(Duration::from_secs));
            }
        }
        Step::Leave(number) => {
            if let Some(waiter) = choose(&world.present(), number) {
                world.leave(waiter);
            }
        }
        Step::FinishLoad(number) => {
            if let Some(model) = choose(&loading(world), number) {
                world.finish_load(&model);
            }
        }
        Step::FailLoad(number) => {
            if let Some(model) = choose(&coming(world), number) {
                world.fail_load(&model);
            }
        }
        Step::Exit(number) => {
            let alive: Vec<_> = world.workers.keys().copied().collect();
            if let Some(generation) = choose(&alive, number) {
                world.exit_of(generation);
            }
        }
        Step::Reap(number) => {
            if let Some(generation) = choose(&world.ending(), number) {
                world.exit_of(generation);
            }
        }
        Step::Wait(seconds) => world.wait(Duration::from_secs(seconds)),
        Step::Unload(model, mode) => drop(world.unload(MODELS[model], mode)),
        Step::Hold(number, seconds) => {
            let held: Vec<_> = world.held.keys().copied().collect();
            if let Some(waiter) = choose(&held, number) {
                world.hold(waiter, Duration::from_secs(seconds));
            }
        }
        Step::LetGo(number) => {
            let holds: Vec<_> = world.holds.keys().copied().collect();
            if let Some(hold) = choose(&holds, number) {
                world.let_go(hold);
            }
        }
        Step::Release => world.on(Event::Release { reply: 0 }),
        Step::List(model) => {
            let name = MODELS[model].to_owned();
            if world.residents.remove(&name).is_none() {
                world.residents.insert(name, all[model].clone());
            }
            world.apply();
        }
        Step::Resize(model, size) => {
            if let Some(known) = world.residents.get_mut(MODELS[model]) {
                let standby = known.plan.standby;
                known.plan = resident(MODELS[model], size).plan;
                Arc::make_mut(&mut known.plan).standby = standby;
                world.apply();
            }
        }
        Step::Footprint(number, size) => {
            let alive: Vec<_> = world.workers.keys().copied().collect();
            if let Some(generation) = choose(&alive, number) {
                world.footprint_of(generation, size);
            }
        }
        Step::RunOut(number) => {
            let alive: Vec<_> = world.workers.keys().copied().collect();
            if let Some(generation) = choose(&alive, number) {
                world.on(Event::OutOfMemory { generation });
            }
        }
        Step::Budget(size) => {
            // What is loaded may be over a lowered budget for a while; that
            // nothing more is started then is checked at every start.
            world.is_honest = false;
            world.settings.budget = ByteSize(size);
            world.apply();
        }
    }
}

/// Everything that runs ends well, until nothing moves any more.
fn come_to_rest(world: &mut World) {
    for _ in 0..200 {
        for model in loading(world) {
            world.finish_load(&model);
        }
        for waiter in world.held.keys().copied().collect::<Vec<_>>() {
            world.give_back(waiter);
        }
        world.reap();
        let is_busy = !loading(world).is_empty() || !world.held.is_empty();
        if !is_busy && world.ending().is_empty() {
            if world.unanswered() == 0 {
                return;
            }
            world.wait(Duration::from_secs(61));
        }
    }
}

fn check(
    models: Vec<Resident>,
    places: Option<usize>,
    (contention, residency): (Contention, MinResidency),
    steps: &[Step],
) {
    let mut limits = settings(BUDGET);
    limits.min_residency = residency;
    limits.contention = contention;
    limits.max_models = places;
    limits.queue = 6;
    limits.queue_per_caller = 4;
    // So long that whoever is answered at the end was answered for another reason.
    limits.queue_timeout = Duration::from_secs(1 << 30);
    let all = models.clone();
    let mut world = World::with(limits, models);
    for step in steps {
        happen(&mut world, &all, step);
    }
    come_to_rest(&mut world);
    assert_eq!(world.unanswered(), 0, "somebody waits for ever");
    for model in world.machine.view(world.now).models.iter() {
        let moves = [
            ModelState::Loading,
            ModelState::Draining,
            ModelState::Stopping,
        ];
        assert!(!moves.contains(&model.state), "{model:?}");
    }
    let drain = Duration::ZERO;
    world.on(Event::Shutdown { drain });
    world.reap();
    assert!(world.machine.is_over());
}

/// Holds a property against random input: by default in so many cases, and
/// `PROPTEST_CASES` asks for more, of which this takes its share. A failure prints
/// the input that it was shrunk to and a seed; with that in `PROPTEST_RNG_SEED` it
/// comes again.
pub(super) fn hold<S: Strategy>(
    cases: u32,
    input: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let asked = ProptestConfig::default();
    let seed = match asked.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    let mut runner = TestRunner::new(ProptestConfig {
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => (asked.cases / (CASES / cases)).max(1),
            None => cases,
        },
        rng_seed: RngSeed::Fixed(seed),
        // A failure that was found becomes a named test, not a file of seeds.
        failure_persistence: None,
        ..asked
    });
    if let Err(error) = runner.run(&input, property) {
        panic!("PROPTEST_RNG_SEED={seed}: {error}");
    }
}

/// Enough sequences for every build.
const CASES: u32 = 1_000;

/// sequences of requests, ends, crashes, limits, unloads and edits, against the
/// invariants and the reference.
#[test]
fn r20_whatever_happens_the_promises_hold() {
    let input = (
        models(),
        prop::option::of(1..4usize),
        (contention(), residency()),
        prop::collection::vec(step(), 0..120),
    );
    hold(CASES, input, |(models, places, policies, steps)| {
        check(models, places, policies, &steps);
        Ok(())
    });
}
