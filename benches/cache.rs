//! What the index of the cache costs: 10,000 repositories as the hub's client lays
//! them, scanned for the first time, scanned again with nothing changed, and again
//! with one changed. Prints the table of docs/BENCHMARKS.md.
//!
//! A plain program and no test: what it measures depends on the machine, and it
//! judges nobody. The folder is made anew under TMPDIR, so the system has just
//! written what is read: a first scan after a restart waits for the disk besides.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on may stop")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roundhouse::model::cache::CacheIndex;
use roundhouse::model::kind::Kind;
use roundhouse::model::manifest::Rules;
use roundhouse::model::safetensors::{Dtype, header_for};

/// Repositories of one snapshot each.
const REPOSITORIES: usize = 10_000;

/// What each figure is the median of.
const ROUNDS: usize = 7;

/// Most milliseconds of a first scan and of a second.
const COLD: f64 = 2_000.0;
const WARM: f64 = 100.0;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

const RULES: Rules = Rules {
    architectures: &[("llama", Kind::Chat)],
    trust_remote_code: false,
};

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("hub");
    for number in 0..REPOSITORIES {
        lay(&root, number);
    }
    // What changed within two seconds before a scan is looked at again.
    std::thread::sleep(Duration::from_secs(3));
    let roots = [root.clone()];
    let index = CacheIndex::scan(&roots, RULES);
    let served = index.models().filter(|model| model.state.is_ok()).count();
    assert_eq!(served, REPOSITORIES, "every one is whole");
    println!("| of {REPOSITORIES} snapshots | ms | at most | CPU ms |\n|---|---|---|---|");
    let first = median(|_| drop(CacheIndex::scan(&roots, RULES)));
    row("a first scan", first, Some(COLD));
    let second = median(|_| drop(index.scan_again(&roots)));
    row("a second, nothing changed", second, Some(WARM));
    let changed = median(|round| {
        fs::write(reference(&root, round), COMMIT).unwrap();
        drop(index.scan_again(&roots));
    });
    row("a second, one changed", changed, Some(WARM));
    row("a look-up by id", look_up(&index), None);
}

/// A repository of four files, two of them with what a model has.
fn lay(root: &Path, number: usize) {
    let repository = repository(root, number);
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    for folder in ["blobs", "refs"] {
        fs::create_dir(repository.join(folder)).unwrap();
    }
    fs::write(reference(root, number), COMMIT).unwrap();
    for (name, content) in files() {
        let blob = format!("{:040x}-{name}", number);
        fs::write(repository.join("blobs").join(&blob), content).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
}

fn repository(root: &Path, number: usize) -> PathBuf {
    root.join(format!("models--mlx-community--model-{number}"))
}

fn reference(root: &Path, number: usize) -> PathBuf {
    repository(root, number).join("refs/main")
}

/// Configuration, tokenizer and its configuration, and weights of a small network
/// with as many tensors as a quantised one of 28 layers has.
fn files() -> [(&'static str, Vec<u8>); 4] {
    let config = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_hidden_layers": 28, "vocab_size": 100,
        "max_position_embeddings": 4096}"#;
    let names: Vec<String> = (0..700)
        .map(|number| {
            format!(
                "model.layers.{}.mlp.part{}.weight",
                number / 25,
                number % 25
            )
        })
        .collect();
    let shape = [1_u64, 1];
    let tensors = names
        .iter()
        .map(|name| (name.as_str(), Dtype::F32, &shape[..]));
    let mut weights = header_for(tensors);
    weights.resize(weights.len() + 4 * names.len(), 0);
    [
        ("config.json", config.as_bytes().to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        (
            "tokenizer_config.json",
            br#"{"chat_template": "{{ messages }}"}"#.to_vec(),
        ),
        ("model.safetensors", weights),
    ]
}

/// What something took, milliseconds.
#[derive(Clone, Copy)]
struct Took {
    /// By the clock, in the middle of the rounds.
    wall: f64,
    /// Of this program on all cores, a round; nothing where the system does not tell
    /// it so.
    cpu: Option<f64>,
}

/// What the rounds took.
fn median(mut measured: impl FnMut(usize)) -> Took {
    let before = cpu_ms();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let start = Instant::now();
            measured(round);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let cpu = before.zip(cpu_ms());
    times.sort_by(f64::total_cmp);
    Took {
        wall: times[ROUNDS / 2],
        cpu: cpu.map(|(before, after)| (after - before) / ROUNDS as f64),
    }
}

/// Milliseconds of CPU that this program has had, in steps of the system's tick, which
/// is 10 ms on Linux: user and system time are the 14th and 15th field of proc_pid_stat(5).
fn cpu_ms() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) * 10.0)
}

/// What it takes to find one model by its id.
fn look_up(index: &CacheIndex) -> Took {
    let ids: Vec<_> = index.models().map(|model| model.id.clone()).collect();
    let all = median(|_| assert!(ids.iter().all(|id| index.get(id).is_some())));
    Took {
        wall: all.wall / ids.len() as f64,
        cpu: None,
    }
}

fn row(what: &str, took: Took, most: Option<f64>) {
    let or_none =
        |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}"));
    let (most, cpu) = (or_none(most), or_none(took.cpu));
    match took.wall {
        wall if wall < 1.0 => println!("| {what} | {wall:.4} | {most} | {cpu} |"),
        wall => println!("| {what} | {wall:.0} | {most} | {cpu} |"),
    }
}
