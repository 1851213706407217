//! What runs inside a worker: HTTP in, engine out. Here are the manners of the
//! process: the secret on standard input, whose end means leave; load, at once or when
//! told to, then listen; how far that is as lines on standard output; logs on standard error.

mod answer;
mod body;
mod embeddings;
mod fields;
mod http;
mod messages;
mod request;
mod rerank;
mod source;
mod standby;
mod warmup;
mod words;

use std::io::{BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use self::http::Served;
use self::source::Engine;
use self::standby::Standby;
use crate::engine::EngineError;
use crate::engine::scripted::{Script, Scripted, name_of};
use crate::engine::thread::Ended;
use crate::platform;
use crate::secret::Secret;
use crate::shutdown::Tasks;
use crate::worker::{EngineKind, LEAVE, LOAD, LoadPhases, Ready, Word, WorkerArgs};

/// Longest secret, bytes.
const LONGEST_SECRET: u64 = 256;

/// Longest line with prompts to be read, bytes: more than the file may say, as JSON.
const LONGEST_PROMPTS: u64 = 64 << 20;

/// How long connections may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why a worker could not begin or go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("standard input ended before the secret and the prompts came")]
    NoSecret,
    #[error("the parent process is gone")]
    NoParent,
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("the warm-up failed: {0}")]
    WarmUp(String),
    #[error("the socket's folder is open to others (mode {0:o}), expected 700")]
    OpenFolder(u32),
    #[error("cannot listen on the socket: {0}")]
    Socket(#[source] std::io::Error),
    #[error("cannot start: {0}")]
    Start(#[source] std::io::Error),
    #[error("the engine ended unexpectedly")]
    EngineGone,
    #[cfg(not(feature = "mlx"))]
    #[error("this build has no embedded engine")]
    NoEngine,
}

/// Runs the worker: from the command line to the end of the process.
pub fn run(args: &WorkerArgs) -> ExitCode {
    let began = Instant::now();
    if args.engine == EngineKind::Mlx {
        // Caches and what is between the layers come and go with each prompt.
        platform::allocator::keep_freed();
    }
    // Whatever this process makes is its owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    log_to_standard_error();
    crate::telemetry::log_panics(false);
    match work(args, began) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(?failure, "the worker ends");
            // After the line that says it is ready nothing more is read, and this one
            // is the word of a worker that could not begin.
            if !matches!(failure, Failure::EngineGone) {
                let out_of_memory =
                    matches!(&failure, Failure::Engine(error) if error.is_out_of_memory());
                say(&Word::Failed {
                    reason: failure.to_string(),
                    out_of_memory,
                });
            }
            ExitCode::FAILURE
        }
    }
}

fn work(args: &WorkerArgs, began: Instant) -> Result<(), Failure> {
    if !platform::follow_parent(rustix::process::Signal::KILL) {
        return Err(Failure::NoParent);
    }
    let standby = match args.standby {
        true => Standby::default(),
        false => Standby::over(),
    };
    let (Told { secret, prompts }, asked_to_leave) = follow_standard_input(args, &standby)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let guard = runtime.enter();
    let mut loaded = load(args, &standby)?;
    if args.standby {
        standby.note(&mut loaded.phases, began);
    }
    let stood_by = Duration::from_secs_f64(loaded.phases.standby_ms / 1e3);
    if args.warmup {
        runtime.block_on(warmup::run(&loaded.engine))?;
    }
    runtime.block_on(warmup::read(&loaded.engine, &prompts));
    let status = loaded.engine.status();
    let served = Arc::new(Served {
        engine: loaded.engine,
        name: name_of(&args.model_dir),
        secret: Secret::new(secret),
    });
    let listener = listen(&args.socket)?;
    drop(guard);
    let (result, at_rest) = runtime.block_on(async {
        let tasks = Tasks::new();
        tasks.spawn(http::accept(listener, served.clone(), tasks.clone()));
        say(&Word::Ready(Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bytes_held: status.bytes_held,
            device: status.device,
            compute: status.compute,
            context: args.context,
            load_ms: u64::try_from((began.elapsed() - stood_by).as_millis()).unwrap_or(u64::MAX),
            phases: loaded.phases,
            port: None,
        }));
        let load_ms = (began.elapsed() - stood_by).as_millis();
        tracing::info!(load_ms, "the worker is ready");
        let mut ended = loaded.ended;
        let result = until_the_end(loaded.terminate, asked_to_leave, ended.as_mut()).await;
        drop(std::fs::remove_file(&args.socket));
        let mut patience = PATIENCE;
        if let Ok(Some(time)) = result {
            patience += time;
            served.engine.leave(Instant::now() + time);
        }
        drop(served);
        if !tasks.stop(PATIENCE).await {
            tracing::warn!("connections did not end in time");
        }
        let at_rest = match (&result, ended) {
            // With the connections its sequences are gone, and with the last way to
            // it the thread ends.
            (Ok(_), Some(ended)) => tokio::time::timeout(patience, ended).await.is_ok(),
            _ => true,
        };
        (result, at_rest)
    });
    // Work on other threads has nobody left to answer to.
    runtime.shutdown_background();
    if !at_rest {
        tracing::warn!("the engine did not come to rest in time");
        leave_at_once();
    }
    result.map(drop)
}

/// A loaded engine, and how the process hears that it is to end.
struct Loaded {
    engine: Engine,
    /// SIGTERM; nothing if it is to have no effect.
    terminate: Option<Signal>,
    /// The end of the engine's thread, where it has one.
    ended: Option<Ended>,
    phases: LoadPhases,
}

/// Prepares the engine, and loads it as soon as it may. SIGTERM ends the process while that
/// lasts.
fn load(args: &WorkerArgs, standby: &Standby) -> Result<Loaded, Failure> {
    let on_terminate = || signal(SignalKind::terminate()).map_err(Failure::Start);
    let loading = |progress| say(&Word::Loading(progress));
    match args.engine {
        EngineKind::Scripted => {
            let script = Script::read(&args.model_dir)?;
            let deaf = script.ignore_sigterm.then(on_terminate).transpose()?;
            script.prepare(&args.model_dir)?;
            standby.wait();
            let began = Instant::now();
            let engine = Scripted::load(&args.model_dir, script, args.parallel, loading)?;
            let evaluate = began.elapsed();
            let source = source::scripted::Source::new(engine, args.context);
            Ok(Loaded {
                engine: Engine::Scripted(source),
                terminate: match deaf {
                    Some(_) => None,
                    None => Some(on_terminate()?),
                },
                ended: None,
                phases: LoadPhases {
                    evaluate_ms: evaluate.as_secs_f64() * 1e3,
                    ..LoadPhases::default()
                },
            })
        }
        #[cfg(feature = "mlx")]
        EngineKind::Mlx => {
            let (engine, ended, phases) = source::snapshot::load(args, standby, loading)?;
            Ok(Loaded {
                engine,
                terminate: Some(on_terminate()?),
                ended: Some(ended),
                phases,
            })
        }
        #[cfg(not(feature = "mlx"))]
        EngineKind::Mlx => Err(Failure::NoEngine),
    }
}

/// Waits for the signal to end or the word to leave, which are no failure, or for the end
/// of the engine, which is one. Answers how long it may write what it keeps.
async fn until_the_end(
    terminate: Option<Signal>,
    asked_to_leave: oneshot::Receiver<Duration>,
    ended: Option<&mut Ended>,
) -> Result<Option<Duration>, Failure> {
    let told = async {
        match terminate {
            Some(mut terminate) => drop(terminate.recv().await),
            None => std::future::pending().await,
        }
    };
    let leaves = async {
        match asked_to_leave.await {
            Ok(time) => time,
            // The router is gone; the thread that heard it ends the process.
            Err(_) => std::future::pending().await,
        }
    };
    let gone = async {
        match ended {
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = told => Ok(None),
        time = leaves => Ok(Some(time)),
        () = gone => Err(Failure::EngineGone),
    }
}

/// Ends the process without the exit handlers of its libraries: those of a BLAS
/// free the memory that the engine's thread may just be multiplying in.
fn leave_at_once() {
    let process = rustix::process::getpid();
    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
}

/// Reads the secret, the first line of standard input, and leaves a thread that hears
/// the words to load and to leave, and ends the process when standard input ends: the parent
/// is gone.
fn follow_standard_input(
    args: &WorkerArgs,
    standby: &Standby,
) -> Result<(Told, oneshot::Receiver<Duration>), Failure> {
    let (told, first) = mpsc::sync_channel(1);
    let (leave, asked_to_leave) = oneshot::channel();
    let (socket, has_prompts) = (args.socket.clone(), args.warm_prompts);
    let standby = standby.clone();
    let follow = move || {
        let mut input = std::io::stdin().lock();
        let first = told_first(&mut input, has_prompts);
        let whole = first.is_some();
        if told.send(first).is_err() || !whole {
            return;
        }
        let mut leave = Some(leave);
        // Whatever else comes is not for us; only the end is.
        while let Some(line) = next_line(&mut input) {
            if line.trim_end() == LOAD {
                standby.tell();
            } else if let Some(time) = time_to_leave(&line) {
                let _ = leave.take().map(|leave| leave.send(time));
            }
        }
        tracing::info!("standard input ended: leaving");
        drop(std::fs::remove_file(&socket));
        leave_at_once();
    };
    std::thread::Builder::new()
        .name("standard-input".to_owned())
        .spawn(follow)
        .map_err(Failure::Start)?;
    let told = first.recv().ok().flatten().ok_or(Failure::NoSecret)?;
    Ok((told, asked_to_leave))
}

/// The next line, or the next part of one that is too long; nothing at the end.
fn next_line(input: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let read = input.take(LONGEST_SECRET).read_until(b'\n', &mut line);
    let is_over = read.ok()? == 0;
    (!is_over).then(|| String::from_utf8_lossy(&line).into_owned())
}

/// Reads the first lines; nothing if they are not whole.
fn told_first(input: &mut impl BufRead, has_prompts: bool) -> Option<Told> {
    let mut line = |longest: u64| {
        let mut line = String::new();
        let read = input.by_ref().take(longest + 1).read_line(&mut line);
        let whole = read.is_ok() && line.ends_with('\n') && !line.trim().is_empty();
        whole.then(|| line.trim().to_owned())
    };
    Some(Told {
        secret: line(LONGEST_SECRET)?,
        prompts: match has_prompts {
            true => serde_json::from_str(&line(LONGEST_PROMPTS)?).ok()?,
            false => Vec::new(),
        },
    })
}

/// What the first lines of standard input say.
struct Told {
    /// Whoever knows it may use the socket.
    secret: String,
    /// System prompts to be read before the model is ready.
    prompts: Vec<String>,
}

/// How long the line on standard input gives.
fn time_to_leave(line: &str) -> Option<Duration> {
    let (word, milliseconds) = line.trim_end().split_once(' ')?;
    let milliseconds = milliseconds.parse().ok().filter(|_| word == LEAVE)?;
    Some(Duration::from_millis(milliseconds))
}

/// Listens on the socket, whose folder must be closed to others.
fn listen(socket: &Path) -> Result<UnixListener, Failure> {
    let folder = socket
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mode = std::fs::metadata(folder)
        .map_err(Failure::Socket)?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(Failure::OpenFolder(mode));
    }
    UnixListener::bind(socket).map_err(Failure::Socket)
}

/// One line on standard output.
pub(super) fn say(word: &Word) {
    let line = serde_json::to_string(word).unwrap_or_default();
    let mut output = std::io::stdout().lock();
    // A parent that does not listen is gone, and standard input tells that.
    drop(writeln!(output, "{line}").and_then(|()| output.flush()));
}

pub(super) fn log_to_standard_error() {
    let set = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A router that is gone reads nothing, and to complain of that would be a panic.
        .log_internal_errors(false)
        .with_max_level(tracing::Level::INFO)
        .try_init();
    // Whoever set a logger before us wants it.
    drop(set);
}

#[cfg(test)]
mod tests;
