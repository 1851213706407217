//! What the pool itself costs: a lease on an open gate, and a decision through its
//! owner, at 10, 100 and 1,000 configured models with 10,000 requests queued. Prints
//! the table of docs/BENCHMARKS.md; measures processor time where the system tells it
//! by thread (Linux), else the time that passed.
//!
//! A plain program and no test: what it measures depends on the machine, and it
//! judges nobody. Workers are no processes here, so nothing but the pool is measured.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on may stop")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use roundhouse::config::kv::KvFormat;
use roundhouse::config::{Compute, Contention, MinResidency};
use roundhouse::engine::speculation::Draft;
use roundhouse::pool::{CallerId, Lease, Pool, Refused, Resident, Settings, Terms};
use roundhouse::shutdown::Tasks;
use roundhouse::units::ByteSize;
use roundhouse::worker::client::Client;
use roundhouse::worker::process::{Launch, Report};
use roundhouse::worker::{EngineKind, Leave, LoadPhases, LoadPlan, Ready};
use tokio::sync::watch;

/// Models that are loaded at once.
const LOADED: usize = 8;

/// Requests that wait while decisions are measured.
const QUEUED: usize = 10_000;

/// Different callers among them.
const CALLERS: usize = 100;

/// What each figure is the median of.
const ROUNDS: usize = 7;

/// Most nanoseconds of a lease and of a decision.
const LEASE: f64 = 1_000.0;
const DECISION: f64 = 5_000.0;

/// How much more than with ten models something may cost with a thousand and still
/// count as not growing: what caches of the processor make of a larger table.
const GROWTH: f64 = 1.5;

/// Starts workers that are no processes.
#[derive(Clone)]
struct Instantly;

impl Launch for Instantly {
    fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report) + Send + 'static,
        _load: watch::Receiver<bool>,
        stop: watch::Receiver<Option<Leave>>,
    ) -> impl Future<Output = String> + Send + 'static {
        live(plan, report, stop)
    }
}

/// The life of such a worker.
async fn live(
    plan: Arc<LoadPlan>,
    report: impl Fn(Report) + Send + 'static,
    mut stop: watch::Receiver<Option<Leave>>,
) -> String {
    report(Report::Spawned { pid: 1 });
    report(Report::Ready {
        ready: Arc::new(Ready {
            version: String::new(),
            bytes_held: plan.memory.0,
            device: "none".to_owned(),
            compute: "none".to_owned(),
            context: plan.context,
            load_ms: 0,
            phases: LoadPhases::default(),
            port: None,
        }),
        client: Client::new("/nonexistent".as_ref(), "secret").unwrap(),
    });
    drop(stop.wait_for(Option::is_some).await);
    "left".to_owned()
}

fn plan(number: usize) -> Arc<LoadPlan> {
    Arc::new(LoadPlan {
        model: format!("mlx-community/some-model-{number:04}-4bit"),
        dir: "/models".into(),
        commit: None,
        engine: EngineKind::Scripted.into(),
        context: 1024,
        parallel: 1024,
        kv: ByteSize::ZERO,
        kv_format: KvFormat::Auto,
        draft: Draft::Nothing,
        adapters: ByteSize::ZERO,
        compute: Compute::Auto,
        warmup: false,
        warm_prompts: Default::default(),
        weights: ByteSize(1_000),
        memory: ByteSize(1_000),
        estimated: false,
        standby: None,
    })
}

fn settings() -> Settings {
    Settings {
        budget: ByteSize(1_000 * LOADED as u64),
        max_models: None,
        switch_after: Duration::from_secs(3_600),
        min_residency: MinResidency::Auto,
        queue: QUEUED + 1,
        queue_per_caller: QUEUED + 1,
        queue_timeout: Duration::from_secs(7_200),
        contention: Contention::Wait,
        autoload: true,
        load_time: Duration::from_secs(600),
    }
}

/// A pool in which `LOADED` models are in use and the others wait.
struct Bench {
    pool: Pool,
    plans: Vec<Arc<LoadPlan>>,
    /// Who asks in turn; known to a request before it asks the pool.
    callers: Vec<CallerId>,
    _tasks: Tasks,
    _held: Vec<Lease>,
}

/// A request that waits.
type Asked = Pin<Box<dyn Future<Output = Result<Lease, Refused>>>>;

impl Bench {
    async fn new(models: usize) -> Self {
        let plans: Vec<_> = (0..models).map(plan).collect();
        let residents = plans.iter().map(|plan| Resident {
            plan: plan.clone(),
            keep: false,
            preload: false,
            idle_unload: Some(Duration::from_secs(900)),
            never_with: Default::default(),
        });
        let tasks = Tasks::new();
        let pool = Pool::start(settings(), residents.collect(), Instantly, &tasks);
        let mut held = Vec::new();
        for plan in &plans[..LOADED] {
            held.push(pool.acquire(plan, Terms::default()).await.unwrap());
        }
        Self {
            pool,
            plans,
            callers: (0..CALLERS)
                .map(|number| CallerId::of(&[&number.to_string()]))
                .collect(),
            _tasks: tasks,
            _held: held,
        }
    }

    /// Asks for a model that is not loaded.
    fn ask(&self, number: usize) -> Asked {
        let (pool, cold) = (self.pool.clone(), &self.plans[LOADED..]);
        let plan = cold[number % cold.len()].clone();
        let terms = Terms {
            caller: self.callers[number % CALLERS],
            ..Terms::default()
        };
        let mut asked: Asked = Box::pin(async move { pool.acquire(&plan, terms).await });
        assert!((&mut asked).now_or_never().is_none());
        asked
    }

    /// Nanoseconds of a lease that is taken and given back.
    fn lease(&self) -> f64 {
        const LEASES: u32 = 500_000;
        let plan = &self.plans[LOADED / 2];
        measure(LEASES, || {
            for _ in 0..LEASES {
                let lease = self.pool.acquire(plan, Terms::default()).now_or_never();
                drop(lease.unwrap().unwrap());
            }
        })
    }

    /// Nanoseconds of a decision: half of a request that joins the line and leaves
    /// it, each told to the owner alone, with everything that follows for others and
    /// the view that is shown.
    async fn decision(&self) -> f64 {
        const REQUESTS: u32 = 20_000;
        let asked = self.ask(0);
        let queued = self.pool.view().waiting();
        settle().await;
        assert_eq!(self.pool.view().waiting(), queued + 1, "taken in at once");
        drop(asked);
        settle().await;
        let before = spent();
        for number in 0..REQUESTS {
            let asked = self.ask(number as usize);
            settle().await;
            drop(asked);
            settle().await;
        }
        (spent() - before).as_nanos() as f64 / f64::from(2 * REQUESTS)
    }

    /// The same, with what comes together taken in together.
    async fn burst(&self) -> f64 {
        const BURSTS: u32 = 200;
        const REQUESTS: u32 = 100;
        let before = spent();
        for _ in 0..BURSTS {
            let asked: Vec<_> = (0..REQUESTS).map(|n| self.ask(n as usize)).collect();
            settle().await;
            drop(asked);
            settle().await;
        }
        (spent() - before).as_nanos() as f64 / f64::from(2 * BURSTS * REQUESTS)
    }
}

/// Lets the owner take in what was sent: this thread runs it before it comes back.
async fn settle() {
    tokio::task::yield_now().await;
}

/// What this thread has used of the processor.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanoseconds = text
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(passed, Duration::from_nanos)
}

/// What has passed since this was first asked.
fn passed() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

fn measure(times: u32, work: impl FnOnce()) -> f64 {
    let before = spent();
    work();
    (spent() - before).as_nanos() as f64 / f64::from(times)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    println!("| models | queued | lease, ns | decision, ns | decision in bursts of 100, ns |");
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for (models, queued) in [
        (10, 0),
        (1_000, 0),
        (10, QUEUED),
        (100, QUEUED),
        (1_000, QUEUED),
    ] {
        let row = runtime.block_on(async {
            let bench = Bench::new(models).await;
            let _queued: Vec<_> = (0..queued).map(|number| bench.ask(number)).collect();
            settle().await;
            let mut figures: [Vec<f64>; 3] = Default::default();
            for _ in 0..ROUNDS {
                figures[0].push(bench.lease());
                figures[1].push(bench.decision().await);
                figures[2].push(bench.burst().await);
            }
            figures.map(median)
        });
        let [lease, decision, burst] = row;
        println!("| {models} | {queued} | {lease:.0} | {decision:.0} | {burst:.0} |");
        rows.push(row);
    }
    println!();
    let (few, many) = (rows[2], rows[4]);
    tell("a lease", many[0], LEASE, many[0] / few[0]);
    tell("a decision", many[1], DECISION, many[1] / few[1]);
}

/// Whether a target holds.
fn tell(what: &str, figure: f64, target: f64, growth: f64) {
    let holds = |holds| if holds { "holds" } else { "does not hold" };
    let below = holds(figure < target);
    let flat = holds(growth < GROWTH);
    println!(
        "- {what} with 1,000 models and {QUEUED} queued: {figure:.0} ns, wanted below {target:.0}: {below}"
    );
    println!(
        "- {what} with 1,000 models beside 10: {growth:.2}×, wanted no growth (below {GROWTH}×): {flat}"
    );
}
