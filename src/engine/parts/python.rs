//! Calls in the words of Python, a list of them: `[name(key='text', other=[1, None])]`. They
//! are read when they are whole. It reads literals, in Python's words and in those of JSON,
//! and runs nothing.

use serde_json::{Map, Number, Value};

/// Deepest value that is read, levels.
const DEEPEST: usize = 32;

/// Reads calls: name and arguments of each. Nothing if it is none or anything else.
pub(super) fn calls(text: &str) -> Option<Vec<(String, String)>> {
    let mut reader = Reader {
        rest: text.trim(),
        level: 0,
    };
    reader.take("[")?;
    let mut calls = Vec::new();
    loop {
        let name = reader.name(true)?;
        reader.take("(")?;
        let arguments = reader.members(")", |reader| {
            let key = reader.name(false)?;
            reader.take("=")?;
            Some(key)
        })?;
        calls.push((name, Value::Object(arguments).to_string()));
        if reader.take("]").is_some() {
            return reader.rest.is_empty().then_some(calls);
        }
        reader.take(",")?;
    }
}

/// What is left to be read.
struct Reader<'a> {
    rest: &'a str,
    level: usize,
}

impl Reader<'_> {
    /// Takes a word, and the space around it.
    fn take(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(word)?.trim_start();
        Some(())
    }

    /// A name; dots may stand within that of a function.
    fn name(&mut self, dotted: bool) -> Option<String> {
        let belongs = |letter: char| {
            letter.is_alphanumeric() || "_-".contains(letter) || dotted && letter == '.'
        };
        let end = self.rest.find(|letter| !belongs(letter));
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Keys, each read with what stands behind it by `key`, and values, up to `close`.
    fn members(
        &mut self,
        close: &str,
        key: impl Fn(&mut Self) -> Option<String>,
    ) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        loop {
            // A comma may stand behind the last.
            if self.take(close).is_some() {
                return Some(members);
            }
            let name = key(self)?;
            members.insert(name, self.value()?);
            if self.take(",").is_none() {
                self.take(close)?;
                return Some(members);
            }
        }
    }

    fn value(&mut self) -> Option<Value> {
        if self.level == DEEPEST {
            return None;
        }
        self.level += 1;
        let value = self.value_here();
        self.level -= 1;
        value
    }

    fn value_here(&mut self) -> Option<Value> {
        let first = self.rest.chars().next()?;
        match first {
            '\'' | '"' => Some(Value::String(self.text(first)?)),
            '{' => {
                self.take("{")?;
                let members = self.members("}", |reader| {
                    let quote = reader.rest.chars().next()?;
                    let key = matches!(quote, '\'' | '"').then(|| reader.text(quote))??;
                    reader.take(":")?;
                    Some(key)
                })?;
                Some(Value::Object(members))
            }
            '[' => {
                self.take("[")?;
                let mut list = Vec::new();
                loop {
                    if self.take("]").is_some() {
                        return Some(Value::Array(list));
                    }
                    list.push(self.value()?);
                    if self.take(",").is_none() {
                        self.take("]")?;
                        return Some(Value::Array(list));
                    }
                }
            }
            _ => {
                let ends = |letter: char| letter.is_whitespace() || ",)]}".contains(letter);
                let at = self.rest.find(ends).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(at);
                self.rest = rest.trim_start();
                match word {
                    "True" | "true" => Some(Value::Bool(true)),
                    "False" | "false" => Some(Value::Bool(false)),
                    "None" | "null" => Some(Value::Null),
                    number => number.parse::<Number>().ok().map(Value::Number),
                }
            }
        }
    }

    /// A text between two of the quotes that it begins with.
    fn text(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            if letter == quote {
                self.rest = self.rest[at + 1..].trim_start();
                return Some(text);
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            match letters.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                '\n' => {}
                digits @ ('x' | 'u') => {
                    let count = if digits == 'x' { 2 } else { 4 };
                    let code: String = letters.by_ref().take(count).map(|(_, it)| it).collect();
                    text.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                }
                same @ ('\\' | '\'' | '"') => text.push(same),
                // As Python has it, no escape.
                other => text.extend(['\\', other]),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&[(&str, &str)]>) {
        let expected = expected.map(|calls| {
            let owned =
                |(name, arguments): &(&str, &str)| ((*name).to_owned(), (*arguments).to_owned());
            calls.iter().map(owned).collect()
        });
        assert_eq!(calls(text), expected, "{text}");
    }

    #[test]
    fn literals_become_json() {
        check("[a()]", Some(&[("a", "{}")]));
        check(
            r#"[a.b(x='it\'s', y="\u00e9\n\d", ), c(z=-1.5e3)]"#,
            Some(&[
                ("a.b", r#"{"x":"it's","y":"é\n\\d"}"#),
                ("c", r#"{"z":-1500.0}"#),
            ]),
        );
        check("[a(x=[1, {'k': None, \"l\": (2)}])]", None);
        check(
            "[ a ( x = [1, {'k': None, \"l\": true,}, []], y = False ) ]",
            Some(&[("a", r#"{"x":[1,{"k":null,"l":true},[]],"y":false}"#)]),
        );
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "[]",
            "a()",
            "[a]",
            "[a(]",
            "[a(1)]",
            "[a(x=)]",
            "[a(x='b)]",
            "[a(x=b)]",
            "[a()] b",
            "[a() b()]",
            "[a(x='\\u00')]",
            "[a(x={1: 2})]",
        ] {
            check(text, None);
        }
        let deep = |levels: usize| format!("[a(x={}{})]", "[".repeat(levels), "]".repeat(levels));
        assert!(calls(&deep(DEEPEST)).is_some());
        check(&deep(DEEPEST + 1), None);
    }
}
