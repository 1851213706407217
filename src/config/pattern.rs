//! Patterns over names, as `allow`, `deny` and aliases have them: `*` stands for
//! anything but `/`, also for nothing. Pure. What a match leads to is told by
//! whoever asks.

/// A pattern; see [`Pattern::matches`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// Reads `mlx-community/*-4bit`. `*` never crosses `/`.
    ///
    /// # Errors
    /// If it is empty or holds anything that no name does, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/-*".contains(&b);
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(format!(
                "expected a pattern of letters, digits and . _ : / - *, found {text:?}"
            ));
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// Whether the whole name matches. Costs at most the product of the lengths.
    pub fn matches(&self, name: &str) -> bool {
        is_match(self.text.as_bytes(), name.as_bytes())
    }

    /// The pattern as it was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many of its bytes stand for themselves: of several patterns that match a
    /// name, the one with the most of them says most about it.
    pub fn literals(&self) -> usize {
        self.text.bytes().filter(|byte| *byte != b'*').count()
    }

    /// The parts between its `/`, which are matched one by one.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.text.split('/').map(Part)
    }

    /// Whether some name could match both patterns.
    pub fn meets(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.parts(), other.parts());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(one), Some(other)) if one.meets(other) => {}
                _ => return false,
            }
        }
    }
}

/// What a pattern says of the text between two `/`.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a>(&'a str);

impl<'a> Part<'a> {
    /// What the text begins with.
    pub fn beginning(self) -> &'a str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// What the text ends with.
    pub fn end(self) -> &'a str {
        self.0.rsplit('*').next().unwrap_or_default()
    }

    /// Whether some text could match both.
    fn meets(self, other: Self) -> bool {
        let (ours, theirs) = (self.0, other.0);
        match (ours.contains('*'), theirs.contains('*')) {
            (false, false) => ours == theirs,
            (true, false) => is_match(ours.as_bytes(), theirs.as_bytes()),
            (false, true) => is_match(theirs.as_bytes(), ours.as_bytes()),
            // The longer beginning, what stands between stars in both, the longer end:
            // that is a text for both, unless beginnings or ends contradict each other.
            (true, true) => begin_alike(self, other) && end_alike(self, other),
        }
    }
}

fn begin_alike(one: Part, other: Part) -> bool {
    let (one, other) = (one.beginning(), other.beginning());
    one.starts_with(other) || other.starts_with(one)
}

fn end_alike(one: Part, other: Part) -> bool {
    let (one, other) = (one.end(), other.end());
    one.ends_with(other) || other.ends_with(one)
}

/// Goes through both; where they differ, the last star takes in one byte more.
/// Earlier stars need not be asked again: what they could take in, the last can too.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    // Where the last star stands and what it has taken in ends.
    let mut star: Option<(usize, usize)> = None;
    while here < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(byte) if *byte == name[here] => {
                at += 1;
                here += 1;
            }
            _ => match star {
                Some((stands, taken)) if name[taken] != b'/' => {
                    star = Some((stands, taken + 1));
                    (at, here) = (stands + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern")
    }

    #[test]
    fn a_star_is_anything_but_a_slash() {
        let check = |text: &str, name: &str, matches: bool| {
            assert_eq!(pattern(text).matches(name), matches, "{text} {name}");
        };
        check("a", "a", true);
        check("a", "A", false);
        check("a", "ab", false);
        check("a*", "a", true);
        check("*", "", true);
        check("*", "a/b", false);
        check("a/*", "a/b", true);
        check("a/*", "a/b/c", false);
        check("*-4bit", "x-4bit-4bit", true);
        check("a*b*c", "a-b-b-c-c", true);
        check("a*b*c", "a-b-b-c-d", false);
        check("*/*-4bit", "org/x-4bit", true);
        check("a*b/c", "a/b/c", false);
        check("a.c", "abc", false);
    }

    #[test]
    fn two_patterns_meet_where_a_name_could_match_both() {
        let check = |one: &str, other: &str, meets: bool| {
            let (one, other) = (pattern(one), pattern(other));
            assert_eq!(one.meets(&other), meets, "{one:?} {other:?}");
            assert_eq!(other.meets(&one), meets, "{other:?} {one:?}");
        };
        check("a", "a", true);
        check("a", "b", false);
        check("a*", "*a", true);
        check("a*", "b*", false);
        check("claude-*-4", "claude-opus-*", true);
        check("claude-*-4", "claude-opus-5", false);
        check("*", "a/b", false);
        check("*/*", "a/b", true);
        check("a/*", "*/b*c", true);
        check("a*b*c", "*x*", true);
        check("a*", "a*/b", false);
        check("**", "*", true);
    }

    /// The same by its definition, as slowly as that is.
    fn matches_by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if matches_by_definition(rest, name) => true,
            (Some((b'*', _)), Some((byte, below))) => {
                *byte != b'/' && matches_by_definition(pattern, below)
            }
            (Some((wanted, rest)), Some((byte, below))) => {
                wanted == byte && matches_by_definition(rest, below)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_matches_is_what_the_definition_says(
            text in "[ab/*]{1,8}", name in "[ab/]{0,8}"
        ) {
            let expected = matches_by_definition(text.as_bytes(), name.as_bytes());
            prop_assert_eq!(pattern(&text).matches(&name), expected);
        }

        #[test]
        fn patterns_that_match_one_name_meet(
            name in "[ab/]{1,6}", one in "[ab/*]{1,6}", other in "[ab/*]{1,6}"
        ) {
            let (one, other) = (pattern(&one), pattern(&other));
            if one.matches(&name) && other.matches(&name) {
                prop_assert!(one.meets(&other), "{:?} {:?}", one, other);
            }
        }

        #[test]
        fn patterns_that_meet_have_a_name(one in "[ab/*]{1,4}", other in "[ab/*]{1,4}") {
            let (one, other) = (pattern(&one), pattern(&other));
            // The shortest common name has at most the literals of both.
            let mut names = vec![String::new()];
            let mut found = false;
            for _ in 0..=8 {
                found |= names.iter().any(|name| one.matches(name) && other.matches(name));
                let longer = |name: &String| ["a", "b", "/"].map(|end| format!("{name}{end}"));
                let fits = |name: &String| begins(&one, name);
                names = names.iter().flat_map(longer).filter(fits).collect();
            }
            prop_assert_eq!(found, one.meets(&other), "{:?} {:?}", one, other);
        }
    }

    /// Whether something that matches could begin so.
    fn begins(pattern: &Pattern, beginning: &str) -> bool {
        let text = pattern.as_str();
        let ends = (0..=text.len()).map(|end| &text[..end]);
        let whole = |part: &str| matches_by_definition(part.as_bytes(), beginning.as_bytes());
        ends.into_iter().any(whole)
    }
}
