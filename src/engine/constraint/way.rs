//! The way from where a document is to its end, as short as is found by always taking what
//! leads there: how many tokens it has, and what leads out of a string that may not end yet.
//! It looks one token ahead and not further, so what it finds is no proof of the shortest.

use llguidance::Matcher;

use super::closing::{Closing, Strokes};
use crate::engine::guide::Allowed;
use crate::engine::tokenizer::Tokenizer;

/// The longest way that is looked for, tokens.
const LONGEST: u32 = 2_000;

/// How many tokens lead from here to the end. Nothing if no end was found within `most`
/// of them. Uses up both that it is given.
pub(super) fn length(
    mut matcher: Matcher,
    mut closing: Closing,
    tokenizer: &Tokenizer,
    most: u32,
) -> Option<u32> {
    for count in 0..most.min(LONGEST) {
        if matcher.is_stopped() {
            return Some(count);
        }
        let mask = matcher.compute_mask().ok()?;
        let allowed = Allowed::of_bits(mask.as_slice().to_vec());
        let nearer = closing.nearer(&allowed);
        let nearer = nearer.or_else(|| {
            let strokes = closing.strokes();
            (closing.is_in_string()).then(|| out_of_string(&mut matcher, strokes, &allowed))?
        });
        // The longest takes most of what has to be said.
        let tokens = nearer.as_ref().unwrap_or(&allowed).tokens();
        let token = tokens.max_by_key(|token| tokenizer.token_bytes(*token).len())?;
        if tokenizer.end_tokens().contains(&token) {
            return Some(count + 1);
        }
        matcher.consume_token(token).ok()?;
        closing.take(&tokenizer.token_bytes(token));
    }
    None
}

/// Of what may come next in a string that may not end here, what leads nearer to where it
/// may: after which it may, or else something else may follow than before. `matcher` is
/// afterwards where it was.
pub(super) fn out_of_string(
    matcher: &mut Matcher,
    strokes: &Strokes,
    allowed: &Allowed,
) -> Option<Allowed> {
    let mut changes = None;
    for token in strokes.letters() {
        if !allowed.contains(token) {
            continue;
        }
        matcher.consume_token(token).ok()?;
        let mask = matcher.compute_mask().ok()?;
        matcher.rollback(1).ok()?;
        let then = Allowed::of_bits(mask.as_slice().to_vec());
        if strokes.may_end_string(&then) {
            return Some([token].into_iter().collect());
        }
        if changes.is_none() && then != *allowed {
            changes = Some(token);
        }
    }
    changes.map(|token| [token].into_iter().collect())
}
