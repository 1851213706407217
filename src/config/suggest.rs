//! "Did you mean": the nearest of a few words. Pure.

/// The nearest word, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    ranked(word, candidates).into_iter().next()
}

/// The nearest names, best first, at most `most`; all are named if there are few,
/// however far. Besides small slips it knows the mistakes people make with model
/// ids: other case, no organisation, and only the beginning of the name.
pub fn nearest_names<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (rank(name, candidate), candidate))
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.truncate(most);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// How far a name is, without a limit: near ones first, then those that begin
/// with what was typed, then the rest, all alike: what is named for a name that
/// nothing resembles must not depend on how it is spelt.
fn rank(word: &str, candidate: &str) -> usize {
    const BEGINS: usize = 1_000;
    const FAR: usize = 10_000;
    distance(word, candidate).unwrap_or(match candidate.starts_with(word) {
        true => BEGINS + candidate.len(),
        false => FAR,
    })
}

/// Every candidate that is near, nearest first; equals stay in their order.
fn ranked<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(word, candidate)?, candidate)))
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    found.dedup_by_key(|(_, candidate)| *candidate);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// How far apart two words are, if they are near: 0 apart from case, 1 for the
/// same last part, else the number of slips plus 1, at most a third of the length.
fn distance(word: &str, candidate: &str) -> Option<usize> {
    if word.eq_ignore_ascii_case(candidate) {
        return Some(0);
    }
    let last = |name: &'_ str| name.rfind('/').map_or(0, |slash| slash + 1);
    if candidate[last(candidate)..].eq_ignore_ascii_case(&word[last(word)..]) {
        return Some(1);
    }
    let limit = (word.len().max(candidate.len()) / 3).clamp(1, 6);
    if word.len().abs_diff(candidate.len()) > limit {
        return None;
    }
    let (word, candidate) = (word.to_ascii_lowercase(), candidate.to_ascii_lowercase());
    let slips = edit_distance(word.as_bytes(), candidate.as_bytes());
    (slips <= limit).then_some(slips + 1)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one into
/// the other (the "optimal string alignment" distance), by three rolling rows.
pub fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut row = above.clone();
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row[j] = least;
        }
        std::mem::swap(&mut before, &mut above);
        std::mem::swap(&mut above, &mut row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn distances_are_the_known_ones() {
        let check = |a: &str, b: &str, expected: usize| {
            assert_eq!(
                edit_distance(a.as_bytes(), b.as_bytes()),
                expected,
                "{a} {b}"
            );
            assert_eq!(
                edit_distance(b.as_bytes(), a.as_bytes()),
                expected,
                "{b} {a}"
            );
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("idle_unlod", "idle_unload", 1);
        check("form", "from", 1);
        check("ca", "abc", 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let keys = ["memory", "server", "cache", "pool", "allow", "deny"];
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(nearest(word, keys), expected, "{word}");
        };
        check("memroy", Some("memory"));
        check("Memory", Some("memory"));
        check("alow", Some("allow"));
        check("catche", Some("cache"));
        check("upstreams", None);
        check("", None);
        check("x", None);
    }

    #[test]
    fn names_are_found_by_case_and_by_their_last_part() {
        let names = ["mlx-community/Qwen3-4B-4bit", "coder", "coder-small"];
        let check = |name: &str, expected: &[&str]| {
            assert_eq!(nearest_names(name, names, 3), expected, "{name}");
        };
        let check_first = |name: &str, expected: &str| {
            assert_eq!(nearest_names(name, names, 1), [expected], "{name}");
        };
        check_first("mlx-community/qwen3-4b-4bit", names[0]);
        check_first("Qwen3-4B-4bit", names[0]);
        check_first("codr", "coder");
        check_first("coder-sm", "coder-small");
        check("gpt-4", &names);
    }

    proptest! {
        #[test]
        fn the_distance_is_zero_only_for_equals(a in "[ab]{0,8}", b in "[ab]{0,8}") {
            let distance = edit_distance(a.as_bytes(), b.as_bytes());
            prop_assert_eq!(distance == 0, a == b);
            prop_assert!(distance <= a.len().max(b.len()));
            prop_assert!(distance >= a.len().abs_diff(b.len()));
        }
    }
}
