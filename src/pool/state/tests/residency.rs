//! Clients that ask, get their answer, think and ask again, against room for one
//! model: what `pool.min_residency` makes of them.

use proptest::prelude::*;

use super::super::properties::hold;
use super::*;
use crate::config::MinResidency;

/// A client that asks for these models in turn, a second of thinking between.
struct Client {
    models: Vec<&'static str>,
    next: usize,
    doing: Doing,
}

#[derive(Clone, Copy)]
enum Doing {
    Thinks(Duration),
    Waits(u64, Duration),
    Reads(u64, Duration),
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    loads: usize,
    answers: usize,
    longest_wait: Duration,
}

const TICK: Duration = Duration::from_millis(250);
const LOAD: Duration = Duration::from_secs(5);
const UNLOAD: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(2);

/// Four minutes of these clients; the first thinks for `thinking`, and so on.
fn play(policy: MinResidency, thinking: Duration, clients: &[&[&'static str]]) -> Outcome {
    let mut limits = settings(10);
    limits.min_residency = policy;
    let mut world = World::with(limits, ["a", "b", "c"].map(|m| resident(m, 6)).to_vec());
    let mut clients: Vec<_> = clients
        .iter()
        .zip(1..)
        .map(|(models, number)| Client {
            models: models.to_vec(),
            next: 0,
            doing: Doing::Thinks(number * Duration::from_millis(300)),
        })
        .collect();
    let (mut since_load, mut since_end) = (Duration::ZERO, Duration::ZERO);
    let mut outcome = Outcome {
        loads: 0,
        answers: 0,
        longest_wait: Duration::ZERO,
    };
    for tick in 0..960 {
        let now = TICK * tick;
        for client in &mut clients {
            step(client, &mut world, now, thinking, &mut outcome);
        }
        let loading = world
            .workers
            .values()
            .find(|w| w.gate.is_none() && !w.is_told_to_end);
        match loading.map(|worker| worker.model.clone()) {
            Some(model) if since_load >= LOAD => {
                world.finish_load(&model);
                since_load = Duration::ZERO;
            }
            Some(_) => since_load += TICK,
            None => since_load = Duration::ZERO,
        }
        match world.ending().is_empty() {
            false if since_end >= UNLOAD => {
                world.reap();
                since_end = Duration::ZERO;
            }
            false => since_end += TICK,
            true => since_end = Duration::ZERO,
        }
        world.wait(TICK);
    }
    outcome.loads = world.loaded.len();
    outcome
}

fn step(
    client: &mut Client,
    world: &mut World,
    now: Duration,
    thinking: Duration,
    outcome: &mut Outcome,
) {
    match client.doing {
        Doing::Thinks(until) if until <= now => {
            let model = client.models[client.next % client.models.len()];
            client.next += 1;
            client.doing = Doing::Waits(world.ask(model), now);
        }
        Doing::Waits(waiter, since) if world.held.contains_key(&waiter) => {
            outcome.longest_wait = outcome.longest_wait.max(now - since);
            client.doing = Doing::Reads(waiter, now + ANSWER);
        }
        Doing::Reads(waiter, until) if until <= now => {
            world.give_back(waiter);
            outcome.answers += 1;
            client.doing = Doing::Thinks(now + thinking);
        }
        _ => {}
    }
}

/// The longest wait there may be: until it is due, and then for each of these models
/// an answer that runs, an unload and a load.
fn bound(models: u32) -> Duration {
    30 * SECOND + (models - 1) * (ANSWER + UNLOAD + LOAD + 4 * TICK)
}

/// With nothing kept, and with `auto`.
fn both(thinking: Duration, clients: &[&[&'static str]]) -> (Outcome, Outcome) {
    let nothing = play(MinResidency::For(Duration::ZERO), thinking, clients);
    let auto = play(MinResidency::Auto, thinking, clients);
    (nothing, auto)
}

#[test]
fn two_clients_that_fight_for_the_room_swap_seldom_and_get_more_answers() {
    let (nothing, auto) = both(SECOND, &[&["a"], &["b"]]);
    assert!(3 * auto.loads <= 2 * nothing.loads, "{auto:?} {nothing:?}");
    assert!(auto.answers > nothing.answers, "{auto:?} {nothing:?}");
    assert!(auto.longest_wait <= bound(2), "{auto:?}");
}

#[test]
fn a_single_client_that_alternates_is_never_made_to_wait() {
    for thinking in [TICK, SECOND, 4 * SECOND] {
        let circles: [&[&'static str]; 3] = [&["a", "b"], &["a", "a", "b"], &["a", "b", "c", "b"]];
        for models in circles {
            let (nothing, auto) = both(thinking, &[models]);
            let figures = |outcome: &Outcome| (outcome.loads, outcome.answers);
            assert_eq!(figures(&auto), figures(&nothing), "{models:?}");
            assert_eq!(auto.longest_wait, nothing.longest_wait, "{models:?}");
        }
    }
}

/// Whatever clients do, and whatever is kept for whom.
#[test]
fn r20_nobody_waits_longer_than_the_bound() {
    let model = prop::sample::select(vec!["a", "b", "c"]);
    let client = prop::collection::vec(model, 1..4);
    let policy = prop_oneof![
        Just(MinResidency::Auto),
        (0..60u32).prop_map(|time| MinResidency::For(time * SECOND))
    ];
    let input = (policy, 0..20u32, prop::collection::vec(client, 1..8));
    hold(10, input, |(policy, thinking, clients)| {
        let clients: Vec<_> = clients.iter().map(Vec::as_slice).collect();
        let outcome = play(policy, thinking * TICK, &clients);
        assert!(outcome.longest_wait <= bound(3), "{outcome:?}");
        Ok(())
    });
}

#[test]
fn a_fixed_time_is_kept_unless_somebody_is_due() {
    let mut limits = settings(10);
    limits.min_residency = MinResidency::For(20 * SECOND);
    let mut world = World::with(limits, vec![resident("a", 6), resident("b", 6)]);
    let a = world.ask("a");
    world.finish_load("a");
    world.give_back(a);
    world.ask("b");
    world.wait(19 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Stopping);
}
