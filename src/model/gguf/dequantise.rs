//! Blocks of GGUF numbers as float32.
//! Source of every formula: `dequantize_row_*` in ggml's `ggml-quants.c`. In a
//! block of 32, byte `j` holds element `j` in its low and `j + 16` in its high half.

use half::{bf16, f16};

use super::TensorType;

/// All numbers of a tensor. `bytes` must be whole blocks of `kind`; a rest is ignored.
pub fn dequantise(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    let blocks = bytes.chunks_exact(kind.block_bytes());
    let mut out = Vec::with_capacity(blocks.len() * kind.block_elements());
    for block in blocks {
        match kind {
            TensorType::F32 => {
                out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]))
            }
            TensorType::F16 => out.push(half_at(block, 0)),
            TensorType::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
            TensorType::Q4_0 => nibbles(&block[2..], half_at(block, 0), -8.0, 0.0, &mut out),
            TensorType::Q4_1 => {
                let (scale, least) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], scale, 0.0, least, &mut out);
            }
            TensorType::Q5_0 => fives(&block[2..], half_at(block, 0), -16.0, 0.0, &mut out),
            TensorType::Q5_1 => {
                let (scale, least) = (half_at(block, 0), half_at(block, 2));
                fives(&block[4..], scale, 0.0, least, &mut out);
            }
            TensorType::Q8_0 => {
                let scale = half_at(block, 0);
                out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * scale));
            }
            TensorType::Q4K => q4_k(block, &mut out),
            TensorType::Q5K => q5_k(block, &mut out),
            TensorType::Q6K => q6_k(block, &mut out),
        }
    }
    out
}

/// The float16 at `offset`.
pub(in crate::model) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// 32 four-bit numbers: `(q + shift) * scale + least`.
fn nibbles(quants: &[u8], scale: f32, shift: f32, least: f32, out: &mut Vec<f32>) {
    let value = |q: u8| (f32::from(q) + shift) * scale + least;
    out.extend(quants.iter().map(|&byte| value(byte & 0xF)));
    out.extend(quants.iter().map(|&byte| value(byte >> 4)));
}

/// 32 five-bit numbers: four bytes with the fifth bits, then the nibbles.
fn fives(block: &[u8], scale: f32, shift: f32, least: f32, out: &mut Vec<f32>) {
    let high = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let fifth = |element: usize| ((high >> element) & 1) as u8 * 16;
    let value = |q: u8| (f32::from(q) + shift) * scale + least;
    let quants = &block[4..20];
    out.extend((0..16).map(|j| value((quants[j] & 0xF) | fifth(j))));
    out.extend((0..16).map(|j| value((quants[j] >> 4) | fifth(j + 16))));
}

/// The six-bit scale and least of sub-block `j` (0 to 7) out of the 12 bytes of Q4_K and Q5_K.
pub(in crate::model) fn scale_and_least(j: usize, packed: &[u8]) -> (f32, f32) {
    let (scale, least) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (
            (packed[j + 4] & 0xF) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        ),
    };
    (f32::from(scale), f32::from(least))
}

/// Q4_K: scale, scale of the leasts, 12 bytes of scales, 128 bytes of nibbles.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (pair, quants) in block[16..144].chunks_exact(32).enumerate() {
        for high in 0..2 {
            let (s, m) = scale_and_least(2 * pair + high, &block[4..16]);
            let (s, m) = (scale * s, least * m);
            out.extend(
                quants
                    .iter()
                    .map(|&byte| s * f32::from((byte >> (4 * high)) & 0xF) - m),
            );
        }
    }
}

/// Q5_K: as Q4_K with 32 bytes of fifth bits before the nibbles.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let fifths = &block[16..48];
    for (pair, quants) in block[48..176].chunks_exact(32).enumerate() {
        for high in 0..2 {
            let sub = 2 * pair + high;
            let (s, m) = scale_and_least(sub, &block[4..16]);
            let (s, m) = (scale * s, least * m);
            out.extend(quants.iter().zip(fifths).map(|(&byte, &fifth)| {
                let q = ((byte >> (4 * high)) & 0xF) | (((fifth >> sub) & 1) << 4);
                s * f32::from(q) - m
            }));
        }
    }
}

/// Q6_K: 128 bytes of low nibbles, 64 of high pairs, 16 signed scales, scale.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 208);
    for half in 0..2 {
        let low = &block[64 * half..64 * half + 64];
        let high = &block[128 + 32 * half..160 + 32 * half];
        let scales = &block[192 + 8 * half..200 + 8 * half];
        for quarter in 0..4 {
            out.extend((0..32).map(|l| {
                let nibble = (low[l + 32 * (quarter % 2)] >> (4 * (quarter / 2))) & 0xF;
                let pair = (high[l] >> (2 * quarter)) & 3;
                let q = f32::from(nibble | (pair << 4)) - 32.0;
                scale * f32::from(scales[l / 16 + 2 * quarter] as i8) * q
            }));
        }
    }
}
