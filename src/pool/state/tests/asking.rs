//! What people and configuration ask: unload, release, reload, shutdown.

use super::*;

#[test]
fn preload_is_loaded_at_start_and_may_go_later() {
    let mut first = resident("first", 6);
    first.preload = true;
    let mut world = World::with(settings(10), vec![first, resident("b", 6)]);
    world.finish_load("first");
    world.ask("b");
    world.reap();
    assert_eq!(world.loaded, ["first", "b"]);
}

#[test]
fn r16_unload_asks_waits_or_takes() {
    let mut world = World::new(10, &[("a", 6)]);
    let nothing = world.unload("a", UnloadMode::Idle);
    assert!(matches!(
        world.unloads[&nothing],
        Err(UnloadError::NotLoaded { .. })
    ));
    let a = world.ask("a");
    world.finish_load("a");
    let busy = world.unload("a", UnloadMode::Idle);
    assert!(matches!(
        world.unloads[&busy],
        Err(UnloadError::Busy { leases: 1, .. })
    ));
    let drain = world.unload("a", UnloadMode::Drain);
    assert_eq!(world.state("a"), ModelState::Draining);
    let behind = world.ask("a");
    let second = world.unload("a", UnloadMode::Drain);
    world.give_back(a);
    assert!(!world.unloads.contains_key(&drain), "not reaped yet");
    world.reap();
    assert_eq!(
        (&world.unloads[&drain], &world.unloads[&second]),
        (&Ok(()), &Ok(()))
    );
    world.finish_load("a");
    assert!(
        world.held.contains_key(&behind),
        "served by the next instance"
    );
    let now = world.unload("a", UnloadMode::Now);
    assert_eq!(world.state("a"), ModelState::Stopping);
    world.give_back(behind);
    world.reap();
    assert_eq!(world.unloads[&now], Ok(()));
    assert_eq!(world.gone, ["a requested", "a requested"]);
}

#[test]
fn unload_while_loading() {
    let check = |mode: UnloadMode, waiters: usize, expected: ModelState| {
        let mut world = World::new(10, &[("a", 6)]);
        let first = world.ask("a");
        if waiters == 0 {
            world.leave(first);
        }
        let reply = world.unload("a", mode);
        assert_eq!(world.state("a"), expected, "{mode:?} {waiters}");
        if expected == ModelState::Loading && mode == UnloadMode::Drain {
            world.finish_load("a");
            assert_eq!(world.state("a"), ModelState::Draining);
            world.give_back(first);
        }
        world.reap();
        assert!(world.unloads.contains_key(&reply));
    };
    check(UnloadMode::Idle, 0, ModelState::Stopping);
    check(UnloadMode::Idle, 1, ModelState::Loading);
    check(UnloadMode::Drain, 0, ModelState::Stopping);
    check(UnloadMode::Drain, 1, ModelState::Loading);
    check(UnloadMode::Now, 0, ModelState::Stopping);
    check(UnloadMode::Now, 1, ModelState::Stopping);
}

#[test]
fn release_lets_go_of_everything_idle() {
    let mut kept = resident("kept", 1);
    kept.keep = true;
    let models = vec![kept, resident("a", 1), resident("b", 1)];
    let mut world = World::with(settings(10), models);
    world.finish_load("kept");
    let (a, b) = (world.ask("a"), world.ask("b"));
    world.finish_load("a");
    world.finish_load("b");
    world.give_back(a);
    world.on(Event::Release { reply: 7 });
    assert_eq!(world.released, ["a"]);
    world.give_back(b);
}

#[test]
fn a_reload_touches_only_what_was_edited() {
    let mut world = World::new(20, &[("same", 4), ("gone", 4), ("other", 4)]);
    let leases = ["same", "gone", "other"].map(|model| {
        let lease = world.ask(model);
        world.finish_load(model);
        lease
    });
    world.residents.remove("gone");
    world
        .residents
        .insert("other".to_owned(), resident("other", 5));
    world.apply();
    assert_eq!(world.state("same"), ModelState::Ready);
    assert_eq!(
        world.state("other"),
        ModelState::Ready,
        "holds at the next load"
    );
    assert_eq!(world.state("gone"), ModelState::Draining);
    let refused = world.ask("gone");
    assert!(matches!(world.refused[&refused], Refused::Unlisted { .. }));
    for lease in leases {
        world.give_back(lease);
    }
    world.reap();
    assert_eq!(world.gone, ["gone config"]);
    assert!(world.machine.view(world.now).model("gone").is_none());
    assert_eq!(world.view("other").need, ByteSize(5));
}

#[test]
fn a_model_listed_again_before_it_went_stays() {
    let mut world = World::new(10, &[("a", 4)]);
    let a = world.ask("a");
    world.finish_load("a");
    let entry = world.residents.remove("a").expect("it is there");
    world.apply();
    assert_eq!(world.state("a"), ModelState::Draining);
    world.residents.insert("a".to_owned(), entry);
    world.apply();
    assert_eq!(world.state("a"), ModelState::Ready);
    let more = world.ask("a");
    assert!(world.held.contains_key(&more) && world.held.contains_key(&a));
}

#[test]
fn who_waited_when_the_model_was_taken_off_the_list_is_still_served() {
    let mut world = World::new(10, &[("a", 6), ("b", 6)]);
    let b = world.ask("b");
    world.finish_load("b");
    let a = world.ask("a");
    world.residents.remove("a");
    world.apply();
    world.give_back(b);
    world.reap();
    world.finish_load("a");
    assert!(world.held.contains_key(&a));
    assert_eq!(world.state("a"), ModelState::Draining);
    world.give_back(a);
    world.reap();
    assert_eq!(world.gone, ["b evicted", "a config"]);
}

#[test]
fn a_request_may_know_a_model_before_the_pool_does() {
    let mut world = World::new(10, &[]);
    world.residents.insert("new".to_owned(), resident("new", 3));
    let new = world.ask("new");
    world.finish_load("new");
    assert!(world.held.contains_key(&new));
    world.apply();
    assert_eq!(world.state("new"), ModelState::Ready);
}

#[test]
fn a_lower_budget_lets_idle_models_go_and_new_ones_wait() {
    let mut world = World::new(12, &[("a", 6), ("b", 6)]);
    let (a, b) = (world.ask("a"), world.ask("b"));
    world.finish_load("a");
    world.finish_load("b");
    world.give_back(a);
    world.is_honest = false;
    world.settings.budget = ByteSize(7);
    world.apply();
    assert_eq!(world.state("a"), ModelState::Stopping);
    assert_eq!(world.state("b"), ModelState::Ready);
    world.reap();
    assert_eq!(world.gone, ["a memory"]);
    world.give_back(b);
}

#[test]
fn shutdown_refuses_waits_revokes_and_ends() {
    let mut world = World::new(20, &[("busy", 6), ("idle", 6), ("cold", 6), ("queued", 9)]);
    let (busy, idle) = (world.ask("busy"), world.ask("idle"));
    world.finish_load("busy");
    world.finish_load("idle");
    world.give_back(idle);
    let cold = world.ask("cold");
    let queued = world.ask("queued");
    world.on(Event::Shutdown { drain: 10 * SECOND });
    for waiter in [cold, queued] {
        assert_eq!(world.refused[&waiter], Refused::ShuttingDown);
    }
    let late = world.ask("idle");
    assert_eq!(world.refused[&late], Refused::ShuttingDown);
    assert_eq!(world.state("busy"), ModelState::Draining);
    world.reap();
    world.wait(9 * SECOND);
    assert_eq!(world.state("busy"), ModelState::Draining);
    assert!(!world.machine.is_over());
    world.wait(SECOND);
    assert_eq!(world.state("busy"), ModelState::Stopping);
    world.give_back(busy);
    world.reap();
    assert!(world.machine.is_over());
}

#[test]
fn entries_that_share_a_load_are_one_resident() {
    let mut first = resident("a", 4);
    first.idle_unload = Some(SECOND);
    let mut second = resident("a", 4);
    second.idle_unload = Some(60 * SECOND);
    second.preload = true;
    let mut world = World::with(settings(10), vec![first, second]);
    assert_eq!(world.loaded, ["a"]);
    world.finish_load("a");
    world.wait(59 * SECOND);
    assert_eq!(
        world.state("a"),
        ModelState::Ready,
        "the more patient one counts"
    );
    assert_eq!(world.view("a").plan, plan("a", 4));
}
