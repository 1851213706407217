//! The functions that are fuzzed, over their seeds and over what a few cuts and
//! flipped bits make of them. Fuzzing itself is in `fuzz/`.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

use super::harness::long;

/// Most variations of one seed.
const VARIATIONS: usize = 2000;

/// Runs a target over the seeds of its folder.
#[track_caller]
fn check(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let mut seeds = 0;
    for entry in std::fs::read_dir(folder).expect("seeds") {
        let path = entry.expect("an entry").path();
        let seed = std::fs::read(&path).expect("a seed");
        seeds += 1;
        target(&seed);
        let most = if long() { usize::MAX } else { VARIATIONS };
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
    check("peek", targets::peek);
}

#[test]
fn fuzzed_names() {
    check("names", targets::names);
}

#[test]
fn m17_fuzzed_safetensors() {
    check("safetensors", targets::safetensors);
}

#[test]
fn m18_fuzzed_gguf() {
    check("gguf", targets::gguf);
}
