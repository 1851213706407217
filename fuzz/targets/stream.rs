//! A stream of an engine, cut at any places: what goes on to the client and what is
//! read in passing, beside what a plain reading of the standard's format finds in all
//! of it at once.

use roundhouse::dispatch::observer::Observer;
use roundhouse::dispatch::relay::Relay;
use serde_json::Value;

/// What becomes of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The bytes that went on.
    passed: Vec<u8>,
    /// Events with data in them.
    events: u64,
    ended: bool,
    usage: Option<String>,
}

/// The first byte says how many of those after it are lengths of pieces, used again
/// and again; the rest is the stream.
pub fn stream(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let (cuts, stream) = rest.split_at(rest.len().min(count.into()));
    let whole = relayed(stream, &[]);
    assert_eq!(relayed(stream, cuts), whole, "it depends on the cuts");
    let each: Vec<u8> = vec![1];
    assert_eq!(relayed(stream, &each), whole, "it depends on the cuts");
    check(stream, &whole);
}

/// The stream in pieces of these lengths, or in one.
fn relayed(stream: &[u8], cuts: &[u8]) -> Seen {
    let (mut relay, mut observer) = (Relay::default(), Observer::new(true));
    let (mut passed, mut events) = (Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let length = cuts
            .next()
            .map_or(usize::MAX, |&cut| usize::from(cut).max(1));
        let (piece, later) = rest.split_at(rest.len().min(length));
        if let Some(whole) = relay.push(piece).expect("short") {
            events += observer.see(&whole);
            passed.extend_from_slice(&whole);
        }
        rest = later;
    }
    Seen {
        passed,
        events,
        ended: observer.ended(),
        usage: observer.usage().map(|usage| usage.text.clone()),
    }
}

/// The same from all of it, with one kind of line break.
fn check(stream: &[u8], seen: &Seen) {
    assert!(stream.starts_with(&seen.passed), "bytes were changed");
    let plain = one_break(stream);
    let mut lines: Vec<&[u8]> = plain.split(|&byte| byte == b'\n').collect();
    // What is after the last break is no line yet.
    lines.pop();
    let whole = lines.iter().rposition(|line| line.is_empty());
    let lines = &lines[..whole.map_or(0, |last| last + 1)];
    let length: usize = lines.iter().map(|line| line.len() + 1).sum();
    let passed = one_break(&seen.passed);
    assert_eq!(passed, plain[..length], "not what is whole");
    if seen.passed.ends_with(b"\r") {
        let next = stream.get(seen.passed.len());
        assert_ne!(next, Some(&b'\n'), "half a break was held back");
    }
    let data: Vec<Vec<u8>> = lines
        .split(|line| line.is_empty())
        .filter_map(data)
        .collect();
    assert_eq!(seen.events, data.len() as u64);
    let ends = |data: &Vec<u8>| data == b"[DONE]" || data.starts_with(b"{\"error\":");
    assert_eq!(seen.ended, data.iter().any(ends));
    if data.iter().all(|data| is_plain(data)) {
        let usage = data.iter().rev().find_map(|data| usage(data));
        assert_eq!(seen.usage, usage);
    }
}

fn one_break(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut before = 0;
    for &byte in bytes {
        match byte {
            b'\n' if before == b'\r' => {}
            b'\r' => plain.push(b'\n'),
            other => plain.push(other),
        }
        before = byte;
    }
    plain
}

/// The data of an event, if it has any.
fn data(lines: &[&[u8]]) -> Option<Vec<u8>> {
    let mut texts = Vec::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        if name == b"data" {
            let value = value.get(1..).unwrap_or_default();
            texts.push(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
    (!texts.is_empty()).then(|| texts.join(&b'\n'))
}

/// Whether all readers of JSON agree on this: no key of interest stands in it twice or
/// in escapes, and it is JSON to the last number or not at all.
fn is_plain(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let keys = ["\"usage\"", "prompt_tokens", "completion_tokens"];
    let once = keys.iter().all(|key| text.matches(key).count() <= 1);
    let loosely = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let has_shape = match serde_json::from_str::<Value>(text) {
        Err(_) => !loosely,
        Ok(Value::Array(_)) => false,
        Ok(value) => value
            .get("usage")
            .is_none_or(|usage| usage.is_object() || usage.is_null()),
    };
    once && !text.contains("\\u") && has_shape
}

fn usage(data: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let usage = value.get("usage")?.as_object()?;
    let number = |name: &str| match usage.get(name) {
        None => Some(0),
        Some(number) => number.as_u64(),
    };
    let (prompt, completion) = (number("prompt_tokens")?, number("completion_tokens")?);
    Some(format!("prompt={prompt} completion={completion}"))
}
