//! Small edits of a configuration's text that keep its comments and its form.
//! Pure: text in, text out. An edit is made at the places the tree knows, and is
//! handed out only if the new text reads as the old one with that change.

use super::Pattern;
use super::file::{self, BYTE_ORDER_MARK, Node, Pair, Value};
use super::problem::{Place, lines_of};

/// Why a text was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is no configuration.
    #[error("the file is not valid; `roundhouse check` says why")]
    NotValid,
    /// The form of the text leaves no safe place.
    #[error("found no safe place in the file; add {0} to the list under allow by hand")]
    NoPlace(String),
}

/// A changed text and where it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// The whole new text.
    pub text: String,
    /// The line with the new item, from 1.
    pub line: usize,
}

/// Adds a pattern at the end of `allow`, which is made if it is not there.
pub fn allow(text: &str, pattern: &Pattern) -> Result<Edited, EditError> {
    let (mark, body) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(body) => (&text[..BYTE_ORDER_MARK.len_utf8()], body),
        None => ("", text),
    };
    let before = tree(body).ok_or(EditError::NotValid)?;
    let item = scalar(pattern.as_str());
    let no_place = || EditError::NoPlace(item.clone());
    let insert = insertion(body, &before, &item).ok_or_else(no_place)?;
    let mut edited = body.to_owned();
    edited.insert_str(insert.offset, &insert.text);
    let after = tree(&edited).ok_or_else(no_place)?;
    let expected = with_item(before, pattern.as_str()).ok_or_else(no_place)?;
    match is_same(&after, &expected) {
        true => Ok(Edited {
            text: format!("{mark}{edited}"),
            line: insert.line,
        }),
        false => Err(no_place()),
    }
}

/// What goes into the text, and where.
struct Insertion {
    offset: usize,
    text: String,
    line: usize,
}

/// The tree of a text without problems.
fn tree(text: &str) -> Option<Node> {
    match file::parse(text) {
        (Some(root), problems) if problems.is_empty() => Some(root),
        _ => None,
    }
}

/// Finds the place; whether it is right is judged by the result.
fn insertion(text: &str, root: &Node, item: &str) -> Option<Insertion> {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let pairs = match &root.value {
        Value::Map(pairs) => pairs.as_slice(),
        Value::Nothing => &[],
        _ => return None,
    };
    let Some(allow) = pairs.iter().find(|pair| pair.key == "allow") else {
        return Some(at_end(text, item, newline));
    };
    match &allow.node.value {
        Value::Nothing => Some(after_line(text, allow.place.line, "  - ", item, newline)),
        Value::List { items, flow } => match (items.last(), flow) {
            (None, _) => Some(Insertion {
                offset: offset(text, allow.node.place)? + 1,
                text: item.to_owned(),
                line: allow.node.place.line,
            }),
            (Some(last), true) => Some(Insertion {
                offset: offset(text, end_of(last.place))?,
                text: format!(", {item}"),
                line: last.place.line,
            }),
            (Some(last), false) => {
                let start = offset(
                    text,
                    Place {
                        column: 1,
                        ..last.place
                    },
                )?;
                let prefix = &text[start..offset(text, last.place)?];
                Some(after_line(text, last.place.line, prefix, item, newline))
            }
        },
        _ => None,
    }
}

/// A new `allow` at the end of the text.
fn at_end(text: &str, item: &str, newline: &str) -> Insertion {
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        newline
    };
    Insertion {
        offset: text.len(),
        text: format!("{gap}allow:{newline}  - {item}{newline}"),
        line: lines_of(&format!("{text}{gap}")).count() + 1,
    }
}

/// A new line after another one.
fn after_line(text: &str, line: usize, prefix: &str, item: &str, newline: &str) -> Insertion {
    let end = text
        .match_indices('\n')
        .nth(line.saturating_sub(1))
        .map(|(index, _)| index + 1);
    let (offset, text) = match end {
        Some(offset) => (offset, format!("{prefix}{item}{newline}")),
        None => (text.len(), format!("{newline}{prefix}{item}")),
    };
    Insertion {
        offset,
        text,
        line: line + 1,
    }
}

/// The byte of a place.
fn offset(text: &str, place: Place) -> Option<usize> {
    let start = match place.line {
        0 => return None,
        1 => 0,
        line => text.match_indices('\n').nth(line - 2)?.0 + 1,
    };
    let rest = &text[start..];
    let column = place.column.checked_sub(1)?;
    let mut columns = rest.char_indices().map(|(index, _)| index);
    Some(start + columns.nth(column).unwrap_or(rest.len()))
}

/// The point after a place.
fn end_of(place: Place) -> Place {
    Place {
        column: place.column + place.length,
        ..place
    }
}

/// A pattern as YAML: in quotes where a plain one would be read as something else.
fn scalar(pattern: &str) -> String {
    let is_plain =
        pattern.starts_with(|c: char| c.is_ascii_alphanumeric()) && !pattern.contains(':');
    match is_plain {
        true => pattern.to_owned(),
        false => format!("\"{pattern}\""),
    }
}

/// The tree as it should read after the edit.
fn with_item(mut root: Node, pattern: &str) -> Option<Node> {
    let item = Node {
        place: Place::default(),
        value: Value::Text(pattern.to_owned()),
    };
    let list = |items| Value::List { items, flow: false };
    if root.value == Value::Nothing {
        root.value = Value::Map(Vec::new());
    }
    let Value::Map(pairs) = &mut root.value else {
        return None;
    };
    match pairs.iter_mut().find(|pair| pair.key == "allow") {
        Some(allow) => match &mut allow.node.value {
            Value::List { items, .. } => items.push(item),
            nothing @ Value::Nothing => *nothing = list(vec![item]),
            _ => return None,
        },
        None => pairs.push(Pair {
            key: "allow".to_owned(),
            place: Place::default(),
            node: Node {
                place: Place::default(),
                value: list(vec![item]),
            },
        }),
    }
    Some(root)
}

/// Whether two trees say the same, wherever and however it is written.
fn is_same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::List { items: one, .. }, Value::List { items: other, .. }) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
        }
        (Value::Map(one), Value::Map(other)) => {
            let same = |(a, b): (&Pair, &Pair)| a.key == b.key && is_same(&a.node, &b.node);
            one.len() == other.len() && one.iter().zip(other).all(same)
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(text: &str, pattern: &str) -> Result<Edited, EditError> {
        allow(text, &Pattern::parse(pattern).expect("a pattern"))
    }

    #[test]
    fn a_pattern_goes_to_the_end_of_the_list_and_nothing_else_moves() {
        let check = |text: &str, expected: &str, line: usize| {
            let got = edited(text, "a/b").expect(text);
            assert_eq!((got.text.as_str(), got.line), (expected, line), "{text}");
        };
        check("", "allow:\n  - a/b\n", 2);
        check("# words\n", "# words\nallow:\n  - a/b\n", 3);
        check("log: info", "log: info\nallow:\n  - a/b\n", 3);
        check("log: info\n", "log: info\nallow:\n  - a/b\n", 3);
        check("allow:\nlog: info\n", "allow:\n  - a/b\nlog: info\n", 2);
        check("allow: # words\n", "allow: # words\n  - a/b\n", 2);
        check("allow: []\n", "allow: [a/b]\n", 1);
        check("allow: [x/y] # w\n", "allow: [x/y, a/b] # w\n", 1);
        check("allow: ['x/*', \"*/y\"]", "allow: ['x/*', \"*/y\", a/b]", 1);
        check(
            "allow: [\n  x/y,\n  ä/y, # w\n]\n",
            "allow: [\n  x/y,\n  ä/y, a/b, # w\n]\n",
            3,
        );
        check(
            "allow:\n  - x/y # w\n\n# v\nlog: info\n",
            "allow:\n  - x/y # w\n  - a/b\n\n# v\nlog: info\n",
            3,
        );
        check(
            "allow:\n- x/y\nlog: info",
            "allow:\n- x/y\n- a/b\nlog: info",
            3,
        );
        check("allow:\n- x/y", "allow:\n- x/y\n- a/b", 3);
        check(
            "\u{feff}allow:\r\n  - x/y\r\n",
            "\u{feff}allow:\r\n  - x/y\r\n  - a/b\r\n",
            3,
        );
        check(
            "models:\n  x/y: {}\n",
            "models:\n  x/y: {}\nallow:\n  - a/b\n",
            4,
        );
    }

    #[test]
    fn a_pattern_is_quoted_where_it_must_be() {
        let check = |pattern: &str, expected: &str| {
            let got = edited("allow: []", pattern).expect(pattern);
            assert_eq!(got.text, format!("allow: [{expected}]"));
        };
        check("a/*", "a/*");
        check("*/*-4bit", "\"*/*-4bit\"");
        check("_a/b", "\"_a/b\"");
    }

    #[test]
    fn a_text_without_a_safe_place_stays_as_it_is() {
        let check = |text: &str, expected: EditError| {
            assert_eq!(edited(text, "a/b"), Err(expected), "{text}");
        };
        let no_place = || EditError::NoPlace("a/b".to_owned());
        check("{log: info}", no_place());
        check("allow: ~\n", no_place());
        check("allow: x/y\n", no_place());
        check("log: info\n...\n", no_place());
        check("- x\n", no_place());
        check("allow: [x/y", EditError::NotValid);
        check("allow: &a [x/y]", EditError::NotValid);
    }

    proptest! {
        #[test]
        fn an_edit_adds_one_item_or_does_nothing(
            text in "(log: info\n)?(# w\n)?(allow:( \\[(x/y(, z/\\*)?)?,?\\])?( # w)?\n)?( *- [a-z]/[a-z]( # w)?\n){0,3}(pool:\n  queue: 1\n)?( *# end)?"
        ) {
            let Ok(edited) = edited(&text, "new/item") else { return Ok(()) };
            prop_assert_eq!(edited.text.matches("new/item").count(), 1);
            let line = edited.text.split('\n').nth(edited.line - 1).unwrap_or("");
            prop_assert!(line.contains("new/item"), "{} is not line {} of {}", "new/item", edited.line, edited.text);
            let old: Vec<_> = text.split('\n').collect();
            let kept = old.iter().filter(|line| edited.text.contains(**line)).count();
            prop_assert!(kept + 1 >= old.len());
        }
    }
}
