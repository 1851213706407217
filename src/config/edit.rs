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
    #[error("found no safe place in the file; add {item} to the list under {key} by hand")]
    NoPlace {
        /// What should be added.
        item: String,
        /// The list, as a path with dots.
        key: String,
    },
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
    append(text, &["allow"], pattern.as_str())
}

/// Adds a pattern at the end of `deny`, which is made if it is not there.
pub fn deny(text: &str, pattern: &Pattern) -> Result<Edited, EditError> {
    append(text, &["deny"], pattern.as_str())
}

/// Adds an alias to an entry. Both the entry and its list are made if they are not there.
pub fn alias(text: &str, entry: &str, alias: &str) -> Result<Edited, EditError> {
    append(text, &["models", entry, "aliases"], alias)
}

/// Adds an item at the end of the list at a path of keys.
fn append(text: &str, path: &[&str], item: &str) -> Result<Edited, EditError> {
    let (mark, body) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(body) => (&text[..BYTE_ORDER_MARK.len_utf8()], body),
        None => ("", text),
    };
    let before = tree(body).ok_or(EditError::NotValid)?;
    let no_place = || EditError::NoPlace {
        item: scalar(item),
        key: path.join("."),
    };
    let insert = insertion(body, &before, path, &scalar(item)).ok_or_else(no_place)?;
    let mut edited = body.to_owned();
    edited.insert_str(insert.offset, &insert.text);
    let after = tree(&edited).ok_or_else(no_place)?;
    let mut expected = before;
    with_item(&mut expected, path, item).ok_or_else(no_place)?;
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

/// Finds the place; whether it is right is judged by the result. Goes down the
/// path as far as it is written.
fn insertion(text: &str, root: &Node, path: &[&str], item: &str) -> Option<Insertion> {
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let (mut node, mut key, mut rest) = (root, None, path);
    while let ([name, below @ ..], Value::Map(pairs)) = (rest, &node.value) {
        let Some(pair) = pairs.iter().find(|pair| pair.key == *name) else {
            break;
        };
        (node, key, rest) = (&pair.node, Some(pair.place), below);
    }
    if rest.is_empty() {
        return into_list(text, node, key?, item, newline);
    }
    let indent = |column: usize| " ".repeat(column.saturating_sub(1));
    match (&node.value, key) {
        (Value::Nothing, None) => Some(at_end(text, &missing("", rest, item, newline), newline)),
        (Value::Map(pairs), _) if is_flow(text, node) => {
            let comma = if pairs.is_empty() { "" } else { ", " };
            Some(Insertion {
                offset: offset(text, node.place)? + 1,
                text: format!("{}{comma}", in_braces(rest, item)),
                line: node.place.line,
            })
        }
        (Value::Map(_), None) => Some(at_end(text, &missing("", rest, item, newline), newline)),
        (Value::Map(pairs), Some(_)) => {
            let lines = missing(&indent(pairs.first()?.place.column), rest, item, newline);
            Some(after_line(text, last_line(node), &lines, newline))
        }
        (Value::Nothing, Some(key)) => {
            let lines = missing(&indent(key.column + 2), rest, item, newline);
            Some(after_line(text, key.line, &lines, newline))
        }
        _ => None,
    }
}

/// A new item of a list that is there, or of a key without a value.
fn into_list(text: &str, list: &Node, key: Place, item: &str, newline: &str) -> Option<Insertion> {
    let (items, flow) = match &list.value {
        Value::Nothing => {
            let line = format!("{}- {item}", " ".repeat(key.column + 1));
            return Some(after_line(text, key.line, &line, newline));
        }
        Value::List { items, flow } => (items, flow),
        _ => return None,
    };
    match (items.last(), flow) {
        (None, _) => Some(Insertion {
            offset: offset(text, list.place)? + 1,
            text: item.to_owned(),
            line: list.place.line,
        }),
        (Some(last), true) => Some(Insertion {
            offset: match &last.value {
                Value::Map(_) => closing(text, offset(text, last.place)?)?,
                _ => offset(text, end_of(last.place))?,
            },
            text: format!(", {item}"),
            line: last.place.line,
        }),
        (Some(last), false) => {
            let start = Place {
                column: 1,
                ..last.place
            };
            let prefix = &text[offset(text, start)?..offset(text, last.place)?];
            let line = format!("{prefix}{item}");
            Some(after_line(text, last_line(last), &line, newline))
        }
    }
}

/// The byte after the brace that closes the one at an offset. Strings with braces
/// in them make a wrong guess, which the result shows.
fn closing(text: &str, start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    rest.find('}').map(|end| start + end + 1)
}

/// Whether a mapping is written in braces.
fn is_flow(text: &str, node: &Node) -> bool {
    let at = offset(text, node.place);
    at.is_some_and(|at| text[at..].starts_with('{'))
}

/// The last line on which something of a value begins.
fn last_line(node: &Node) -> usize {
    let below = match &node.value {
        Value::Map(pairs) => {
            let lines = pairs
                .iter()
                .map(|pair| pair.place.line.max(last_line(&pair.node)));
            lines.max()
        }
        Value::List { items, .. } => items.iter().map(last_line).max(),
        _ => None,
    };
    below.unwrap_or(0).max(node.place.line)
}

/// The lines of keys that are not there yet, down to a list with the item, without
/// the last line's end.
fn missing(indent: &str, path: &[&str], item: &str, newline: &str) -> String {
    match path {
        // A list of the whole file has lines of its own, one of an entry is short.
        [name] if indent.is_empty() => format!("{name}:{newline}  - {item}"),
        [name] => format!("{indent}{}: [{item}]", scalar(name)),
        [name, rest @ ..] => {
            let below = missing(&format!("{indent}  "), rest, item, newline);
            format!("{indent}{}:{newline}{below}", scalar(name))
        }
        [] => item.to_owned(),
    }
}

/// The same within braces.
fn in_braces(path: &[&str], item: &str) -> String {
    match path {
        [] => format!("[{item}]"),
        [name] => format!("{}: [{item}]", scalar(name)),
        [name, rest @ ..] => format!("{}: {{{}}}", scalar(name), in_braces(rest, item)),
    }
}

/// New lines at the end of the text.
fn at_end(text: &str, lines: &str, newline: &str) -> Insertion {
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        newline
    };
    Insertion {
        offset: text.len(),
        text: format!("{gap}{lines}{newline}"),
        line: lines_of(&format!("{text}{gap}{lines}")).count(),
    }
}

/// New lines after another one.
fn after_line(text: &str, line: usize, lines: &str, newline: &str) -> Insertion {
    let end = text
        .match_indices('\n')
        .nth(line.saturating_sub(1))
        .map(|(index, _)| index + 1);
    let added = lines_of(lines).count();
    let (offset, text) = match end {
        Some(offset) => (offset, format!("{lines}{newline}")),
        None => (text.len(), format!("{newline}{lines}")),
    };
    Insertion {
        offset,
        text,
        line: line + added,
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

/// A name or a pattern as YAML: in quotes where a plain one would be read as
/// something else.
fn scalar(text: &str) -> String {
    let is_nothing = text.eq_ignore_ascii_case("null");
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && !text.contains(':');
    match is_plain && !is_nothing {
        true => text.to_owned(),
        false => format!("\"{text}\""),
    }
}

/// The tree as it should read after the edit.
fn with_item(node: &mut Node, path: &[&str], item: &str) -> Option<()> {
    let Some((name, rest)) = path.split_first() else {
        let item = Node {
            place: Place::default(),
            value: Value::Text(item.to_owned()),
        };
        match &mut node.value {
            Value::List { items, .. } => items.push(item),
            nothing @ Value::Nothing => {
                *nothing = Value::List {
                    items: vec![item],
                    flow: false,
                };
            }
            _ => return None,
        }
        return Some(());
    };
    if node.value == Value::Nothing {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(pairs) = &mut node.value else {
        return None;
    };
    if let Some(pair) = pairs.iter_mut().find(|pair| pair.key == *name) {
        return with_item(&mut pair.node, rest, item);
    }
    let mut pair = Pair {
        key: (*name).to_owned(),
        place: Place::default(),
        node: Node {
            place: Place::default(),
            value: Value::Nothing,
        },
    };
    with_item(&mut pair.node, rest, item)?;
    pairs.push(pair);
    Some(())
}

/// Whether two trees say the same, wherever and however it is written.
fn is_same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::List { items: one, .. }, Value::List { items: other, .. }) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
        }
        (Value::Map(one), Value::Map(other)) => {
            // Keys have no order; there are no two of one name in what was valid.
            let same = |a: &Pair| {
                let mut pairs = other.iter();
                pairs.any(|b| a.key == b.key && is_same(&a.node, &b.node))
            };
            one.len() == other.len() && one.iter().all(same)
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
        let no_place = || EditError::NoPlace {
            item: "a/b".to_owned(),
            key: "allow".to_owned(),
        };
        check("allow: ~\n", no_place());
        check("allow: x/y\n", no_place());
        check("log: info\n...\n", no_place());
        check("- x\n", no_place());
        check("allow: [x/y", EditError::NotValid);
        check("allow: &a [x/y]", EditError::NotValid);
    }

    #[test]
    fn an_alias_goes_to_its_entry_in_the_form_that_is_there() {
        let check = |text: &str, expected: &str, line: usize| {
            let got = alias(text, "a/b", "x").expect(text);
            assert_eq!((got.text.as_str(), got.line), (expected, line), "{text}");
        };
        check("", "models:\n  a/b:\n    aliases: [x]\n", 3);
        check(
            "models: # all\n  a/b:\n",
            "models: # all\n  a/b:\n    aliases: [x]\n",
            3,
        );
        check(
            "models:\n  a/b: {} # w\n",
            "models:\n  a/b: {aliases: [x]} # w\n",
            2,
        );
        check(
            "models:\n  a/b: { keep: always }\n",
            "models:\n  a/b: {aliases: [x],  keep: always }\n",
            2,
        );
        check(
            "models:\n    a/b:\n        # w\n        keep: always # v\n    c/d:\n",
            "models:\n    a/b:\n        # w\n        keep: always # v\n        aliases: [x]\n    c/d:\n",
            5,
        );
        check(
            "models:\n  a/b:\n    aliases: [y, {name: z, background: true}]\n",
            "models:\n  a/b:\n    aliases: [y, {name: z, background: true}, x]\n",
            3,
        );
        check(
            "models:\n  a/b:\n    aliases:\n      - y # w\n    keep: always\n",
            "models:\n  a/b:\n    aliases:\n      - y # w\n      - x\n    keep: always\n",
            5,
        );
        check(
            "models:\n  c/d:\n    keep: always\n# end\n",
            "models:\n  c/d:\n    keep: always\n  a/b:\n    aliases: [x]\n# end\n",
            5,
        );
        check(
            "models: {c/d: {}}\nlog: info\n",
            "models: {a/b: {aliases: [x]}, c/d: {}}\nlog: info\n",
            1,
        );
    }

    #[test]
    fn deny_has_a_list_of_its_own() {
        let pattern = Pattern::parse("*/*-bf16").expect("a pattern");
        let got = deny("allow: [a/*] # w\n", &pattern).expect("a place");
        assert_eq!(got.text, "allow: [a/*] # w\ndeny:\n  - \"*/*-bf16\"\n");
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
