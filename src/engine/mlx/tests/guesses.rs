//! Steps with guesses on small real networks: the same logits, and the same answers.

use serde_json::json;

use super::super::{MlxNetwork, Settings, load};
use super::tiny::Tiny;
use super::tokens;
use crate::config::kv::KvFormat;
use crate::engine::Network;
use crate::engine::sampling::Sampling;
use crate::engine::speculation::Draft;
use crate::engine::speculation::pace::MOST_AHEAD;
use crate::engine::thread::outlet::Said;
use crate::engine::thread::{self, Engine, Job};

/// A network that is packed into `bits`, or not.
fn network(changes: &serde_json::Value, bits: Option<i32>, kv_format: KvFormat) -> MlxNetwork {
    let mut tiny = Tiny::new(changes.clone());
    if let Some(bits) = bits {
        tiny.quantize(32, bits);
    }
    let dir = tiny.write();
    let settings = Settings {
        kv_format,
        ..Settings::default()
    };
    load(dir.path(), &settings).unwrap()
}

/// On a CPU a row gives to the last bit what it gives in a step of its own, whatever comes
/// beside it and after it; and what was wrong leaves nothing behind.
#[test]
#[cfg(target_os = "linux")]
fn tokens_read_ahead_give_to_the_last_bit_what_each_gives_alone() {
    let _same = crate::engine::mlx::native::INSTRUCTIONS.read();
    let window = json!({"model_type": "mistral", "sliding_window": 20});
    for (changes, bits, kv_format) in [
        (json!({}), None, KvFormat::Auto),
        (json!({}), Some(4), KvFormat::Auto),
        (json!({}), Some(8), KvFormat::EightBit),
        (window, Some(4), KvFormat::FourBit),
    ] {
        let mut network = network(&changes, bits, kv_format);
        if !network.device.is_own() {
            // A GPU of its own order of sums; the parity table has what it gives.
            return;
        }
        let text = tokens(60, 1);
        let mut alone = Vec::new();
        let mut cache = network.new_cache();
        network.prefill(&mut cache, &text[..30], false).unwrap();
        for token in &text[30..] {
            let rows = network.decode(&mut [(&mut cache, &[*token])]).unwrap();
            alone.extend(rows);
        }
        let (mut first, mut second) = (network.new_cache(), network.new_cache());
        network.prefill(&mut first, &text[..30], false).unwrap();
        network.prefill(&mut second, &text[..30], false).unwrap();
        let mut at = 30;
        while at + MOST_AHEAD < text.len() {
            for ahead in 0..=MOST_AHEAD {
                assert!(1 + ahead + 4 <= network.rows_alike().unwrap());
                let right = &text[at..at + 1 + ahead];
                let wrong = [text[at], 7, 8, 9];
                let mut batch = [(&mut first, right), (&mut second, &wrong[..])];
                let rows = network.decode(&mut batch).unwrap();
                let expected = &alone[at - 30..];
                assert!(
                    rows[..=ahead] == expected[..=ahead],
                    "{ahead} ahead at {at}"
                );
                assert!(
                    rows[1 + ahead] == expected[0],
                    "beside {ahead} ahead at {at}"
                );
                network.trim(&mut first, at);
                network.trim(&mut second, at);
            }
            // Both go on over what was wrong.
            let mut batch = [(&mut first, &text[at..=at]), (&mut second, &text[at..=at])];
            network.decode(&mut batch).unwrap();
            at += 1;
        }
        assert_eq!(network.tokens_in(&first), at);
    }
}

/// The tokens of an answer with their log-probabilities, and how it ended.
type Answered = (Vec<u32>, Vec<f32>, Option<Said>);

async fn answered(engine: &Engine, prompt: &[u32], temperature: f32) -> Answered {
    let mut sequence = engine.begin(Job {
        prompt: prompt.to_vec(),
        max_tokens: 60,
        end_tokens: [].into(),
        sampling: Sampling {
            temperature,
            seed: Some(11),
            ..Sampling::default()
        },
        grammar: None,
        logprobs: Some(3),
        owner: None,
        adapter: None,
    });
    let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
    loop {
        match sequence.next().await {
            Some(Said::Began { .. }) => {}
            Some(Said::Token(sampled)) => {
                tokens.push(sampled.token);
                logprobs.push(sampled.logprob.expect("asked for"));
            }
            end => return (tokens, logprobs, end),
        }
    }
}

/// On a CPU with the same log-probabilities to the last bit.
#[test]
#[cfg(target_os = "linux")]
fn answers_with_a_draft_are_those_without() {
    let _same = crate::engine::mlx::native::INSTRUCTIONS.read();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(compare_answers());
}

#[cfg(target_os = "linux")]
async fn compare_answers() {
    for (model_type, kv_format) in [
        ("llama", KvFormat::Auto),
        ("llama", KvFormat::EightBit),
        ("mistral", KvFormat::Auto),
    ] {
        let changes = json!({"model_type": model_type});
        let start = |with: u8| {
            let settings = thread::Settings {
                parallel: 4.try_into().unwrap(),
                context: 512,
                kv: 1 << 24,
                // So that two prompts that are read together have few rows: many are
                // summed up in another order.
                chunk: 6.try_into().unwrap(),
            };
            let changes = changes.clone();
            let build = move || {
                let draft = match with {
                    0 => Draft::Nothing,
                    1 => Draft::Prompt,
                    // The same weights in fewer bits.
                    _ => Draft::Network(network(&changes, Some(4), kv_format)),
                };
                Ok((network(&changes, None, kv_format), draft))
            };
            Engine::start(settings, None, build).unwrap().0
        };
        let (none, text, smaller) = (start(0), start(1), start(2));
        let more = smaller.facts().kv_bytes_per_token;
        assert_eq!(more, 2 * none.facts().kv_bytes_per_token);
        for (turn, temperature) in [(1, 0.0), (2, 0.0), (3, 1.0)] {
            let prompt = [tokens(20, turn), tokens(20, turn)].concat();
            let expected = answered(&none, &prompt, temperature).await;
            assert_eq!(expected.0.len(), 60);
            for engine in [&text, &smaller] {
                let alone = answered(engine, &prompt, temperature).await;
                assert!(
                    alone == expected,
                    "{model_type} {turn}: {alone:?} {expected:?}"
                );
                let other = tokens(30, turn + 7);
                let beside = tokio::join!(
                    answered(engine, &prompt, temperature),
                    answered(engine, &other, 1.0),
                );
                assert!(
                    beside.0 == expected,
                    "{model_type} {turn}: {beside:?} {expected:?}"
                );
            }
        }
        assert_eq!(none.counted().guessed, 0);
        // How often it is worth it is for the clock to say, and for other tests.
        assert!(smaller.counted().guessed > 0, "{model_type}");
        assert!(text.counted().guessed > 0, "{model_type}");
    }
}
