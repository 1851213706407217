//! Random edits while clients ask: no answer is cut off or another's, nothing that was
//! not edited is unloaded, and what was written last is in force in the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::clients;
use super::harness::{Home, PATIENCE, Server, long, question};

/// Models that every edit leaves as they are.
const LASTING: [&str; 3] = ["t/a", "t/b", "t/c"];

/// Models that come and go.
const PASSING: [&str; 2] = ["t/d", "t/e"];

/// Names that lead to a lasting model, now to this one and now to that, or nowhere.
const ALIASES: usize = 8;

/// Clients that ask at the same time.
const CLIENTS: u64 = 4;

/// Numbers that look random and are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    /// One below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        number as usize % end
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// A valid file and the names that it serves.
fn edit(round: usize, numbers: &mut Numbers) -> (String, BTreeSet<String>) {
    let mut aliases = [const { Vec::new() }; LASTING.len()];
    for alias in 0..ALIASES {
        if let Some(of) = aliases.get_mut(numbers.below(LASTING.len() + 1)) {
            of.push(format!("name-{alias}"));
        }
    }
    let mut names: BTreeSet<_> = aliases.iter().flatten().cloned().collect();
    let mut models = Vec::new();
    for (model, mut aliases) in LASTING.into_iter().zip(aliases) {
        if numbers.flip() {
            aliases.push(format!("'{}-*'", model.replace('/', "-")));
        }
        let idle = match numbers.below(3) {
            0 => String::new(),
            minutes => format!(", idle_unload: {minutes}0m"),
        };
        models.push(format!(
            "  {model}: {{ aliases: [{}]{idle} }}\n",
            aliases.join(", ")
        ));
        names.insert(model.to_owned());
    }
    for model in PASSING {
        if numbers.flip() {
            models.push(format!("  {model}:\n    preload: {}\n", numbers.flip()));
            names.insert(model.to_owned());
        }
    }
    let turn = numbers.below(models.len());
    models.rotate_left(turn);
    let pool = match numbers.flip() {
        true => format!(
            "pool: {{ queue: {}, switch_after: 40s }}\n",
            64 + numbers.below(64)
        ),
        false => String::new(),
    };
    (
        format!("# Edit {round}\n{pool}models:\n{}", models.concat()),
        names,
    )
}

/// The same file with one of the ways in which files are wrong.
fn broken(text: &str, numbers: &mut Numbers) -> String {
    match numbers.below(5) {
        0 => text.replace("aliases", "alias"),
        1 => format!("{text}models: {{}}\n"),
        2 => format!("{}[", &text[..numbers.below(text.len())]),
        3 => String::new(),
        _ => format!("{text}memory: much\n"),
    }
}

/// Writes the file as one of several editors would.
fn save(home: &Home, text: &str, numbers: &mut Numbers) {
    let (file, new) = (home.config(), home.path().join("new"));
    match numbers.below(3) {
        0 => std::fs::write(file, text).expect("written"),
        1 => {
            std::fs::write(&new, text).expect("written");
            std::fs::rename(new, file).expect("renamed");
        }
        _ => {
            std::fs::remove_file(&file).expect("removed");
            std::fs::write(file, text).expect("written");
        }
    }
}

/// Asks until told to stop, and checks every answer by itself.
async fn ask(server: &Server, pids: &[Value], seed: u64, stop: &AtomicBool, asked: &AtomicUsize) {
    let mut numbers = Numbers(seed);
    while !stop.load(Ordering::Relaxed) {
        let lasting = numbers.below(LASTING.len());
        let name = match numbers.below(4) {
            0 => format!("name-{}", numbers.below(ALIASES)),
            1 => format!(
                "{}-{}",
                LASTING[lasting].replace('/', "-"),
                numbers.below(9)
            ),
            _ => LASTING[lasting].to_owned(),
        };
        let round = asked.fetch_add(1, Ordering::Relaxed);
        let (nonce, stream) = (format!("n-{seed}-{round}"), numbers.flip());
        let answer = server.chat(&question(&name, &nonce, stream)).await;
        let is_lasting = LASTING.contains(&name.as_str());
        if answer.status == 404 && !is_lasting {
            assert_eq!(answer.code(), "model_not_found");
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let told = answer.told();
        assert_eq!(told["nonce"], nonce.as_str(), "{answer:?}");
        let model = told["model"].as_str().expect("a model");
        assert_eq!(
            answer.header("x-roundhouse-model"),
            Some(model),
            "{answer:?}"
        );
        assert!(!is_lasting || model == name, "{name}: {answer:?}");
        let position = LASTING.iter().position(|lasting| *lasting == model);
        let pid = &pids[position.expect("a lasting model")];
        assert_eq!(&told["pid"], pid, "{model} was loaded again");
        if stream {
            let last = answer.events().pop();
            assert_eq!(last.as_deref(), Some("[DONE]"), "{answer:?}");
        }
    }
}

/// Saves one file after the other.
async fn edit_on(home: &Home, seed: u64, every_tenth_broken: bool) -> BTreeSet<String> {
    let mut numbers = Numbers(seed);
    let (rounds, pause) = match long() {
        true => (1000, Duration::from_millis(100)),
        false => (20, Duration::from_millis(30)),
    };
    let mut last = BTreeSet::new();
    let mut tick = tokio::time::interval(pause);
    for round in 0..=rounds {
        tick.tick().await;
        let (text, names) = edit(round, &mut numbers);
        let is_broken = every_tenth_broken && round % 10 == 9;
        match is_broken {
            true => save(home, &broken(&text, &mut numbers), &mut numbers),
            false => save(home, &text, &mut numbers),
        }
        last = names;
    }
    last
}

async fn check(seed: u64, every_tenth_broken: bool) {
    let home = Home::new("models: { t/a: {}, t/b: {}, t/c: {} }\n");
    for id in LASTING.iter().chain(&PASSING) {
        home.scripted(id, json!({"tokens": 3, "token_ms": 2}));
    }
    let server = home.serve();
    let mut pids = Vec::new();
    for model in LASTING {
        let answer = server.chat(&question(model, "n", false)).await;
        pids.push(answer.told()["pid"].clone());
    }
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    // One more, which takes a while to start.
    let official = long().then(|| official_client(&server, home.path().join("stop")));
    let clients = (0..CLIENTS).map(|client| ask(&server, &pids, seed + client, &stop, &asked));
    let editing = async {
        let last = edit_on(&home, seed, every_tenth_broken).await;
        until_served(&server, &last).await;
        stop.store(true, Ordering::Relaxed);
        std::fs::write(home.path().join("stop"), "").expect("written");
    };
    tokio::join!(futures_util::future::join_all(clients), editing);
    assert!(asked.into_inner() > 20);
    if let Some(official) = official {
        official.await.expect("the client's script");
    }
    let status = server.status().await;
    assert_eq!(status["configuration"]["last_reload_failure"], Value::Null);
    let unloads = status["counters"]["unloads"].as_object().expect("reasons");
    assert!(
        unloads.keys().all(|reason| reason == "config"),
        "{unloads:?}"
    );
    assert_eq!(server.get("/health").await.1["status"], "ok");
}

/// The official client, asking on a thread of its own until the file is there.
fn official_client(server: &Server, stop: PathBuf) -> JoinHandle<()> {
    let (inference, stop) = (server.inference.clone(), stop.display().to_string());
    tokio::task::spawn_blocking(move || {
        let args: Vec<_> = [&*inference, &*stop].into_iter().chain(LASTING).collect();
        clients::run("edits_client.py", &args);
    })
}

/// Waits until these names and no others may be asked for.
async fn until_served(server: &Server, expected: &BTreeSet<String>) {
    let start = Instant::now();
    loop {
        let (_, list) = server.get("/v1/models").await;
        let models = list["data"].as_array().expect("a list").iter();
        let names: BTreeSet<_> = models
            .filter_map(|model| model["id"].as_str().map(str::to_owned))
            .collect();
        if names == *expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{names:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn c01_random_edits_under_load_drop_nothing_and_reload_nothing_else() {
    check(0x5eed_0001, false).await;
}

#[tokio::test]
async fn c01_c02_every_tenth_edit_broken_is_as_good_as_none() {
    check(0x5eed_0002, true).await;
}
