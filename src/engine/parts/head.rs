//! The head of a call whose arguments follow as JSON: the marks before, the name, and what
//! stands between the name and the first brace.

use super::format::Calls;

/// What Mistral's models write between a name, its id, and the arguments.
pub(super) const MISTRAL: [&str; 2] = ["[CALL_ID]", "[ARGS]"];

/// What DeepSeek's models write behind a name, or behind the kind of what is called.
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";

/// Longest head, bytes.
const LONGEST: usize = 512;

/// What a text that grows is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Not yet a head; it may become one.
    More,
    /// A head whose last letter begins a list of calls, the older form.
    List,
    /// A head up to the brace that begins the arguments of the tool of this name.
    Whole(String),
    /// No head.
    Bad,
}

/// Reads what has come so far, the marks before it included.
pub(super) fn read(calls: Calls, text: &str) -> Head {
    let mut inner = text.trim_start();
    for mark in calls.marks().open {
        inner = inner.strip_prefix(mark).unwrap_or(inner).trim_start();
    }
    let name = match inner.strip_suffix('{') {
        Some(before) => before,
        None if calls == Calls::Named && inner == "[" => return Head::List,
        None if inner.len() > LONGEST || inner.contains('"') => return Head::Bad,
        None => return Head::More,
    };
    let name = match calls {
        Calls::Named => name.trim_end().strip_suffix(MISTRAL[1]).map(|name| {
            let id = name.find(MISTRAL[0]);
            &name[..id.unwrap_or(name.len())]
        }),
        _ => name.split_once(SEPARATOR).map(|(kind, name)| {
            let name = name.trim().trim_end_matches("```json");
            if name.is_empty() { kind } else { name }
        }),
    };
    match name.map(str::trim) {
        Some(name) if !name.is_empty() && !name.contains(['<', '\n']) => {
            Head::Whole(name.to_owned())
        }
        _ => Head::Bad,
    }
}
