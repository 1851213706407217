//! Which tokens remain after top-p, min-p and top-k, as mlx-lm applies them: in
//! this order, on probabilities at temperature 1. It draws nothing.

use super::math;

/// The tokens that remain, lowest id first; `None` if all do. `highest` is the
/// greatest logit and is a number.
pub(super) fn kept(
    logits: &[f32],
    highest: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
) -> Option<Vec<u32>> {
    let mut floor = f32::NEG_INFINITY;
    if top_p > 0.0 && top_p < 1.0 {
        floor = nucleus_floor(logits, highest, top_p);
    }
    if min_p > 0.0 {
        // At most 1, so that the most likely token always stays.
        floor = floor.max(highest + min_p.min(1.0).ln());
    }
    let top_k = top_k as usize;
    if top_k > 0 && top_k < logits.len() {
        let mut tokens = most_likely(logits, top_k, floor);
        tokens.sort_unstable();
        return Some(tokens);
    }
    (floor > f32::NEG_INFINITY).then(|| {
        (0u32..)
            .zip(logits)
            .filter(|(_, logit)| **logit >= floor)
            .map(|(token, _)| token)
            .collect()
    })
}

/// The lowest logit that top-p keeps: walking down from the most likely token,
/// those are kept before which less than `top_p` of the probability lies. Equal
/// logits stay or go together.
///
/// Little of the row is looked at closely. What is so unlikely that a whole row of it
/// would not fill what top-p drops, goes at once. The rest is summed into bands of
/// logits, and only the band in which the sum crosses `top_p` is sorted.
fn nucleus_floor(logits: &[f32], highest: f32, top_p: f32) -> f32 {
    /// Bands per unit of logit, and their number: below 32 under the highest logit a
    /// token has less than 10⁻¹³ of its probability, and one last band takes the rest.
    const PER_UNIT: f32 = 16.0;
    const BANDS: usize = 512;
    let band = |logit: f32| {
        let below = (highest - logit) * PER_UNIT;
        // Written so that what is no number falls into the last band.
        let below = if below < BANDS as f32 {
            below
        } else {
            BANDS as f32
        };
        ((below + math::ROUND).to_bits() & 0x3ff) as usize
    };
    let total = math::sum_exp(logits, highest);
    let wanted = f64::from(top_p) * total;
    /// Room for rounding.
    const MARGIN: f32 = 1e-3;
    let unlikely = ((total - wanted) / logits.len() as f64).ln() as f32 - MARGIN;
    let likely: Vec<f32> = logits
        .iter()
        .copied()
        .filter(|logit| *logit - highest >= unlikely)
        .collect();
    let mut mass = [0f64; 2 * BANDS];
    for logit in &likely {
        mass[band(*logit)] += f64::from(math::exp(*logit - highest));
    }
    let mut above = 0.0;
    let crossing = mass
        .iter()
        .position(|in_band| {
            let crosses = above + in_band >= wanted;
            if !crosses {
                above += in_band;
            }
            crosses
        })
        .unwrap_or(BANDS);
    let mut inside = likely;
    inside.retain(|logit| band(*logit) == crossing);
    inside.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut floor = highest;
    for logit in inside {
        if above >= wanted {
            break;
        }
        floor = logit;
        above += f64::from(math::exp(logit - highest));
    }
    floor
}

/// The `count` tokens with the greatest logits of at least `floor`, greatest first;
/// of equal ones those with lower ids. What is no number never comes in.
pub(super) fn most_likely(logits: &[f32], count: usize, floor: f32) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    // Twice the room: each time it is full the worse half leaves and the bar rises,
    // so nearly every later logit is refused by one comparison.
    let mut room: Vec<(f32, u32)> = Vec::with_capacity(2 * count.min(logits.len()));
    let mut bar = floor;
    for (token, logit) in (0u32..).zip(logits) {
        // A later token that only equals the bar has `count` better ones before it,
        // unless the bar is still the floor.
        if logit.is_nan() || *logit < bar {
            continue;
        }
        room.push((*logit, token));
        if room.len() == 2 * count {
            room.select_nth_unstable_by(count - 1, order);
            room.truncate(count);
            bar = bar.max(room[count - 1].0);
        }
    }
    room.sort_unstable_by(order);
    room.truncate(count);
    room.into_iter().map(|(_, token)| token).collect()
}
