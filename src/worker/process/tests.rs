//! Real processes: small shell scripts in the place of the worker. What stands
//! for `leading` is `-c` and the script, so that the worker's own arguments
//! become the script's.

#![expect(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Pid;

use super::*;
use crate::config::Compute;
use crate::config::kv::KvFormat;
use crate::units::ByteSize;
use crate::worker::WorkerArgs;

/// What a worker of our version says, with `device` to carry something back.
const READY: &str = r#"read secret; say() { echo "{\"event\":\"ready\",\"version\":\"VERSION\",\"bytes_held\":7,\"device\":\"$1\",\"compute\":\"float32\",\"context\":64,\"load_ms\":1}"; };"#;

/// The reports of one worker.
type Reports = Arc<Mutex<Vec<Report>>>;

/// One worker that plays a script.
struct Play {
    load: watch::Sender<bool>,
    stop: watch::Sender<Option<Leave>>,
    reports: Reports,
    changed: Arc<tokio::sync::Notify>,
    run: tokio::task::JoinHandle<String>,
    launcher: Launcher,
    _runtime: tempfile::TempDir,
}

fn plan() -> LoadPlan {
    LoadPlan {
        model: "org/model".to_owned(),
        dir: PathBuf::from("/models/one"),
        commit: None,
        engine: EngineKind::Scripted.into(),
        context: 64,
        parallel: 2,
        kv: ByteSize(1000),
        kv_format: KvFormat::EightBit,
        compute: Compute::Float32,
        adapters: ByteSize(300),
        draft: Draft::Network("/models/small".into()),
        warmup: true,
        warm_prompts: Default::default(),
        weights: ByteSize(1000),
        memory: ByteSize(2000),
        estimated: true,
        standby: None,
    }
}

fn launcher(program: &str, leading: &[&str]) -> (Launcher, tempfile::TempDir) {
    let runtime = tempfile::tempdir().expect("a folder");
    let options = LauncherOptions {
        program: program.into(),
        leading: leading.iter().map(OsString::from).collect(),
        prompts: None,
        runtime: Some(runtime.path().to_owned()),
    };
    (Launcher::open(options).expect("a launcher"), runtime)
}

fn play(script: &str) -> Play {
    let script = format!("{READY} {script}").replace("VERSION", env!("CARGO_PKG_VERSION"));
    play_program("/bin/sh", &["-c", &script])
}

fn play_program(program: &str, leading: &[&str]) -> Play {
    let (launcher, runtime) = launcher(program, leading);
    play_plan(launcher, runtime, plan())
}

fn play_plan(launcher: Launcher, runtime: tempfile::TempDir, plan: LoadPlan) -> Play {
    play_loading(launcher, runtime, plan, true)
}

/// A worker that loads at once, or stands by.
fn play_loading(
    launcher: Launcher,
    runtime: tempfile::TempDir,
    plan: LoadPlan,
    loads: bool,
) -> Play {
    let (load, may_load) = watch::channel(loads);
    let (stop, stopped) = watch::channel(None);
    let reports = Reports::default();
    let changed = Arc::new(tokio::sync::Notify::new());
    let (write, tell) = (reports.clone(), changed.clone());
    let report = move |report| {
        // Whatever a shell may hold.
        if matches!(report, Report::Footprint(_)) {
            return;
        }
        write.lock().expect("not poisoned").push(report);
        tell.notify_one();
    };
    let run = tokio::spawn(launcher.run(Arc::new(plan), report, may_load, stopped));
    Play {
        load,
        stop,
        reports,
        changed,
        run,
        launcher,
        _runtime: runtime,
    }
}

impl Play {
    /// Waits for the worker's word; answers its process id and what it said.
    async fn ready(&self) -> (u32, Ready) {
        loop {
            if let [Report::Spawned { pid }, Report::Ready { ready, .. }] =
                self.reports.lock().expect("not poisoned").as_slice()
            {
                return (*pid, Ready::clone(ready));
            }
            self.changed.notified().await;
        }
    }

    /// Waits for the end; answers the reason of a failed load, if there was one,
    /// and how it ended.
    async fn over(self) -> (Option<String>, String) {
        let how = self.run.await.expect("no panic");
        let mut reports = self.reports.lock().expect("not poisoned");
        let failed = reports.drain(..).find_map(|report| match report {
            Report::Failed { reason } => Some(reason),
            _ => None,
        });
        (failed, how)
    }
}

/// Whether a process is there; a zombie counts as gone.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// A worker of the embedded engine that may keep prompts on disk.
fn play_with_prompts(script: &str) -> Play {
    let script = format!("{READY} {script}").replace("VERSION", env!("CARGO_PKG_VERSION"));
    let runtime = tempfile::tempdir().expect("a folder");
    let options = LauncherOptions {
        program: "/bin/sh".into(),
        leading: ["-c", &script].map(OsString::from).to_vec(),
        prompts: Some(stored::folder::Folder {
            path: "/prompts".into(),
            quota: Some(Quota { each: 7, all: 9 }),
        }),
        runtime: Some(runtime.path().to_owned()),
    };
    let plan = LoadPlan {
        engine: EngineKind::Mlx.into(),
        ..plan()
    };
    play_plan(Launcher::open(options).expect("a launcher"), runtime, plan)
}

#[tokio::test]
async fn d20_a_worker_that_may_write_is_asked_by_word_and_else_by_signal() {
    // Options are the script's arguments, its name first.
    let script = r#"say "$*"; read word time; [ "$word $time" = "leave 45000" ]"#;
    let leave = |may_write| Leave {
        grace: Duration::from_secs(60),
        may_write,
    };
    for (may_write, expected) in [
        (true, "ended with code 0 when told to end"),
        (false, "was ended by signal 15 when told to end"),
    ] {
        let play = play_with_prompts(script);
        let (_, ready) = play.ready().await;
        let prompts = "--prompts /prompts/org+model --prompts-each 7 --prompts-all 9";
        assert!(ready.device.contains(prompts), "{}", ready.device);
        play.stop.send_replace(Some(leave(may_write)));
        assert_eq!(play.over().await, (None, expected.to_owned()));
    }
    // The scripted engine keeps nothing there.
    let play = play(r#"say "$*"; read word"#);
    let (_, ready) = play.ready().await;
    assert!(!ready.device.contains("--prompts"), "{}", ready.device);
    play.stop.send_replace(Some(leave(true)));
    assert_eq!(
        play.over().await.1,
        "was ended by signal 15 when told to end"
    );
}

#[tokio::test]
async fn a_worker_that_stands_by_is_told_to_load_once_and_before_that_may_be_ended() {
    let script = r#"case "$*" in *--standby*) read word;; esac; say "$word"; cat > /dev/null"#;
    let script = format!("{READY} {script}").replace("VERSION", env!("CARGO_PKG_VERSION"));
    let stand_by = || {
        let (launcher, runtime) = launcher("/bin/sh", &["-c", &script, "worker"]);
        play_loading(launcher, runtime, plan(), false)
    };
    let play = stand_by();
    while play.reports.lock().expect("not poisoned").is_empty() {
        play.changed.notified().await;
    }
    play.load.send_replace(true);
    let (_, ready) = play.ready().await;
    assert_eq!(ready.device, "load");
    let leave = Leave::within(Duration::from_secs(5));
    play.stop.send_replace(Some(leave));
    let told = "was ended by signal 15 when told to end".to_owned();
    assert_eq!(play.over().await, (None, told.clone()));

    let play = stand_by();
    while play.reports.lock().expect("not poisoned").is_empty() {
        play.changed.notified().await;
    }
    play.stop.send_replace(Some(leave));
    assert_eq!(play.over().await, (None, told));
}

#[tokio::test]
async fn a_worker_becomes_ready_and_ends_when_told() {
    let play = play("say cpu; cat > /dev/null");
    let (pid, ready) = play.ready().await;
    assert_eq!((ready.bytes_held, ready.device.as_str()), (7, "cpu"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let group = rustix::process::getpgid(pid).expect("it lives");
    assert_eq!(Some(group), pid, "its own group");
    play.stop
        .send_replace(Some(Leave::within(Duration::from_secs(5))));
    let (failed, how) = play.over().await;
    assert_eq!(
        (failed, how.as_str()),
        (None, "was ended by signal 15 when told to end")
    );
}

#[tokio::test]
async fn f10_what_ignores_the_request_is_killed_with_all_it_started() {
    let play = play("trap '' TERM; sleep 1000 & say $!; while :; do wait; done");
    let (pid, ready) = play.ready().await;
    let grandchild = ready.device.parse().expect("a process id");
    play.stop
        .send_replace(Some(Leave::within(Duration::from_millis(50))));
    let (_, how) = play.over().await;
    assert_eq!(how, "was ended by signal 9 when told to end");
    assert!(!lives(pid) && !lives(grandchild));
}

#[tokio::test]
async fn a_later_word_shortens_the_grace() {
    let play = play("trap '' TERM; say cpu; while :; do sleep 1; done");
    play.ready().await;
    play.stop
        .send_replace(Some(Leave::within(Duration::from_secs(1000))));
    tokio::task::yield_now().await;
    play.stop.send_replace(Some(Leave::within(Duration::ZERO)));
    let (_, how) = play.over().await;
    assert_eq!(how, "was ended by signal 9 when told to end");
}

#[tokio::test]
async fn a_crash_is_seen_and_told() {
    let play = play("say cpu; kill -9 $$");
    let (failed, how) = play.over().await;
    assert_eq!(failed, None);
    assert_eq!(how, "was killed (signal 9), perhaps for lack of memory");
}

#[tokio::test]
async fn a_load_is_told_by_its_steps_alone() {
    let loading = |done| format!(r#"echo '{{"event":"loading","done":{done},"all":10000}}'; "#);
    // The second is less than a thousandth further, the fourth goes back.
    let lines: String = [100, 109, 6200, 50, 10000].map(loading).concat();
    let play = play(&format!("{lines} say cpu; cat > /dev/null"));
    let steps = || {
        let reports = play.reports.lock().expect("not poisoned");
        let is_ready = matches!(reports.last(), Some(Report::Ready { .. }));
        let steps = reports.iter().filter_map(|report| match report {
            Report::Loading { progress } => Some(progress.done),
            _ => None,
        });
        is_ready.then(|| steps.collect::<Vec<_>>())
    };
    let told = loop {
        match steps() {
            Some(told) => break told,
            None => play.changed.notified().await,
        }
    };
    assert_eq!(told, [100, 6200, 10000]);
    play.stop
        .send_replace(Some(Leave::within(Duration::from_secs(5))));
    play.over().await;
}

#[tokio::test]
async fn failed_loads_say_why() {
    let check = async |script: &str, failed: Option<&str>, how: &str| {
        let got = play(script).over().await;
        assert_eq!(
            (got.0.as_deref(), got.1.as_str()),
            (failed, how),
            "{script}"
        );
    };
    let failed = r#"echo '{"event":"failed","reason":"no \u001b tensor"}'; exit 3"#;
    check(failed, Some("no \\u{1b} tensor"), "ended with code 3").await;
    check("exit 7", None, "ended with code 7").await;
    let garbage = Some("what its worker said could not be read");
    check("echo hello", garbage, "ended with code 0").await;
}

#[tokio::test]
async fn another_version_is_refused() {
    let script = r#"echo '{"event":"ready","version":"0.0.0","bytes_held":7,"device":"cpu","compute":"x","context":1,"load_ms":1}'"#;
    let (failed, _) = play(script).over().await;
    let failed = failed.expect("refused");
    assert!(
        failed.contains("version 0.0.0") && failed.contains("restart"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_load_can_be_ended_and_is_then_no_failure() {
    let play = play("sleep 1000");
    play.changed.notified().await;
    play.stop
        .send_replace(Some(Leave::within(Duration::from_secs(5))));
    let (failed, how) = play.over().await;
    assert_eq!(
        (failed, how.as_str()),
        (None, "was ended by signal 15 when told to end")
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_load() {
    let (failed, how) = play_program("/nonexistent/worker", &[]).over().await;
    assert!(failed.is_some_and(|reason| reason.contains("could not be started")));
    assert_eq!(how, "was never there");
}

#[tokio::test]
async fn chatter_never_blocks_a_worker() {
    let flood = "head -c 1000000 /dev/zero";
    let play = play(&format!(
        "{flood} >&2; say cpu; {flood}; {flood} >&2; exit 5"
    ));
    let (failed, how) = play.over().await;
    assert_eq!((failed, how.as_str()), (None, "ended with code 5"));
}

#[tokio::test]
async fn a_worker_gets_what_is_documented_and_nothing_else() {
    // Descriptors are looked at one by one: a list of them would need one more.
    let script = r#"for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && fds="$fds$fd"; done
        names=$(tr '\0' '\n' < /proc/$$/environ | cut -d= -f1 | tr '\n' ' ')
        echo "{\"event\":\"failed\",\"reason\":\"${#secret} $(pwd) $fds | $names | $0 $*\"}""#;
    let play = play(script);
    let folder = play.launcher.folder().to_owned();
    let (failed, _) = play.over().await;
    let said = failed.expect("it said so");
    let [first, names, arguments] = said.split(" | ").collect::<Vec<_>>()[..] else {
        panic!("{said}");
    };
    assert_eq!(first, "64 / 012", "secret, folder, descriptors");
    for name in names.split_whitespace() {
        assert!(ENVIRONMENT.contains(&name), "{name} reached the worker");
    }
    let rest = "--model-dir /models/one --engine scripted --context 64 --parallel 2 --kv 1000 --kv-format 8bit --compute float32 --adapters 300 --warmup --draft-dir /models/small";
    let socket = arguments
        .strip_prefix("--socket ")
        .and_then(|a| a.strip_suffix(rest));
    let socket = Path::new(socket.expect("as documented").trim());
    assert_eq!(socket.parent(), Some(folder.as_path()));
}

#[tokio::test]
async fn what_is_to_be_read_is_told_behind_the_secret_and_not_on_the_command_line() {
    let script = r#"IFS= read -r prompts; wanted='["Be \"brief\".\n","b"]'
        [ "$prompts" = "$wanted" ] && for word in "$@"; do said=$word; done; say "$said""#;
    let script = format!("{READY} {script}").replace("VERSION", env!("CARGO_PKG_VERSION"));
    let (launcher, runtime) = launcher("/bin/sh", &["-c", &script]);
    let plan = LoadPlan {
        warm_prompts: ["Be \"brief\".\n".to_owned(), "b".to_owned()].into(),
        draft: Draft::Nothing,
        ..plan()
    };
    let play = play_plan(launcher, runtime, plan);
    let (_, ready) = play.ready().await;
    assert_eq!(ready.device, "--warm-prompts");
}

#[test]
fn the_command_line_is_one_that_a_worker_reads() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        worker: WorkerArgs,
    }
    let (launcher, _runtime) = launcher("/bin/worker", &[]);
    let plan = plan();
    let command = launcher
        .0
        .command(&plan, EngineKind::Scripted, "/run/s".as_ref(), true)
        .expect("a command");
    let arguments = std::iter::once("worker".as_ref()).chain(command.as_std().get_args());
    let line = <Line as clap::Parser>::try_parse_from(arguments).expect("it reads it");
    assert_eq!(
        line.worker,
        WorkerArgs {
            socket: "/run/s".into(),
            model_dir: plan.dir,
            engine: EngineKind::Scripted,
            context: plan.context,
            parallel: plan.parallel,
            kv: plan.kv.0,
            kv_format: plan.kv_format,
            compute: plan.compute,
            adapters: plan.adapters.0,
            draft_dir: Some("/models/small".into()),
            draft_prompt: false,
            standby: true,
            warmup: plan.warmup,
            warm_prompts: false,
            prompts: None,
            prompts_each: 0,
            prompts_all: 0,
        }
    );
}

#[test]
fn only_listed_names_pass() {
    let given = [
        "PATH",
        "HF_TOKEN",
        "https_proxy",
        "ROUNDHOUSE_KEY",
        "TMPDIR",
    ];
    let given = given.map(|name| (OsString::from(name), OsString::from("x")));
    let passed: Vec<_> = environment(given.into_iter())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(passed, ["PATH", "TMPDIR"]);
}
