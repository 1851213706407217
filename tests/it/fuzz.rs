//! The functions that are fuzzed, over their seeds and over what a few cuts and
//! flipped bits make of them. Fuzzing itself is in `fuzz/`.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

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
