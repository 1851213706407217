//! Starting, watching and ending worker processes. The pool says when; nothing
//! here knows why. One [`Launcher`] serves the whole router: it has the private
//! folder for sockets and the one thread that spawns.

mod folder;
mod lines;
mod spawn;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use self::folder::Folder;
use self::spawn::Spawner;
use super::client::Client;
use super::{EngineKind, FirstWord, LoadPlan, Ready};

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
    // Where a build that measures coverage writes it.
    "LLVM_PROFILE_FILE",
];

/// The longest reason that is taken from a worker, characters.
const LONGEST_REASON: usize = 500;

/// The longest first line, bytes.
const LONGEST_FIRST_LINE: usize = 64 * 1024;

/// How long a worker that closed its output may take to exit.
const SILENCE: Duration = Duration::from_secs(1);

/// How long what a worker wrote last is read after its end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the members of a process group may take to be gone after SIGKILL.
const GROUP_TIME: Duration = Duration::from_secs(1);

/// Brings up one worker and sees it through to its end. The pool's tests put
/// something else in the place of [`Launcher`].
pub trait Launch: Send + Sync + 'static {
    /// Runs one worker from its start until it has been reaped, and answers how
    /// it ended, as words that continue "its worker …". Setting a grace time in
    /// `stop` ends it: asked first, killed when the time is over.
    fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report) + Send + 'static,
        stop: watch::Receiver<Option<Duration>>,
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
    /// It is loaded and listens.
    Ready {
        /// What it says of itself.
        ready: Ready,
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
}

impl LauncherOptions {
    /// Our own executable in its hidden role `worker`.
    pub fn own() -> io::Result<Self> {
        Ok(Self {
            program: std::env::current_exe()?,
            leading: vec!["worker".into()],
            runtime: None,
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
        report: impl Fn(Report) + Send + 'static,
        stop: watch::Receiver<Option<Duration>>,
    ) -> impl Future<Output = String> + Send + 'static {
        let inner = self.0.clone();
        async move { inner.run(plan, report, stop).await }
    }
}

impl Inner {
    /// See [`Launch::run`].
    async fn run(
        &self,
        plan: Arc<LoadPlan>,
        report: impl Fn(Report),
        stop: watch::Receiver<Option<Duration>>,
    ) -> String {
        let started = async {
            let socket = self.folder.socket()?;
            let secret = secret()?;
            let child = self
                .spawner
                .spawn(self.command(&plan, socket.path())?)
                .await?;
            Ok::<_, io::Error>((socket, secret, child))
        };
        let (socket, secret, mut child) = match started.await {
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
        let stderr = child.stderr.take();
        let log = async {
            if let Some(stderr) = stderr {
                lines::log(stderr, model, pid).await;
            }
        };
        let worker = Worker {
            child,
            pid,
            socket: socket.path(),
            secret,
        };
        beside(worker.live(report, stop), log).await
    }

    /// The command line of a worker: the template of [`WorkerArgs`], filled from
    /// the plan alone. `/` as working folder keeps no volume busy.
    fn command(&self, plan: &LoadPlan, socket: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.options.program);
        command
            .args(&self.options.leading)
            .arg("--socket")
            .arg(socket)
            .arg("--model-dir")
            .arg(std::path::absolute(&plan.dir)?)
            .args(["--engine", engine_word(plan.engine)])
            .args(["--context", &plan.context.to_string()])
            .args(["--parallel", &plan.parallel.to_string()])
            .args(["--kv", &plan.kv.0.to_string()])
            .args(["--compute", plan.compute.as_str()])
            .current_dir("/")
            .env_clear()
            .envs(environment(std::env::vars_os()))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }
}

/// One running worker process.
struct Worker<'a> {
    child: Child,
    pid: u32,
    socket: &'a Path,
    secret: String,
}

impl Worker<'_> {
    /// From the secret to the reaping.
    async fn live(
        mut self,
        report: impl Fn(Report),
        mut stop: watch::Receiver<Option<Duration>>,
    ) -> String {
        // Held until the end: its end would tell the worker to leave.
        let mut stdin = self.child.stdin.take();
        let mut stdout = self.child.stdout.take().map(BufReader::new);
        let first = first_word(stdin.as_mut(), stdout.as_mut(), &self.secret);
        let said = tokio::select! {
            said = first => said,
            _ = stop.wait_for(Option::is_some) => FirstWords::NotWanted,
        };
        match said {
            FirstWords::Ready(ready) => match Client::new(self.socket, &self.secret) {
                Ok(client) => report(Report::Ready { ready, client }),
                Err(failure) => report(Report::Failed {
                    reason: failure.to_string(),
                }),
            },
            FirstWords::Failed(reason) => report(Report::Failed { reason }),
            FirstWords::NotWanted => {}
            FirstWords::None => {
                // An exit says more than silence does, if it comes.
                let exit = tokio::time::timeout(SILENCE, self.child.wait()).await;
                if exit.is_err() {
                    let reason = "its worker said nothing of itself".to_owned();
                    report(Report::Failed { reason });
                }
            }
        }
        // Whatever else it prints must not make it wait.
        let drain = async {
            if let Some(stdout) = &mut stdout {
                let _ = tokio::io::copy(stdout, &mut tokio::io::sink()).await;
            }
        };
        beside(end(&mut self.child, self.pid, &mut stop), drain).await
    }
}

/// What came, or did not come, as the first line.
enum FirstWords {
    Ready(Ready),
    Failed(String),
    None,
    /// The worker was told to end before it could say anything.
    NotWanted,
}

/// Tells the worker its secret and reads its first line.
async fn first_word(
    stdin: Option<&mut ChildStdin>,
    stdout: Option<&mut BufReader<ChildStdout>>,
    secret: &str,
) -> FirstWords {
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        return FirstWords::None;
    };
    // A worker that is gone already shows that by saying nothing.
    let _ = stdin.write_all(format!("{secret}\n").as_bytes()).await;
    let Ok(Some(line)) = lines::next(stdout, LONGEST_FIRST_LINE).await else {
        return FirstWords::None;
    };
    match serde_json::from_slice(&line) {
        Ok(FirstWord::Ready(ready)) if ready.version == env!("CARGO_PKG_VERSION") => {
            FirstWords::Ready(ready)
        }
        Ok(FirstWord::Ready(ready)) => FirstWords::Failed(format!(
            "its worker is version {} and the router is {}; restart roundhouse",
            lines::printable(ready.version.as_bytes()),
            env!("CARGO_PKG_VERSION")
        )),
        Ok(FirstWord::Failed { reason }) => {
            let reason = lines::printable(reason.as_bytes());
            FirstWords::Failed(reason.chars().take(LONGEST_REASON).collect())
        }
        Err(_) => FirstWords::Failed("its worker's first line could not be read".to_owned()),
    }
}

/// Waits for the exit and ends the whole process group when told to: asked
/// first, killed when the time is over, which a later word may shorten.
async fn end(child: &mut Child, pid: u32, stop: &mut watch::Receiver<Option<Duration>>) -> String {
    let mut kill_at = None;
    let status = loop {
        let until_kill = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait() => break status,
            () = until_kill => {
                signal_group(pid, Signal::KILL);
                break child.wait().await;
            }
            grace = next_word(stop, kill_at.is_none()) => {
                let at = Instant::now() + grace;
                if kill_at.is_none() {
                    signal_group(pid, Signal::TERM);
                }
                kill_at = Some(kill_at.map_or(at, |set: Instant| set.min(at)));
            }
        }
    };
    // What it started itself goes with it; only then is its memory free.
    signal_group(pid, Signal::KILL);
    let gone = async {
        while group_lives(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(GROUP_TIME, gone).await;
    match status {
        Ok(status) => how(status, kill_at.is_some()),
        Err(error) => format!("was lost: {error}"),
    }
}

/// The next grace time that is told. A pool that is gone wants its workers gone.
async fn next_word(stop: &mut watch::Receiver<Option<Duration>>, is_first: bool) -> Duration {
    loop {
        if is_first && let Some(grace) = *stop.borrow_and_update() {
            return grace;
        }
        match stop.changed().await {
            Ok(()) => {
                if let Some(grace) = *stop.borrow_and_update() {
                    return grace;
                }
            }
            Err(_) if is_first => return Duration::ZERO,
            Err(_) => std::future::pending().await,
        }
    }
}

/// How a process ended, as words that continue "its worker …".
fn how(status: ExitStatus, was_told: bool) -> String {
    let told = if was_told { " when told to end" } else { "" };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}{told}"),
        (None, Some(9)) if !was_told => {
            "was killed (signal 9), perhaps for lack of memory".to_owned()
        }
        (None, Some(signal)) => format!("was ended by signal {signal}{told}"),
        (None, None) => format!("ended{told}"),
    }
}

/// Sends a signal to a whole process group. The group's number stays taken while
/// anything of it lives or its leader is not reaped, and numbers are given out in
/// turn, so right after the reaping it cannot mean a stranger yet.
fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = group(pid) {
        // An empty group is what is wanted.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// Whether anything of a process group is left.
fn group_lives(pid: u32) -> bool {
    group(pid).is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
}

/// The group of a worker. Never our own and never everybody's: 0 and 1 mean those.
fn group(pid: u32) -> Option<Pid> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1)?;
    Pid::from_raw(pid)
}

/// Does something beside the main thing for as long as that takes, and a moment
/// longer to take in what is left.
async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
    let mut main = std::pin::pin!(main);
    let mut side = std::pin::pin!(side);
    let mut is_done = false;
    loop {
        tokio::select! {
            result = &mut main => {
                if !is_done {
                    let _ = tokio::time::timeout(LAST_WORDS, side).await;
                }
                return result;
            }
            () = &mut side, if !is_done => is_done = true,
        }
    }
}

/// What a worker gets of the router's environment.
fn environment(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(name, _)| ENVIRONMENT.iter().any(|allowed| name == allowed))
}

/// The word for an engine on the command line.
fn engine_word(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Mlx => "mlx",
        EngineKind::Scripted => "scripted",
    }
}

/// 256 random bits, as hexadecimal digits.
fn secret() -> io::Result<String> {
    Ok(hex(&random::<32>()?))
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
