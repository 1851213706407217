//! The supervising worker: a process between the router and an engine that is not
//! ours. It starts the engine, says to the router what a worker of our own would say,
//! and sees to it that the engine ends with it, whatever the engine started itself.
//! It never sees a request: the router talks to the engine.

mod output;
mod port;
mod ready;

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::output::Output;
use super::client::Address;
use super::serve::{log_to_standard_error, say};
use super::{LoadPhases, Ready, Word};
use crate::config::engine::{Placeholder, ReadySign, StopSignal, Template};
use crate::platform::{self, family};

/// Longest order, bytes.
const LONGEST_ORDER: u64 = 1 << 20;

/// How often an engine is started whose port somebody else took.
const TRIES: usize = 5;

/// How long an engine may take to end when the router is gone and nobody else kills it.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// What is told of the end of standard input.
const ROUTER_GONE: &str = "the router is gone";

/// The first line of a supervisor's standard input, as JSON: what to run. It is not on
/// the command line, where everybody could read it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The program and its arguments; only the port is still to be filled in.
    pub command: Vec<Template>,
    /// More variables.
    pub env: BTreeMap<String, Template>,
    /// Where it listens, if not on a port.
    pub socket: Option<PathBuf>,
    /// The folder it works in.
    pub folder: PathBuf,
    /// How it says that it can be asked.
    pub ready: ReadySign,
    /// How it is asked to end.
    pub stop: StopSignal,
    /// Longest sequence, tokens, as the file says.
    pub context: u32,
}

impl StopSignal {
    /// The signal itself.
    pub fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::HangUp => Signal::HUP,
            Self::Kill => Signal::KILL,
        }
    }
}

/// Why an engine does not run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the order on standard input could not be read: {0}")]
    Order(String),
    #[error("the parent process is gone")]
    NoParent,
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    #[error("the engine {how} before it was ready{}", said(.last))]
    Ended { how: String, last: Option<String> },
    #[error("ports that were free were taken by others {TRIES} times")]
    Ports,
    #[error("the engine cannot be reached: {0}")]
    Reach(String),
}

/// What an engine wrote last, after why it ended.
fn said(last: &Option<String>) -> String {
    last.as_ref()
        .map_or_else(String::new, |last| format!("; it wrote last: {last}"))
}

/// Why the supervisor is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// The router says so; it also told the engine, and kills both in time.
    Told,
    /// The router is gone.
    Alone,
}

/// How the one run of an engine ended.
enum Run {
    /// By itself, or because it was to.
    Over(ExitStatus),
    /// Somebody else has the port that it was given.
    PortTaken,
}

/// Runs the supervisor: from the order to the end of the process.
pub fn run() -> ExitCode {
    // Whatever this process and the engine make is their owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    log_to_standard_error();
    crate::telemetry::log_panics(false);
    match work() {
        Ok(status) => end_as(status),
        Err(failure) => {
            say(&Word::Failed {
                reason: failure.to_string(),
                out_of_memory: false,
            });
            ExitCode::FAILURE
        }
    }
}

/// Becomes another program, which ends when the supervisor does: the wish for the
/// signal at the parent's death survives the change.
pub fn become_engine(command: &str) -> ExitCode {
    let command: Vec<String> = serde_json::from_str(command).unwrap_or_default();
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(127);
    };
    if !platform::follow_parent(Signal::KILL) {
        return ExitCode::FAILURE;
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("cannot run {}: {error}", Path::new(program).display());
    ExitCode::from(127)
}

/// Ends as the engine ended, so that the router sees what it would have seen.
fn end_as(status: ExitStatus) -> ExitCode {
    if status.signal() == Some(Signal::KILL.as_raw()) {
        // Perhaps for lack of memory: the router finds out by this signal.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn work() -> Result<ExitStatus, Failure> {
    // Not the signal of an order to end: that comes to the engine as well.
    if !platform::follow_parent(Signal::USR1) {
        return Err(Failure::NoParent);
    }
    family::adopt_orphans();
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut leave = Leaves::listen()?;
        let order = leave.order().await?;
        supervise(&order, began, &mut leave).await
    });
    // The thread that waits for the end of standard input is not waited for.
    runtime.shutdown_background();
    result
}

/// Runs the engine, with another port as long as somebody takes the one it was given.
async fn supervise(
    order: &Order,
    began: Instant,
    leave: &mut Leaves,
) -> Result<ExitStatus, Failure> {
    for _ in 0..TRIES {
        let address = match &order.socket {
            Some(socket) => Address::Socket(socket.clone()),
            None => Address::Port(port::free()?),
        };
        match run_once(order, &address, began, leave).await? {
            Run::Over(status) => return Ok(status),
            Run::PortTaken => tracing::warn!("another program took the port of the engine"),
        }
    }
    Err(Failure::Ports)
}

/// One process of the engine, from its start until all that it started is gone.
async fn run_once(
    order: &Order,
    address: &Address,
    began: Instant,
    leave: &mut Leaves,
) -> Result<Run, Failure> {
    let mut child = command(order, address)?.spawn()?;
    let mut output = Output::of(&mut child, &order.ready);
    let up = tokio::select! {
        up = ready::wait(&order.ready, address, &mut output) => up,
        status = child.wait() => {
            family::kill_descendants(std::process::id());
            return ended_early(status?, address, output).await;
        }
        why = leave.wait() => return end(child, order, why, leave).await.map(Run::Over),
    };
    match up {
        Ok(()) => {}
        Err(ready::NotReady::Stranger) => {
            kill_all(&mut child).await?;
            return Ok(Run::PortTaken);
        }
        Err(ready::NotReady::Client(reason)) => {
            kill_all(&mut child).await?;
            return Err(Failure::Reach(reason));
        }
    }
    output.close();
    say(&Word::Ready(Ready {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // It does not say; what it is seen to hold counts.
        bytes_held: 0,
        device: "unknown".to_owned(),
        compute: "unknown".to_owned(),
        context: order.context,
        load_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        phases: LoadPhases::default(),
        port: match address {
            Address::Port(port) => Some(*port),
            Address::Socket(_) => None,
        },
    }));
    tokio::select! {
        status = child.wait() => {
            let status = status?;
            family::kill_descendants(std::process::id());
            tracing::error!(how = how(status), "the engine ended");
            Ok(Run::Over(status))
        }
        why = leave.wait() => end(child, order, why, leave).await.map(Run::Over),
    }
}

/// What the end of an engine means that was not ready.
async fn ended_early(
    status: ExitStatus,
    address: &Address,
    output: Output,
) -> Result<Run, Failure> {
    if let Address::Port(port) = address
        && !port::is_free(*port)
    {
        return Ok(Run::PortTaken);
    }
    if status.signal() == Some(Signal::KILL.as_raw()) {
        return Ok(Run::Over(status));
    }
    Err(Failure::Ended {
        how: how(status),
        last: output.last_words().await,
    })
}

/// How a process ended, as words that continue "the engine …".
fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The command line of the engine, behind the role that follows its parent.
fn command(order: &Order, address: &Address) -> Result<Command, Failure> {
    let port = match address {
        Address::Port(port) => port.to_string(),
        Address::Socket(_) => String::new(),
    };
    let filled = |template: &Template| {
        template.fill(|place| match place {
            Placeholder::Port => port.as_str(),
            // The router has filled in the others.
            _ => "",
        })
    };
    let line: Vec<String> = order.command.iter().map(filled).collect();
    let line = serde_json::to_string(&line).map_err(std::io::Error::other)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["worker", "--become-engine", &line])
        .envs(order.env.iter().map(|(name, value)| (name, filled(value))))
        .current_dir(&order.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// Ends the engine and all that it started: asked first, killed in the end by
/// the router, or here if there is none any more.
async fn end(
    mut child: Child,
    order: &Order,
    why: Leave,
    leave: &mut Leaves,
) -> Result<ExitStatus, Failure> {
    let status = match why {
        Leave::Told => tokio::select! {
            status = child.wait() => status?,
            () = leave.alone() => end_alone(&mut child, order).await?,
        },
        Leave::Alone => {
            tracing::warn!("{ROUTER_GONE}; the engine ends");
            end_alone(&mut child, order).await?
        }
    };
    family::kill_descendants(std::process::id());
    Ok(status)
}

/// The same without a router that would kill what does not end.
async fn end_alone(child: &mut Child, order: &Order) -> Result<ExitStatus, Failure> {
    let _ = rustix::process::kill_current_process_group(order.stop.signal());
    match tokio::time::timeout(LAST_GRACE, child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => kill_all(child).await,
    }
}

/// Kills the engine and all that it started.
async fn kill_all(child: &mut Child) -> Result<ExitStatus, Failure> {
    // What is started meanwhile is met by the next round.
    while family::kill_descendants(std::process::id()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Reaped, or it would be there for ever.
        let _ = child.try_wait();
    }
    child.start_kill().or_else(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Ok(()),
        _ => Err(error),
    })?;
    Ok(child.wait().await?)
}

/// The ways in which the supervisor hears that it is to end, and the order before that.
struct Leaves {
    told: mpsc::UnboundedReceiver<Leave>,
    order: Option<mpsc::UnboundedReceiver<Result<Order, String>>>,
}

impl Leaves {
    /// Listens to signals and to standard input.
    fn listen() -> Result<Self, Failure> {
        let (tell, told) = mpsc::unbounded_channel();
        let kinds = [
            (SignalKind::terminate(), Leave::Told),
            (SignalKind::interrupt(), Leave::Told),
            (SignalKind::quit(), Leave::Told),
            (SignalKind::hangup(), Leave::Told),
            // Its parent died: the one signal that nobody sends to the engine.
            (SignalKind::user_defined1(), Leave::Alone),
        ];
        for (kind, leave) in kinds {
            let mut signals = signal(kind)?;
            let tell = tell.clone();
            crate::shutdown::Tasks::new().spawn(async move {
                while signals.recv().await.is_some() && tell.send(leave).is_ok() {}
            });
        }
        let (deliver, order) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("standard input".to_owned())
            .spawn(move || {
                let mut input = std::io::stdin().lock();
                let _ = deliver.send(read_order(&mut input));
                // Nothing more is expected; its end is what counts.
                let _ = std::io::copy(&mut input, &mut std::io::sink());
                let _ = tell.send(Leave::Alone);
            })?;
        Ok(Self {
            told,
            order: Some(order),
        })
    }

    /// The order.
    async fn order(&mut self) -> Result<Order, Failure> {
        let Some(mut order) = self.order.take() else {
            return Err(Failure::Order("it was read already".to_owned()));
        };
        let read = order.recv().await;
        read.unwrap_or_else(|| Err(ROUTER_GONE.to_owned()))
            .map_err(Failure::Order)
    }

    /// The next word that it is time to go.
    async fn wait(&mut self) -> Leave {
        self.told.recv().await.unwrap_or(Leave::Alone)
    }

    /// Waits until the router is gone.
    async fn alone(&mut self) {
        while self.wait().await != Leave::Alone {}
    }
}

/// Reads the order, one line.
fn read_order(input: &mut impl BufRead) -> Result<Order, String> {
    let mut line = Vec::new();
    let read = input.take(LONGEST_ORDER).read_until(b'\n', &mut line);
    read.map_err(|error| error.to_string())?;
    if line.last() != Some(&b'\n') {
        return Err("it is cut off".to_owned());
    }
    serde_json::from_slice(&line).map_err(|error| error.to_string())
}
