//! Python's methods on texts, lists and mappings: those of minijinja-contrib and some
//! more that templates use.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Calls a method that the value itself does not have.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => text_method(text, method, arguments)?,
        (ValueKind::Seq, _) => list_method(value, method, arguments)?,
        (ValueKind::Map, _) if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(answer) => Ok(answer),
        None => unknown_method_callback(state, value, method, arguments),
    }
}

fn text_method(text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let answer = match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "casefold" => Value::from(text.to_lowercase()),
        "partition" => {
            let (by,): (&str,) = from_args(arguments)?;
            match text.split_once(by) {
                Some((before, after)) => [before, by, after].into_iter().collect(),
                None => [text, "", ""].into_iter().collect(),
            }
        }
        "rpartition" => {
            let (by,): (&str,) = from_args(arguments)?;
            match text.rsplit_once(by) {
                Some((before, after)) => [before, by, after].into_iter().collect(),
                None => ["", "", text].into_iter().collect(),
            }
        }
        "rsplit" => {
            let (by, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
            rsplit(text, by, most)
        }
        "index" => {
            let (what,): (&str,) = from_args(arguments)?;
            let at = text.find(what).ok_or_else(|| missing("substring"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

/// Splits from the end, at most `most` times.
fn rsplit(text: &str, by: Option<&str>, most: Option<i64>) -> Value {
    let most = most.and_then(|most| usize::try_from(most).ok());
    let mut parts: Vec<&str> = match (by, most) {
        (None, None) => text.split_whitespace().rev().collect(),
        (Some(by), None) => text.rsplit(by).collect(),
        (Some(by), Some(most)) => text.rsplitn(most.saturating_add(1), by).collect(),
        (None, Some(most)) => {
            let mut rest = text.trim_end();
            let mut parts = Vec::new();
            while parts.len() < most {
                let Some(at) = rest.rfind(char::is_whitespace) else {
                    break;
                };
                let word = &rest[at..];
                parts.push(word.trim_start());
                rest = rest[..at].trim_end();
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
            parts
        }
    };
    parts.reverse();
    parts.into_iter().collect()
}

fn list_method(value: &Value, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (what,): (&Value,) = from_args(arguments)?;
            let at = value.try_iter()?.position(|item| item == *what);
            at.map(|at| Some(Value::from(at)))
                .ok_or_else(|| missing("item"))
        }
        "copy" => Ok(Some(value.clone())),
        _ => Ok(None),
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} not found"))
}
