//! Sums of exponentials over a row, the same to the last bit on every platform:
//! the exponential is plain arithmetic (no library call, no fused operations) and
//! sums have a fixed order. It knows nothing of sampling.

/// Partial sums kept side by side: the order stays fixed and the compiler may
/// still use wide registers.
const LANES: usize = 8;

/// How many values are summed before the sum joins the others.
const BLOCK: usize = 256;

/// Adding and subtracting 1.5·2²³ rounds to a whole number, which stands in the low bits
/// of the sum.
pub(super) const ROUND: f32 = 12_582_912.0;

/// The first of the greatest values, with the value. What is no number is passed
/// over; if nothing is left, `(0, -infinity)`.
pub(super) fn argmax(row: &[f32]) -> (u32, f32) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let mut highest = f32::NEG_INFINITY;
    for value in lanes.iter().chain(rest) {
        highest = if *value > highest { *value } else { highest };
    }
    let at = row.iter().position(|value| *value == highest).unwrap_or(0);
    (at as u32, highest)
}

/// The logarithm of the sum of the exponentials.
pub(super) fn log_sum_exp(row: &[f32]) -> f32 {
    let (_, highest) = argmax(row);
    if !highest.is_finite() {
        return highest;
    }
    (f64::from(highest) + sum_exp(row, highest).ln()) as f32
}

/// The sum of the exponentials of the differences from the highest value.
pub(super) fn sum_exp(row: &[f32], highest: f32) -> f64 {
    let mut weights = [0f32; BLOCK];
    let mut total = 0.0;
    // The exponentials of a block first, then their sum: two plain loops, which the
    // compiler makes wide.
    for block in row.chunks(BLOCK) {
        let weights = &mut weights[..block.len()];
        for (weight, value) in weights.iter_mut().zip(block) {
            *weight = exp(*value - highest);
        }
        total += sum(weights);
    }
    total
}

/// Draws a place of the row with the probabilities of softmax(row × inverse
/// temperature). `draw` is in 0..1. The row is left holding the weights. `None` if
/// all weights are zero or not numbers.
pub(super) fn draw(row: &mut [f32], highest: f32, inverse: f32, draw: f64) -> Option<usize> {
    // The sums of blocks first, so that only one block has to be walked value by value.
    let mut sums = Vec::with_capacity(row.len() / BLOCK + 1);
    for block in row.chunks_mut(BLOCK) {
        for value in block.iter_mut() {
            *value = exp((*value - highest) * inverse);
        }
        sums.push(sum(block));
    }
    let total: f64 = sums.iter().sum();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let mut left = draw * total;
    let mut last = None;
    for (number, (block, sum)) in row.chunks(BLOCK).zip(&sums).enumerate() {
        if *sum == 0.0 {
            continue;
        }
        let inside = left < *sum;
        // Rounding may let the draw run past the end: the last possible value takes it.
        for (at, weight) in block.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            last = Some(number * BLOCK + at);
            if inside {
                left -= f64::from(*weight);
                if left < 0.0 {
                    return last;
                }
            }
        }
        if !inside {
            left -= sum;
        }
    }
    last
}

fn sum(row: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value)).sum::<f64>()
}

/// e to the power of `x`, for `x` of at most 0: within two units of the last place;
/// 0 below -87 (where a `f32` would turn subnormal) and for what is no number.
///
/// The usual reduction (x = n·ln 2 + r, |r| ≤ ln 2 / 2, with ln 2 in two parts) and
/// the polynomial of Cephes' `expf`.
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let inside = x >= -87.0;
    let x = if inside { x } else { 0.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ] {
        p = p * r + coefficient;
    }
    let value = p * r * r + r + 1.0;
    // The low bits of `shifted` are n; a conversion would check for bounds each time.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if inside { value * scale } else { 0.0 }
}
