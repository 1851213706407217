//! The native products against MLX's own, and mapped arrays against what was
//! written.

use std::io::Write;

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Device, DeviceType, Dtype, fast, ops, random};

use crate::engine::mlx::attention::{Scores, attend_with_mlx};
use crate::engine::mlx::kv::Rows;
use crate::engine::mlx::quantization::{Mode, Packing};

use super::{
    INSTRUCTIONS, MappedFile, attention, dense_matmul, dense_rows, packed_attention, packed_rows,
    prepare, quantized_matmul, rms_norm, rotate, swiglu, use_instructions,
};

pub(super) fn on_the_cpu() {
    Device::set_default(&Device::new(DeviceType::Cpu, 0));
    prepare(2).unwrap();
}

pub(super) fn normal(shape: &[i32], seed: u64) -> Array {
    let key = random::key(seed).unwrap();
    random::normal::<f32>(shape, None, None, &key).unwrap()
}

/// The largest difference in proportion to the largest expected number.
fn difference(found: &Array, expected: &Array) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    assert_eq!(found.dtype(), Dtype::Float32);
    let numbers = |array: &Array| array.to_vec_cast::<f32>().unwrap();
    let (found, expected) = (numbers(found), numbers(expected));
    let scale = expected
        .iter()
        .fold(0f32, |most, number| most.max(number.abs()));
    let pairs = found.iter().zip(&expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale
}

/// Calls `check` for each instruction set of this processor. The choice is one for
/// all threads, so tests beside this one run with it as well, and must pass, unless they
/// hold `INSTRUCTIONS`.
fn with_each_instruction_set(check: impl Fn()) {
    on_the_cpu();
    let _alone = INSTRUCTIONS.write();
    let tried = (0..4).filter(|&instructions| {
        let present = use_instructions(instructions);
        if present {
            check();
        }
        present
    });
    assert!(tried.count() >= 1, "the portable one is always there");
}

#[test]
fn quantized_products_agree_with_mlx() {
    with_each_instruction_set(check_quantized_products);
}

fn check_quantized_products() {
    for bits in [2, 3, 4, 6, 8] {
        for group in [32, 64, 128] {
            // 19 rows are no multiple of any tile, 256 columns of each group.
            let w = normal(&[19, 256], 1);
            let (packed, scales, biases) = ops::quantize(&w, group, bits).unwrap();
            for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
                let scales = scales.as_dtype(dtype).unwrap();
                let biases = biases.as_dtype(dtype).unwrap();
                let exact = |array: &Array| array.as_dtype(Dtype::Float32).unwrap();
                let wide =
                    ops::dequantize(&packed, exact(&scales), &exact(&biases), group, bits).unwrap();
                for rows in [1, 2, 3, 5, 15, 28, 70] {
                    let x = normal(&[rows, 256], 2);
                    let expected = ops::matmul(&x, wide.t()).unwrap();
                    let found =
                        quantized_matmul(&x, &packed, &scales, &biases, group, bits).unwrap();
                    let error = difference(&found, &expected);
                    assert!(
                        error < 1e-5,
                        "{bits} bits, {group}, {dtype:?}, {rows}: {error}"
                    );
                }
            }
        }
    }
}

/// Rows that products in whole numbers cannot have take the other way, whatever is beside
/// them.
#[test]
fn rows_of_extreme_numbers_are_multiplied_as_they_are() {
    with_each_instruction_set(|| {
        let (packed, scales, biases) = ops::quantize(normal(&[19, 256], 1), 64, 4).unwrap();
        let product = |x: &Array| {
            let found = quantized_matmul(x, &packed, &scales, &biases, 64, 4).unwrap();
            found.to_vec_cast::<f32>().unwrap()
        };
        let plain = normal(&[1, 256], 2);
        let alone = product(&plain);
        for extreme in [f32::INFINITY, f32::NAN, 1e-30, f32::MAX, 0.0] {
            let mut numbers = vec![0f32; 256];
            numbers[70] = extreme;
            let row = Array::from_slice(&numbers, &[1, 256]);
            let both = ops::concatenate(&[&plain, &row], 0).unwrap();
            let found = product(&both);
            assert_eq!(found[..19], alone, "{extreme}");
            let wide = ops::dequantize(&packed, &scales, &biases, 64, 4).unwrap();
            let expected = ops::matmul(&row, wide.t()).unwrap();
            let expected = expected.to_vec_cast::<f32>().unwrap();
            let pairs = found[19..].iter().zip(&expected);
            for (found, expected) in pairs {
                let is_near = (found - expected).abs() <= expected.abs() * 1e-5;
                let is_same = is_near || found == expected || found.is_nan() && expected.is_nan();
                assert!(is_same, "{extreme}: {found}, not {expected}");
            }
        }
    });
}

#[test]
fn dense_products_agree_with_mlx() {
    with_each_instruction_set(check_dense_products);
}

fn check_dense_products() {
    // 50 columns leave a rest behind whole blocks and whole vectors.
    // 113 rows are more than are taken together.
    for (width, height) in [(50, 7), (64, 33), (96, 113), (256, 40)] {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let w = normal(&[height, width], 3).as_dtype(dtype).unwrap();
            let wide = w.as_dtype(Dtype::Float32).unwrap();
            for rows in [1, 2, 3, 6, 9, 17, 29, 40] {
                let x = normal(&[2, rows, width], 4);
                let expected = ops::matmul(&x, wide.t()).unwrap();
                let found = dense_matmul(&x, &w).unwrap();
                let error = difference(&found, &expected);
                assert!(
                    error < 1e-5,
                    "{width}×{height} {dtype:?}, {rows} rows: {error}"
                );
            }
        }
    }
}

#[test]
fn arrays_in_any_order_are_taken() {
    on_the_cpu();
    let x = normal(&[64, 3], 5);
    let w = normal(&[64, 10], 6);
    let expected = ops::matmul(x.t(), &w).unwrap();
    let found = dense_matmul(&x.t(), &w.t()).unwrap();
    assert!(difference(&found, &expected) < 1e-5);
}

#[test]
fn norms_and_gates_agree_with_mlx() {
    with_each_instruction_set(|| {
        // 77 is no multiple of any vector; 40,000 numbers are shared between threads.
        for shape in [[3, 77], [1, 64], [40, 1000]] {
            let x = ops::multiply(normal(&shape, 1), Array::from_f32(20.0)).unwrap();
            for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
                let weight = normal(&[shape[1]], 2).as_dtype(dtype).unwrap();
                let wide = weight.as_dtype(Dtype::Float32).unwrap();
                let expected = fast::rms_norm(&x, Some(&wide), 1e-5).unwrap();
                let found = rms_norm(&x, &weight, 1e-5).unwrap();
                assert!(difference(&found, &expected) < 1e-6, "{shape:?} {dtype:?}");
            }
            let up = normal(&shape, 3);
            let expected = ops::multiply(&x, ops::sigmoid(&x).unwrap()).unwrap();
            let expected = ops::multiply(&expected, &up).unwrap();
            let found = swiglu(&x, &up).unwrap();
            assert!(difference(&found, &expected) < 1e-6, "{shape:?}");
        }
    });
}

#[test]
fn gates_saturate() {
    on_the_cpu();
    let gate = [-1e30, -200.0, -88.5, 0.0, 88.5, 1e30, f32::NAN];
    let ones = Array::ones::<f32>(&[7]).unwrap();
    let found = swiglu(&Array::from_slice(&gate, &[7]), &ones).unwrap();
    let found = found.as_slice::<f32>();
    assert!(
        found[..3].iter().all(|number| number.abs() < 1e-5),
        "{found:?}"
    );
    assert_eq!(found[3..6], [0.0, 88.5, 1e30]);
    assert!(found[6].is_nan());
}

#[test]
fn rotations_agree_with_mlx() {
    on_the_cpu();
    let (rows, size, turned, first) = (5, 16, 12, 7);
    let x = normal(&[rows, 3, size], 1);
    let mut angles = Vec::new();
    for row in 0..rows {
        for i in 0..turned / 2 {
            let frequency = 10_000f32.powf(-2.0 * i as f32 / turned as f32);
            angles.push((first + row) as f32 * frequency);
        }
    }
    let shape = [rows, 1, turned / 2];
    let table = |of: fn(f32) -> f32| {
        Array::from_slice(&angles.iter().map(|a| of(*a)).collect::<Vec<_>>(), &shape)
    };
    for neighbours in [false, true] {
        let found = rotate(&x, &table(f32::cos), &table(f32::sin), neighbours).unwrap();
        let by_head = x.swap_axes(0, 1).unwrap();
        let expected = fast::rope(&by_head, turned, neighbours, 10_000f32, 1.0, first, None);
        let expected = expected.unwrap().swap_axes(0, 1).unwrap();
        let flat = |array: &Array| array.reshape(&[rows, 3 * size]).unwrap();
        let error = difference(&flat(&found), &flat(&expected));
        assert!(error < 1e-5, "{neighbours}: {error}");
    }
}

#[test]
fn attention_agrees_with_mlx() {
    with_each_instruction_set(|| {
        // Of rows, tokens, query heads, key heads, head size.
        for [rows, tokens, heads, shared, size] in [
            [1, 1, 2, 2, 16],
            [1, 37, 9, 3, 64],
            [1, 300, 4, 1, 80],
            [1, 50, 8, 2, 12],
            [5, 5, 4, 2, 32],
            [70, 200, 6, 3, 64],
            [130, 130, 3, 3, 20],
        ] {
            // Keys and values are the beginning of a larger cache.
            let room = normal(&[shared, tokens + 9, size], 1);
            let keys = room.try_index((.., ..tokens, ..)).unwrap();
            let room = normal(&[shared, tokens + 9, size], 2);
            let values = room.try_index((.., ..tokens, ..)).unwrap();
            let queries = normal(&[rows, heads, size], 3);
            let scale = (size as f32).powf(-0.5);
            let expected = scaled_dot_product_attention(
                queries.swap_axes(0, 1).unwrap().expand_dims(0).unwrap(),
                keys.expand_dims(0).unwrap(),
                values.expand_dims(0).unwrap(),
                scale,
                Some(ScaledDotProductAttentionMask::Causal),
                None,
            );
            let expected = expected.unwrap().squeeze_axes(&[0]).unwrap();
            let expected = expected.swap_axes(0, 1).unwrap();
            let expected = expected.reshape(&[rows, heads * size]).unwrap();
            let scores = Scores {
                scale,
                window: None,
                cap: None,
                sinks: None,
            };
            let found = attention(&queries, &keys, &values, &scores).unwrap();
            let error = difference(&found, &expected);
            assert!(
                error < 1e-5,
                "{rows} of {tokens}, {heads}/{shared} × {size}: {error}"
            );
        }
    });
}

/// Windows, caps and sinks in all combinations, against the operations that a GPU takes.
#[test]
fn scores_become_shares_as_with_mlx() {
    with_each_instruction_set(|| {
        let [heads, shared, size] = [6, 3, 24];
        let sinks = normal(&[heads], 4);
        let choices = [None, Some(1), Some(7), Some(64), Some(500)];
        for (rows, tokens) in [(1, 1), (1, 90), (5, 40), (130, 150), (130, 130)] {
            let room = normal(&[shared, tokens + 3, size], 1);
            let keys = room.try_index((.., ..tokens, ..)).unwrap();
            let values = normal(&[shared, tokens, size], 2);
            let queries = normal(&[rows, heads, size], 3);
            for (window, cap, with_sinks) in choices.iter().flat_map(|window| {
                let plain = [(*window, None, false), (*window, Some(0.7), false)];
                plain.into_iter().chain([(*window, None, true)])
            }) {
                let scores = Scores {
                    scale: 0.3,
                    window,
                    cap,
                    sinks: with_sinks.then(|| sinks.clone()),
                };
                let (held_keys, held_values) =
                    (Rows::Plain(keys.clone()), Rows::Plain(values.clone()));
                let expected =
                    attend_with_mlx(&queries, &held_keys, &held_values, &scores).unwrap();
                let found = attention(&queries, &keys, &values, &scores).unwrap();
                let error = difference(&found, &expected);
                assert!(error < 1e-5, "{rows} of {tokens}, {scores:?}: {error}");
            }
        }
    });
}

/// The first `tokens` of packed keys or values in a larger cache: in their parts, and
/// the numbers that these stand for.
fn packed(shape: &[i32; 3], seed: u64, packing: Packing) -> ([Array; 3], Array) {
    let [heads, tokens, size] = *shape;
    let room = normal(&[heads, tokens + 5, size], seed);
    let Packing {
        group_size, bits, ..
    } = packing;
    let (words, scales, biases) = ops::quantize(&room, group_size, bits).unwrap();
    let first = |array: Array| array.try_index((.., ..tokens, ..)).unwrap();
    let (words, scales, biases) = (first(words), first(scales), first(biases));
    let numbers = ops::dequantize(&words, &scales, &biases, group_size, bits).unwrap();
    ([words, scales, biases], numbers)
}

/// Over packed keys and values, by our operation and by MLX's: what attention over the
/// numbers that they stand for gives.
#[test]
fn packed_attention_is_that_over_the_numbers_that_are_packed() {
    with_each_instruction_set(|| {
        let sinks = normal(&[6], 4);
        for (group_size, bits, size) in [(64, 8, 64), (32, 4, 96), (64, 4, 128), (32, 8, 32)] {
            let packing = Packing {
                group_size,
                bits,
                mode: Mode::Affine,
            };
            for (rows, tokens) in [(1, 1), (1, 600), (5, 40), (130, 700)] {
                let (packed_keys, keys) = packed(&[3, tokens, size], 1, packing);
                let (packed_values, values) = packed(&[3, tokens, size], 2, packing);
                let queries = normal(&[rows, 6, size], 3);
                for (window, cap, sinks) in [
                    (None, None, None),
                    (Some(7), None, None),
                    (Some(300), Some(0.7), None),
                    (None, None, Some(sinks.clone())),
                ] {
                    let scores = Scores {
                        scale: 0.3,
                        window,
                        cap,
                        sinks,
                    };
                    let expected = attention(&queries, &keys, &values, &scores).unwrap();
                    let own =
                        packed_attention(&queries, &packed_keys, &packed_values, packing, &scores);
                    let by_mlx = attend_with_mlx(
                        &queries,
                        &Rows::Packed(packed_keys.clone(), packing),
                        &Rows::Packed(packed_values.clone(), packing),
                        &scores,
                    );
                    for found in [own.unwrap(), by_mlx.unwrap()] {
                        let error = difference(&found, &expected);
                        assert!(
                            error < 1e-5,
                            "{rows} of {tokens}, {packing:?}, {scores:?}: {error}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn rows_are_those_that_mlx_takes() {
    with_each_instruction_set(|| {
        let w = normal(&[70, 128], 40);
        let indices = Array::from_slice(&[69u32, 3, 3, 0], &[4]);
        for (group_size, bits) in [(32, 4), (64, 8), (128, 6), (32, 2)] {
            let (packed, scales, biases) = ops::quantize(&w, group_size, bits).unwrap();
            let wide = ops::dequantize(&packed, &scales, &biases, group_size, bits).unwrap();
            let expected = wide.take_axis(&indices, 0).unwrap();
            let found = packed_rows(&indices, &packed, &scales, &biases, group_size, bits);
            let error = difference(&found.unwrap(), &expected);
            assert!(error < 1e-6, "{bits} bits: {error}");
        }
        for format in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let w = w.as_dtype(format).unwrap();
            let expected = w.take_axis(&indices, 0).unwrap();
            let expected = expected.as_dtype(Dtype::Float32).unwrap();
            let found = dense_rows(&indices, &w).unwrap();
            assert!(difference(&found, &expected) == 0.0, "{format:?}");
        }
    });
    let beyond = Array::from_slice(&[70u32], &[1]);
    let rows = dense_rows(&beyond, &normal(&[70, 128], 40)).unwrap();
    assert!(rows.eval().is_err());
}

#[test]
fn large_products_are_shared_without_loss() {
    on_the_cpu();
    let (x, w) = (normal(&[1, 1024], 7), normal(&[1500, 1024], 8));
    let (packed, scales, biases) = ops::quantize(&w, 64, 4).unwrap();
    let wide = ops::dequantize(&packed, &scales, &biases, 64, 4).unwrap();
    let expected = ops::matmul(&x, wide.t()).unwrap();
    for threads in [1, 2, 3] {
        prepare(threads).unwrap();
        let found = quantized_matmul(&x, &packed, &scales, &biases, 64, 4).unwrap();
        assert!(difference(&found, &expected) < 1e-5, "{threads} threads");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    on_the_cpu();
    let check = |result: Result<Array, super::NativeError>, expected: &str| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let (x, w) = (normal(&[2, 64], 9), normal(&[8, 64], 10));
    let (packed, scales, biases) = ops::quantize(&w, 32, 4).unwrap();
    check(dense_matmul(&normal(&[2, 63], 9), &w), "as wide as");
    check(
        dense_matmul(&x.as_dtype(Dtype::Float16).unwrap(), &w),
        "x must be float32",
    );
    check(dense_matmul(&x, &packed), "float32, float16 or bfloat16");
    check(
        quantized_matmul(&x, &packed, &scales, &biases, 64, 4),
        "for each group",
    );
    check(
        quantized_matmul(&x, &packed, &scales, &biases, 32, 8),
        "do not fit",
    );
    check(
        quantized_matmul(&x, &packed, &scales, &biases, 32, 5),
        "bits must be",
    );
    check(
        quantized_matmul(&x, &packed, &scales, &biases, 16, 4),
        "group size",
    );
}

#[test]
fn mapped_arrays_are_what_the_file_holds() {
    on_the_cpu();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let numbers: Vec<f32> = (0u8..24).map(f32::from).collect();
    file.write_all(b"12345678").unwrap();
    for number in &numbers {
        file.write_all(&number.to_le_bytes()).unwrap();
    }
    file.write_all(b"!").unwrap();
    for number in &numbers {
        file.write_all(&number.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
    let map = MappedFile::open(file.path()).unwrap();
    assert_eq!(map.length(), 8 + 2 * 96 + 1);
    let aligned = map.array(8, &[4, 6], Dtype::Float32).unwrap();
    let shifted = map.array(105, &[24], Dtype::Float32).unwrap();
    let middle = map.array(8 + 4 * 6, &[2, 3, 2], Dtype::Float32).unwrap();
    let words = map.array(8, &[2], Dtype::Uint32).unwrap();
    drop(map);
    assert_eq!(aligned.as_slice::<f32>(), numbers);
    assert_eq!(shifted.as_slice::<f32>(), numbers);
    assert_eq!(middle.as_slice::<f32>(), &numbers[6..18]);
    assert_eq!(words.as_slice::<u32>(), [0, 1f32.to_bits()]);
    let sum = aligned.t().sum(None).unwrap();
    assert_eq!(sum.item_exact::<f32>(), 276.0);
    // An operation that takes over the last reference to an array may compute in
    // its memory; the file must stay as it is.
    let before = std::fs::read(file.path()).unwrap();
    drop((shifted, middle, words));
    let doubled = ops::multiply(&aligned, Array::from_f32(2.0)).unwrap();
    drop(aligned);
    assert_eq!(doubled.as_slice::<f32>()[23], 46.0);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
}

#[test]
fn files_that_cannot_be_mapped_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let missing = MappedFile::open(&folder.path().join("missing")).unwrap_err();
    assert!(missing.to_string().contains("cannot open"), "{missing}");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let empty = MappedFile::open(&empty).unwrap_err();
    assert!(empty.to_string().contains("empty"), "{empty}");
    let short = folder.path().join("short");
    std::fs::write(&short, [0; 16]).unwrap();
    let map = MappedFile::open(&short).unwrap();
    let beyond = map.array(8, &[3], Dtype::Float32).unwrap_err();
    assert!(beyond.to_string().contains("beyond the end"), "{beyond}");
    assert!(map.array(8, &[-1], Dtype::Float32).is_err());
    assert!(map.array(u64::MAX, &[1], Dtype::Float32).is_err());
}

mod copies;
