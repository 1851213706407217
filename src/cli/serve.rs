//! `roundhouse serve`: checks what must hold before a port opens, opens the
//! ports, and serves until it is told to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::Mode;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CONFIGURATION, failed, print_config};
use crate::access::Entrance;
use crate::access::keys::{KeyClass, KeyRing, Keys, given};
use crate::access::limit::Limiter;
use crate::api::intake::Bodies;
use crate::config::problem::Problems;
use crate::config::upstream::own_listener;
use crate::config::{self, Config, Listen, locate};
use crate::dispatch::{Dispatch, live, spool};
use crate::engine::stored;
use crate::engine::stored::room::Quota;
use crate::platform::{self, Folders, allocator};
use crate::pool::Pool;
use crate::pool::ledger::file::Notebook;
use crate::records::audit::Audit;
use crate::records::counters::Counters;
use crate::records::events::Events;
use crate::records::requests::RequestLog;
use crate::records::{Records, private};
use crate::registry::{Machine, MachineMemory, Registry};
use crate::server::descriptors::{self, Share};
use crate::server::tls::Certificate;
use crate::server::{Bound, Limits, Settings, Times};
use crate::service::prefetch::Prefetch;
use crate::service::reload::{self, Reload, ReloadError};
use crate::service::seen::Seen;
use crate::service::{self, Service, rest};
use crate::shutdown::{FailPoints, Tasks};
use crate::upstream::{self, Upstreams};
use crate::worker::process::{Launcher, LauncherOptions};
use crate::{admin, api, telemetry};

/// After the drain: how long workers and connections may take to end.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What `serve` understands.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where inference is served, instead of server.listen
    #[arg(long, value_name = "ADDRESS", value_parser = locate::parse_listen)]
    listen: Option<Listen>,
    /// Where management is served, instead of server.management
    #[arg(long, value_name = "ADDRESS", value_parser = locate::parse_listen)]
    management: Option<Listen>,
    /// Serve inference without a key on addresses that others can reach
    #[arg(long)]
    insecure_no_auth: bool,
    /// Show every value in force and where it comes from, and end
    #[arg(long)]
    print_config: bool,
    /// Print the addresses as one line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Write prompts and answers to the log, where anybody who reads it finds them
    #[arg(long)]
    log_bodies: bool,
    /// Also serve models of the engine that plays a file, which exists for tests
    #[arg(long, hide = true)]
    scripted_engine: bool,
}

/// Why the server did not start, with the exit code.
struct NotStarted(u8, String);

impl NotStarted {
    fn configuration(error: impl std::fmt::Display) -> Self {
        Self(CONFIGURATION, error.to_string())
    }

    fn failed(error: impl std::fmt::Display) -> Self {
        Self(1, error.to_string())
    }
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> ExitCode {
    allocator::limit_arenas();
    // Whatever this process makes is its owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // What the process that started this one left open, such as the pipes of a
    // build tool or another server's sockets, must not reach workers.
    close_fds::set_fds_cloexec(3, &[]);
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder");
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(1, error),
    };
    match runtime.block_on(serve(args, &folders)) {
        Ok(code) => code,
        Err(NotStarted(code, error)) => failed(code, error),
    }
}

/// What of the command line holds for every reading of the file.
struct Overrides {
    listen: Option<Listen>,
    management: Option<Listen>,
}

impl Overrides {
    /// What holds, given what the file says.
    fn over(&self, mut config: Config) -> Config {
        if let Some(listen) = &self.listen {
            config.server.listen = vec![listen.clone()];
        }
        if let Some(management) = &self.management {
            config.server.management = vec![management.clone()];
        }
        config
    }

    /// The keys that the command line decides, with the options that do.
    fn flags(&self) -> Vec<(&'static str, &'static str)> {
        let listen = self.listen.as_ref().map(|_| ("server.listen", "--listen"));
        let management = self.management.as_ref();
        let management = management.map(|_| ("server.management", "--management"));
        listen.into_iter().chain(management).collect()
    }
}

async fn serve(args: &ServeArgs, folders: &Folders) -> Result<ExitCode, NotStarted> {
    let overrides = Overrides {
        listen: args.listen.clone(),
        management: args.management.clone(),
    };
    let file = locate::find(args.config.as_deref(), folders).map_err(NotStarted::configuration)?;
    let config = locate::read(&file, folders).map_err(NotStarted::configuration)?;
    let config = overrides.over(config);
    if args.print_config {
        let text = print_config::report(&config, &overrides.flags(), args.json);
        return Ok(super::print(&text, 0));
    }
    let seen = Seen::of(&config);
    let counters = Counters::default();
    let lost = counters.clone();
    let log = telemetry::start(&config.log, move || lost.log_lost())
        .map_err(NotStarted::configuration)?;
    let _last_words = log.last_words();
    telemetry::log_panics(args.log_bodies);
    if args.log_bodies {
        tracing::warn!("prompts and answers are written to the log (--log-bodies)");
    }
    close_to_others(&config)?;
    refuse_loops(&config).map_err(NotStarted::configuration)?;
    for (upstream, error) in upstream::missing_keys(config.upstreams.values()) {
        let error = error.to_string();
        tracing::warn!(
            upstream,
            error,
            "an upstream has no key and will not be asked"
        );
    }
    let given = given::read(|name| std::env::var_os(name)).map_err(NotStarted::configuration)?;
    let keys = KeyRing::open(config.keys_file.clone(), given).map_err(NotStarted::configuration)?;
    refuse_exposure(&config, &keys.load(), args.insecure_no_auth)?;
    let memory = machine_memory()?;
    let machine = Machine {
        memory,
        scripted: args.scripted_engine,
    };
    let server = config.server.clone();
    let audit = Audit::open(&config.audit).map_err(NotStarted::failed)?;
    let registry = Arc::new(Registry::start(config, machine).map_err(NotStarted::configuration)?);
    let prompts = prompts(folders, &registry.load().config.pool).await;

    // Signals first: from here on a stop is an orderly one.
    let mut signals = Signals::listen().map_err(NotStarted::failed)?;
    let certificate = Certificate::open(server.tls.as_ref()).map_err(NotStarted::configuration)?;
    warn_of_clear_text(&server);
    let descriptors = descriptors::raise();
    let inference = bind(&server.listen, server.socket_mode).await?;
    let management = bind(&server.management, server.socket_mode).await?;
    let control = Bound::bind_control(&folders.control_socket());
    announce(args.json, certificate.is_there(), &inference, &management)
        .map_err(NotStarted::failed)?;

    let mut options = LauncherOptions::own().map_err(NotStarted::failed)?;
    options.prompts = Some(prompts.clone());
    let launcher = Launcher::open(options).map_err(NotStarted::failed)?;
    let fail_points = match args.scripted_engine {
        true => FailPoints::switched_on(),
        false => FailPoints::default(),
    };
    let tasks = Tasks::with_fail_points(fail_points.clone());
    let owner = Tasks::with_fail_points(fail_points);
    let snapshot = registry.load();
    if snapshot.budget > memory.auto {
        tracing::warn!(
            "memory is {}, more than the {} that this machine can spare for models",
            snapshot.budget,
            memory.auto
        );
    }
    let pool = Pool::open(
        service::pool_settings(&snapshot),
        service::residents(&snapshot),
        Notebook::open(folders.ledger(), &owner),
        launcher,
        &owner,
    );
    let keys = Arc::new(keys);
    keys.follow(&tasks);
    let again = folders.clone();
    // The file that was found at the start, whatever else there is by then.
    let read = Box::new(move |instead| {
        let config = locate::read_again(&file, instead, &again).map_err(ReloadError::Problems)?;
        let config = overrides.over(config);
        refuse_loops(&config).map_err(ReloadError::Problems)?;
        Ok(config)
    });
    audit.sum_up(&counters, &owner);
    let prefetch = Prefetch {
        pool: pool.clone(),
        registry: registry.clone(),
        counters: counters.clone(),
    };
    prefetch.start(&tasks);
    let live = live::Live::default();
    rest::start(live.clone(), &tasks);
    let records = Arc::new(Records {
        // Its task ends last: requests are written down while the others end.
        requests: RequestLog::start(snapshot.config.request_log.clone(), &counters, &owner),
        counters,
        events: Events::default(),
    });
    let requests = records.requests.clone();
    let upstreams = Arc::new(Upstreams::default());
    let ways = upstreams.clone();
    let follow = Box::new(move |config: &Config| {
        ways.keep(|name| config.upstreams.contains_key(name));
        log.follow(&config.log);
        requests.follow(config.request_log.clone());
    });
    let service = Service::from(service::Parts {
        dispatch: Arc::new(Dispatch {
            registry: registry.clone(),
            pool: pool.clone(),
            upstreams,
            spools: spool::Budget::default(),
            live,
            tasks: tasks.clone(),
            log_bodies: args.log_bodies,
        }),
        bodies: Bodies::default(),
        reload: Reload::start(
            reload::Parts {
                read,
                follow,
                records: records.clone(),
                registry: registry.clone(),
                keys: keys.clone(),
                pool: pool.clone(),
                seen,
            },
            &tasks,
        ),
        entrance: Arc::new(Entrance {
            keys,
            limiter: Limiter::default(),
            insecure: args.insecure_no_auth,
        }),
        audit,
        records,
        prompts,
        started: Instant::now(),
    });
    let in_force = registry.clone();
    certificate.follow(move || in_force.load().config.server.tls.clone(), &tasks);
    let in_force = registry.clone();
    let settings = |share| Settings {
        limits: Arc::new({
            let in_force = in_force.clone();
            move || limits(&in_force.load().config.server.limits)
        }),
        room: descriptors::room(descriptors, share),
        tls: certificate.clone(),
        counters: service.records.counters.clone(),
    };
    let share = Share::Inference(inference.len());
    for bound in inference {
        bound.serve(api::app(service.clone()), settings(share), &tasks);
    }
    for bound in management {
        let settings = settings(Share::Management);
        bound.serve(admin::app(service.clone()), settings, &tasks);
    }
    match control {
        Ok(control) => {
            let settings = settings(Share::Management);
            control.serve(admin::app(service.clone()), settings, &tasks);
        }
        // A second server of the same user has no control socket, and says so.
        Err(error) => tracing::warn!(?error, "there is no control socket"),
    }

    signals.until_stop(&service).await;
    Ok(drain(
        signals,
        pool,
        tasks,
        owner,
        registry.load().config.server.drain,
    )
    .await)
}

/// The prompts on disk, within the quotas of the file. What cannot be put in order there is
/// no reason not to serve.
async fn prompts(folders: &Folders, pool: &config::Pool) -> stored::folder::Folder {
    let quota = pool.prompts_on_disk.map(|all| Quota {
        each: pool.prompts_on_disk_per_model.0,
        all: all.0,
    });
    let path = folders.prompts();
    let folder = stored::folder::Folder { path, quota };
    let own = folder.clone();
    let prepared = tokio::task::spawn_blocking(move || own.prepare()).await;
    if let Ok(Err(error)) = prepared {
        let path = &folder.path;
        tracing::warn!(?path, ?error, "the prompts on disk cannot be put in order");
    }
    folder
}

/// Lets answers end, then workers, then connections; a second signal ends it now.
async fn drain(
    mut signals: Signals,
    pool: Pool,
    tasks: Tasks,
    owner: Tasks,
    patience: Duration,
) -> ExitCode {
    tracing::info!(drain_ms = patience.as_millis() as u64, "stopping");
    let orderly = async {
        let (_, ended) = tokio::join!(pool.stop(patience), tasks.stop(patience + LAST_PATIENCE));
        owner.stop(LAST_PATIENCE).await && ended
    };
    tokio::select! {
        ended = orderly => {
            tracing::info!(all_ended = ended, "stopped");
            ExitCode::SUCCESS
        }
        () = signals.stop() => {
            tracing::warn!("stopped at once by a second signal");
            ExitCode::FAILURE
        }
    }
}

/// Nobody but its owner may change what is served. The configuration itself holds
/// no secrets and may be read by others.
fn close_to_others(config: &Config) -> Result<(), NotStarted> {
    for path in config.source.iter().chain(&config.drop_ins) {
        let closed = std::fs::File::open(path)
            .and_then(|file| private::take_back(&file, path, private::OTHERS_WRITE));
        closed.map_err(|error| {
            NotStarted::configuration(format!(
                "{} may be changed by others, and that could not be ended: {error}; run chmod go-w on it",
                path.display()
            ))
        })?;
    }
    Ok(())
}

/// An upstream that is this server would be asked without an end. The file is held
/// against itself when it is read; here against the options of the command line too.
fn refuse_loops(config: &Config) -> Result<(), Problems> {
    match own_listener(config) {
        Some(message) => Err(Problems::whole(config.source.as_deref(), message)),
        None => Ok(()),
    }
}

/// A reachable address without keys is refused before any port opens. For
/// inference the owner may insist, and is warned; for management nobody may.
fn refuse_exposure(config: &Config, keys: &Keys, insecure: bool) -> Result<(), NotStarted> {
    let doors = [
        (
            "server.listen",
            &config.server.listen,
            KeyClass::Inference,
            "",
        ),
        (
            "server.management",
            &config.server.management,
            KeyClass::Management,
            " --management",
        ),
    ];
    for (setting, listens, class, flag) in doors {
        let Some(address) = reachable(listens).filter(|_| !keys.any(class)) else {
            continue;
        };
        if insecure && class == KeyClass::Inference {
            tracing::warn!(
                "{setting} is {address} and there is no inference key: everybody who can reach \
                 it can use every model, because of --insecure-no-auth"
            );
        } else {
            return Err(NotStarted::configuration(format!(
                "{setting} is {address}, which others can reach, and there is no {} key; \
                 make one with `roundhouse keys new{flag}` or listen on 127.0.0.1",
                class.as_str()
            )));
        }
    }
    Ok(())
}

/// What connections are held to, of the limits in force.
fn limits(limits: &config::Limits) -> Limits {
    Limits {
        times: Times {
            head: limits.header_time,
            idle: limits.idle,
            write: limits.write_stall,
        },
        connections: limits.connections,
    }
}

/// Keys and prompts in clear text are a matter of the network they cross.
fn warn_of_clear_text(server: &config::Server) {
    let reachable = reachable(server.listen.iter().chain(&server.management));
    if let (Some(address), None) = (reachable, &server.tls) {
        tracing::warn!(
            "{address} can be reached by others, and keys and texts cross the network in clear \
             text; set server.tls, or put a proxy with TLS in front"
        );
    }
}

/// The first address that other machines can reach.
fn reachable<'l>(listens: impl IntoIterator<Item = &'l Listen>) -> Option<&'l SocketAddr> {
    listens.into_iter().find_map(|listen| match listen {
        Listen::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some(address),
        _ => None,
    })
}

fn machine_memory() -> Result<MachineMemory, NotStarted> {
    platform::machine_memory()
        .zip(platform::automatic_budget())
        .map(|(total, auto)| MachineMemory { total, auto })
        .ok_or_else(|| NotStarted::failed("the system does not tell how much memory it has"))
}

async fn bind(listens: &[Listen], mode: u32) -> Result<Vec<Bound>, NotStarted> {
    let mut bound = Vec::new();
    for listen in listens {
        let opened = Bound::bind(listen, mode).await;
        bound.push(opened.map_err(|error| NotStarted::failed(format!("{listen}: {error}")))?);
    }
    Ok(bound)
}

/// Says where it listens: one line of JSON for programs, two lines for people.
fn announce(
    as_json: bool,
    tls: bool,
    inference: &[Bound],
    management: &[Bound],
) -> std::io::Result<()> {
    let urls = |bound: &[Bound]| {
        let urls: Vec<_> = bound.iter().map(|bound| bound.url(tls)).collect();
        urls.join(" ")
    };
    let inference = urls(inference);
    let management = (!management.is_empty()).then(|| urls(management));
    let mut out = std::io::stdout().lock();
    if as_json {
        let line = json!({"event": "listening", "inference": inference, "management": management});
        writeln!(out, "{line}")?;
    } else {
        let management = management.as_deref().unwrap_or("the control socket alone");
        writeln!(out, "inference   {inference}\nmanagement  {management}")?;
    }
    out.flush()
}

/// The signals a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a stop; a hang-up reloads the configuration meanwhile.
    async fn until_stop(&mut self, service: &Service) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    // The outcome is logged by the task that reloads.
                    let _ = service.reload.reload().await;
                }
            }
        }
    }
}
