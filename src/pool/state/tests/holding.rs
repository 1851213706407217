//! Residency leases: what they protect from, what they do not, and that they end.

use super::*;
use crate::pool::HoldError;

const HOUR: Duration = Duration::from_secs(3600);

/// Room for one, which is `a`, held for an hour and idle.
fn held() -> (World, u64) {
    let mut world = World::new(10, &[("a", 6), ("b", 6), ("small", 4)]);
    let lease = world.ask("a");
    world.finish_load("a");
    let hold = world.hold(lease, HOUR);
    assert_eq!(world.hold_results[&hold], Ok(()));
    world.give_back(lease);
    (world, hold)
}

#[test]
fn a_held_model_stays_whoever_has_waited_how_long_and_then_goes_at_once() {
    let (mut world, _) = held();
    world.settings.queue_timeout = 2 * HOUR;
    world.apply();
    let b = world.ask("b");
    world.wait(100 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    let until = world.view("b").held_up_until.expect("it is told");
    assert_eq!(until - world.now, HOUR - 100 * SECOND);
    assert_eq!(world.machine.next_wake(world.now), Some(until));
    world.wait(HOUR - 101 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
    world.wait(SECOND);
    assert_eq!(world.state("a"), ModelState::Stopping);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
}

#[test]
fn who_gives_it_back_early_lets_others_in_at_once() {
    let (mut world, hold) = held();
    let b = world.ask("b");
    world.let_go(hold);
    assert_eq!(world.state("a"), ModelState::Stopping);
    world.reap();
    world.finish_load("b");
    assert!(world.held.contains_key(&b));
}

#[test]
fn only_its_holder_or_the_owner_gives_it_back() {
    let (mut world, hold) = held();
    let holder = Some("somebody".to_owned());
    let reply = 0;
    world.on(Event::LetGo {
        reply,
        hold,
        holder,
    });
    assert_eq!(world.view("a").held[0].hold, hold);
    let holder = Some("run".to_owned());
    world.on(Event::LetGo {
        reply,
        hold,
        holder,
    });
    assert!(world.view("a").held.is_empty());
}

#[test]
fn nobody_behind_the_one_that_has_to_wait_is_kept_waiting() {
    let (mut world, _) = held();
    world.ask("b");
    world.ask("small");
    assert_eq!(world.state("small"), ModelState::Loading, "6 and 4 are 10");
    assert_eq!(world.state("b"), ModelState::Waiting);
}

#[test]
fn there_is_no_chain_of_them_while_somebody_waits() {
    let (mut world, _) = held();
    world.ask("b");
    let lease = world.ask("a");
    let second = world.hold(lease, HOUR);
    assert_eq!(world.hold_results[&second], Ok(()), "b came just now");
    world.wait(30 * SECOND);
    let third = world.hold(lease, HOUR);
    assert!(matches!(
        world.hold_results[&third],
        Err(HoldError::Awaited { .. })
    ));
    world.give_back(lease);
}

#[test]
fn it_holds_against_idleness_lower_budgets_and_release_and_not_against_now() {
    let (mut world, _) = held();
    let mut resident = world.residents["a"].clone();
    resident.idle_unload = Some(SECOND);
    world.residents.insert("a".to_owned(), resident);
    world.apply();
    world.wait(60 * SECOND);
    world.on(Event::Release { reply: 0 });
    world.is_honest = false;
    world.settings.budget = ByteSize(5);
    world.apply();
    assert_eq!(world.state("a"), ModelState::Ready);
    let refused = world.unload("a", UnloadMode::Idle);
    assert!(matches!(
        world.unloads[&refused],
        Err(UnloadError::Held { .. })
    ));
    world.unload("a", UnloadMode::Now);
    assert_eq!(world.state("a"), ModelState::Stopping);
    assert!(world.view("a").held.is_empty());
}

#[test]
fn it_is_bound_to_the_model_and_protects_the_next_worker() {
    let (mut world, _) = held();
    world.exit("a");
    let lease = world.ask("a");
    world.finish_load("a");
    world.give_back(lease);
    world.ask("b");
    world.wait(60 * SECOND);
    assert_eq!(world.state("a"), ModelState::Ready);
}

#[test]
fn what_goes_cannot_be_held() {
    let mut world = World::new(10, &[("a", 6)]);
    let lease = world.ask("a");
    world.finish_load("a");
    world.unload("a", UnloadMode::Drain);
    let late = world.hold(lease, HOUR);
    assert_eq!(world.hold_results[&late], Err(HoldError::Leaving));
    world.give_back(lease);
}

#[test]
fn a_model_taken_off_the_list_goes_though_it_was_held() {
    let (mut world, _) = held();
    world.residents.remove("a");
    world.apply();
    world.reap();
    assert_eq!(world.gone, ["a config"]);
}
