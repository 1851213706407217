//! How long a model is to stay when nobody uses it any more, as requests say it:
//! `ttl` in seconds (LM Studio), `keep_alive` as a duration in Go's form, as
//! seconds, or negative for as long as may be (Ollama). What becomes of it is the
//! pool's business.

use std::time::Duration;

use serde_json::Value;

use super::wrong;
use crate::api::error::ApiError;

/// What `ttl` takes.
pub const SECONDS: &str = "a number of seconds, 0 or more";

/// What `keep_alive` takes.
pub const DURATION: &str =
    "a duration such as \"5m\" or \"1h30m\", a number of seconds, or a negative one";

/// Longer than this is as long as may be: ten years.
const LONGEST: f64 = 3650.0 * 86_400.0;

/// Longest text that is read, bytes.
const LONGEST_TEXT: usize = 64;

/// Go's units, in seconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// The value of `ttl`; nothing means as long as may be.
pub fn ttl(value: &Value) -> Result<Option<Duration>, ApiError> {
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| wrong("ttl", SECONDS, value))?;
    Ok(bounded(seconds))
}

/// The value of `keep_alive`; nothing means as long as may be.
pub fn keep_alive(value: &Value) -> Result<Option<Duration>, ApiError> {
    let seconds = match value {
        Value::String(text) => duration(text),
        value => value.as_f64(),
    };
    let seconds = seconds.ok_or_else(|| wrong("keep_alive", DURATION, value))?;
    Ok(bounded(seconds))
}

/// Nothing for what is negative or longer than anybody means.
fn bounded(seconds: f64) -> Option<Duration> {
    let is_time = (0.0..=LONGEST).contains(&seconds);
    is_time.then(|| Duration::from_secs_f64(seconds))
}

/// Seconds of a text: a plain number, or numbers each with a unit, as Go's
/// `time.ParseDuration` reads them.
fn duration(text: &str) -> Option<f64> {
    if text.len() > LONGEST_TEXT {
        return None;
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some((number, "")) = number(rest) {
        return Some(sign * number);
    }
    let (mut rest, mut sum) = (rest, 0.0);
    while !rest.is_empty() || sum == 0.0 {
        let (number, after) = number(rest)?;
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, next) = after.split_at(end.unwrap_or(after.len()));
        let (_, seconds) = UNITS.iter().find(|(word, _)| *word == unit)?;
        sum += number * seconds;
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    Some(sign * sum)
}

/// The decimal number at the beginning, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit());
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let is_number = digits.bytes().any(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_number)?, rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::error::Code;

    #[test]
    fn keep_alive_is_read_as_ollama_reads_it() {
        let check = |value: Value, expected: Option<f64>| {
            let got = keep_alive(&value).map(|time| time.map(|time| time.as_secs_f64()));
            assert_eq!(got.ok(), Some(expected), "{value}");
        };
        check(json!("5m"), Some(300.0));
        check(json!("1h30m"), Some(5400.0));
        check(json!("1.5h"), Some(5400.0));
        check(json!(".5s"), Some(0.5));
        check(json!("300ms"), Some(0.3));
        check(json!("0"), Some(0.0));
        check(json!("0s"), Some(0.0));
        check(json!("3600"), Some(3600.0));
        check(json!(3600), Some(3600.0));
        check(json!(0), Some(0.0));
        check(json!(0.5), Some(0.5));
        check(json!(-1), None);
        check(json!("-1"), None);
        check(json!("-1m"), None);
        check(json!(1e300), None);
        check(json!("999999999h"), None);
    }

    #[test]
    fn what_is_no_time_is_refused_by_its_name() {
        let check = |name: &str, value: Value| {
            let read = match name {
                "ttl" => ttl(&value),
                _ => keep_alive(&value),
            };
            let error = read.expect_err(&value.to_string());
            assert_eq!(error.code, Code::InvalidValue);
            assert_eq!(error.param.as_deref(), Some(name));
            assert!(error.message.starts_with(name), "{}", error.message);
        };
        for value in [
            "", "m", "5", "5 m", "5x", "5m3", "1..5s", ".", "-", "soon", "5M",
        ] {
            if value != "5" {
                check("keep_alive", json!(value));
            }
            check("ttl", json!(value));
        }
        check("keep_alive", json!("1".repeat(65)));
        for value in [json!(true), json!({}), json!([5])] {
            check("keep_alive", value.clone());
            check("ttl", value);
        }
        check("ttl", json!(-1));
    }
}
