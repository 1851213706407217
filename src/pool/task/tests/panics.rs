//! The owner panics: nobody is left waiting, no worker is left running, and the
//! pool goes on (F-26).

use super::*;
use crate::shutdown::{FailPoints, Place};

/// A pool whose owner can be made to panic.
fn fragile(budget: u64, models: &[(&str, u64)], fake: &Fake) -> (Pool, Tasks) {
    let tasks = Tasks::with_fail_points(FailPoints::switched_on());
    let residents = models.iter().map(|(name, size)| resident(name, *size));
    let pool = Pool::start(settings(budget), residents.collect(), fake.clone(), &tasks);
    (pool, tasks)
}

#[tokio::test(start_paused = true)]
async fn f26_a_panic_of_the_owner_is_told_to_all_and_leaves_no_worker() {
    let fake = Fake::new(5, 2);
    let (pool, tasks) = fragile(20, &[("a", 6), ("b", 6), ("c", 6)], &fake);
    let (a, b) = (plan("a", 6), plan("b", 6));
    let short = pool.acquire(&a, Terms::default()).await.expect("a lease");
    let endless = pool.acquire(&b, Terms::default()).await.expect("a lease");
    let waiter = plan("c", 6);
    let mut waits = Box::pin(pool.acquire(&waiter, Terms::default()));
    assert!((&mut waits).now_or_never().is_none());
    let drained = pool.unload("b", UnloadMode::Drain);
    let mut drained = Box::pin(drained);
    assert!((&mut drained).now_or_never().is_none());
    settle().await;
    tasks.arm(Place::Pool.as_str());
    let asked = pool.acquire(&waiter, Terms::default()).await;
    assert!(matches!(asked, Err(Refused::Lost)));
    assert_eq!(drained.await, Err(UnloadError::Lost));
    assert!(matches!(waits.await, Err(Refused::Lost)));
    assert!(!pool.ready(), "it is not, until it starts again");
    // Who comes now waits for the new beginning and is served.
    let next = pool.clone();
    let late = tokio::spawn(async move { next.acquire(&plan("a", 6), Terms::default()).await });
    // A running answer gets its time, one that does not end is told.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(short.ending(), None);
    drop(short);
    assert_eq!(endless.ended().await, Ending::Lost);
    let late = late.await.expect("no panic").expect("a lease");
    assert!(late.pid() > 102, "of a new worker");
    assert_eq!(fake.held().0, 6, "the old ones are gone");
    assert!(fake.held().1 <= 20);
    // A lease of before that is given back now means nobody.
    drop(endless);
    settle().await;
    assert_eq!(pool.view().model("a").map(|a| a.leases()), Some(1));
    assert!(pool.ready());
    assert_eq!(pool.view().counters.loads, 4);
}

#[tokio::test(start_paused = true)]
async fn f26_a_stop_is_obeyed_also_after_a_panic() {
    let fake = Fake::new(5, 2);
    let (pool, tasks) = fragile(20, &[("a", 6)], &fake);
    let lease = pool
        .acquire(&plan("a", 6), Terms::default())
        .await
        .expect("a lease");
    let stopping = pool.clone();
    let stop = tokio::spawn(async move { stopping.stop(Duration::from_secs(60)).await });
    settle().await;
    tasks.arm(Place::Pool.as_str());
    let asked = pool.acquire(&plan("a", 6), Terms::default()).await;
    assert!(matches!(asked, Err(Refused::Lost)), "{:?}", asked.err());
    drop(lease);
    stop.await.expect("stopped");
    assert_eq!(fake.held().0, 0);
    assert!(tasks.stop(Duration::from_secs(1)).await);
}
