//! The functions that are fuzzed, over their seeds and over what a few cuts and
//! flipped bits make of them. Fuzzing itself is in `fuzz/`.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

use proptest::prelude::*;

use super::harness::long;

/// Most places of one seed that are varied.
const VARIATIONS: usize = 2000;

/// The same where each run lays out a folder.
const FEW: usize = 6;

/// Runs a target over the seeds of its folder.
#[track_caller]
fn check(name: &str, target: fn(&[u8]), variations: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).expect("seeds") {
        let path = entry.expect("an entry").path();
        let seed = std::fs::read(&path).expect("a seed");
        seeds += 1;
        target(&seed);
        let most = if long() { usize::MAX } else { variations };
        let step = seed.len().div_ceil(most).max(1);
        for end in (0..seed.len()).step_by(step) {
            target(&seed[..end]);
            for bit in [0x01, 0x20, 0x80] {
                let mut flipped = seed.clone();
                flipped[end] ^= bit;
                target(&flipped);
            }
        }
    }
    assert!(seeds >= 4, "{name} has {seeds} seeds");
}

#[test]
fn j03_fuzzed_bodies() {
    check("peek", targets::peek, VARIATIONS);
}

#[test]
fn h10_h12_fuzzed_headers() {
    check("headers", targets::headers, VARIATIONS);
}

#[test]
fn h12_fuzzed_answers() {
    check("answer", targets::answer, VARIATIONS);
}

#[test]
fn e01_fuzzed_streams() {
    check("stream", targets::stream, VARIATIONS);
}

proptest! {
    /// Lines that mean something, in any order, cut anywhere.
    #[test]
    fn e01_any_lines_in_any_pieces(
        cuts in prop::collection::vec(any::<u8>(), 0..8),
        lines in prop::collection::vec((0..LINES.len(), 0..3usize), 0..40),
    ) {
        let mut data = vec![cuts.len() as u8];
        data.extend(&cuts);
        for (line, ending) in lines {
            data.extend(LINES[line].as_bytes());
            data.extend(["\n", "\r\n", "\r"][ending].as_bytes());
        }
        targets::stream(&data);
    }

    /// Fields that mean something, with any values.
    #[test]
    fn h10_h12_any_fields_either_way(
        fields in prop::collection::vec((0..FIELDS.len(), "[ -~]{0,12}|close, cache-control|[0-9]{1,5}"), 0..12),
    ) {
        let lines = fields.iter().map(|(name, value)| format!("{}: {value}\n", FIELDS[*name]));
        targets::headers(lines.collect::<String>().as_bytes());
    }
}

const LINES: [&str; 12] = [
    "",
    "",
    "data: [DONE]",
    "data:[DONE]",
    "data: {\"error\":{\"message\":\"x\"}}",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}",
    "data: {\"usage\":null}",
    "data: {\"usage\":",
    "data: {\"prompt_tokens\":7}}",
    "data",
    ": loading 5 %",
    "event: x",
];

const FIELDS: [&str; 10] = [
    "connection",
    "Cache-Control",
    "retry-after",
    "x-should-retry",
    "x-roundhouse-ignored",
    "x-roundhouse-limited",
    "set-cookie",
    "content-length",
    "x-request-id",
    "transfer-encoding",
];

#[test]
fn m02_fuzzed_names() {
    check("names", targets::names, VARIATIONS);
}

#[test]
fn c04_fuzzed_configurations() {
    check("config", targets::config, VARIATIONS);
}

#[test]
fn m11_m12_fuzzed_cache_folders() {
    check("cache", targets::cache, FEW);
}

#[test]
fn m17_fuzzed_safetensors() {
    check("safetensors", targets::safetensors, VARIATIONS);
}

#[test]
fn m18_fuzzed_gguf() {
    check("gguf", targets::gguf, VARIATIONS);
}
