//! Many streams over more models than fit, while workers are killed, models
//! unloaded and the configuration edited; a checker joins what every client saw
//! with what the workers and the books say. A few seconds in every run of the
//! tests; `make soak` runs it for minutes, with `ROUNDHOUSE_SOAK_MINUTES`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use roundhouse::shutdown::Tasks;
use serde_json::{Value, json};

use super::harness::{Answer, Home, Server, lives, question};
use super::sampler::{Sample, children, sample};

const MODELS: [&str; 8] = ["t/a", "t/b", "t/c", "t/d", "t/e", "t/f", "t/g", "t/h"];

/// Room for three of them and for the process of a fourth that has not loaded.
const BUDGET: u64 = 260_000_000;

/// What each worker takes, bytes.
const MEMORY: u64 = 30_000_000;

/// Tokens of an answer.
const TOKENS: u64 = 6;

/// How long, and with how many clients at once.
struct Size {
    time: Duration,
    clients: u64,
}

impl Size {
    fn asked_for() -> Self {
        let minutes = std::env::var("ROUNDHOUSE_SOAK_MINUTES").ok();
        match minutes.map(|text| text.parse::<f64>().expect("minutes")) {
            Some(minutes) => Self {
                time: Duration::from_secs_f64(minutes * 60.0),
                clients: 200,
            },
            None => Self {
                time: Duration::from_secs(6),
                clients: 24,
            },
        }
    }
}

/// What becomes of a request on its client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It reads to the end.
    Stays,
    /// It leaves after the first piece.
    LeavesEarly,
    /// It leaves before anything came.
    LeavesAtOnce,
}

/// How a request ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Complete,
    /// An error that says so: a status, or an event of a stream.
    Error,
    Left,
}

/// What all clients found.
#[derive(Default)]
struct Found {
    endings: BTreeMap<Ending, u64>,
    codes: BTreeMap<String, u64>,
    complete: HashSet<String>,
    faults: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r19_streams_kills_unloads_and_edits_at_once_lose_nothing() {
    let size = Size::asked_for();
    let home = Home::new(&configuration(0));
    let journals: Vec<PathBuf> = MODELS
        .iter()
        .map(|id| {
            let script = json!({
                "tokens": TOKENS, "token_ms": 5, "load_ms": 20,
                "memory_bytes": MEMORY, "journal": "journal",
            });
            home.scripted(id, script).join("journal")
        })
        .collect();
    let mut server = home.serve();
    let descriptors_before = descriptors(server.pid());
    let sampled = sample(&server, size.time + Duration::from_secs(120));
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let tasks = Tasks::new();
    let clients: Vec<_> = (0..size.clients)
        .map(|seed| {
            let (stop, asked) = (stop.clone(), asked.clone());
            let base = server.inference.clone();
            tasks.spawn(async move { client(&base, seed, &stop, &asked).await })
        })
        .collect();
    let kills = disturb(&home, &server, size.time).await;
    stop.store(true, Ordering::Relaxed);
    let mut found = Found::default();
    for client in clients {
        let one = client.await.expect("a client");
        for (ending, count) in one.endings {
            *found.endings.entry(ending).or_default() += count;
        }
        for (code, count) in one.codes {
            *found.codes.entry(code).or_default() += count;
        }
        found.complete.extend(one.complete);
        found.faults.extend(one.faults);
    }
    let status = server
        .until("at rest", |status| {
            status["requests"]["running"] == 0 && status["requests"]["waiting"] == 0
        })
        .await;
    let samples = sampled.stop();
    let descriptors_after = descriptors(server.pid());
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    let requests = asked.load(Ordering::Relaxed);
    println!(
        "{requests} requests in {:?} from {} clients, {kills} kills, loads {}, swaps {}, unloads {}, \
         endings {:?}, codes {:?}, {} samples",
        size.time,
        size.clients,
        status["counters"]["loads"],
        status["counters"]["swaps"],
        status["counters"]["unloads"],
        found.endings,
        found.codes,
        samples.len(),
    );
    assert_eq!(found.faults, Vec::<String>::new());
    assert_eq!(
        found.endings.values().sum::<u64>(),
        requests,
        "I1: one ending each"
    );
    assert!(
        found.endings.get(&Ending::Complete) > Some(&(requests / 4)),
        "{:?}",
        found.endings
    );
    check_samples(&samples);
    check_journals(&journals, &found.complete);
    assert!(
        samples
            .iter()
            .all(|sample| sample.pids.iter().all(|&pid| !lives(pid))),
        "I7: orphans"
    );
    // Connections that clients keep open come and go.
    let kept = size.clients as usize + 8;
    assert!(
        descriptors_after <= descriptors_before + kept,
        "I7: {descriptors_before} descriptors became {descriptors_after}"
    );
}

/// The file, with an alias that each edit moves to another model.
fn configuration(edit: usize) -> String {
    let entries: String = MODELS
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let alias = if index == edit % MODELS.len() {
                ", aliases: [moving]"
            } else {
                ""
            };
            format!("  {id}: {{ memory: 75MB{alias} }}\n")
        })
        .collect();
    format!("memory: 260MB\npool: {{ switch_after: 300ms, queue: 1000 }}\nmodels:\n{entries}")
}

/// Asks one thing after the other until told to stop.
async fn client(base: &str, seed: u64, stop: &AtomicBool, asked: &AtomicU64) -> Found {
    let http = reqwest::Client::new();
    let mut random = StdRng::seed_from_u64(seed);
    let mut found = Found::default();
    while !stop.load(Ordering::Relaxed) {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let nonce = format!("n{number}");
        let model = MODELS[random.random_range(0..MODELS.len())];
        let stream = random.random_bool(0.7);
        let fate = match random.random_range(0..10) {
            0 => Fate::LeavesAtOnce,
            1 | 2 => Fate::LeavesEarly,
            _ => Fate::Stays,
        };
        let request = http
            .post(format!("{base}/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(question(model, &nonce, stream).to_string())
            .timeout(Duration::from_secs(60));
        let ending = match fate {
            Fate::LeavesAtOnce => {
                let patience = Duration::from_millis(random.random_range(0..30));
                match tokio::time::timeout(patience, request.send()).await {
                    Err(_) => Ok(Ending::Left),
                    Ok(response) => read(response, model, &nonce, Fate::Stays, &mut found).await,
                }
            }
            _ => read(request.send().await, model, &nonce, fate, &mut found).await,
        };
        match ending {
            Ok(ending) => {
                *found.endings.entry(ending).or_default() += 1;
                if ending == Ending::Complete {
                    found.complete.insert(nonce);
                }
            }
            Err(fault) => found.faults.push(format!("{nonce} for {model}: {fault}")),
        }
    }
    found
}

/// Reads an answer as its fate has it, and says how it ended or what was wrong.
async fn read(
    response: reqwest::Result<reqwest::Response>,
    model: &str,
    nonce: &str,
    fate: Fate,
    found: &mut Found,
) -> Result<Ending, String> {
    let mut response = response.map_err(|error| format!("no answer: {error:?}"))?;
    if fate == Fate::LeavesEarly {
        let piece = response.chunk().await;
        return piece
            .map(|_| Ending::Left)
            .map_err(|error| format!("broken off: {error:?}"));
    }
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response
        .text()
        .await
        .map_err(|error| format!("broken off: {error:?}"))?;
    let answer = Answer {
        status,
        headers,
        text,
    };
    let mut error = |code: &str| {
        *found.codes.entry(code.to_owned()).or_default() += 1;
        match code {
            // A worker that was killed, in the middle or before it was ready.
            "worker_crashed" | "load_failed" => Ok(Ending::Error),
            other => Err(format!("refused with {other}: {answer:?}")),
        }
    };
    if answer.status != 200 {
        return error(&answer.code());
    }
    let events = answer.events();
    if answer.text.contains("data: ") {
        let last = events.last().ok_or("no events")?;
        if last != "[DONE]" {
            let last: Value = serde_json::from_str(last).map_err(|_| format!("cut: {answer:?}"))?;
            let code = last["error"]["code"].as_str();
            return error(code.ok_or_else(|| format!("I3: cut without a word: {answer:?}"))?);
        }
    }
    let content = answer.content();
    let told: Vec<Value> = serde_json::Deserializer::from_str(&content)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{error}: {content}"))?;
    let ours = |piece: &Value| piece["nonce"] == nonce && piece["model"] == model;
    if told.len() as u64 != TOKENS || !told.iter().all(ours) {
        return Err(format!("I2, I3: {told:?}"));
    }
    let pids: HashSet<_> = told.iter().map(|piece| piece["pid"].as_u64()).collect();
    match pids.len() {
        1 => Ok(Ending::Complete),
        _ => Err(format!("two workers in one answer: {told:?}")),
    }
}

/// Kills workers, unloads models and edits the file for as long as is asked.
async fn disturb(home: &Home, server: &Server, time: Duration) -> u64 {
    let mut random = StdRng::seed_from_u64(7);
    let (began, mut kills, mut edits) = (Instant::now(), 0, 0);
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..250))).await;
        match random.random_range(0..10) {
            0 => {
                let workers = children(server.pid());
                if let Some(&pid) = workers.get(random.random_range(0..workers.len().max(1))) {
                    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
                    // It may have ended by itself in this moment.
                    kills += u64::from(
                        rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok(),
                    );
                }
            }
            1..4 => {
                let model = MODELS[random.random_range(0..MODELS.len())];
                let mode = ["idle", "drain"][random.random_range(0..2)];
                let body = json!({"model": model, "mode": mode});
                // A drain is answered when it is done; nobody waits for that here.
                let path = "/admin/models/unload";
                let unload = server.control(Method::POST, path, Some(body));
                let _ = tokio::time::timeout(Duration::from_millis(100), unload).await;
            }
            4 => {
                edits += 1;
                home.configure(&configuration(edits));
                let (status, answer) = server.control(Method::POST, "/admin/reload", None).await;
                assert_eq!(status, 200, "{answer}");
            }
            5 => drop(
                server
                    .control(Method::POST, "/admin/models/release", None)
                    .await,
            ),
            _ => {}
        }
    }
    kills
}

fn check_samples(samples: &[Sample]) {
    assert!(samples.len() > 100, "only {} samples", samples.len());
    for sample in samples {
        assert!(sample.reserved <= BUDGET, "I5, the books: {sample:?}");
        assert!(sample.held() <= BUDGET, "I5, the processes: {sample:?}");
        assert!(sample.holding(MEMORY) <= 3, "I4, I5: {sample:?}");
        assert!(sample.workers <= 4, "three and the next: {sample:?}");
    }
}

/// What the workers wrote down of their answers, against what clients saw.
fn check_journals(journals: &[PathBuf], complete: &HashSet<String>) {
    let mut started: HashMap<String, u64> = HashMap::new();
    let mut finished = HashSet::new();
    for path in journals {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("started"), Some(nonce)) => {
                    *started.entry(nonce.to_owned()).or_default() += 1
                }
                (Some("finished"), Some(nonce)) => {
                    assert!(finished.insert(nonce.to_owned()), "{nonce} finished twice");
                }
                _ => {}
            }
        }
    }
    // Once more is allowed where a killed worker never answered the first time.
    let repeated: Vec<_> = started.iter().filter(|(_, times)| **times > 2).collect();
    assert!(repeated.is_empty(), "asked again and again: {repeated:?}");
    let lost: Vec<_> = complete.difference(&finished).collect();
    assert!(
        lost.is_empty(),
        "complete, and no worker finished it: {lost:?}"
    );
}

/// Open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a living process")
        .count()
}
