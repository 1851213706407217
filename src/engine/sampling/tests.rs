//! Against mlx-lm's own functions (`tests/reference/make_text.py`), and rules that hold
//! for every row.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

proptest! {
    #[test]
    fn only_what_is_allowed_is_chosen_and_the_probabilities_stay_the_networks(
        row in prop::collection::vec(-8.0f32..8.0, 40),
        allowed in prop::collection::btree_set(0u32..40, 1..6),
        temperature in 0.0f32..2.0,
        top_p in 0.0f32..1.0,
        top_k in 0u32..8,
        min_p in 0.0f32..1.0,
        seed in any::<u64>(),
    ) {
        let sampling = Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            seed: Some(seed),
            logit_bias: vec![(0, 100.0)],
            ..Sampling::default()
        };
        let set = allowed.iter().copied().collect();
        let mut sampler = Sampler::new(sampling);
        let sampled = sampler.sample(&mut row.clone(), Some(&set), 3, true);
        prop_assert!(allowed.contains(&sampled.token));
        let free = told(sampled.token, &row, 3);
        prop_assert_eq!(sampled, free);
    }
}

/// The probability of each token that remains, as the sampler will draw it.
fn distribution(sampler: &Sampler, logits: &[f32]) -> Vec<(u32, f32)> {
    let mut row = logits.to_vec();
    sampler.adjust(&mut row);
    let (_, highest) = math::argmax(&row);
    let sampling = &sampler.sampling;
    let tokens = filter::kept(
        &row,
        highest,
        sampling.top_p,
        sampling.min_p,
        sampling.top_k,
    )
    .unwrap_or_else(|| (0..row.len() as u32).collect());
    let weights: Vec<f32> = tokens
        .iter()
        .map(|token| math::exp((row[*token as usize] - highest) / sampling.temperature))
        .collect();
    let total: f32 = weights.iter().sum();
    tokens
        .into_iter()
        .zip(weights.into_iter().map(|weight| weight / total))
        .filter(|(_, probability)| *probability > 0.0)
        .collect()
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn tokens(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn pairs(value: &Value) -> Vec<(u32, f32)> {
    let pairs = value.as_array().unwrap().iter();
    pairs
        .map(|pair| (pair[0].as_u64().unwrap() as u32, number(&pair[1])))
        .collect()
}

fn sampling_of(case: &Value) -> Sampling {
    Sampling {
        temperature: number(&case["temperature"]),
        top_p: number(&case["top_p"]),
        top_k: case["top_k"].as_u64().unwrap() as u32,
        min_p: number(&case["min_p"]),
        repetition_penalty: number(&case["repetition_penalty"]),
        repetition_context: case["repetition_context"].as_u64().unwrap() as usize,
        presence_penalty: number(&case["presence_penalty"]),
        frequency_penalty: number(&case["frequency_penalty"]),
        logit_bias: pairs(&case["logit_bias"]),
        seed: Some(1),
    }
}

#[test]
fn leaves_the_probabilities_that_mlx_lm_leaves() {
    let text = include_str!("../../../tests/fixtures/text/sampling.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 60);
    for (at, case) in cases.iter().enumerate() {
        let logits: Vec<f32> = case["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        let mut sampler = Sampler::new(sampling_of(case));
        sampler.observe_prompt(&tokens(&case["prompt"]));
        for token in tokens(&case["generated"]) {
            sampler.observe_generated(token);
        }
        let found = distribution(&sampler, &logits);
        let expected = pairs(&case["kept"]);
        // Probabilities that the reference's rounding makes zero may be missing there.
        let possible: Vec<_> = found.iter().filter(|(_, p)| *p > 1e-12).copied().collect();
        let expected: Vec<_> = expected.into_iter().filter(|(_, p)| *p > 1e-12).collect();
        let ids = |list: &[(u32, f32)]| list.iter().map(|entry| entry.0).collect::<Vec<_>>();
        assert_eq!(ids(&possible), ids(&expected), "case {at}");
        for ((token, found), (_, expected)) in possible.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 2e-5 * expected.max(0.01),
                "case {at}, token {token}: found {found}, expected {expected}"
            );
        }
    }
}

fn greedy() -> Sampling {
    Sampling {
        temperature: 0.0,
        ..Sampling::default()
    }
}

#[test]
fn takes_the_first_of_the_most_likely_at_temperature_zero() {
    let mut sampler = Sampler::new(greedy());
    let sampled = sampler.sample(&mut [0.0, 2.0, 2.0, 1.0], None, 3, false);
    assert_eq!(sampled.token, 1);
    let ids: Vec<u32> = sampled.top.iter().map(|entry| entry.0).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(sampled.logprob, Some(sampled.top[0].1));
}

#[test]
fn logprobs_are_those_of_the_network() {
    let row = [1.0f32, 2.0, 3.0];
    let normaliser = row.iter().map(|x| x.exp()).sum::<f32>().ln();
    let mut sampler = Sampler::new(Sampling {
        logit_bias: vec![(0, 50.0), (9, 1.0)],
        temperature: 0.1,
        ..Sampling::default()
    });
    let sampled = sampler.sample(&mut row.to_vec(), None, 2, true);
    assert_eq!(sampled.token, 0);
    assert!((sampled.logprob.unwrap() - (1.0 - normaliser)).abs() < 1e-6);
    assert_eq!(sampled.top[0].0, 2);
    assert!((sampled.top[0].1 - (3.0 - normaliser)).abs() < 1e-6);
    let sampled = Sampler::new(greedy()).sample(&mut row.to_vec(), None, 0, false);
    assert_eq!((sampled.logprob, sampled.top), (None, vec![]));
}

#[test]
fn bears_logits_that_are_no_numbers() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows: [(&[f32], u32); 7] = [
        (&[], 0),
        (&[nan, nan], 0),
        (&[-inf, -inf], 0),
        (&[nan, 1.0, -inf], 1),
        (&[nan, inf, 3.0], 1),
        (&[-nan, -5.0, nan], 1),
        (&[nan, f32::MAX, f32::MIN], 1),
    ];
    let filters = [
        Sampling::default(),
        greedy(),
        Sampling {
            top_p: 0.5,
            top_k: 1,
            min_p: 1.0,
            repetition_penalty: 1.2,
            presence_penalty: 1.0,
            ..Sampling::default()
        },
        Sampling {
            temperature: 1e-40,
            top_p: 0.9,
            ..Sampling::default()
        },
    ];
    for (row, expected) in rows {
        for sampling in &filters {
            let sampled = Sampler::new(sampling.clone()).sample(&mut row.to_vec(), None, 20, true);
            assert_eq!(sampled.token, expected, "row {row:?}, {sampling:?}");
            let told = sampled
                .logprob
                .iter()
                .chain(sampled.top.iter().map(|t| &t.1));
            assert!(
                told.into_iter().all(|value| value.is_finite()),
                "row {row:?}"
            );
        }
    }
}

#[test]
fn the_exponential_is_exact_enough() {
    for step in 0..870_000u32 {
        let x = -(step as f32) * 1e-4;
        let (found, expected) = (f64::from(math::exp(x)), f64::from(x).exp());
        let error = (found - expected).abs() / expected;
        assert!(error < 2e-7, "e^{x}: found {found}, expected {expected}");
    }
    assert_eq!(math::exp(0.0), 1.0);
    assert_eq!(math::exp(-200.0), 0.0);
    assert_eq!(math::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(math::exp(f32::NAN), 0.0);
}

fn draws(sampling: &Sampling, row: &[f32], count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling.clone());
    (0..count)
        .map(|_| sampler.sample(&mut row.to_vec(), None, 0, false).token)
        .collect()
}

#[test]
fn a_seed_gives_the_same_tokens_for_ever() {
    let row: Vec<f32> = (0..100).map(|at| (at % 7) as f32 * 0.5).collect();
    let sampling = |seed| Sampling {
        seed,
        ..Sampling::default()
    };
    // Written down: a change here breaks what users have recorded.
    assert_eq!(
        draws(&sampling(Some(42)), &row, 8),
        SEEDED,
        "the generator or the draw has changed"
    );
    assert_ne!(draws(&sampling(Some(43)), &row, 8), SEEDED);
    assert_ne!(
        draws(&sampling(None), &row, 30),
        draws(&sampling(None), &row, 30)
    );
}

const SEEDED: [u32; 8] = [82, 33, 97, 69, 80, 60, 13, 61];

#[test]
fn frequencies_follow_the_probabilities() {
    let row: Vec<f32> = (0..121).map(|at| ((at * 37) % 11) as f32 * 0.4).collect();
    for temperature in [0.5, 1.0, 2.0] {
        let sampling = Sampling {
            temperature,
            seed: Some(5),
            ..Sampling::default()
        };
        let expected = distribution(&Sampler::new(sampling.clone()), &row);
        let count = 5_000;
        let mut found = [0f64; 11];
        for token in draws(&sampling, &row, count) {
            found[(token as usize * 37) % 11] += 1.0 / count as f64;
        }
        for (class, found) in found.iter().enumerate() {
            let wanted: f64 = expected
                .iter()
                .filter(|(token, _)| (*token as usize * 37) % 11 == class)
                .map(|(_, probability)| f64::from(*probability))
                .sum();
            assert!(
                (found - wanted).abs() < 0.02,
                "temperature {temperature}, class {class}: found {found}, expected {wanted}"
            );
        }
    }
}

proptest! {
    #[test]
    fn never_takes_what_was_filtered_out(
        row in prop::collection::vec(prop_oneof![9 => -6f32..6.0, 1 => Just(2.5)], 1..60),
        top_k in 0u32..70,
        top_p in 0f32..1.2,
        min_p in prop_oneof![Just(0f32), 0f32..1.0],
        temperature in 0.01f32..3.0,
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { top_k, top_p, min_p, temperature, seed: Some(seed), ..Sampling::default() };
        // The rules told the slow way, in numbers of twice the width.
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        let highest = row[order[0]];
        let weight = |at: usize| f64::from(row[at] - highest).exp();
        let total: f64 = (0..row.len()).map(weight).sum();
        let mut allowed: HashSet<usize> = HashSet::new();
        let mut above = 0.0;
        for (rank, at) in order.iter().enumerate() {
            let share = above / total;
            let in_nucleus = !(0.0 < top_p && top_p < 1.0)
                || share < f64::from(top_p) + 1e-6
                || row[order[rank - 1]] == row[*at];
            if in_nucleus && weight(*at) >= f64::from(min_p) - 1e-6 {
                allowed.insert(*at);
            }
            above += weight(*at);
        }
        if top_k > 0 && (top_k as usize) < row.len() {
            let best: HashSet<usize> = order.iter().copied().take(top_k as usize).collect();
            allowed.retain(|at| best.contains(at));
        }
        for token in draws(&sampling, &row, 20) {
            prop_assert!(allowed.contains(&(token as usize)), "token {token}, {sampling:?}");
        }
    }

    #[test]
    fn the_most_likely_are_those_of_a_full_sort(
        row in prop::collection::vec(prop_oneof![(-4i8..4).prop_map(f32::from), Just(f32::NAN)], 0..80),
        count in 0usize..30,
    ) {
        let mut order: Vec<u32> = (0..row.len() as u32).filter(|at| !row[*at as usize].is_nan()).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
        order.truncate(count);
        prop_assert_eq!(filter::most_likely(&row, count, f32::NEG_INFINITY), order);
    }
}
