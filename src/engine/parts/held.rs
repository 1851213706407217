//! Calls that are marked up all through, read when they are whole.

use serde_json::{Map, Value};

use super::Tools;

/// Reads `name<arg_key>key</arg_key><arg_value>value</arg_value>…`, as GLM 4.5 writes it.
pub(super) fn keys(text: &str, tools: &Tools) -> Option<(String, String)> {
    let (name, mut rest) = match text.find("<arg_key>") {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let name = name_of(name)?;
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, after) = between(rest, "<arg_key>", "</arg_key>")?;
        let (value, after) = between(after, "<arg_value>", "</arg_value>")?;
        let key = key.trim();
        arguments.insert(key.to_owned(), typed(tools, name, key, value));
        rest = after;
    }
    Some((name.to_owned(), Value::Object(arguments).to_string()))
}

/// Reads `<function=name><parameter=key>value</parameter>…</function>`, as Qwen's coders
/// write it.
pub(super) fn functions(text: &str, tools: &Tools) -> Option<(String, String)> {
    let (inner, after) = between(text, "<function=", "</function>")?;
    if !after.trim().is_empty() {
        return None;
    }
    let (name, mut rest) = inner.split_once('>')?;
    let name = name_of(name)?;
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (inner, after) = between(rest, "<parameter=", "</parameter>")?;
        let (key, value) = inner.split_once('>')?;
        // One line break belongs to the mark on either side.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.insert(key.to_owned(), typed(tools, name, key, value));
        rest = after;
    }
    Some((name.to_owned(), Value::Object(arguments).to_string()))
}

/// A name of a tool: no marks and no space within.
fn name_of(text: &str) -> Option<&str> {
    let name = text.trim();
    let odd = |letter: char| letter.is_whitespace() || matches!(letter, '<' | '>' | '{' | '"');
    (!name.is_empty() && !name.contains(odd)).then_some(name)
}

/// What stands between two marks, of which the first begins the text, and what follows.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.trim_start().strip_prefix(open)?.split_once(close)
}

/// A value as the tool takes it: what is JSON is that, unless a text is wanted.
fn typed(tools: &Tools, name: &str, key: &str, value: &str) -> Value {
    let text = || Value::String(value.to_owned());
    match tools.takes_text(name, key) {
        true => text(),
        false => serde_json::from_str(value.trim()).unwrap_or_else(|_| text()),
    }
}
