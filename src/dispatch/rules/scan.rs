//! Where the members of an object and the elements of an array stand in a text.
//! The text has been read before and is JSON; on any other this finds something
//! else and no more.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

use crate::dispatch::json::Text;

/// A member of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member<'t> {
    /// The key, without escapes.
    pub key: Cow<'t, str>,
    /// Where its value stands.
    pub value: Range<usize>,
    /// Where the key begins.
    pub start: usize,
}

/// Where one member of an object is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Where its value stands.
    Value(Range<usize>),
    /// Nowhere.
    Nothing {
        /// Whether there are no others either.
        is_empty: bool,
    },
}

/// The member of this key, which is plain text, in the object that begins at `open`;
/// nothing if there is no object.
pub(super) fn member(bytes: &[u8], open: usize, key: &str) -> Option<Found> {
    let mut at = after(bytes, open, b'{')?;
    let is_empty = bytes.get(at) != Some(&b'"');
    while bytes.get(at) == Some(&b'"') {
        let end = value_end(bytes, at);
        let value = after(bytes, space(bytes, end), b':')?;
        let value = value..value_end(bytes, value);
        if is_key(bytes.get(at..end)?, key) {
            return Some(Found::Value(value));
        }
        match after(bytes, space(bytes, value.end), b',') {
            Some(next) => at = next,
            None => break,
        }
    }
    Some(Found::Nothing { is_empty })
}

/// Whether a string in quotes means this text, however it is escaped.
fn is_key(quoted: &[u8], key: &str) -> bool {
    let inside = quoted.get(1..quoted.len().saturating_sub(1));
    match memchr(b'\\', quoted) {
        None => inside == Some(key.as_bytes()),
        Some(_) => serde_json::from_slice::<String>(quoted).is_ok_and(|text| text == key),
    }
}

/// The members of the object that begins at `open`; nothing if there is none.
pub(super) fn members(text: &str, open: usize) -> Option<Vec<Member<'_>>> {
    let bytes = text.as_bytes();
    let mut members = Vec::new();
    let mut at = after(bytes, open, b'{')?;
    while bytes.get(at) == Some(&b'"') {
        let end = value_end(bytes, at);
        let key = serde_json::from_str::<Text<'_>>(text.get(at..end)?).ok()?.0;
        let value = after(bytes, space(bytes, end), b':')?;
        let value = value..value_end(bytes, value);
        let next = space(bytes, value.end);
        members.push(Member {
            key,
            value,
            start: at,
        });
        match after(bytes, next, b',') {
            Some(next) => at = next,
            None => break,
        }
    }
    Some(members)
}

/// Where the first element of the array that begins at `open` stands; nothing if
/// there is none.
pub(super) fn first(text: &str, open: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let at = after(bytes, open, b'[')?;
    match bytes.get(at)? {
        b']' => None,
        _ => Some(at..value_end(bytes, at)),
    }
}

/// The first byte that is no blank.
pub(super) fn space(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    at + rest.iter().take_while(|byte| blank(byte)).count()
}

/// What follows this byte and the blanks after it.
fn after(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (bytes.get(at) == Some(&byte)).then(|| space(bytes, at + 1))
}

/// Where the value that begins at `at` ends.
fn value_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0usize, at);
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => end = string_end(bytes, end),
            b'{' | b'[' => (depth, end) = (depth + 1, end + 1),
            b'}' | b']' if depth == 0 => return end,
            b'}' | b']' => (depth, end) = (depth - 1, end + 1),
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return end,
            _ => {
                end += 1;
                continue;
            }
        }
        if depth == 0 {
            return end;
        }
    }
    end
}

/// Where the string that begins at `at` ends.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(found) = memchr2(b'"', b'\\', bytes.get(end..).unwrap_or_default()) {
        match bytes[end + found] {
            b'"' => return end + found + 1,
            _ => end += found + 2,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_member_is_found_by_its_key_however_that_is_escaped() {
        let check = |text: &str, expected: Option<&str>| {
            let found = member(text.as_bytes(), space(text.as_bytes(), 0), "model");
            let found = found.map(|found| match found {
                Found::Value(at) => text[at].to_owned(),
                Found::Nothing { is_empty } => format!("none {is_empty}"),
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check(r#" { "model" : "a" }"#, Some("\"a\""));
        check(
            r#"{"x":["model",{"model":1}],"mod\u0065l":"b"}"#,
            Some("\"b\""),
        );
        check(r#"{"mode":"model","model\"":2}"#, Some("none false"));
        check("{ }", Some("none true"));
        check("[]", None);
        check("", None);
    }

    #[test]
    fn members_and_elements_are_found_where_they_stand() {
        let check = |text: &str, expected: Option<&[(&str, &str)]>| {
            let found = members(text, space(text.as_bytes(), 0));
            let found = found.map(|members| {
                let member = |member: Member<'_>| (member.key.into_owned(), &text[member.value]);
                members.into_iter().map(member).collect::<Vec<_>>()
            });
            let expected = expected.map(|pairs| {
                let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), *value));
                pairs.collect()
            });
            assert_eq!(found, expected, "{text}");
        };
        check("{}", Some(&[]));
        check(" { } ", Some(&[]));
        check("[1]", None);
        check(r#"{"a":1}"#, Some(&[("a", "1")]));
        check(
            "\t{ \"a\" : 1.5e3 ,\n\"\\u0062\\\"\" : {\"a\":[\"}\\\"\"]} , \"c\":\"x,y\" }\n",
            Some(&[
                ("a", "1.5e3"),
                ("b\"", "{\"a\":[\"}\\\"\"]}"),
                ("c", "\"x,y\""),
            ]),
        );
        let first_of = |text: &str| first(text, 0).map(|at| text[at].to_owned());
        assert_eq!(first_of("[]"), None);
        assert_eq!(first_of("{}"), None);
        assert_eq!(first_of("[ {\"a\":[]} , 2]").as_deref(), Some("{\"a\":[]}"));
        assert_eq!(first_of("[true]").as_deref(), Some("true"));
    }

    proptest! {
        #[test]
        fn any_text_ends_in_an_answer(text in "[\\[\\]{}:,\"a0\\\\ é]{0,30}", at in 0usize..32) {
            let _ = (members(&text, at), first(&text, at));
        }
    }
}
