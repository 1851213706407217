//! Random edits while clients ask: no answer is cut off or another's, nothing that was
//! not edited is unloaded, every request sees one of the files and that whole, and what
//! was written last is in force in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::clients;
use super::harness::{Home, PATIENCE, Server, long, question};
use super::records::state;

/// Models that every edit leaves as they are.
const LASTING: [&str; 3] = ["t/a", "t/b", "t/c"];

/// Models that come and go.
const PASSING: [&str; 2] = ["t/d", "t/e"];

/// Names that lead to a lasting model, now to this one and now to that, or nowhere.
const ALIASES: usize = 8;

/// The limit of `max_tokens` in the first file; each later one has one more, so that
/// every answer says in a header which file it was made by.
const FIRST: u64 = 999;

/// What every request asks for, beyond all limits.
const MOST_TOKENS: u64 = 1_000_000;

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

/// A file that was written.
#[derive(Clone, Default)]
struct Version {
    /// The names that it serves.
    names: BTreeSet<String>,
    /// Where names that are no models lead to; those with a `*` too.
    leads: BTreeMap<String, &'static str>,
}

impl Version {
    /// The model that a name means.
    fn target(&self, name: &str) -> Option<&'static str> {
        let lasting = LASTING.into_iter().find(|model| *model == name);
        let wildcard = name.rsplit_once('-').map(|(start, _)| format!("{start}-*"));
        let lead = |name: &str| self.leads.get(name).copied();
        lasting.or_else(|| lead(name)).or_else(|| lead(&wildcard?))
    }
}

/// What a client was told.
struct Told {
    request_id: String,
    name: String,
    /// The limit that the answer names, and its model; nothing for a 404.
    answer: Option<(u64, String)>,
}

/// The entry of a lasting model, but for its aliases and what follows.
fn limited(version: u64) -> String {
    format!("request: {{ limits: {{ max_tokens: {version} }} }}")
}

/// A valid file and what it says.
fn edit(version: u64, numbers: &mut Numbers) -> (String, Version) {
    let mut aliases = [const { Vec::new() }; LASTING.len()];
    for alias in 0..ALIASES {
        if let Some(of) = aliases.get_mut(numbers.below(LASTING.len() + 1)) {
            of.push(format!("name-{alias}"));
        }
    }
    let mut names: BTreeSet<_> = aliases.iter().flatten().cloned().collect();
    let mut leads = BTreeMap::new();
    let mut models = Vec::new();
    for (model, mut aliases) in LASTING.into_iter().zip(aliases) {
        if numbers.flip() {
            aliases.push(format!("{}-*", model.replace('/', "-")));
        }
        leads.extend(aliases.iter().map(|alias| (alias.clone(), model)));
        let aliases: Vec<_> = aliases.iter().map(|alias| format!("'{alias}'")).collect();
        let idle = match numbers.below(3) {
            0 => String::new(),
            minutes => format!(", idle_unload: {minutes}0m"),
        };
        models.push(format!(
            "  {model}: {{ aliases: [{}], {}{idle} }}\n",
            aliases.join(", "),
            limited(version)
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
        format!(
            "# Edit {version}\nrequest_log: true\n{pool}models:\n{}",
            models.concat()
        ),
        Version { names, leads },
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
async fn ask(
    server: &Server,
    pids: &[Value],
    seed: u64,
    stop: &AtomicBool,
    told: &Mutex<Vec<Told>>,
) {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
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
        let round = ASKED.fetch_add(1, Ordering::Relaxed);
        let (nonce, stream) = (format!("n-{seed}-{round}"), numbers.flip());
        let mut asked = question(&name, &nonce, stream);
        asked["max_tokens"] = json!(MOST_TOKENS);
        let answer = server.chat(&asked).await;
        let request_id = answer.header("x-request-id").expect("an id").to_owned();
        let is_lasting = LASTING.contains(&name.as_str());
        let keep = |answer| {
            let name = name.clone();
            let told = &mut *told.lock().expect("told");
            told.push(Told {
                request_id,
                name,
                answer,
            });
        };
        if answer.status == 404 && !is_lasting {
            assert_eq!(answer.code(), "model_not_found");
            keep(None);
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let words = answer.told();
        assert_eq!(words["nonce"], nonce.as_str(), "{answer:?}");
        let model = words["model"].as_str().expect("a model");
        let limit = answer.header("x-roundhouse-limited").expect("a limit");
        let limit = limit.strip_prefix("max_tokens=").expect("a limit");
        keep(Some((limit.parse().expect("a number"), model.to_owned())));
        assert_eq!(
            answer.header("x-roundhouse-model"),
            Some(model),
            "{answer:?}"
        );
        assert!(!is_lasting || model == name, "{name}: {answer:?}");
        let position = LASTING.iter().position(|lasting| *lasting == model);
        let pid = &pids[position.expect("a lasting model")];
        assert_eq!(&words["pid"], pid, "{model} was loaded again");
        if stream {
            let last = answer.events().pop();
            assert_eq!(last.as_deref(), Some("[DONE]"), "{answer:?}");
        }
    }
}

/// Saves one file after the other; answers what each says, by its limit.
async fn edit_on(home: &Home, seed: u64, every_tenth_broken: bool) -> BTreeMap<u64, Version> {
    let mut numbers = Numbers(seed);
    let (rounds, pause): (u64, _) = match long() {
        true => (1000, Duration::from_millis(100)),
        false => (20, Duration::from_millis(30)),
    };
    let mut written = BTreeMap::from([(FIRST, Version::default())]);
    let mut tick = tokio::time::interval(pause);
    for round in 0..=rounds {
        tick.tick().await;
        let limit = FIRST + 1 + round;
        let (text, version) = edit(limit, &mut numbers);
        let is_broken = every_tenth_broken && round % 10 == 9;
        match is_broken {
            true => save(home, &broken(&text, &mut numbers), &mut numbers),
            false => {
                save(home, &text, &mut numbers);
                written.insert(limit, version);
            }
        }
    }
    written
}

/// Holds every answer against the version of the configuration in the line of its
/// request: the limit in its header, and where its name led, are those of one file.
async fn check_versions(home: &Home, told: &[Told], written: &BTreeMap<u64, Version>) {
    let start = Instant::now();
    let lines: HashMap<String, Value> = loop {
        let text = std::fs::read_to_string(state(home, "requests.jsonl")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let id = |line: &Value| line["request_id"].as_str().unwrap_or_default().to_owned();
        let lines: HashMap<_, _> = lines.map(|line: Value| (id(&line), line)).collect();
        if told.iter().all(|told| lines.contains_key(&told.request_id)) {
            break lines;
        }
        assert!(start.elapsed() < PATIENCE, "lines are missing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let generation = |told: &Told| {
        let generation = lines[&told.request_id]["generation"].as_u64();
        generation.expect("the version of the configuration")
    };
    let mut limits = BTreeMap::new();
    for told in told {
        if let Some((limit, model)) = &told.answer {
            let known = *limits.entry(generation(told)).or_insert(*limit);
            assert_eq!(known, *limit, "{} saw two files", told.request_id);
            let target = written[limit].target(&told.name);
            assert_eq!(target, Some(model.as_str()), "{} by {limit}", told.name);
        }
    }
    // A later reload is of a later file.
    assert!(limits.values().is_sorted(), "{limits:?}");
    for told in told.iter().filter(|told| told.answer.is_none()) {
        if let Some(limit) = limits.get(&generation(told)) {
            let target = written[limit].target(&told.name);
            assert_eq!(target, None, "{} by {limit}", told.name);
        }
    }
}

async fn check(seed: u64, every_tenth_broken: bool) {
    let entries = LASTING.map(|model| format!("  {model}: {{ {} }}\n", limited(FIRST)));
    let home = Home::new(&format!("request_log: true\nmodels:\n{}", entries.concat()));
    for id in LASTING.iter().chain(&PASSING) {
        home.scripted(id, json!({"tokens": 3, "token_ms": 2}));
    }
    let server = home.serve();
    let mut pids = Vec::new();
    for model in LASTING {
        let answer = server.chat(&question(model, "n", false)).await;
        pids.push(answer.told()["pid"].clone());
    }
    let (stop, told) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    // One more, which takes a while to start.
    let official = long().then(|| official_client(&server, home.path().join("stop")));
    let clients = (0..CLIENTS).map(|client| ask(&server, &pids, seed + client, &stop, &told));
    let editing = async {
        let written = edit_on(&home, seed, every_tenth_broken).await;
        let (_, last) = written.last_key_value().expect("a file");
        until_served(&server, &last.names).await;
        stop.store(true, Ordering::Relaxed);
        std::fs::write(home.path().join("stop"), "").expect("written");
        written
    };
    let (_, written) = tokio::join!(futures_util::future::join_all(clients), editing);
    let told = told.into_inner().expect("told");
    assert!(told.len() > 20);
    check_versions(&home, &told, &written).await;
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
