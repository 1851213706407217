//! MLX's affine quantised form: groups of numbers as small integers with one
//! scale and one bias each, `w ≈ scale · q + bias`, `q` packed little-endian
//! into 32-bit words. How floats are brought into it, and which GGUF blocks
//! are already in it but for the order of their bits.
//!
//! Source of the formula: `affine_quantize` in MLX's `backend/cpu/quantized.cpp`.

use half::f16;

use super::gguf::TensorType;
use super::gguf::dequantise::{dequantise, half_at, scale_and_least};

/// Elements that share a scale and a bias. GGUF's blocks have as many.
pub const GROUP: usize = 32;

/// Floor of a scale, as in MLX: a group of equal numbers has no range.
const LEAST_SCALE: f32 = 1e-7;

/// A tensor in affine form, each part as the bytes that stand in a safetensors file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Quantised {
    /// Packed integers, `bits` each, as little-endian 32-bit words.
    pub weight: Vec<u8>,
    /// One float16 per group.
    pub scales: Vec<u8>,
    /// One float16 per group.
    pub biases: Vec<u8>,
}

/// Bits per number in affine form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Two numbers in a byte.
    Four,
    /// One number in a byte.
    Eight,
}

impl Bits {
    /// The number.
    pub fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The largest integer of that many bits.
    fn most(self) -> f32 {
        match self {
            Self::Four => 15.0,
            Self::Eight => 255.0,
        }
    }
}

/// Brings a GGUF tensor into affine form. Q4_0 and Q4_1 to four bits and Q8_0
/// to eight keep every number; Q4_K to four keeps its integers and rounds
/// scales to float16; everything else is dequantised and quantised anew.
/// `bytes` are whole blocks, rows a multiple of [`GROUP`].
pub fn convert(kind: TensorType, bytes: &[u8], bits: Bits) -> Quantised {
    let taken = match (kind, bits) {
        (TensorType::Q4_0 | TensorType::Q4_1, Bits::Four) => take_over_nibbles(kind, bytes),
        (TensorType::Q4K, Bits::Four) => take_over_q4_k(bytes),
        (TensorType::Q8_0, Bits::Eight) => take_over_q8_0(bytes),
        _ => None,
    };
    taken.unwrap_or_else(|| quantise_blocks(kind, bytes, bits))
}

/// Quantises floats in groups of [`GROUP`]; a rest is ignored.
pub fn quantise(values: &[f32], bits: Bits) -> Quantised {
    let mut out = Quantised::default();
    quantise_into(values, bits, &mut out);
    out
}

/// Dequantises and quantises some blocks at a time, so that no whole tensor
/// stands in memory as float32.
fn quantise_blocks(kind: TensorType, bytes: &[u8], bits: Bits) -> Quantised {
    // A multiple of the group for every kind: blocks have 1, 32 or 256 elements.
    let at_once = kind.block_bytes() * GROUP * 64;
    let mut out = Quantised::default();
    for some in bytes.chunks(at_once) {
        quantise_into(&dequantise(kind, some), bits, &mut out);
    }
    out
}

fn quantise_into(values: &[f32], bits: Bits, out: &mut Quantised) {
    for group in values.chunks_exact(GROUP) {
        let (scale, bias) = scale_and_bias(group, bits.most());
        let mut integers = [0_u8; GROUP];
        for (integer, value) in integers.iter_mut().zip(group) {
            // The cast saturates, so a number that is none becomes 0.
            *integer = ((value - bias) / scale)
                .round_ties_even()
                .clamp(0.0, bits.most()) as u8;
        }
        out.push(&integers, bits, f16::from_f32(scale), f16::from_f32(bias));
    }
}

/// The end of the range that is farther from zero becomes the bias, and the
/// scale is chosen so that zero itself falls on an integer.
fn scale_and_bias(group: &[f32], most: f32) -> (f32, f32) {
    let least = group.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let from_least = least.abs() > greatest.abs();
    let range = ((greatest - least) / most).max(LEAST_SCALE);
    let (edge, scale) = match from_least {
        true => (least, range),
        false => (greatest, -range),
    };
    let steps = (edge / scale).round_ties_even();
    match steps == 0.0 {
        true => (scale, 0.0),
        false => (edge / steps, edge),
    }
}

/// Q4_0 is `scale · (q − 8)`, Q4_1 is `scale · q + least`: affine already.
fn take_over_nibbles(kind: TensorType, bytes: &[u8]) -> Option<Quantised> {
    let mut out = Quantised::default();
    for block in bytes.chunks_exact(kind.block_bytes()) {
        let scale = half_at(block, 0);
        let (bias, quants) = match kind {
            TensorType::Q4_0 => (exact(-8.0 * scale)?, &block[2..]),
            _ => (exact(half_at(block, 2))?, &block[4..]),
        };
        let mut integers = [0_u8; GROUP];
        for (j, &byte) in quants.iter().enumerate() {
            integers[j] = byte & 0xF;
            integers[j + 16] = byte >> 4;
        }
        out.push(&integers, Bits::Four, exact(scale)?, bias);
    }
    Some(out)
}

/// Q8_0 is `scale · q` with `q` from −128: affine with 128 steps below zero.
fn take_over_q8_0(bytes: &[u8]) -> Option<Quantised> {
    let mut out = Quantised::default();
    for block in bytes.chunks_exact(TensorType::Q8_0.block_bytes()) {
        let scale = half_at(block, 0);
        let bias = exact(-128.0 * scale)?;
        let mut integers = [0_u8; GROUP];
        for (integer, &byte) in integers.iter_mut().zip(&block[2..]) {
            *integer = byte.wrapping_add(128);
        }
        out.push(&integers, Bits::Eight, exact(scale)?, bias);
    }
    Some(out)
}

/// Q4_K is eight affine groups with scales as products of a float16 and six bits.
fn take_over_q4_k(bytes: &[u8]) -> Option<Quantised> {
    let mut out = Quantised::default();
    for block in bytes.chunks_exact(TensorType::Q4K.block_bytes()) {
        for sub in 0..8 {
            let (scale, least) = scale_and_least(sub, &block[4..16]);
            let quants = &block[16 + 32 * (sub / 2)..48 + 32 * (sub / 2)];
            let mut integers = [0_u8; GROUP];
            for (integer, byte) in integers.iter_mut().zip(quants) {
                *integer = (byte >> (4 * (sub % 2))) & 0xF;
            }
            let scale = finite(half_at(block, 0) * scale)?;
            let bias = finite(-half_at(block, 2) * least)?;
            out.push(&integers, Bits::Four, scale, bias);
        }
    }
    Some(out)
}

/// The float16 that is exactly this number, if there is one.
fn exact(number: f32) -> Option<f16> {
    let half = f16::from_f32(number);
    (half.is_finite() && half.to_f32() == number).then_some(half)
}

/// The nearest float16, unless the number is beyond its range.
fn finite(number: f32) -> Option<f16> {
    let half = f16::from_f32(number);
    half.is_finite().then_some(half)
}

impl Quantised {
    /// Appends one group.
    fn push(&mut self, integers: &[u8; GROUP], bits: Bits, scale: f16, bias: f16) {
        match bits {
            // Eight to a 32-bit word, the first in the lowest bits.
            Bits::Four => self
                .weight
                .extend(integers.chunks_exact(2).map(|two| two[0] | (two[1] << 4))),
            Bits::Eight => self.weight.extend_from_slice(integers),
        }
        self.scales.extend_from_slice(&scale.to_le_bytes());
        self.biases.extend_from_slice(&bias.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the affine form stands for.
    fn restore(form: &Quantised, bits: Bits) -> Vec<f32> {
        let integers: Vec<f32> = match bits {
            Bits::Four => form
                .weight
                .iter()
                .flat_map(|byte| [f32::from(byte & 0xF), f32::from(byte >> 4)])
                .collect(),
            Bits::Eight => form.weight.iter().map(|&byte| f32::from(byte)).collect(),
        };
        let group = |i: usize, part: &[u8]| half_at(part, 2 * (i / GROUP));
        integers
            .iter()
            .enumerate()
            .map(|(i, q)| q * group(i, &form.scales) + group(i, &form.biases))
            .collect()
    }

    /// A block of quants with a scale of 0.25 and, for Q4_1, a least of −1.5.
    fn block(kind: TensorType) -> Vec<u8> {
        let mut bytes = f16::from_f32(0.25).to_le_bytes().to_vec();
        if kind == TensorType::Q4_1 {
            bytes.extend(f16::from_f32(-1.5).to_le_bytes());
        }
        let left = kind.block_bytes() - bytes.len();
        bytes.extend((0..left).map(|i| (i * 37 + 11) as u8));
        bytes
    }

    #[test]
    fn four_and_eight_bit_blocks_keep_every_number() {
        let check = |kind: TensorType, bits: Bits| {
            let bytes = [block(kind), block(kind)].concat();
            let form = convert(kind, &bytes, bits);
            assert_eq!(restore(&form, bits), dequantise(kind, &bytes), "{kind}");
        };
        check(TensorType::Q4_0, Bits::Four);
        check(TensorType::Q4_1, Bits::Four);
        check(TensorType::Q8_0, Bits::Eight);
    }

    #[test]
    fn a_scale_whose_bias_is_beyond_float16_is_quantised_anew() {
        let mut bytes = f16::from_f32(600.0).to_le_bytes().to_vec();
        bytes.extend([1_u8; 32]);
        let form = convert(TensorType::Q8_0, &bytes, Bits::Eight);
        let restored = restore(&form, Bits::Eight);
        assert!(
            restored.iter().all(|&v| (v - 600.0).abs() < 1.0),
            "{restored:?}"
        );
    }

    #[test]
    fn quantising_errs_by_half_a_step_and_keeps_zero() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 29) % 64) as f32 - 20.0).collect();
        for bits in [Bits::Four, Bits::Eight] {
            let restored = restore(&quantise(&values, bits), bits);
            let step = 63.0 / bits.most();
            for (value, got) in values.iter().zip(&restored) {
                assert!((value - got).abs() <= step * 0.75, "{value} became {got}");
            }
        }
        let zeros = restore(&quantise(&[0.0; 32], Bits::Four), Bits::Four);
        assert_eq!(zeros, [0.0; 32]);
    }

    #[test]
    fn the_first_number_is_in_the_lowest_bits() {
        // −15 … 0 twice: scale 1, bias −15, so that q is 0, 1, 2 …
        let values: Vec<f32> = (0..32).map(|i| (i % 16) as f32 - 15.0).collect();
        let form = quantise(&values, Bits::Four);
        assert_eq!(form.weight[..4], [0x10, 0x32, 0x54, 0x76]);
        assert_eq!(restore(&form, Bits::Four), values);
    }
}
