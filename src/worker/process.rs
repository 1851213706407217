//! Starting, watching and ending worker processes. The pool says when; nothing
//! here knows why. One [`Launcher`] serves the whole router: it has the private
//! folder for sockets and the one thread that spawns.

pub mod folder;
mod life;
pub mod lines;
mod spawn;
mod watcher;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::process::Command;
use tokio::sync::watch;

use self::folder::Folder;
use self::life::{Part, Worker, beside};
use self::spawn::Spawner;
use super::client::Client;
use super::supervise::Order;
use super::{EngineKind, Leave, LoadPlan, PlannedEngine, Ready, Spawned};
use crate::config::engine::{Placeholder, Template};
use crate::engine::progress::Progress;
use crate::engine::speculation::Draft;
use crate::engine::stored;
use crate::engine::stored::room::Quota;
use crate::platform::footprint::Footprint;
use crate::secret::Secret;

/// The names of the variables a worker gets, if the router has them; nothing
/// else of the router's environment reaches it. Keys and proxies are never here.
pub const ENVIRONMENT: &[&str] = &[
    // MLX compiles fused kernels at run time on CPUs: the compiler and its scratch space.
    "PATH",
    "TMPDIR",
    // Where the device's driver and its libraries keep their things.
    "HOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "CUDA_PATH",
    // How many threads the linear algebra may take.
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    // What a person sets to look into a fault.
    "RUST_BACKTRACE",
    // A build that measures coverage; no other build hands this on.
    #[cfg(coverage)]
    "LLVM_PROFILE_FILE",
];

/// Brings up one worker and sees it through to its end. The pool's tests put
/// something else in the place of [`Launcher`].
pub trait Launch: Send + Sync + 'static {
    /// Runs one worker from its start until it has been reaped, and answers how
    /// it ended, as words that continue "its worker …". It loads when `load` says so, and
    /// is started at once. Saying how in `stop` ends it.
    fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report) + Send + Sync + 'static,
        load: watch::Receiver<bool>,
        stop: watch::Receiver<Option<Leave>>,
    ) -> impl Future<Output = String> + Send + 'static;
}

/// What a worker lets know while it lives.
#[derive(Debug)]
pub enum Report {
    /// Its process runs.
    Spawned {
        /// The process id, which is also that of its group.
        pid: u32,
    },
    /// Its load has come so far; told a thousand times at most.
    Loading {
        /// How far.
        progress: Progress,
    },
    /// What it holds now.
    Footprint(Footprint),
    /// Memory ran out for it: it says so, or the system ended it for that.
    OutOfMemory,
    /// It is loaded and listens.
    Ready {
        /// What it says of itself.
        ready: Arc<Ready>,
        /// The way to it.
        client: Client,
    },
    /// It cannot load. Its process may still be there.
    Failed {
        /// Why: one line, bounded, without control characters.
        reason: String,
    },
}

/// Starts worker processes. Cloning gives another handle.
#[derive(Clone)]
pub struct Launcher(Arc<Inner>);

struct Inner {
    options: LauncherOptions,
    folder: Folder,
    spawner: Spawner,
}

/// What a launcher needs to know.
#[derive(Clone, Debug)]
pub struct LauncherOptions {
    /// The executable; [`LauncherOptions::own`] takes our own.
    pub program: PathBuf,
    /// What stands before the worker's arguments.
    pub leading: Vec<OsString>,
    /// The folder in which the private folder is made; nothing means
    /// `$XDG_RUNTIME_DIR`, else the folder for temporary files.
    pub runtime: Option<PathBuf>,
    /// Where workers of our own keep prompts on disk, if they are to.
    pub prompts: Option<stored::folder::Folder>,
}

impl LauncherOptions {
    /// Our own executable in its hidden role `worker`.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            leading: vec!["worker".into()],
            runtime: None,
            prompts: None,
        })
    }
}

impl Launcher {
    /// Makes the private folder, sweeps what dead runs left behind and starts
    /// the thread that spawns.
    pub fn open(options: LauncherOptions) -> io::Result<Self> {
        let folder = Folder::create(options.runtime.as_deref())?;
        let spawner = Spawner::start()?;
        Ok(Self(Arc::new(Inner {
            options,
            folder,
            spawner,
        })))
    }

    /// The private folder, 0700.
    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }
}

impl Launch for Launcher {
    fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report) + Send + Sync + 'static,
        load: watch::Receiver<bool>,
        stop: watch::Receiver<Option<Leave>>,
    ) -> impl Future<Output = String> + Send + 'static {
        let inner = self.0.clone();
        async move { inner.run(plan, report, load, stop).await }
    }
}

impl Inner {
    /// See [`Launch::run`].
    async fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report),
        load: watch::Receiver<bool>,
        stop: watch::Receiver<Option<Leave>>,
    ) -> String {
        let stands_by = !*load.borrow();
        let started = async {
            let socket = self.folder.socket()?;
            let (command, part, workplace) = match &plan.engine {
                PlannedEngine::Own(engine) => {
                    let command = self.command(&plan, *engine, socket.path(), stands_by)?;
                    let part = Part::Own {
                        socket: socket.path().to_owned(),
                        secret: secret()?,
                        stands_by,
                        writes: self.prompts(&plan, *engine).is_some(),
                        warm_prompts: Arc::clone(&plan.warm_prompts),
                    };
                    (command, part, None)
                }
                PlannedEngine::Spawned(spawned) => {
                    let workplace = self.folder.workplace()?;
                    let order = order(&plan, spawned, socket.path(), workplace.path())?;
                    let part = Part::Supervisor {
                        socket: order.socket.clone(),
                        stop: order.stop.signal(),
                        order: serde_json::to_string(&order).map_err(io::Error::other)?,
                    };
                    (self.supervisor(), part, Some(workplace))
                }
            };
            let child = self.spawner.spawn(command).await?;
            Ok::<_, io::Error>(((socket, workplace), part, child))
        };
        // The socket and the folder go when the process is gone.
        let (_places, part, mut child) = match started.await {
            Ok(started) => started,
            Err(error) => {
                let reason = format!("its worker could not be started: {error}");
                report(Report::Failed { reason });
                return "was never there".to_owned();
            }
        };
        let pid = child.id().unwrap_or_default();
        report(Report::Spawned { pid });
        let model = plan.model.as_str();
        let is_foreign = matches!(plan.engine, PlannedEngine::Spawned(_));
        let stderr = child.stderr.take();
        let log = async {
            if let Some(stderr) = stderr {
                lines::log(stderr, model, pid, is_foreign).await;
            }
        };
        let worker = Worker { child, pid, part };
        beside(worker.live(report, load, stop), log).await
    }

    /// The command line of a worker: the template of [`WorkerArgs`], filled from
    /// the plan alone.
    fn command(
        &self,
        plan: &LoadPlan,
        engine: EngineKind,
        socket: &Path,
        stands_by: bool,
    ) -> io::Result<Command> {
        let mut command = self.role();
        command
            .arg("--socket")
            .arg(socket)
            .arg("--model-dir")
            .arg(std::path::absolute(&plan.dir)?)
            .args(["--engine", engine.as_str()])
            .args(["--context", &plan.context.to_string()])
            .args(["--parallel", &plan.parallel.to_string()])
            .args(["--kv", &plan.kv.0.to_string()])
            .args(["--kv-format", plan.kv_format.as_str()])
            .args(["--compute", plan.compute.as_str()])
            .args(["--adapters", &plan.adapters.0.to_string()])
            .args(stands_by.then_some("--standby"))
            .args(plan.warmup.then_some("--warmup"))
            .args((!plan.warm_prompts.is_empty()).then_some("--warm-prompts"));
        match &plan.draft {
            Draft::Nothing => {}
            Draft::Prompt => drop(command.arg("--draft-prompt")),
            Draft::Network(dir) => {
                command.arg("--draft-dir").arg(std::path::absolute(dir)?);
            }
        }
        if let Some((folder, quota)) = self.prompts(plan, engine) {
            command
                .arg("--prompts")
                .arg(folder)
                .args(["--prompts-each", &quota.each.to_string()])
                .args(["--prompts-all", &quota.all.to_string()]);
        }
        Ok(command)
    }

    /// Where a worker keeps prompts on disk, and how much of them.
    fn prompts(&self, plan: &LoadPlan, engine: EngineKind) -> Option<(PathBuf, Quota)> {
        let prompts = self.options.prompts.as_ref()?;
        let folder = prompts.of_model(&plan.model)?;
        let quota = prompts.quota.filter(|_| engine == EngineKind::Mlx)?;
        Some((folder, quota))
    }

    /// The command line of a supervisor; the rest is told on its standard input.
    fn supervisor(&self) -> Command {
        let mut command = self.role();
        command.arg("--supervise");
        command
    }

    /// The beginning of the command line of any worker, and what surrounds it. `/` as
    /// working folder keeps no volume busy.
    fn role(&self) -> Command {
        let mut command = Command::new(&self.options.program);
        command
            .args(&self.options.leading)
            .current_dir("/")
            .env_clear()
            .envs(environment(std::env::vars_os()))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// What a supervisor is told: everything filled in but the port, which it looks for.
fn order(plan: &LoadPlan, spawned: &Spawned, socket: &Path, folder: &Path) -> io::Result<Order> {
    let engine = &spawned.engine;
    let text = |path: &Path| -> io::Result<String> {
        let path = std::path::absolute(path)?;
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| io::Error::other("its path is not UTF-8"))
    };
    let (dir, socket_text) = (text(&plan.dir)?, text(socket)?);
    let file = spawned.file.as_deref().map(text).transpose()?;
    let settle = |template: &Template| {
        template.settle(|place| match place {
            Placeholder::Port => None,
            Placeholder::Socket => Some(socket_text.clone()),
            Placeholder::Path => Some(dir.clone()),
            Placeholder::File => Some(file.clone().unwrap_or_default()),
            Placeholder::Model => Some(plan.model.clone()),
        })
    };
    let env = engine.env.iter();
    Ok(Order {
        command: engine.command.iter().map(settle).collect(),
        env: env
            .map(|(name, value)| (name.clone(), settle(value)))
            .collect(),
        socket: engine.uses(Placeholder::Socket).then(|| socket.to_owned()),
        folder: folder.to_owned(),
        ready: engine.ready.clone(),
        stop: engine.stop,
        context: plan.context,
    })
}

/// What a worker gets of the router's environment.
fn environment(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(name, _)| ENVIRONMENT.iter().any(|allowed| name == allowed))
}

/// 256 random bits, as hexadecimal digits.
fn secret() -> io::Result<Secret> {
    Ok(Secret::new(hex(&random::<32>()?)))
}

/// Bytes from the system's random numbers.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(io::Error::other)?;
    Ok(bytes)
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
