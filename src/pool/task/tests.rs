//! The owner at work, with workers that only keep time. The clock stands still
//! unless everybody waits, so ten minutes take no time and nothing flickers.

#![expect(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::*;
use crate::pool::state::{ready, resident, settings};
use crate::pool::{Ending, ModelState, UnloadReason};
use crate::units::ByteSize;
use crate::worker::client::Client;
use crate::worker::{Leave, LoadPlan};

mod panics;

/// Starts workers that are no processes.
#[derive(Clone)]
struct Fake(Arc<FakeInner>);

struct FakeInner {
    load: Duration,
    exit: Duration,
    last_pid: AtomicU32,
    /// Reserved by workers that live, and the most that ever was.
    held: Mutex<(u64, u64)>,
    starts: Mutex<Vec<String>>,
    crash: watch::Sender<Option<u32>>,
}

/// Counts a worker's memory for as long as it lives.
struct Alive(Arc<FakeInner>, u64);

impl Alive {
    fn new(inner: &Arc<FakeInner>, bytes: u64) -> Self {
        let mut held = inner.held.lock().expect("not poisoned");
        held.0 += bytes;
        held.1 = held.1.max(held.0);
        Self(inner.clone(), bytes)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.held.lock().expect("not poisoned").0 -= self.1;
    }
}

impl Fake {
    fn new(load: u64, exit: u64) -> Self {
        Self(Arc::new(FakeInner {
            load: Duration::from_secs(load),
            exit: Duration::from_secs(exit),
            last_pid: AtomicU32::new(100),
            held: Mutex::default(),
            starts: Mutex::default(),
            crash: watch::channel(None).0,
        }))
    }

    fn starts(&self) -> Vec<String> {
        self.0.starts.lock().expect("not poisoned").clone()
    }

    fn held(&self) -> (u64, u64) {
        *self.0.held.lock().expect("not poisoned")
    }
}

/// Waits until the worker is told to end.
async fn is_told(stop: &mut watch::Receiver<Option<Leave>>) {
    drop(stop.wait_for(Option::is_some).await);
}

impl Launch for Fake {
    fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report) + Send + 'static,
        mut load: watch::Receiver<bool>,
        mut stop: watch::Receiver<Option<Leave>>,
    ) -> impl Future<Output = String> + Send + 'static {
        let inner = self.0.clone();
        async move {
            let pid = inner.last_pid.fetch_add(1, Ordering::Relaxed);
            let model = plan.model.clone();
            if !*load.borrow() {
                let _alive = Alive::new(&inner, plan.standby.map_or(0, |bytes| bytes.0));
                report(Report::Spawned { pid });
                tokio::select! {
                    told = load.wait_for(|may_load| *may_load) => drop(told),
                    () = is_told(&mut stop) => return "left".to_owned(),
                }
            }
            let _alive = Alive::new(&inner, plan.memory.0);
            inner
                .starts
                .lock()
                .expect("not poisoned")
                .push(model.clone());
            assert_ne!(model, "panics", "as told");
            report(Report::Spawned { pid });
            let mut crash = inner.crash.subscribe();
            tokio::select! {
                () = tokio::time::sleep(inner.load) => {}
                () = is_told(&mut stop) => return "left".to_owned(),
            }
            if model == "broken" {
                let reason = "no tensor".to_owned();
                report(Report::Failed { reason });
            } else {
                let client = Client::new("/nonexistent".as_ref(), "secret").expect("a client");
                let ready = Arc::new(ready(0));
                report(Report::Ready { ready, client });
            }
            let is_victim = async { drop(crash.wait_for(|victim| *victim == Some(pid)).await) };
            tokio::select! {
                () = is_victim => "crashed".to_owned(),
                () = is_told(&mut stop) => {
                    tokio::time::sleep(inner.exit).await;
                    "left".to_owned()
                }
            }
        }
    }
}

/// A pool of models, each with its size, and what it stands on.
fn pool(budget: u64, models: &[(&str, u64)], fake: &Fake) -> (Pool, Tasks) {
    let tasks = Tasks::new();
    let residents = models.iter().map(|(name, size)| resident(name, *size));
    let pool = Pool::start(settings(budget), residents.collect(), fake.clone(), &tasks);
    (pool, tasks)
}

fn plan(model: &str, size: u64) -> Arc<LoadPlan> {
    resident(model, size).plan
}

/// Lets the owner take in what has been sent.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn r01_fifty_first_requests_are_one_load_and_later_ones_need_no_owner() {
    let fake = Fake::new(7, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let leases = join_all((0..50).map(|_| pool.acquire(&plan, Terms::default()))).await;
    for (position, lease) in leases.iter().enumerate() {
        let lease = lease.as_ref().expect("a lease");
        assert_eq!(lease.pid(), 100);
        assert_eq!(lease.waited(), Duration::from_secs(7));
        assert_eq!(lease.queue_position(), position);
    }
    assert_eq!(fake.starts(), ["a"]);
    let at_once = pool
        .acquire(&plan, Terms::default())
        .now_or_never()
        .expect("no message");
    assert_eq!(at_once.expect("a lease").waited(), Duration::ZERO);
    assert_eq!(pool.view().model("a").map(|a| a.leases()), Some(50));
    drop(leases);
    assert_eq!(pool.view().model("a").map(|a| a.leases()), Some(0));
}

#[tokio::test(start_paused = true)]
async fn r11_alternating_models_all_get_answers_within_the_budget() {
    let fake = Fake::new(3, 2);
    let models = [("a", 6), ("b", 7), ("c", 8)];
    let (pool, _tasks) = pool(10, &models, &fake);
    let requests = (0..60).map(|number| {
        let (model, size) = models[number % 3];
        let (pool, plan) = (pool.clone(), plan(model, size));
        async move {
            let lease = pool
                .acquire(&plan, Terms::default())
                .await
                .expect("a lease");
            assert_eq!(lease.plan().model, model);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    join_all(requests).await;
    assert_eq!(fake.starts(), ["a", "b", "c"], "one batch each");
    assert_eq!(fake.held().1, 8);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_gives_up_its_place() {
    let fake = Fake::new(5, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let waiting = tokio::time::timeout(
        Duration::from_secs(1),
        pool.acquire(&plan, Terms::default()),
    );
    assert!(waiting.await.is_err());
    settle().await;
    assert_eq!(pool.view().waiting(), 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let a = pool.view().model("a").expect("known").clone();
    assert_eq!(
        (a.state, a.leases()),
        (ModelState::Ready, 0),
        "idle, nothing leaked"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_takes_gives_itself_back() {
    let fake = Fake::new(5, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let mut request = Box::pin(pool.acquire(&plan, Terms::default()));
    assert!((&mut request).now_or_never().is_none());
    // The grant is made while nobody polls the request.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(pool.view().model("a").map(|a| a.leases()), Some(1));
    drop(request);
    assert_eq!(pool.view().model("a").map(|a| a.leases()), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_the_lease_and_the_next_request_loads_again() {
    let fake = Fake::new(5, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let lease = pool
        .acquire(&plan, Terms::default())
        .await
        .expect("a lease");
    assert_eq!(lease.ending(), None);
    fake.0.crash.send_replace(Some(lease.pid()));
    assert_eq!(lease.ended().await, Ending::Crashed("crashed".to_owned()));
    let next = pool
        .acquire(&plan, Terms::default())
        .await
        .expect("a new worker");
    assert_ne!(next.pid(), lease.pid());
    drop(lease);
    assert_eq!(
        pool.view().model("a").map(|a| a.leases()),
        Some(1),
        "only the new one counts"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_to_all_who_wait() {
    let fake = Fake::new(5, 1);
    let models = [("broken", 6), ("panics", 6), ("whale", 11)];
    let (pool, _tasks) = pool(10, &models, &fake);
    let broken = plan("broken", 6);
    let refused = join_all((0..5).map(|_| pool.acquire(&broken, Terms::default()))).await;
    for refusal in refused {
        let is_told =
            matches!(refusal, Err(Refused::LoadFailed { ref reason, .. }) if reason == "no tensor");
        assert!(is_told, "{refusal:?}");
    }
    let lost = pool.acquire(&plan("panics", 6), Terms::default()).await;
    assert!(matches!(lost, Err(Refused::LoadFailed { .. })), "{lost:?}");
    let whale = pool.acquire(&plan("whale", 11), Terms::default()).await;
    assert!(matches!(whale, Err(Refused::NeverFits { .. })), "{whale:?}");
    assert_eq!(fake.held().0, 0);
}

#[tokio::test(start_paused = true)]
async fn time_limits_hold() {
    let fake = Fake::new(1000, 1);
    let (pool, _tasks) = pool(10, &[("a", 6), ("b", 6)], &fake);
    let began = tokio::time::Instant::now();
    let (a, b) = (plan("a", 6), plan("b", 6));
    let (first, second) = tokio::join!(
        pool.acquire(&a, Terms::default()),
        pool.acquire(&b, Terms::default())
    );
    assert!(
        matches!(first, Err(Refused::LoadTimeout { .. })),
        "{first:?}"
    );
    assert!(matches!(
        second,
        Err(Refused::QueueTimeout { .. } | Refused::LoadTimeout { .. })
    ));
    assert_eq!(began.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn load_unload_and_release_by_hand() {
    let fake = Fake::new(5, 3);
    let (pool, _tasks) = pool(10, &[("a", 6), ("b", 2)], &fake);
    assert!(matches!(
        pool.load("x").await,
        Err(Refused::Unlisted { .. })
    ));
    pool.load("a").await.expect("loaded");
    settle().await;
    assert!(
        pool.view()
            .model("a")
            .is_some_and(|a| a.idle_since().is_some())
    );
    let began = tokio::time::Instant::now();
    pool.unload("a", UnloadMode::Idle).await.expect("unloaded");
    assert_eq!(began.elapsed().as_secs(), 3, "when it has been reaped");
    let again = pool.unload("a", UnloadMode::Idle).await;
    assert!(matches!(again, Err(UnloadError::NotLoaded { .. })));
    let lease = pool
        .acquire(&plan("a", 6), Terms::default())
        .await
        .expect("a lease");
    pool.load("b").await.expect("loaded");
    settle().await;
    assert_eq!(pool.release().await.expect("released"), ["b"]);
    let ended = lease.ended();
    let (unloaded, ending) = tokio::join!(pool.unload("a", UnloadMode::Now), ended);
    assert_eq!(unloaded, Ok(()));
    assert_eq!(ending, Ending::Revoked(UnloadReason::Requested));
}

#[tokio::test(start_paused = true)]
async fn idle_models_are_unloaded_in_time_and_readiness_waits_for_preload() {
    let fake = Fake::new(5, 0);
    let tasks = Tasks::new();
    let mut model = resident("a", 6);
    model.preload = true;
    model.idle_unload = Some(Duration::from_secs(60));
    let pool = Pool::start(settings(10), vec![model], fake.clone(), &tasks);
    assert!(!pool.ready());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(pool.ready());
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(fake.held().0, 6);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fake.held().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_felt_only_by_what_it_takes_away() {
    let fake = Fake::new(5, 0);
    let (pool, _tasks) = pool(20, &[("a", 6), ("b", 6)], &fake);
    let (a, b) = (plan("a", 6), plan("b", 6));
    let kept = pool.acquire(&a, Terms::default()).await.expect("a lease");
    let lost = pool.acquire(&b, Terms::default()).await.expect("a lease");
    pool.apply(settings(20), vec![resident("a", 6)]);
    settle().await;
    assert!(matches!(
        pool.acquire(&b, Terms::default()).await,
        Err(Refused::Unlisted { .. })
    ));
    assert_eq!(
        (kept.ending(), lost.ending()),
        (None, None),
        "streams never notice"
    );
    drop(lost);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.held().0, 6);
    assert_eq!(fake.starts(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn stop_drains_revokes_and_waits_for_every_process() {
    let fake = Fake::new(5, 1);
    let (pool, tasks) = pool(30, &[("a", 6), ("b", 6), ("c", 6)], &fake);
    let long = pool
        .acquire(&plan("a", 6), Terms::default())
        .await
        .expect("a lease");
    let short = pool
        .acquire(&plan("b", 6), Terms::default())
        .await
        .expect("a lease");
    let began = tokio::time::Instant::now();
    let holder = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        drop(short);
        let ending = long.ended().await;
        assert_eq!(ending, Ending::Revoked(UnloadReason::Shutdown));
        assert_eq!(began.elapsed().as_secs(), 10);
    };
    let c = plan("c", 6);
    let (refused, (), ()) = tokio::join!(
        pool.acquire(&c, Terms::default()),
        pool.stop(Duration::from_secs(10)),
        holder
    );
    assert_eq!(refused.expect_err("no lease"), Refused::ShuttingDown);
    assert_eq!(began.elapsed().as_secs(), 11);
    assert_eq!(fake.held().0, 0);
    let late = pool.acquire(&c, Terms::default()).await;
    assert_eq!(late.expect_err("no lease"), Refused::ShuttingDown);
    assert!(
        tasks.stop(Duration::from_secs(1)).await,
        "the owner has ended"
    );
}

#[tokio::test(start_paused = true)]
async fn the_stop_signal_alone_ends_everything() {
    let fake = Fake::new(5, 1);
    let (pool, tasks) = pool(10, &[("a", 6)], &fake);
    let lease = pool
        .acquire(&plan("a", 6), Terms::default())
        .await
        .expect("a lease");
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert!(matches!(lease.ending(), Some(Ending::Revoked(_))));
    assert_eq!(fake.held().0, 0);
    assert_eq!(pool.view().reserved, ByteSize::ZERO);
}

/// Real threads, no clock to hold on to: leases are taken and given back while
/// models come and go, and at every moment the budget is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_race_for_three_models_are_all_served() {
    let fake = Fake::new(0, 0);
    let tasks = Tasks::new();
    let models = [("a", 4), ("b", 5), ("c", 6)];
    let residents = models.map(|(name, size)| resident(name, size));
    let mut limits = settings(10);
    limits.switch_after = Duration::from_millis(1);
    let pool = Pool::start(limits, residents.to_vec(), fake.clone(), &tasks);
    let requests = (0..16_usize).map(|seed| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for round in 0..100 {
                let (model, size) = models[(seed * 7 + round * round) % 3];
                let lease = pool
                    .acquire(&plan(model, size), Terms::default())
                    .await
                    .expect("a lease");
                assert_eq!(lease.plan().model, model);
                assert_eq!(lease.ending(), None, "nobody takes it away");
                tokio::task::yield_now().await;
            }
        })
    });
    // With limits of about a millisecond a wake that is lost shows as a halt.
    let all = tokio::time::timeout(Duration::from_secs(30), join_all(requests)).await;
    for done in all.unwrap_or_else(|_| panic!("it stands still: {:#?}", pool.view())) {
        done.expect("no panic");
    }
    assert!(fake.held().1 <= 10, "{} held", fake.held().1);
    pool.stop(Duration::ZERO).await;
    assert_eq!(fake.held().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_carries_the_wish_how_long_its_model_stays() {
    let fake = Fake::new(5, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let wishing = |seconds| Terms {
        idle_unload: Some(Duration::from_secs(seconds)),
        ..Terms::default()
    };
    let state = || pool.view().model("a").expect("known").state;
    // The first waits for the load, the second takes the open gate.
    for seconds in [100, 20] {
        let lease = pool
            .acquire(&plan, wishing(seconds))
            .await
            .expect("a lease");
        drop(lease);
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert_eq!(state(), ModelState::Ready);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(), ModelState::Unloaded);
    drop(pool.acquire(&plan, wishing(0)).await.expect("a lease"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(), ModelState::Unloaded);
}

#[tokio::test(start_paused = true)]
async fn who_uses_a_model_can_hold_it_and_what_nobody_hears_of_is_given_back() {
    let fake = Fake::new(5, 1);
    let (pool, _tasks) = pool(10, &[("a", 6), ("b", 6)], &fake);
    let lease = pool.load("a").await.expect("a lease");
    let hour = Duration::from_secs(3600);
    let hold = pool.hold(&lease, "run", hour).await.expect("held");
    assert!(
        (&mut Box::pin(pool.hold(&lease, "gone", hour)))
            .now_or_never()
            .is_none()
    );
    drop(lease);
    settle().await;
    let held = pool.view().model("a").expect("known").held.clone();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!((held[0].hold, held[0].holder.as_str()), (hold, "run"));
    let b = plan("b", 6);
    let asked = pool.clone();
    let waits = tokio::spawn(async move { asked.acquire(&b, Terms::default()).await });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(
        pool.let_go(hold, Some("other")).await,
        Err(HoldError::Unknown)
    );
    assert_eq!(pool.let_go(hold, Some("run")).await, Ok("a".to_owned()));
    let b = waits.await.expect("no panic").expect("a lease");
    assert_eq!(b.waited(), Duration::from_secs(106));
}

#[tokio::test(start_paused = true)]
async fn f28_a_pool_that_stood_still_fails_no_load_and_refuses_nobody_for_it() {
    // Longer than a load may come no further, and than anybody may wait.
    let fake = Fake::new(3_800, 1);
    let (pool, _tasks) = pool(10, &[("a", 6)], &fake);
    let plan = plan("a", 6);
    let (lease, ()) = tokio::join!(pool.acquire(&plan, Terms::default()), async {
        settle().await;
        // The clock goes on while nothing else does.
        tokio::time::advance(Duration::from_secs(3_700)).await;
    });
    assert_eq!(lease.expect("a lease").waited().as_secs(), 3_800);
    assert_eq!(fake.starts(), ["a"]);
    // Without that a load has its limit, and whoever waits for it hears so.
    assert!(pool.unload("a", UnloadMode::Idle).await.is_ok());
    let refused = pool.acquire(&plan, Terms::default()).await.err();
    let failed = matches!(refused, Some(Refused::LoadTimeout { .. }));
    assert!(failed, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn f28_what_was_idle_while_the_pool_stood_still_has_its_time_anew() {
    let fake = Fake::new(1, 1);
    let tasks = Tasks::new();
    let idle = Resident {
        idle_unload: Some(Duration::from_secs(60)),
        ..resident("a", 6)
    };
    let pool = Pool::start(settings(10), vec![idle], fake, &tasks);
    drop(pool.acquire(&plan("a", 6), Terms::default()).await);
    settle().await;
    tokio::time::advance(Duration::from_secs(600)).await;
    let state = || pool.view().model("a").map(|a| a.state);
    settle().await;
    assert_eq!(state(), Some(ModelState::Ready));
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(state(), Some(ModelState::Unloaded));
}
