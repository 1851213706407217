//! The parity table: small models of every architecture, made and answered by mlx-lm
//! while the test runs (`tests/reference/parity.py`), and what our own network makes of
//! the same snapshots, whichever way the tokens go in. `make parity` writes the table
//! into `docs/PARITY.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde::Deserialize;

use super::reference::{best, have_written, log_softmax, project, read};
use super::{through_the_disk, tokens};
use crate::config::kv::KvFormat;
use crate::engine::encoder::{Encoder, Text};
use crate::engine::mlx::device::Device;
use crate::engine::mlx::encoder::{self, MlxEncoder};
use crate::engine::mlx::kv::Piece;
#[cfg(target_os = "linux")]
use crate::engine::mlx::native::INSTRUCTIONS;
use crate::engine::mlx::{MlxNetwork, Settings, load_on};
use crate::engine::{Network, supported_architectures};
use crate::model::estimate::{DeviceRule, estimate};
use crate::model::kind::Kind;
use crate::model::manifest::{Rules, inspect_folder};
use crate::model::sentence::{Pooling, Recipe, Verdict};

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
    /// Of each token of the prompt, what the head is given.
    vectors: Vec<Vec<f64>>,
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
        within(distance, most.map_or(CLOSE, |(_, most)| most))
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
const COLUMNS: [(&str, Find); 11] = [
    ("logits", Case::logits),
    ("greedy 64", Case::greedy),
    ("batch", Case::batch),
    ("chunked", Case::chunked),
    ("cached", Case::cached),
    ("from disk", Case::through_files),
    ("in one node", Case::in_one_node),
    ("operations of a GPU", Case::by_mlx),
    ("vectors", Case::vectors),
    ("verdict", Case::verdict),
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

/// The same as an encoder that takes the last token's vector as it is, or its verdict.
fn encoder(folder: &Path, own: bool, verdict: Option<Verdict>) -> MlxEncoder {
    let settings = Settings::default();
    let device = Device::prepare(settings.compute).unwrap();
    let device = if own { device } else { device.without_own() };
    let recipe = Recipe {
        pooling: Pooling::Last,
        normalise: false,
        tokens: None,
        lower_case: false,
        prompt: String::new(),
        verdict,
    };
    encoder::load_on(device, folder, &settings, recipe, &|_| {})
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// Writes the snapshot in `from` without its head and what the names of all weights begin
/// with, and answers whether it is packed.
fn without_head(from: &Path, to: &Path) -> bool {
    let config: serde_json::Value = read(&from.join("config.json"));
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let weights = Array::load_safetensors(from.join("model.safetensors")).unwrap();
    let weights = weights.iter().filter_map(|(name, array)| {
        let name = name.strip_prefix("model.")?;
        Some((name, array))
    });
    Array::save_safetensors(weights, None, to.join("model.safetensors")).unwrap();
    config.get("quantization").is_some()
}

/// Green if nothing is further apart.
fn within(distance: f64, most: f64) -> Cell {
    match distance < most {
        true => Ok(distance),
        false => Err(format!("{distance:.1e} apart")),
    }
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

    /// The vectors of the last tokens of texts of several lengths in one batch, from the
    /// snapshot as it is and as embedding models have it: no head, and shorter names.
    fn vectors(&mut self) -> Cell {
        let bare = tempfile::tempdir().unwrap();
        let is_packed = without_head(&self.folder, bare.path());
        let prompt = &self.reference.prompt;
        let lengths = [prompt.len(), 1, 17];
        let texts = lengths.map(|length| Text::from(prompt[..length].to_vec()));
        let texts = texts.each_ref();
        let mut most = 0.0;
        for (folder, own) in [
            (&*self.folder, true),
            (&*self.folder, false),
            (bare.path(), true),
        ] {
            // Settings of packed layers go by their names.
            if is_packed && folder == bare.path() {
                continue;
            }
            let mut encoder = encoder(folder, own, None);
            let found = encoder.encode(&texts).map_err(|error| error.to_string())?;
            for (vector, length) in found.iter().zip(lengths) {
                let vector: Vec<f64> = vector.iter().copied().map(f64::from).collect();
                most = farther(most, &vector, &self.reference.vectors[length - 1]);
            }
        }
        // Without caches nothing of them is packed.
        within(most, CLOSE)
    }

    /// As what judges documents: how much likelier one token is than another after texts
    /// of several lengths, and the logit of one alone.
    fn verdict(&mut self) -> Cell {
        let prompt = &self.reference.prompt;
        let lengths = [prompt.len(), 1, 17];
        let texts = lengths.map(|length| Text::from(prompt[..length].to_vec()));
        let texts = texts.each_ref();
        let verdicts = |yes, no| {
            let verdict = Some(Verdict::Tokens { yes, no });
            let found = encoder(&self.folder, true, verdict).encode(&texts);
            let found = found.map_err(|error| error.to_string())?.into_iter();
            Ok::<Vec<f64>, String>(found.flatten().map(f64::from).collect())
        };
        let (yes, no) = (7, 3);
        let (found, of_yes, of_no) = (
            verdicts(yes, Some(no))?,
            verdicts(yes, None)?,
            verdicts(no, None)?,
        );
        // Without caches nothing of them is packed.
        let said = match self.reference.kv_bits {
            None => &self.reference.logprobs,
            Some(_) => {
                let mut plain = opened(&self.folder, true, KvFormat::Auto);
                &whole(&mut plain, prompt)
            }
        };
        let mut most = 0.0;
        for (place, length) in lengths.into_iter().enumerate() {
            let said = &said[length - 1];
            let expected = said[yes as usize] - said[no as usize];
            let apart = of_yes[place] - of_no[place];
            most = farther(most, &[found[place], apart], &[expected, expected]);
        }
        within(most, CLOSE)
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
        let need = estimate(&manifest, 512, rule);
        let (reckoned, held) = (need.kv_per_token.0, self.network.kv_bytes_per_token());
        if held != reckoned {
            return Err(format!("{reckoned} reckoned for a token, {held} held"));
        }
        let (reckoned, held) = (need.weights.0, self.network.bytes_held());
        if held > reckoned {
            return Err(format!("{reckoned} reckoned for weights, {held} held"));
        }
        Ok(0.0)
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

    /// Steps of few rows with a layer in one node of the graph and with one for each
    /// operation: the same numbers.
    fn in_one_node(&mut self) -> Cell {
        let settings = Settings {
            kv_format: self.reference.kv_format(),
            ..Settings::default()
        };
        let device = Device::prepare(settings.compute).unwrap();
        let loaded = load_on(device.without_chains(), &self.folder, &settings, &|_| {});
        let mut apart = loaded.map_err(|error| error.to_string())?;
        let prompt = &self.reference.prompt;
        #[cfg(target_os = "linux")]
        let _same = INSTRUCTIONS.read();
        match steps(&mut self.network, prompt) == steps(&mut apart, prompt) {
            true => Ok(0.0),
            false => Err("other numbers".to_owned()),
        }
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

/// The logits of steps of one row and of several, of a sequence and of two, of which one
/// is cut back in between.
fn steps(network: &mut MlxNetwork, text: &[u32]) -> Vec<Vec<f32>> {
    let (mut first, mut second) = (network.new_cache(), network.new_cache());
    let mut all = network.logits_of_all(&mut first, &text[..20]).unwrap();
    network.prefill(&mut second, &text[..5], false).unwrap();
    for token in &text[20..24] {
        let rows = network.decode(&mut [(&mut first, &[*token])]);
        all.extend(rows.unwrap());
    }
    network.trim(&mut first, 22);
    for ahead in [3, 9] {
        let mut batch = [
            (&mut first, &text[30..30 + ahead]),
            (&mut second, &text[5..7]),
        ];
        all.extend(network.decode(&mut batch).unwrap());
    }
    all
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
    have_written("parity.py", folder);
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
