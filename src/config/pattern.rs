//! Patterns over names, as `allow`, `deny` and aliases have them: `*` stands for
//! anything but `/`. Pure. What a match leads to is told by whoever asks.

/// A pattern; see [`Pattern::matches`].
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: regex::Regex,
}

impl Pattern {
    /// Compiles `mlx-community/*-4bit`. `*` never crosses `/`.
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
        let body: Vec<_> = text.split('*').map(regex::escape).collect();
        let regex = regex::Regex::new(&format!("^(?:{})$", body.join("[^/]*")))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// The pattern as it was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What each name that matches begins with.
    pub fn prefix(&self) -> &str {
        self.text.split('*').next().unwrap_or_default()
    }

    /// How many of its bytes stand for themselves: of several patterns that match a
    /// name, the one with the most of them says most about it.
    pub fn literals(&self) -> usize {
        self.text.bytes().filter(|byte| *byte != b'*').count()
    }

    /// Whether some name could match both patterns.
    pub fn meets(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.text.as_bytes(), other.text.as_bytes());
        // meets[j]: whether what is left of ours, from some byte on, and theirs from
        // byte j on have a name in common. Ours is gone through from its end.
        let only_stars = |rest: &[u8]| rest.iter().all(|byte| *byte == b'*');
        let mut meets: Vec<bool> = (0..=theirs.len())
            .map(|j| only_stars(&theirs[j..]))
            .collect();
        for i in (0..ours.len()).rev() {
            let below = std::mem::take(&mut meets);
            meets = vec![false; theirs.len() + 1];
            meets[theirs.len()] = only_stars(&ours[i..]);
            for j in (0..theirs.len()).rev() {
                meets[j] = match (ours[i], theirs[j]) {
                    // A star ends here, or takes in one byte more of the other.
                    (b'*', b'*') => below[j] || meets[j + 1],
                    (b'*', byte) => below[j] || (byte != b'/' && meets[j + 1]),
                    (byte, b'*') => meets[j + 1] || (byte != b'/' && below[j]),
                    (ours, theirs) => ours == theirs && below[j + 1],
                };
            }
        }
        meets[0]
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern")
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
        check("*a*", "", false);
    }

    proptest! {
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
            let mut names = vec![String::new()];
            let mut found = false;
            // The shortest common name has at most the literals of both.
            for _ in 0..=8 {
                found |= names.iter().any(|name| one.matches(name) && other.matches(name));
                let longer = |name: &String| ["a", "b", "/"].map(|end| format!("{name}{end}"));
                let fits = |name: &String| name.len() <= 8 && name.starts_with(
                    &one.prefix()[..one.prefix().len().min(name.len())]);
                names = names.iter().flat_map(longer).filter(fits).collect();
            }
            prop_assert_eq!(found, one.meets(&other), "{:?} {:?}", one, other);
        }
    }
}
