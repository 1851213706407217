//! JSON watched as it grows, letter by letter, by the grammar of RFC 8259: where a value
//! is whole, and the first letter that cannot be. It builds no values.

/// Deepest value that is followed, levels.
const DEEPEST: usize = 64;

/// What one letter led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on.
    More,
    /// With this letter it is whole.
    Whole,
    /// No JSON goes on so.
    Bad,
}

/// An object or a list while it grows.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// What is open; true for objects.
    open: Vec<bool>,
    place: Place,
}

/// What may come next.
#[derive(Debug, Clone, Copy, Default)]
enum Place {
    #[default]
    Start,
    FirstName,
    Name,
    Colon,
    FirstValue,
    Value,
    After,
    Text(Role),
    Escape(Role),
    Hex(Role, u8),
    Number(Number),
    Word(&'static str),
    Over,
}

/// Whether a text is the name of a member or a value.
#[derive(Debug, Clone, Copy)]
enum Role {
    Name,
    Value,
}

/// How far a number has come.
#[derive(Debug, Clone, Copy)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Number {
    fn next(self, letter: char) -> Option<Self> {
        Some(match (self, letter) {
            (Self::Minus, '0') => Self::Zero,
            (Self::Minus, '1'..='9') | (Self::Whole, '0'..='9') => Self::Whole,
            (Self::Zero | Self::Whole, '.') => Self::Point,
            (Self::Point | Self::Fraction, '0'..='9') => Self::Fraction,
            (Self::Zero | Self::Whole | Self::Fraction, 'e' | 'E') => Self::Exponent,
            (Self::Exponent, '+' | '-') => Self::Sign,
            (Self::Exponent | Self::Sign | Self::Power, '0'..='9') => Self::Power,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Whole | Self::Fraction | Self::Power
        )
    }
}

impl Scanner {
    /// How many objects and lists are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Takes in the next letter.
    pub(super) fn step(&mut self, letter: char) -> Step {
        let space = matches!(letter, ' ' | '\t' | '\n' | '\r');
        self.place = match (self.place, letter) {
            (Place::Number(number), _) => match number.next(letter) {
                Some(number) => Place::Number(number),
                None if number.may_end() => {
                    self.place = Place::After;
                    return self.step(letter);
                }
                None => return Step::Bad,
            },
            (Place::Text(role), '"') => match role {
                Role::Name => Place::Colon,
                Role::Value => Place::After,
            },
            (Place::Text(role), '\\') => Place::Escape(role),
            (Place::Text(_), '\0'..='\x1f') => return Step::Bad,
            (Place::Text(role), _) => Place::Text(role),
            (Place::Escape(role), 'u') => Place::Hex(role, 4),
            (Place::Escape(role), '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {
                Place::Text(role)
            }
            (Place::Hex(role, left), letter) if letter.is_ascii_hexdigit() => match left {
                1 => Place::Text(role),
                _ => Place::Hex(role, left - 1),
            },
            (Place::Word(rest), letter) => match rest.strip_prefix(letter) {
                Some("") => Place::After,
                Some(rest) => Place::Word(rest),
                None => return Step::Bad,
            },
            (Place::Escape(_) | Place::Hex(..) | Place::Over, _) => return Step::Bad,
            (place, _) if space => place,
            (Place::Start, '{' | '[') | (Place::Value | Place::FirstValue, '{' | '[') => {
                if self.open.len() == DEEPEST {
                    return Step::Bad;
                }
                self.open.push(letter == '{');
                match letter {
                    '{' => Place::FirstName,
                    _ => Place::FirstValue,
                }
            }
            (Place::FirstName | Place::Name, '"') => Place::Text(Role::Name),
            (Place::Colon, ':') => Place::Value,
            (Place::FirstName, '}') | (Place::FirstValue, ']') => return self.close(),
            (Place::After, '}') if self.open.last() == Some(&true) => return self.close(),
            (Place::After, ']') if self.open.last() == Some(&false) => return self.close(),
            (Place::After, ',') => match self.open.last() {
                Some(true) => Place::Name,
                _ => Place::Value,
            },
            (Place::Value | Place::FirstValue, letter) => match letter {
                '"' => Place::Text(Role::Value),
                '-' => Place::Number(Number::Minus),
                '0' => Place::Number(Number::Zero),
                '1'..='9' => Place::Number(Number::Whole),
                't' => Place::Word("rue"),
                'f' => Place::Word("alse"),
                'n' => Place::Word("ull"),
                _ => return Step::Bad,
            },
            _ => return Step::Bad,
        };
        Step::More
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        match self.open.is_empty() {
            true => {
                self.place = Place::Over;
                Step::Whole
            }
            false => {
                self.place = Place::After;
                Step::More
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the whole text is one object or list.
    fn accepts(text: &str) -> bool {
        let mut scanner = Scanner::default();
        let mut last = Step::More;
        for letter in text.chars() {
            last = scanner.step(letter);
            if last == Step::Bad {
                return false;
            }
        }
        last == Step::Whole
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_agrees_with_a_parser(text in r#"[\[{]([\[\]{},:0-9e.\-+ "\\ua]|true|null|"a": ?|"b"){0,12}[\]}]"#) {
            let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            // The parser is lenient on one thing: numbers out of range are not numbers to it.
            prop_assert_eq!(accepts(&text), parsed, "{}", text);
        }
    }

    #[test]
    fn borders() {
        assert!(accepts(
            r#"{"a": [1, -0.5e+3, "\u00e9\"", true, null, {}], "b": []}"#
        ));
        for bad in [
            r#"{"a": 01}"#,
            r#"{"a": 1,}"#,
            r#"[1 2]"#,
            r#"{"a"}"#,
            "[\"\n\"]",
            "[}",
            "7",
            "[1.]",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(accepts(&deep(DEEPEST)));
        assert!(!accepts(&deep(DEEPEST + 1)));
    }
}
