//! The parity table: small models of every architecture, made and answered by mlx-lm
//! while the test runs (`tests/reference/parity.py`), and what our own network makes of
//! the same snapshots, whichever way the tokens go in. `make parity` writes the table
//! into `docs/PARITY.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::reference::{best, log_softmax, project, read};
use super::{through_the_disk, tokens};
use crate::config::kv::KvFormat;
use crate::engine::mlx::device::Device;
use crate::engine::mlx::kv::Piece;
use crate::engine::mlx::{MlxNetwork, Settings, load_on};
use crate::engine::{Network, supported_architectures};
use crate::model::estimate::{DeviceRule, estimate};
use crate::model::kind::Kind;
use crate::model::manifest::{Rules, inspect_folder};

/// Largest distance of two log-probabilities, from mlx-lm's or between two ways.
const CLOSE: f64 = 3e-4;

/// The same where keys and values are packed, by their bits: an integer more or less is
/// further, and may come of the order of sums.
const CLOSE_PACKED: [(u64, f64); 2] = [(8, 3e-3), (4, 3e-2)];

/// The page with the table, and where on it that stands.
const PAGE: &str = "docs/PARITY.md";
const BEGIN: &str = "<!-- the table -->\n";
const END: &str = "<!-- its end -->\n";

/// What mlx-lm makes of a snapshot.
#[derive(Deserialize)]
struct Reference {
    name: String,
    version: String,
    /// Bits of keys and values, where they are packed.
    kv_bits: Option<u64>,
    prompt: Vec<u32>,
    /// After each token of the prompt.
    logprobs: Vec<Vec<f64>>,
    /// What follows if the best is always taken.
    tokens: Vec<u32>,
}

impl Reference {
    fn kv_format(&self) -> KvFormat {
        let mut formats = KvFormat::ALL.into_iter();
        formats
            .find(|format| format.bits() == self.kv_bits)
            .expect("a form of caches")
    }

    /// Green if nothing is further apart than it may be.
    fn close(&self, distance: f64) -> Cell {
        let mut packed = CLOSE_PACKED.into_iter();
        let most = packed.find(|(bits, _)| Some(*bits) == self.kv_bits);
        match distance < most.map_or(CLOSE, |(_, most)| most) {
            true => Ok(distance),
            false => Err(format!("{distance:.1e} apart")),
        }
    }

    /// Prompt and answer, as far as they are fed to the network.
    fn said(&self) -> Vec<u32> {
        let (_, but_last) = self.tokens.split_last().unwrap();
        [&self.prompt, but_last].concat()
    }

    /// Whether the best is always the reference's after what `cache` holds: none, or
    /// some of what was said.
    fn goes_on(&self, network: &mut MlxNetwork, mut cache: <MlxNetwork as Network>::Cache) -> Cell {
        let (said, prompt) = (self.said(), self.prompt.len());
        let held = network.tokens_in(&cache);
        let end = (held + 1).max(prompt);
        let logits = network.prefill(&mut cache, &said[held..end], true);
        let mut made = vec![best(&logits.unwrap().unwrap())];
        let expected = &self.tokens[end - prompt..];
        while made.len() < expected.len() {
            let token = made[made.len() - 1];
            let logits = network.decode(&mut [(&mut cache, &[token])]).unwrap();
            made.push(best(&logits[0]));
        }
        match made.iter().zip(expected).position(|(a, b)| a != b) {
            None => Ok(0.0),
            Some(place) => Err(format!("another token at {}", end - prompt + place)),
        }
    }
}

/// A cell: the largest distance, or what differs.
type Cell = Result<f64, String>;

/// How a cell is found.
type Find = fn(&mut Case) -> Cell;

/// The columns.
const COLUMNS: [(&str, Find); 8] = [
    ("logits", Case::logits),
    ("greedy 64", Case::greedy),
    ("batch", Case::batch),
    ("chunked", Case::chunked),
    ("cached", Case::cached),
    ("from disk", Case::through_files),
    ("operations of a GPU", Case::by_mlx),
    ("room", Case::room),
];

/// A snapshot, its reference and its network.
struct Case {
    folder: PathBuf,
    reference: Reference,
    network: MlxNetwork,
    /// After each token of the prompt, worked out in one piece.
    whole: Vec<Vec<f64>>,
}

fn opened(folder: &Path, own: bool, kv_format: KvFormat) -> MlxNetwork {
    let settings = Settings {
        kv_format,
        ..Settings::default()
    };
    let device = Device::prepare(settings.compute).unwrap();
    let device = if own { device } else { device.without_own() };
    load_on(device, folder, &settings, &|_| {})
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// The larger of what is found and of how far two rows of log-probabilities are apart.
fn farther(most: f64, found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let distances = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // What is no number is as far as can be.
    distances.fold(most, |most, x| if x <= most { most } else { x })
}

impl Case {
    fn open(folder: PathBuf) -> Self {
        let reference: Reference = read(&folder.join("reference.json"));
        let mut network = opened(&folder, true, reference.kv_format());
        let whole = whole(&mut network, &reference.prompt);
        Self {
            folder,
            reference,
            network,
            whole,
        }
    }

    /// Distance from the reference's logits.
    fn logits(&mut self) -> Cell {
        let distance = apart(&self.whole, &self.reference.logprobs);
        if self.reference.kv_bits.is_some() {
            // Or else nothing was packed.
            let mut plain = opened(&self.folder, true, KvFormat::Auto);
            let plain = whole(&mut plain, &self.reference.prompt);
            let packed = mean_apart(&self.whole, &self.reference.logprobs);
            let unpacked = mean_apart(&plain, &self.reference.logprobs);
            if packed * 5.0 > unpacked {
                return Err(format!(
                    "{packed:.1e} apart, {unpacked:.1e} if nothing is packed"
                ));
            }
        }
        self.reference.close(distance)
    }

    /// The same with the operations that a GPU takes.
    fn by_mlx(&mut self) -> Cell {
        let mut network = opened(&self.folder, false, self.reference.kv_format());
        let whole = whole(&mut network, &self.reference.prompt);
        self.reference
            .close(apart(&whole, &self.reference.logprobs))?;
        let cache = network.new_cache();
        self.reference.goes_on(&mut network, cache)
    }

    /// The reference's answer, token for token.
    fn greedy(&mut self) -> Cell {
        let cache = self.network.new_cache();
        self.reference.goes_on(&mut self.network, cache)
    }

    /// Whether the router takes the snapshot, and reckons with the room that caches take.
    fn room(&mut self) -> Cell {
        let rules = Rules {
            architectures: supported_architectures(),
            trust_remote_code: false,
        };
        let manifest = inspect_folder(&self.folder, &rules).map_err(|why| why.to_string())?;
        let rule =
            DeviceRule::here(Settings::default().compute).keeping(self.reference.kv_format());
        let reckoned = estimate(&manifest, 512, rule).kv_per_token.0;
        match self.network.kv_bytes_per_token() {
            held if held == reckoned => Ok(0.0),
            held => Err(format!("{reckoned} reckoned, {held} held")),
        }
    }

    /// Prompt and answer beside two sequences of other lengths.
    fn batch(&mut self) -> Cell {
        const STEPS: usize = 20;
        let mut prompts = [self.reference.said(), tokens(23, 5), tokens(150, 6)];
        prompts[0].truncate(self.reference.prompt.len() + STEPS);
        let mut alone = Vec::new();
        let mut caches = Vec::new();
        for prompt in &prompts {
            alone.push(whole(&mut self.network, prompt));
            let mut cache = self.network.new_cache();
            let start = &prompt[..prompt.len() - STEPS];
            self.network.prefill(&mut cache, start, false).unwrap();
            caches.push(cache);
        }
        let mut most = 0.0;
        for step in 0..STEPS {
            let places = prompts.iter().map(|prompt| prompt.len() - STEPS + step);
            let places: Vec<usize> = places.collect();
            let next = prompts.iter().zip(&places);
            let next = next.map(|(prompt, at)| &prompt[*at..*at + 1]);
            let mut batch: Vec<_> = caches.iter_mut().zip(next).collect();
            let rows = self.network.decode(&mut batch).unwrap();
            for (row, (alone, at)) in rows.iter().zip(alone.iter().zip(&places)) {
                most = farther(most, &log_softmax(row), &alone[*at]);
            }
        }
        self.reference.close(most)
    }

    /// The prompt in chunks.
    fn chunked(&mut self) -> Cell {
        let mut most = 0.0;
        for chunk in [1, 7, 44] {
            let mut cache = self.network.new_cache();
            let mut place = 0;
            for tokens in self.reference.prompt.chunks(chunk) {
                let logits = self.network.prefill(&mut cache, tokens, true);
                place += tokens.len();
                let row = log_softmax(&logits.unwrap().unwrap());
                most = farther(most, &row, &self.whole[place - 1]);
            }
        }
        self.reference.close(most)
    }

    /// What pieces of a cache hold.
    fn cached(&mut self) -> Cell {
        self.in_pieces(|_, piece, _| piece.clone())
    }

    /// The same after the way through files.
    fn through_files(&mut self) -> Cell {
        self.in_pieces(through_the_disk)
    }

    fn in_pieces(&mut self, through: impl Fn(&MlxNetwork, &Piece, usize) -> Piece) -> Cell {
        let said = self.reference.said();
        let expected = whole(&mut self.network, &said);
        let mut cache = self.network.new_cache();
        self.network.prefill(&mut cache, &said, false).unwrap();
        let lengths = [10, 54, said.len() - 64];
        let pieces = self.network.evaluate_pieces(cache, 0, &lengths).unwrap();
        let pieces = pieces.iter().zip(lengths);
        let pieces = pieces.map(|(piece, length)| through(&self.network, piece, length));
        let pieces: Vec<Piece> = pieces.collect();
        let mut most = 0.0;
        for held in [40, 64, 100, said.len() - 1] {
            let mut left = held;
            let parts = pieces.iter().zip(lengths).filter_map(|(piece, length)| {
                let count = left.min(length);
                left -= count;
                (count > 0).then(|| (piece.clone(), count))
            });
            let parts: Vec<(Piece, usize)> = parts.collect();
            let mut cache = self.network.evaluate_cache(parts.clone()).unwrap();
            let rows = self.network.logits_of_all(&mut cache, &said[held..]);
            for (row, expected) in rows.unwrap().iter().zip(&expected[held..]) {
                most = farther(most, &log_softmax(row), expected);
            }
            // And left alone, it goes on as the reference does.
            if held == 64 {
                let cache = self.network.evaluate_cache(parts).unwrap();
                self.reference.goes_on(&mut self.network, cache)?;
            }
        }
        self.reference.close(most)
    }
}

/// The log-probabilities after each token.
fn whole(network: &mut MlxNetwork, tokens: &[u32]) -> Vec<Vec<f64>> {
    let mut cache = network.new_cache();
    let rows = network.logits_of_all(&mut cache, tokens).unwrap();
    rows.iter().map(|row| log_softmax(row)).collect()
}

/// The largest distance of rows.
fn apart(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let rows = found.iter().zip(expected);
    rows.fold(0.0, |most, (found, expected)| {
        farther(most, found, expected)
    })
}

/// The distance of rows on average.
fn mean_apart(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    let count = found.iter().map(Vec::len).sum::<usize>() as f64;
    pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / count
}

/// Has mlx-lm write its snapshots and answers, and opens them.
fn cases(folder: &Path) -> Vec<Case> {
    let packages = project().join("target/python-engines");
    assert!(
        packages.join(".installed").is_file(),
        "mlx-lm is not installed; run `make engines`"
    );
    let output = Command::new("python3")
        .arg(project().join("tests/reference/parity.py"))
        .arg(folder)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let folders: BTreeSet<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.into_iter().map(Case::open).collect()
}

/// The table as Markdown, and the cells that are not green.
fn table(cases: &mut [Case]) -> (String, Vec<String>) {
    let mut text = String::from("| model |");
    COLUMNS
        .iter()
        .for_each(|(name, _)| _ = write!(text, " {name} |"));
    text += &format!("\n|---|{}\n", "---|".repeat(COLUMNS.len()));
    let mut red = Vec::new();
    for case in cases {
        let name = case.reference.name.clone();
        _ = write!(text, "| {name} |");
        for (column, find) in COLUMNS {
            match find(case) {
                // Tokens are the same or not; numbers have a distance.
                Ok(distance) if column == "logits" => _ = write!(text, " ✓ {distance:.0e} |"),
                Ok(_) => text += " ✓ |",
                Err(problem) => {
                    _ = write!(text, " ✗ {problem} |");
                    red.push(format!("{name}, {column}: {problem}"));
                }
            }
        }
        text.push('\n');
    }
    (text, red)
}

/// What a table says but for its distances: columns, models, what is green.
fn without_distances(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let is_distance = |word: &&str| word.contains("e-");
    let words = rows.map(|row| row.split(' ').filter(|word| !is_distance(word)).collect());
    words.map(|words: Vec<&str>| words.join(" ")).collect()
}

#[test]
fn every_architecture_answers_as_with_mlx_lm() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = cases(folder.path());
    let version = cases[0].reference.version.clone();
    let (table, red) = table(&mut cases);
    let text =
        format!("mlx-lm {version}, distances of log-probabilities below {CLOSE:e}:\n\n{table}");
    println!("{text}");
    assert!(red.is_empty(), "{red:#?}");
    for (name, kind) in supported_architectures() {
        let is_there = cases.iter().any(|case| {
            let config: serde_json::Value = read(&case.folder.join("config.json"));
            config["model_type"] == *name
        });
        assert!(is_there || *kind != Kind::Chat, "no case has {name}");
    }
    let path = project().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("where the table begins");
    let (old, after) = rest.split_once(END).expect("where it ends");
    if std::env::var_os("ROUNDHOUSE_PARITY").is_some() {
        let page = format!("{before}{BEGIN}\n{text}\n{END}{after}");
        fs::write(&path, page).unwrap();
    } else {
        let (old, new) = (without_distances(old), without_distances(&text));
        assert_eq!(old, new, "run `make parity`");
    }
}
