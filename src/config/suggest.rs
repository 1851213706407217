//! "Did you mean": the nearest of a few words. Pure.

/// The nearest word, if one is near enough to be meant; of equals the first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut near = Nearness::to(word);
    let mut best = None;
    let mut below = usize::MAX;
    for candidate in candidates {
        if let Some(distance) = near.distance(candidate, below) {
            (best, below) = (Some(candidate), distance);
        }
    }
    best
}

/// The nearest names, best first, at most `most`; all are named if there are few,
/// however far. Besides small slips it knows the mistakes people make with model
/// ids: other case, no organisation, and only the beginning of the name.
pub fn nearest_names<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Vec<&'a str> {
    let mut near = Nearness::to(name);
    let mut best: Vec<(usize, &str)> = Vec::with_capacity(most + 1);
    for candidate in candidates {
        // Once there are enough, only what is nearer than the last of them counts.
        let last = best.get(most.saturating_sub(1));
        let below = last.map_or(usize::MAX, |(rank, _)| *rank);
        let rank = near.rank(candidate, below);
        if rank < below {
            let place = best.partition_point(|(known, _)| *known <= rank);
            best.insert(place, (rank, candidate));
            best.truncate(most);
        }
    }
    best.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A word that others are held against, one after the other.
struct Nearness<'w> {
    word: &'w str,
    lower: Vec<u8>,
    letters: u64,
    /// The candidate in small letters.
    other: Vec<u8>,
    rows: [Vec<usize>; 3],
}

impl<'w> Nearness<'w> {
    fn to(word: &'w str) -> Self {
        let lower = word.to_ascii_lowercase().into_bytes();
        Self {
            word,
            letters: letters(&lower),
            lower,
            other: Vec::new(),
            rows: Default::default(),
        }
    }

    /// How far a name is, without a limit: near ones first, then those that begin
    /// with what was typed, then the rest, all alike: what is named for a name that
    /// nothing resembles must not depend on how it is spelt. Only what is less than
    /// `below` is right.
    fn rank(&mut self, candidate: &str, below: usize) -> usize {
        const BEGINS: usize = 1_000;
        const FAR: usize = 10_000;
        let begins = candidate.starts_with(self.word);
        self.distance(candidate, below).unwrap_or(match begins {
            true => BEGINS + candidate.len(),
            false => FAR,
        })
    }

    /// How far apart the words are, if they are near and it is less than `below`: 0
    /// apart from case, 1 for the same last part, else the number of slips plus 1, at
    /// most a third of the length.
    fn distance(&mut self, candidate: &str, below: usize) -> Option<usize> {
        let found = |distance| (distance < below).then_some(distance);
        if self.word.eq_ignore_ascii_case(candidate) {
            return found(0);
        }
        let last = |name: &str| name.rfind('/').map_or(0, |slash| slash + 1);
        if candidate[last(candidate)..].eq_ignore_ascii_case(&self.word[last(self.word)..]) {
            return found(1);
        }
        let limit = (self.word.len().max(candidate.len()) / 3).clamp(1, 6);
        let limit = limit.min(below.saturating_sub(2));
        if self.word.len().abs_diff(candidate.len()) > limit {
            return None;
        }
        self.other.clear();
        self.other
            .extend(candidate.bytes().map(|byte| byte.to_ascii_lowercase()));
        // Each slip brings one letter that the other has not, at most.
        let other = letters(&self.other);
        let strangers = (self.letters & !other)
            .count_ones()
            .max((other & !self.letters).count_ones());
        if strangers as usize > limit {
            return None;
        }
        let slips = edit_distance(&self.lower, &self.other, limit, &mut self.rows)?;
        found(slips + 1)
    }
}

/// Which bytes are in it; different ones may count as one.
fn letters(word: &[u8]) -> u64 {
    word.iter().fold(0, |set, byte| set | 1 << (byte % 64))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one into
/// the other (the "optimal string alignment" distance) if they are at most `limit`, by
/// three rolling rows. What is further than `limit` from the diagonal is beyond it and
/// not looked at (Ukkonen 1985).
fn edit_distance(
    a: &[u8],
    b: &[u8],
    limit: usize,
    [before, above, row]: &mut [Vec<usize>; 3],
) -> Option<usize> {
    // Of rows that end before the diagonal does there is nothing to look at.
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let beyond = limit.saturating_add(1);
    let width = b.len() + 1;
    for row in [&mut *before, &mut *above, &mut *row] {
        row.clear();
        row.resize(width, beyond);
    }
    for (index, cell) in above.iter_mut().enumerate().take(beyond) {
        *cell = index;
    }
    let mut least_above = 0;
    for i in 1..=a.len() {
        let first = i.saturating_sub(limit).max(1);
        let last = b.len().min(i.saturating_add(limit));
        row[first - 1] = if first == 1 { i.min(beyond) } else { beyond };
        let mut least_of_row = row[first - 1];
        for j in first..=last {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row[j] = least.min(beyond);
            least_of_row = least_of_row.min(row[j]);
        }
        if let Some(cell) = row.get_mut(last + 1) {
            *cell = beyond;
        }
        // A swap goes back two rows.
        if least_of_row > limit && least_above > limit {
            return None;
        }
        least_above = least_of_row;
        std::mem::swap(before, above);
        std::mem::swap(above, row);
    }
    let slips = above[b.len()];
    (slips <= limit).then_some(slips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn within(a: &str, b: &str, limit: usize) -> Option<usize> {
        edit_distance(a.as_bytes(), b.as_bytes(), limit, &mut Default::default())
    }

    #[test]
    fn distances_are_the_known_ones() {
        let check = |a: &str, b: &str, expected: usize| {
            assert_eq!(within(a, b, expected), Some(expected), "{a} {b}");
            assert_eq!(within(b, a, 99), Some(expected), "{b} {a}");
            let less = expected.checked_sub(1);
            assert_eq!(less.and_then(|less| within(a, b, less)), None, "{a} {b}");
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
        check("replicas", None);
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
        fn the_distance_is_that_of_the_definition(
            a in "[abc]{0,6}",
            b in "[abc]{0,6}",
            limit in 0_usize..10,
        ) {
            let expected = defined(a.as_bytes(), b.as_bytes());
            let within = within(&a, &b, limit);
            prop_assert_eq!(within, Some(expected).filter(|slips| *slips <= limit));
        }

        #[test]
        fn the_best_are_the_first_of_all_in_order(
            word in "[abA/]{0,7}",
            names in prop::collection::vec("[abA/]{0,9}", 0..12),
            most in 0_usize..4,
        ) {
            let mut near = Nearness::to(&word);
            let mut all: Vec<_> = names.iter().map(|name| (near.rank(name, usize::MAX), name.as_str())).collect();
            all.sort_by_key(|(rank, _)| *rank);
            let first = all.iter().find(|(rank, _)| *rank < 100).map(|(_, name)| *name);
            prop_assert_eq!(nearest(&word, names.iter().map(String::as_str)), first);
            let all: Vec<_> = all.into_iter().map(|(_, name)| name).take(most).collect();
            prop_assert_eq!(nearest_names(&word, names.iter().map(String::as_str), most), all);
        }
    }

    /// The distance as it is defined, slowly.
    fn defined(a: &[u8], b: &[u8]) -> usize {
        let (Some((x, rest_of_a)), Some((y, rest_of_b))) = (a.split_last(), b.split_last()) else {
            return a.len() + b.len();
        };
        let replaced = defined(rest_of_a, rest_of_b) + usize::from(x != y);
        let least = replaced
            .min(defined(rest_of_a, b) + 1)
            .min(defined(a, rest_of_b) + 1);
        match (a, b) {
            ([a @ .., v, w], [b @ .., x, y]) if v == y && w == x => least.min(defined(a, b) + 1),
            _ => least,
        }
    }
}
