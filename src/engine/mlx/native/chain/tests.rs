//! What a chain makes beside what the same operations make as nodes of their own: the same
//! to the last bit. And what becomes of caches.

use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::{Array, Dtype, ops};

use super::{Chain, NativeError, Numbers, Sequence};
use crate::engine::mlx::attention::Scores;
use crate::engine::mlx::native::tests::{normal, on_the_cpu};
use crate::engine::mlx::native::{
    INSTRUCTIONS, attention, dense_matmul, quantized_matmul, rms_norm, rotate, swiglu,
};
use crate::engine::mlx::packed::Packed;
use crate::engine::mlx::quantization::{Mode, Packing};

/// What one step makes of `x`.
fn made(
    x: &Array,
    step: impl FnOnce(&mut Chain, Numbers) -> Result<Numbers, NativeError>,
) -> Array {
    let (mut chain, x) = Chain::open(x).unwrap();
    let numbers = step(&mut chain, x).unwrap();
    let (result, caches) = chain.finish(numbers).unwrap();
    assert!(caches.is_empty());
    result
}

fn assert_same(found: &Array, expected: &Array, what: &str) {
    let numbers = |array: &Array| array.contiguous().unwrap().to_vec_cast::<f32>().unwrap();
    let (found_numbers, expected_numbers) = (numbers(found), numbers(expected));
    assert!(found_numbers == expected_numbers, "{what}");
    assert!(found_numbers.iter().any(|number| *number != 0.0), "{what}");
}

#[test]
fn products_are_those_of_nodes() {
    on_the_cpu();
    let _same = INSTRUCTIONS.read();
    let w = normal(&[96, 128], 1);
    for rows in 1..=9 {
        let x = normal(&[rows, 128], 10 + rows as u64);
        for (group_size, bits) in [(32, 4), (64, 8), (128, 3)] {
            let (words, scales, biases) = ops::quantize(&w, group_size, bits).unwrap();
            let packing = Packing {
                group_size,
                bits,
                mode: Mode::Affine,
            };
            let packed = Packed {
                words,
                scales,
                biases: Some(biases.clone()),
                packing,
            };
            let (words, scales) = (&packed.words, &packed.scales);
            let node = quantized_matmul(&x, words, scales, &biases, group_size, bits);
            let found = made(&x, |chain, x| chain.packed_product(x, &packed, &biases));
            let what = format!("{rows} rows, {bits} bits");
            assert_same(&found, &node.unwrap(), &what);
        }
        for format in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let w = w.as_dtype(format).unwrap();
            let node = dense_matmul(&x, &w).unwrap();
            let found = made(&x, |chain, x| chain.dense_product(x, &w));
            assert_same(&found, &node, &format!("{rows} rows of {format:?}"));
        }
    }
}

#[test]
fn numbers_are_those_of_nodes() {
    on_the_cpu();
    let _same = INSTRUCTIONS.read();
    let (x, more) = (normal(&[3, 128], 2), normal(&[128], 3));
    let weight = normal(&[32], 4);
    let check = |found: Array, node: Array, what: &str| assert_same(&found, &node, what);
    check(
        made(&x, |chain, x| chain.shift(x, &more)),
        x.add(&more).unwrap(),
        "shift",
    );
    check(
        made(&x, |chain, x| chain.sum(x, x)),
        x.add(&x).unwrap(),
        "sum",
    );
    check(
        made(&x, |chain, x| chain.scaled(x, 0.3)),
        x.multiply(Array::from_f32(0.3)).unwrap(),
        "scaled",
    );
    check(
        made(&x, |chain, x| chain.columns(x, [5, 70])),
        x.try_index((.., 5..70)).unwrap(),
        "columns",
    );
    let heads = x.reshape(&[3, 4, 32]).unwrap();
    check(
        made(&x, |chain, x| chain.rms_norm(x, &weight, 1e-5)),
        rms_norm(&heads, &weight, 1e-5).unwrap(),
        "a norm of each head",
    );
    check(
        made(&x, |chain, x| chain.rms_norm(x, &more, 1e-5)),
        rms_norm(&x, &more, 1e-5).unwrap(),
        "a norm",
    );
    check(
        made(&x, |chain, x| {
            let up = chain.scaled(x, 2.0)?;
            chain.swiglu(x, up)
        }),
        swiglu(&x, &x.multiply(Array::from_f32(2.0)).unwrap()).unwrap(),
        "swiglu",
    );
    let (cosines, sines) = (normal(&[3, 1, 8], 5), normal(&[3, 1, 8], 6));
    for neighbours in [true, false] {
        check(
            made(&x, |chain, x| {
                chain.rotate(x, 4, [&cosines, &sines], neighbours)
            }),
            rotate(&heads, &cosines, &sines, neighbours).unwrap(),
            "turned",
        );
    }
}

/// A cache `[2, room, 32]` with `tokens` rows of each head.
fn cache(room: i32, tokens: i32, seed: u64) -> Array {
    let mut cache = ops::zeros::<f32>(&[2, room, 32]).unwrap();
    let rows = normal(&[2, tokens, 32], seed);
    cache.try_index_mut((.., ..tokens, ..), &rows).unwrap();
    cache.eval().unwrap();
    cache
}

#[test]
fn attention_writes_to_caches_and_is_that_of_nodes() {
    on_the_cpu();
    let _same = INSTRUCTIONS.read();
    // Queries, keys and values side by side: four heads share two.
    let x = normal(&[5, 8 * 32], 7);
    let lengths = [(2, 7), (3, 0)];
    let caches = |first: u64| {
        [
            [cache(16, 7, first), cache(16, 7, first + 1)],
            [cache(8, 0, 0), cache(8, 0, 0)],
        ]
    };
    let sinks = normal(&[4], 8);
    for (window, cap, sinks) in [
        (None, None, None),
        (Some(4), Some(1.5), None),
        (None, None, Some(sinks)),
    ] {
        let scores = Scores {
            scale: 0.3,
            window,
            cap,
            sinks,
        };
        let sequences = lengths
            .iter()
            .zip(caches(20))
            .map(|((rows, before), caches)| Sequence {
                rows: *rows,
                before: *before,
                caches,
            });
        let sequences: Vec<Sequence> = sequences.collect();
        let (mut chain, all) = Chain::open(&x).unwrap();
        let queries = chain.columns(all, [0, 128]).unwrap();
        let keys = chain.columns(all, [128, 192]).unwrap();
        let values = chain.columns(all, [192, 256]).unwrap();
        let seen = chain
            .attention([queries, keys, values], 32, &scores, &sequences)
            .unwrap();
        drop(sequences);
        let (seen, after) = chain.finish(seen).unwrap();
        let mut row = 0;
        for ((place, (rows, before)), caches) in lengths.iter().enumerate().zip(caches(20)) {
            let (rows, before) = (*rows as i32, *before as i32);
            let of = |from: i32, heads: i32| {
                let part = x.try_index((row..row + rows, from..from + heads * 32));
                part.unwrap().reshape(&[rows, heads, 32]).unwrap()
            };
            let with = |mut cache: Array, new: Array| {
                let new = new.swap_axes(0, 1).unwrap();
                let at = (.., before..before + rows, ..);
                cache.try_index_mut(at, &new).unwrap();
                cache
            };
            let [keys, values] = caches;
            let (keys, values) = (with(keys, of(128, 2)), with(values, of(192, 2)));
            assert_same(&after[2 * place], &keys, "keys");
            assert_same(&after[2 * place + 1], &values, "values");
            let held = |cache: &Array| cache.try_index((.., ..before + rows, ..)).unwrap();
            let node = attention(&of(0, 4), &held(&keys), &held(&values), &scores);
            let found = seen.try_index((row..row + rows, ..)).unwrap();
            assert_same(&found, &node.unwrap(), &format!("{scores:?}"));
            row += rows;
        }
    }
}

#[test]
fn caches_are_written_in_place_unless_somebody_else_has_them() {
    on_the_cpu();
    let x = normal(&[1, 64], 9);
    let plain = Scores {
        scale: 1.0,
        window: None,
        cap: None,
        sinks: None,
    };
    let (keys, values) = (cache(8, 3, 30), cache(8, 3, 31));
    let place = |array: &Array| array.as_slice::<f32>().as_ptr();
    let (place_of_keys, before) = (place(&keys), values.as_slice::<f32>().to_vec());
    let shared = values.clone();
    let sequence = Sequence {
        rows: 1,
        before: 3,
        caches: [keys, values],
    };
    let (mut chain, x) = Chain::open(&x).unwrap();
    let seen = chain.attention([x, x, x], 32, &plain, &[sequence]).unwrap();
    let (seen, after) = chain.finish(seen).unwrap();
    seen.eval().unwrap();
    assert_eq!(place(&after[0]), place_of_keys);
    assert_eq!(shared.as_slice::<f32>(), before);
    let after = after[1].as_slice::<f32>();
    assert_eq!(after[..96], before[..96]);
    assert!(after[96..128] != before[96..128]);
}

#[test]
fn what_does_not_fit_a_chain_is_refused() {
    on_the_cpu();
    let check = |result: Result<Numbers, NativeError>, expected: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let x = normal(&[2, 64], 11);
    let half = x.as_dtype(Dtype::Float16).unwrap();
    let refused = Chain::open(&half).unwrap_err().to_string();
    assert!(refused.contains("in float32"), "{refused}");
    let (mut chain, x) = Chain::open(&x).unwrap();
    check(chain.dense_product(x, &normal(&[8, 63], 1)), "as wide as");
    check(chain.shift(x, &normal(&[63], 1)), "a bias must be");
    check(chain.columns(x, [3, 65]), "no such columns");
    check(chain.rms_norm(x, &normal(&[48], 1), 1e-5), "must divide");
    let narrow = chain.columns(x, [0, 3]).unwrap();
    check(chain.sum(x, narrow), "one width");
    check(chain.swiglu(x, narrow), "one width");
    check(chain.scaled(Numbers(7), 1.0), "no such numbers");
    let angles = normal(&[3, 1, 8], 1);
    check(
        chain.rotate(x, 2, [&angles, &angles], true),
        "cosines and sines",
    );
    let scores = Scores {
        scale: 1.0,
        window: None,
        cap: None,
        sinks: None,
    };
    for (rows, before, room, expected) in [
        (2, 7, 8, "a cache must be"),
        (1, 0, 8, "the rows of the chain"),
    ] {
        let sequence = Sequence {
            rows,
            before,
            caches: [cache(room, 1, 1), cache(room, 1, 1)],
        };
        check(
            chain.attention([x, x, x], 32, &scores, &[sequence]),
            expected,
        );
    }
    assert!(chain.finish(x).is_err(), "nothing was made");
}
