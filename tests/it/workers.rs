//! Workers that die at any moment, crash again and again, stand still, or are many
//! (group F). Each request has one honest ending, and the next one finds a worker.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::harness::{Answer, Home, PATIENCE, Server, lives, long, question};
use super::sampler::children;

fn send(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, signal).expect("sent");
}

fn pid(answer: &Answer) -> u64 {
    answer.told()["pid"].as_u64().expect("a pid")
}

/// Asks a model and wants an answer of it.
async fn well(server: &Server, model: &str) -> Answer {
    let answer = server.chat(&question(model, "well", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.told()["nonce"], "well");
    answer
}

/// The error that a stream ends with.
fn last_error(answer: &Answer) -> String {
    assert!(!answer.text.contains("[DONE]"), "{answer:?}");
    assert!(answer.text.ends_with("\n\n"), "no clean end: {answer:?}");
    let last = answer.events().pop().expect("an event");
    let last: Value = serde_json::from_str(last.trim()).expect("JSON");
    last["error"]["code"].as_str().expect("a code").to_owned()
}

#[tokio::test]
async fn f01_a_worker_killed_after_any_number_of_chunks_is_told_and_replaced() {
    const TOKENS: u64 = 6;
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": TOKENS, "token_ms": 10}));
    let server = home.serve();
    let (mut before, mut seen) = (0, HashSet::new());
    for stream in [true, false] {
        for killed_at in 0..=TOKENS {
            let next = pid(&well(&server, "t/a").await);
            assert_ne!(next, before, "the worker that was killed answers");
            before = next;
            let mut body = question("t/a", "n", stream);
            body["scripted"] = json!({"crash": {"at": "token", "token": killed_at}});
            let answer = server.chat(&body).await;
            if answer.status == 502 {
                assert_eq!(answer.code(), "worker_crashed");
                continue;
            }
            assert!(stream && answer.status == 200, "{answer:?}");
            assert_eq!(last_error(&answer), "worker_crashed");
            // What was on its way when the worker died may be lost, and nothing else.
            let chunks = answer.text.matches("\\\"chunk\\\":").count() as u64;
            assert!(chunks <= killed_at, "{answer:?}");
            seen.insert(chunks);
        }
    }
    assert!(seen.len() > 2, "{seen:?}");
}

#[tokio::test]
async fn f02_a_worker_killed_while_it_loads_refuses_its_waiters_once() {
    let home = Home::new("models: { t/a: {} }\n");
    let script = json!({"tokens": 1, "load_ms": 20_000});
    home.scripted("t/a", script);
    let server = home.serve();
    let body = question("t/a", "n", false);
    let all = join_all((0..20).map(|_| server.chat(&body)));
    let kill = async {
        let loading = |status: &Value| {
            status["requests"]["waiting"] == 20 && status["models"][0]["process"].is_u64()
        };
        let status = server.until("loading", loading).await;
        send(
            status["models"][0]["process"].as_u64().expect("a pid"),
            Signal::KILL,
        );
        Instant::now()
    };
    let (answers, killed) = tokio::join!(all, kill);
    assert!(killed.elapsed() < Duration::from_secs(2));
    for answer in answers {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "load_failed")
        );
    }
    assert_eq!(server.status().await["counters"]["loads"], 1);
    home.scripted("t/a", json!({"tokens": 1}));
    let start = Instant::now();
    while server.chat(&question("t/a", "again", false)).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "it never loads again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn f04_a_model_that_crashes_on_every_load_rests_longer_and_longer() {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"crash": {"at": "load"}}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    // At 0, 1, 3, 7, 15 and 31 seconds.
    let (lasts, most) = match long() {
        true => (Duration::from_secs(60), 6),
        false => (Duration::from_millis(2_500), 2),
    };
    let other = pid(&well(&server, "t/b").await);
    let start = Instant::now();
    let mut rests = 0;
    while start.elapsed() < lasts {
        let answer = server.chat(&question("t/a", "n", false)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "load_failed")
        );
        let status = server.status().await;
        let failure = &status["models"][0]["last_failure"];
        rests += u64::from(failure["retry_in_seconds"].as_f64() > Some(0.0));
        assert_eq!(pid(&well(&server, "t/b").await), other);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(rests > 0, "the quarantine is not told");
    let loads = server.status().await["counters"]["loads"].as_u64();
    let loads = loads.expect("a number") - 1;
    assert!((2..=most).contains(&loads), "{loads} loads in {lasts:?}");
}

#[tokio::test]
async fn f05_a_worker_that_stands_still_is_replaced_and_its_late_bytes_reach_nobody() {
    let limits = "limits: { first_token: 500ms, between_tokens: 300ms }";
    let home = Home::new(&format!(
        "server: {{ {limits} }}\nmodels: {{ t/a: {{}} }}\n"
    ));
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let mut streamed = question("t/a", "streamed", true);
    let mut whole = question("t/a", "whole", false);
    for body in [&mut streamed, &mut whole] {
        body["scripted"] = json!({"tokens": 200, "token_ms": 10});
    }
    let stop = async {
        let both = |status: &Value| status["requests"]["running"] == 2;
        let status = server.until("answering", both).await;
        let stopped = status["models"][0]["process"].as_u64().expect("a pid");
        send(stopped, Signal::STOP);
        stopped
    };
    let (streamed, whole, stopped) =
        tokio::join!(server.chat(&streamed), server.chat(&whole), stop);
    let error = match streamed.status {
        200 => last_error(&streamed),
        _ => streamed.code(),
    };
    assert!(
        ["upstream_timeout", "first_token_timeout"].contains(&error.as_str()),
        "{error}"
    );
    assert_eq!(
        (whole.status, whole.code().as_str()),
        (504, "first_token_timeout")
    );
    // It goes on where it stood still; nobody hears it any more.
    send(stopped, Signal::CONT);
    let next = well(&server, "t/a").await;
    assert_ne!(pid(&next), stopped);
    assert!(!lives(stopped as u32), "two workers of one model");
}

#[tokio::test]
async fn f08_nobody_without_the_secret_is_answered_by_a_worker() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let server = home.serve();
    let worker = pid(&well(&server, "t/a").await);
    let command = std::fs::read(format!("/proc/{worker}/cmdline")).expect("readable");
    let command = String::from_utf8(command).expect("text");
    let words: Vec<_> = command.split('\0').collect();
    let at = words
        .iter()
        .position(|word| *word == "--socket")
        .expect("a socket");
    let socket = std::path::Path::new(words[at + 1]);
    let folder = socket.parent().expect("a folder");
    let mode = std::fs::metadata(folder)
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let http = reqwest::Client::builder().unix_socket(socket);
    let http = http.build().expect("a client");
    for path in ["/v1/chat/completions", "/health", "/"] {
        for secret in [None, Some("guessed")] {
            let body = question("t/a", "n", false).to_string();
            let mut request = http.post(format!("http://localhost{path}")).body(body);
            if let Some(secret) = secret {
                request = request.bearer_auth(secret);
            }
            let status = request.send().await.expect("an answer").status().as_u16();
            assert!([401, 403].contains(&status), "{path}: {status}");
        }
    }
}

/// What a process holds open.
fn descriptors(pid: u32) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd"));
    folder.expect("readable").count()
}

/// Everything in the home that is not of the cache: sockets, private folders, files
/// that were to be renamed. What is being written at this moment is waited for.
async fn files(home: &Home) -> HashSet<std::path::PathBuf> {
    let start = Instant::now();
    loop {
        let found = files_now(home);
        let is_unfinished = |path: &std::path::PathBuf| path.ends_with("ledger.new");
        if !found.iter().any(is_unfinished) || start.elapsed() > PATIENCE {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same, as it is now.
fn files_now(home: &Home) -> HashSet<std::path::PathBuf> {
    let (mut folders, mut found) = (vec![home.path().to_owned()], HashSet::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() && entry.path() != home.cache() {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// Children of the router that have ended and were not waited for.
fn zombies(router: u32) -> usize {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&router.to_string())
        })
        .count()
}

/// Both ways of changing: one model makes room for the other, and both go.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn f12_loads_and_unloads_leave_nothing_behind() {
    let cycles = if long() { 1000 } else { 10 };
    let home =
        Home::new("memory: 100MB\nmodels: { t/a: { memory: 60MB }, t/b: { memory: 60MB } }\n");
    for id in ["t/a", "t/b"] {
        home.scripted(id, json!({"tokens": 1, "memory_bytes": 1_000_000}));
    }
    let server = home.serve();
    let cycle = async || {
        well(&server, "t/a").await;
        well(&server, "t/b").await;
        let released = server.control(Method::POST, "/admin/models/release", Some(json!({})));
        assert_eq!(released.await.0, 200);
        let gone = |status: &Value| status["memory"]["reserved_bytes"] == 0;
        server.until("gone", gone).await;
    };
    let memory = || super::connections::memory(server.pid());
    for _ in 0..5 {
        cycle().await;
    }
    let before = (memory(), descriptors(server.pid()), files(&home).await);
    for _ in 0..cycles {
        cycle().await;
    }
    let after = (memory(), descriptors(server.pid()), files(&home).await);
    println!(
        "{cycles} cycles: {} and {} bytes, {} and {} descriptors",
        before.0, after.0, before.1, after.1
    );
    assert!(
        after.0 <= before.0 + before.0 / 20 + 1_000_000,
        "{} {}",
        before.0,
        after.0
    );
    assert!(after.1 <= before.1 + 4, "{} {}", before.1, after.1);
    assert_eq!(after.2, before.2);
    assert_eq!(
        (zombies(server.pid()), children(server.pid()).len()),
        (0, 0)
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn f13_workers_that_die_all_at_once_are_reaped_and_counted() {
    let count = if long() { 200 } else { 12 };
    let names: Vec<_> = (0..count).map(|number| format!("t/m{number}")).collect();
    let entries: Vec<_> = names.iter().map(|name| format!("{name}: {{}}")).collect();
    let home = Home::new(&format!("models: {{ {} }}\n", entries.join(", ")));
    for name in &names {
        home.scripted(name, json!({"tokens": 1}));
    }
    let server = home.serve();
    let mut pids = Vec::new();
    for some in names.chunks(10) {
        let answers = join_all(some.iter().map(|name| well(&server, name))).await;
        pids.extend(answers.iter().map(pid));
    }
    assert_eq!(pids.iter().collect::<HashSet<_>>().len(), count);
    for pid in &pids {
        send(*pid, Signal::KILL);
    }
    let killed = Instant::now();
    let all = count as u64;
    let status = server
        .until("reaped", |status| {
            status["counters"]["unloads"]["crashed"] == all
        })
        .await;
    let took = killed.elapsed();
    println!("{count} workers reaped in {took:?}");
    assert!(
        took < Duration::from_secs(if long() { 5 } else { 1 }),
        "{took:?}"
    );
    assert_eq!(status["memory"]["reserved_bytes"], 0, "{status}");
    assert_eq!(
        (zombies(server.pid()), children(server.pid()).len()),
        (0, 0)
    );
    well(&server, &names[0]).await;
}

#[tokio::test]
async fn f15_a_stop_with_a_hung_worker_takes_ten_seconds_at_most() {
    let home = Home::new("server: { drain: 300ms }\nmodels: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1, "ignore_sigterm": true}));
    let mut server = home.serve();
    let worker = pid(&well(&server, "t/a").await);
    let mut hangs = question("t/a", "n", true);
    hangs["scripted"] = json!({"hang": {"at": "headers"}});
    let stop = async {
        let running = |status: &Value| status["requests"]["running"] == 1;
        server.until("hanging", running).await;
        server.signal(Signal::TERM);
        Instant::now()
    };
    let (answer, stopped) = tokio::join!(server.chat(&hangs), stop);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "shutting_down")
    );
    assert_eq!(server.wait(), Some(0));
    assert!(
        stopped.elapsed() < Duration::from_secs(10),
        "{:?}",
        stopped.elapsed()
    );
    assert!(!lives(worker as u32));
}

#[tokio::test]
async fn f21_what_a_killed_run_left_is_swept_and_a_stranger_is_left_alone() {
    use rustix::fs::{FlockOperation, flock};
    let home = Home::new("models: { t/a: {} }\n");
    let snapshot = home.scripted("t/a", json!({"tokens": 1}));
    // A socket that nobody listens on, the folder of a dead run, a download that was
    // broken off, and locks.
    drop(std::os::unix::net::UnixListener::bind(
        home.path().join("roundhouse.sock"),
    ));
    let made = |name: &str| {
        let folder = home.path().join(name);
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("lock"), "").expect("written");
        std::fs::write(folder.join("12345678"), "").expect("written");
        folder
    };
    let dead = made("roundhouse-0000dead");
    let stranger = made("roundhouse-0a11fe00");
    let lock = std::fs::File::open(stranger.join("lock")).expect("opened");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locked");
    let blobs = home.cache().join("models--t--a/blobs");
    std::fs::write(blobs.join("0123.incomplete"), "half").expect("written");
    let state = home.path().join(".local/state/roundhouse");
    std::fs::create_dir_all(&state).expect("made");
    std::fs::write(state.join("keys.lock"), "").expect("written");
    // The pid file of a program that is none of ours, and still runs.
    let mut other = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("started");
    std::fs::write(state.join("roundhouse.pid"), other.id().to_string()).expect("written");
    let server = home.serve();
    well(&server, "t/a").await;
    assert_eq!(home.run(&["keys", "new"]).0, 0);
    assert!(!dead.exists() && stranger.exists() && snapshot.exists());
    assert!(
        blobs.join("0123.incomplete").exists(),
        "it is for the next download"
    );
    drop(server);
    let alive = lives(other.id());
    other.kill().expect("ended");
    other.wait().expect("ended");
    assert!(alive, "a stranger was signalled");
}

#[tokio::test]
async fn f24_a_cache_that_goes_away_and_comes_back_costs_what_is_in_it_alone() {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let before = pid(&well(&server, "t/a").await);
    let away = home.path().join("away");
    std::fs::rename(home.cache(), &away).expect("moved");
    let gone = server.chat(&question("t/b", "n", false)).await;
    assert_eq!((gone.status, gone.code().as_str()), (503, "load_failed"));
    assert_eq!(pid(&well(&server, "t/a").await), before, "it is loaded");
    server.control(Method::POST, "/admin/reload", None).await;
    let gone = server.chat(&question("t/b", "n", false)).await;
    assert!([404, 503].contains(&gone.status), "{gone:?}");
    assert_eq!(server.get("/health").await.0, 200);
    std::fs::rename(&away, home.cache()).expect("moved back");
    let reload = server.control(Method::POST, "/admin/reload", None).await;
    assert_eq!(reload.0, 200, "{}", reload.1);
    let start = Instant::now();
    while server.chat(&question("t/b", "n", false)).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "it never comes back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A FIFO stands for a network volume that does not answer.
#[tokio::test]
async fn f24_a_file_that_cannot_be_read_to_its_end_holds_nobody_up() {
    let home = Home::new("models: { t/a: {}, t/b: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let snapshot = home.scripted("t/b", json!({"tokens": 1}));
    let fifo = |name: &str| {
        let path = snapshot.join(name);
        std::fs::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("started").success());
    };
    fifo("config.json");
    let server = home.serve();
    well(&server, "t/a").await;
    let answer = server.chat(&question("t/b", "n", false)).await;
    assert!([404, 503].contains(&answer.status), "{answer:?}");
    let start = Instant::now();
    let reload = server.control(Method::POST, "/admin/reload", None);
    let (reload, health) = tokio::join!(reload, server.get("/health"));
    assert_eq!((reload.0, health.0), (200, 200));
    assert!(start.elapsed() < Duration::from_secs(5));
    well(&server, "t/a").await;
}

/// A router that stood still, as when a computer sleeps: what was healthy before is
/// healthy after.
#[tokio::test]
async fn f28_a_router_that_was_stopped_for_a_while_cuts_off_nobody() {
    let sleeps = Duration::from_secs(if long() { 60 } else { 2 });
    let limits = "limits: { first_token: 1s, between_tokens: 1s, write_stall: 1s, body_idle: 1s }";
    let home = Home::new(&format!(
        "server: {{ {limits} }}\npool: {{ queue_timeout: 1s }}\nmodels: {{ t/a: {{}}, t/b: {{}} }}\n"
    ));
    home.scripted("t/a", json!({"tokens": 60, "token_ms": 30}));
    home.scripted("t/b", json!({"tokens": 1}));
    let server = home.serve();
    let other = pid(&well(&server, "t/b").await);
    let body = question("t/a", "n", true);
    let streams = join_all((0..4).map(|_| {
        let request = server
            .request(Method::POST, "/v1/chat/completions")
            .timeout(sleeps + PATIENCE)
            .header("content-type", "application/json")
            .body(body.to_string());
        async { Answer::read(request.send().await.expect("an answer")).await }
    }));
    let sleep = async {
        let running = |status: &Value| status["requests"]["running"] == 4;
        server.until("streaming", running).await;
        server.signal(Signal::STOP);
        tokio::time::sleep(sleeps).await;
        server.signal(Signal::CONT);
    };
    let (streams, ()) = tokio::join!(streams, sleep);
    for stream in streams {
        assert_eq!(
            stream.events().last().map(String::as_str),
            Some("[DONE]"),
            "{stream:?}"
        );
    }
    assert_eq!(
        pid(&well(&server, "t/b").await),
        other,
        "a healthy worker was replaced"
    );
    let counters = server.status().await["counters"].clone();
    assert_eq!(
        (&counters["loads"], &counters["load_failures"]),
        (&json!(2), &json!(0))
    );
}
