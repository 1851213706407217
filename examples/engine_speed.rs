//! Times the embedded engine alone, without server and text: load, prefill,
//! decode, and several sequences at once.
//!
//! `cargo run --release --example engine_speed SNAPSHOT [PROMPT [STEPS [SEQUENCES]]]`

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use roundhouse::engine::Network;
use roundhouse::engine::mlx::{self, Settings};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .ok_or("expected the folder of a snapshot")?;
    let mut number = |otherwise: usize| -> Result<usize, Box<dyn Error>> {
        Ok(arguments
            .next()
            .map_or(Ok(otherwise), |text| text.parse())?)
    };
    let (prompt, steps, sequences) = (number(400)?, number(64)?, number(8)?);

    let start = Instant::now();
    let mut network = mlx::load(Path::new(&dir), &Settings::default())?;
    println!("load {:.3} s", start.elapsed().as_secs_f64());

    let vocabulary = network.vocabulary() as u32;
    let tokens: Vec<u32> = (0..prompt as u32)
        .map(|i| (i * 7919 + 11) % vocabulary)
        .collect();
    let mut cache = network.new_cache();
    let start = Instant::now();
    let mut logits = network
        .prefill(&mut cache, &tokens, true)?
        .unwrap_or_default();
    rate("prefill", prompt, start);

    let start = Instant::now();
    for _ in 0..steps {
        let token = best(&logits);
        logits = network.decode(&mut [(&mut cache, &[token])])?.remove(0);
    }
    rate("decode", steps, start);

    let mut caches = Vec::new();
    for i in 0..sequences {
        let mut cache = network.new_cache();
        network.prefill(&mut cache, &tokens[i..(i + 50).min(prompt)], false)?;
        caches.push(cache);
    }
    let start = Instant::now();
    for step in 0..steps as u32 {
        let token = [step + 5];
        let mut batch: Vec<_> = caches.iter_mut().map(|cache| (cache, &token[..])).collect();
        network.decode(&mut batch)?;
    }
    rate(&format!("decode of {sequences}"), steps * sequences, start);
    Ok(())
}

fn rate(what: &str, tokens: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = tokens as f64 / seconds;
    println!("{what}: {tokens} tokens in {seconds:.3} s, {rate:.1} a second");
    if let Some(all) = processor_seconds() {
        println!("  ({all:.2} s of processor time since the start)");
    }
}

/// Processor time of this process, which other programs on the machine disturb
/// less than the clock on the wall. Linux only; a tick is a hundredth of a second.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse().ok()?;
    Some(ticks / 100.0)
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}
