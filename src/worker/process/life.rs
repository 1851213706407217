//! One worker process from its first word to its reaping, and the end of its
//! whole process group.

use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio::time::Instant;

use super::watcher::Watcher;
use super::{Report, lines};
use crate::engine::progress::Progress;
use crate::platform::family;
use crate::secret::Secret;
use crate::worker::client::{Address, Client, Failure};
use crate::worker::{LEAVE, LOAD, Leave, Ready, Word};

/// The longest reason that is taken from a worker, characters.
const LONGEST_REASON: usize = 500;

/// The longest line that is taken from a worker before it is up, bytes.
const LONGEST_WORD: usize = 64 * 1024;

/// How long a worker that closed its output may take to exit.
const SILENCE: Duration = Duration::from_secs(1);

/// How long what a worker wrote last is read after its end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the members of a process group may take to be gone after SIGKILL.
const GROUP_TIME: Duration = Duration::from_millis(300);

/// One running worker process.
pub struct Worker {
    pub child: Child,
    pub pid: u32,
    pub part: Part,
}

/// What a worker is told first, and how it is reached and ended by that.
pub enum Part {
    /// One of our own, whether it waits to be told to load, whether it has a folder to
    /// write prompts to, and what it reads before it is ready.
    Own {
        socket: PathBuf,
        secret: Secret,
        stands_by: bool,
        writes: bool,
        warm_prompts: Arc<[String]>,
    },
    /// One that supervises an engine: the order, where the engine listens if not on
    /// a port, and how it is asked to end.
    Supervisor {
        order: String,
        socket: Option<PathBuf>,
        stop: Signal,
    },
}

impl Part {
    /// The first lines of its standard input. What the file says stands there and not on
    /// the command line, which everybody on the machine can read.
    fn first_lines(&self) -> String {
        match self {
            Self::Own {
                secret,
                warm_prompts,
                ..
            } => match warm_prompts.is_empty() {
                true => format!("{}\n", secret.expose()),
                false => format!("{}\n{}\n", secret.expose(), json!(warm_prompts)),
            },
            Self::Supervisor { order, .. } => format!("{order}\n"),
        }
    }

    /// The way to whatever answers.
    fn client(&self, ready: &Ready) -> Result<Client, Failure> {
        let address = match (self, ready.port) {
            (Self::Own { socket, secret, .. }, _) => return Client::new(socket, secret.expose()),
            (
                Self::Supervisor {
                    socket: Some(path), ..
                },
                _,
            ) => Address::Socket(path.clone()),
            (_, Some(port)) => Address::Port(port),
            (_, None) => return Err(Failure::Invalid("it has no port".to_owned())),
        };
        Client::of_engine(&address)
    }

    /// Whether it waits to be told to load.
    fn stands_by(&self) -> bool {
        matches!(
            self,
            Self::Own {
                stands_by: true,
                ..
            }
        )
    }

    /// Whether it writes prompts down when it is asked to leave.
    fn writes(&self) -> bool {
        matches!(self, Self::Own { writes: true, .. })
    }

    /// The signal that asks its whole group to end.
    fn stop(&self) -> Signal {
        match self {
            Self::Own { .. } => Signal::TERM,
            Self::Supervisor { stop, .. } => *stop,
        }
    }
}

impl Worker {
    /// From the secret to the reaping, with an eye on what it holds.
    pub async fn live(
        self,
        report: impl Fn(Report),
        load: watch::Receiver<bool>,
        stop: watch::Receiver<Option<Leave>>,
    ) -> String {
        let family = matches!(self.part, Part::Supervisor { .. });
        let watcher = Watcher::new(self.pid, family);
        tokio::select! {
            how = self.live_watched(&report, &watcher, load, stop) => how,
            never = watcher.look_on(&report) => match never {},
        }
    }

    async fn live_watched(
        mut self,
        report: &impl Fn(Report),
        watcher: &Watcher,
        mut load: watch::Receiver<bool>,
        mut stop: watch::Receiver<Option<Leave>>,
    ) -> String {
        // Held until the end: its end would tell the worker to leave.
        let mut stdin = self.child.stdin.take();
        let mut stdout = self.child.stdout.take().map(BufReader::new);
        if let Some(stdin) = &mut stdin {
            // A worker that is gone already shows that by saying nothing.
            let _ = stdin.write_all(self.part.first_lines().as_bytes()).await;
        }
        let outcome = async {
            let mut furthest = 0;
            loop {
                match word_of_load(stdout.as_mut()).await {
                    Ok(progress) if progress.thousandths() <= furthest => {}
                    Ok(progress) => {
                        furthest = progress.thousandths();
                        report(Report::Loading { progress });
                    }
                    Err(outcome) => break outcome,
                }
            }
        };
        let has_it_load = async {
            if self.part.stands_by()
                && load.wait_for(|may_load| *may_load).await.is_ok()
                && let Some(stdin) = &mut stdin
            {
                let _ = stdin.write_all(format!("{LOAD}\n").as_bytes()).await;
            }
            std::future::pending().await
        };
        let said = tokio::select! {
            outcome = outcome => outcome,
            never = has_it_load => match never {},
            _ = stop.wait_for(Option::is_some) => Outcome::NotWanted,
        };
        match said {
            Outcome::Ready(ready) => match self.part.client(&ready) {
                Ok(client) => report(Report::Ready {
                    ready: Arc::new(ready),
                    client,
                }),
                Err(failure) => report(Report::Failed {
                    reason: failure.to_string(),
                }),
            },
            Outcome::Failed {
                reason,
                out_of_memory,
            } => {
                if out_of_memory {
                    report(Report::OutOfMemory);
                }
                report(Report::Failed { reason });
            }
            Outcome::NotWanted => {}
            Outcome::None => {
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
        let last_look = || watcher.look(report);
        let asks = Asks {
            pid: self.pid,
            part: &self.part,
            stdin: &mut stdin,
        };
        let ended = end(&mut self.child, &mut stop, asks, last_look);
        let (how, is_killed) = beside(ended, drain).await;
        if is_killed && watcher.memory_ran_out() {
            report(Report::OutOfMemory);
            return "was ended by the system: out of memory".to_owned();
        }
        how
    }
}

/// What came, or did not come, of a load.
enum Outcome {
    Ready(Ready),
    Failed {
        reason: String,
        out_of_memory: bool,
    },
    None,
    /// The worker was told to end before it could say anything.
    NotWanted,
}

impl Outcome {
    /// A failure that has nothing to do with memory.
    fn failed(reason: String) -> Self {
        Self::Failed {
            reason,
            out_of_memory: false,
        }
    }
}

/// Reads the next line of a worker that loads: how far it is, or what came of it.
async fn word_of_load(stdout: Option<&mut BufReader<ChildStdout>>) -> Result<Progress, Outcome> {
    let Some(stdout) = stdout else {
        return Err(Outcome::None);
    };
    let Ok(Some(line)) = lines::next(stdout, LONGEST_WORD).await else {
        return Err(Outcome::None);
    };
    match serde_json::from_slice(&line) {
        Ok(Word::Loading(progress)) => Ok(progress),
        Ok(Word::Ready(ready)) => Err(of_our_version(ready)),
        Ok(Word::Failed {
            reason,
            out_of_memory,
        }) => {
            let reason = lines::printable(reason.as_bytes());
            Err(Outcome::Failed {
                reason: reason.chars().take(LONGEST_REASON).collect(),
                out_of_memory,
            })
        }
        Err(_) => {
            let reason = "what its worker said could not be read";
            Err(Outcome::failed(reason.to_owned()))
        }
    }
}

/// A worker of another version is none of ours.
fn of_our_version(ready: Ready) -> Outcome {
    if ready.version == env!("CARGO_PKG_VERSION") {
        return Outcome::Ready(ready);
    }
    Outcome::failed(format!(
        "its worker is version {} and the router is {}; restart roundhouse",
        lines::printable(ready.version.as_bytes()),
        env!("CARGO_PKG_VERSION")
    ))
}

/// Waits for the exit and ends the whole process group when told to: asked
/// first, killed when the time is over, which a later word may shorten. Looks at it
/// once more before that. Answers how it ended, and whether by SIGKILL of others.
async fn end(
    child: &mut Child,
    stop: &mut watch::Receiver<Option<Leave>>,
    mut asks: Asks<'_>,
    last_look: impl Fn(),
) -> (String, bool) {
    let pid = asks.pid;
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
                // Those that left its group first: without it they are strangers.
                family::kill_descendants(pid);
                signal_group(pid, Signal::KILL);
                break child.wait().await;
            }
            leave = next_word(stop, kill_at.is_none()) => {
                let at = Instant::now() + leave.grace;
                if kill_at.is_none() {
                    last_look();
                    asks.leave(leave).await;
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
        Ok(status) => {
            let is_killed = kill_at.is_none() && status.signal() == Some(9);
            (how(status, kill_at.is_some()), is_killed)
        }
        Err(error) => (format!("was lost: {error}"), false),
    }
}

/// How a worker is asked to end.
struct Asks<'w> {
    pid: u32,
    part: &'w Part,
    stdin: &'w mut Option<ChildStdin>,
}

impl Asks<'_> {
    /// By word where it may write and can, else by signal.
    async fn leave(&mut self, leave: Leave) {
        let may_write = leave.may_write && self.part.writes();
        if !(may_write && self.told(leave).await) {
            signal_group(self.pid, self.part.stop());
        }
    }

    /// Tells it to write what it keeps and to leave, in three quarters of its time: the
    /// rest is for leaving. Answers whether it could be told.
    async fn told(&mut self, leave: Leave) -> bool {
        let Some(stdin) = self.stdin else {
            return false;
        };
        let line = format!("{LEAVE} {}\n", leave.grace.as_millis() * 3 / 4);
        // A worker that reads nothing is not waited for: it is killed when its time is over.
        let told = tokio::time::timeout(SILENCE, stdin.write_all(line.as_bytes())).await;
        told.is_ok_and(|told| told.is_ok())
    }
}

/// The next that is told of how to end. A pool that is gone wants its workers gone.
async fn next_word(stop: &mut watch::Receiver<Option<Leave>>, is_first: bool) -> Leave {
    loop {
        if is_first && let Some(leave) = *stop.borrow_and_update() {
            return leave;
        }
        match stop.changed().await {
            Ok(()) => {
                if let Some(leave) = *stop.borrow_and_update() {
                    return leave;
                }
            }
            Err(_) if is_first => return Leave::within(Duration::ZERO),
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
pub async fn beside<T>(main: impl Future<Output = T>, side: impl Future<Output = ()>) -> T {
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
