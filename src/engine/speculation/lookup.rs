//! Prompt look-up (github.com/apoorvumang/prompt-lookup-decoding): a text that says
//! again what it has said before is guessed to go on as it went on then. Pure: tokens in,
//! tokens out.

/// Fewest tokens that have to be the same for a guess.
const LEAST: usize = 2;

/// From so many on, the latest place is as good as any that has more in common.
const ENOUGH: usize = 8;

/// What may follow `tokens`, at most `most` tokens: what followed the longest end of them
/// that stands in them once more, at the latest place of those. Nothing if there is none.
/// Where the guess comes to the end of the text it goes on with itself, so that a text
/// that repeats is guessed as far as is wanted.
pub fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
    let Some((last, before)) = tokens.split_last() else {
        return Vec::new();
    };
    let (mut longest, mut found) = (LEAST - 1, None);
    for at in (0..before.len()).rev() {
        if before[at] != *last {
            continue;
        }
        let earlier = before[..at].iter().rev();
        let own = before.iter().rev();
        let shared = earlier.zip(own).take(ENOUGH - 1);
        let length = 1 + shared.take_while(|(one, other)| one == other).count();
        if length > longest {
            (longest, found) = (length, Some(at));
            if length == ENOUGH {
                break;
            }
        }
    }
    match found {
        Some(at) => tokens[at + 1..]
            .iter()
            .copied()
            .cycle()
            .take(most)
            .collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_goes_on_as_it_went_on_before() {
        let check = |tokens: &[u32], most: usize, expected: &[u32]| {
            assert_eq!(guess(tokens, most), expected, "{tokens:?}");
        };
        check(&[], 3, &[]);
        check(&[1], 3, &[]);
        // One token says too little.
        check(&[1, 2, 1], 3, &[]);
        check(&[1, 2, 9, 8, 1, 2], 3, &[9, 8, 1]);
        check(&[1, 2, 9, 8, 1, 2], 0, &[]);
        // It goes on with itself.
        check(&[1, 2, 1, 2], 5, &[1, 2, 1, 2, 1]);
        check(&[7, 7, 7], 4, &[7, 7, 7, 7]);
        // The latest of equals, and what has more in common before what is later.
        check(&[1, 2, 3, 1, 2, 4, 1, 2], 1, &[4]);
        check(&[5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2], 1, &[3]);
    }

    proptest! {
        #[test]
        fn a_guess_is_what_followed_the_same_tokens_before(
            tokens in prop::collection::vec(0u32..4, 0..40),
            most in 1usize..12,
        ) {
            let found = guess(&tokens, most);
            let end = &tokens[tokens.len().saturating_sub(LEAST)..];
            let follows = |at: &usize| tokens[..*at].ends_with(end);
            let mut places = (LEAST..tokens.len()).filter(follows);
            match found.first() {
                None => prop_assert_eq!(places.next(), None),
                Some(next) => {
                    prop_assert!(places.any(|at| tokens[at] == *next));
                    prop_assert_eq!(found.len(), most);
                }
            }
        }

        #[test]
        fn what_repeats_is_guessed_without_end(
            period in prop::collection::vec(0u32..1000, 1..30),
            most in 1usize..100,
        ) {
            let text = || period.iter().copied().cycle();
            // What stands twice within the period is no period.
            prop_assume!((1..period.len()).all(|at| period[at] != period[0]));
            let known = 2 * period.len() + ENOUGH;
            let tokens: Vec<u32> = text().take(known).collect();
            let expected: Vec<u32> = text().skip(known).take(most).collect();
            prop_assert_eq!(guess(&tokens, most), expected);
        }
    }
}
