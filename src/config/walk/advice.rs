//! What was probably meant by a value that does not fit. Pure: text in, a line of
//! advice out, or nothing where there is no good guess. Whatever is advised fits.

use super::values::{parse_listen, parse_pattern, quoted};
use crate::config::suggest;
use crate::model::id::ModelId;
use crate::units::{ByteSize, parse_duration};

/// `"x" or "y"`, after `write`.
fn write(texts: &[String]) -> Option<String> {
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    (!texts.is_empty()).then(|| format!("write {}", texts.join(" or ")))
}

/// The number at the beginning of a text, and what follows without blanks.
fn number_and_rest(text: &str) -> (&str, String) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number, rest.trim().to_ascii_lowercase())
}

/// A size: a unit that is missing, half there or a word.
pub fn size(text: &str) -> Option<String> {
    let (number, unit) = number_and_rest(text);
    let unit = match unit.as_str() {
        "" => "GB",
        "%" => "%",
        "g" | "gig" | "gigs" | "gigabyte" | "gigabytes" | "go" => "GB",
        "m" | "megabyte" | "megabytes" | "mo" => "MB",
        "t" | "terabyte" | "terabytes" => "TB",
        "k" | "kilobyte" | "kilobytes" => "kB",
        "gi" => "GiB",
        "mi" => "MiB",
        "ti" => "TiB",
        "ki" => "KiB",
        _ => return None,
    };
    let guess = format!("{number}{unit}");
    let fits = match unit {
        "%" => (number.parse::<f64>()).is_ok_and(|number| number > 0.0 && number <= 100.0),
        _ => ByteSize::parse(&guess).is_ok_and(|size| size > ByteSize::ZERO),
    };
    fits.then_some(guess).and_then(|guess| write(&[guess]))
}

/// A duration: a unit that is missing, a word, or two of them.
pub fn duration(text: &str) -> Option<String> {
    if text == "never" {
        return Some("there is no never here; write a long time such as 30d".to_owned());
    }
    let (number, unit) = number_and_rest(text);
    let units: &[&str] = match unit.as_str() {
        "" => &["s", "m"],
        "sec" | "secs" | "second" | "seconds" | "s" => &["s"],
        "min" | "mins" | "minute" | "minutes" | "m" => &["m"],
        "hr" | "hrs" | "hour" | "hours" | "h" => &["h"],
        "day" | "days" | "d" => &["d"],
        "msec" | "millisecond" | "milliseconds" | "ms" => &["ms"],
        _ if mixed(text) => return Some("write one number with one unit, such as 90m".to_owned()),
        _ => return None,
    };
    let guesses = units.iter().map(|unit| format!("{number}{unit}"));
    let fit = guesses.filter(|guess| parse_duration(guess).is_ok());
    write(&fit.collect::<Vec<_>>())
}

/// Whether a text is of the form `1h30m` or `1:30`.
fn mixed(text: &str) -> bool {
    let digits = text.split(|c: char| !c.is_ascii_digit());
    digits.filter(|part| !part.is_empty()).count() > 1 && !text.contains('.')
}

/// A switch in other words.
pub fn switch(text: &str) -> Option<String> {
    let word = match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "1" | "true" | "always" | "enabled" => "true",
        "no" | "off" | "n" | "0" | "false" | "never" | "disabled" => "false",
        _ => return None,
    };
    Some(format!("write {word}"))
}

/// A whole number with a letter, or with marks between its digits.
pub fn number(text: &str) -> Option<String> {
    let (digits, unit) = number_and_rest(text);
    if unit == "k" {
        let thousands: u64 = digits.parse().ok()?;
        let decimal = thousands.checked_mul(1000)?;
        let binary = thousands.checked_mul(1024)?;
        return write(&[decimal.to_string(), binary.to_string()]);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let number = u64::from_str_radix(digits, 16).ok()?;
        return write(&[number.to_string()]);
    }
    let plain: String = text.chars().filter(|c| !"_,' ".contains(*c)).collect();
    let plain = plain.trim_start_matches('0');
    let is_number = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit());
    (is_number && plain != text).then(|| format!("write {plain}"))
}

/// The nearest of a few words.
pub fn choice(text: &str, words: &[&str]) -> Option<String> {
    let known = match text.to_ascii_lowercase().as_str() {
        "fp16" | "f16" | "half" => Some("float16"),
        "bf16" => Some("bfloat16"),
        "fp32" | "f32" | "full" => Some("float32"),
        _ => None,
    };
    let known = known.filter(|known| words.contains(known));
    let nearest = known.or_else(|| suggest::nearest(text, words.iter().copied()))?;
    Some(format!("did you mean {nearest:?}"))
}

/// An address: a port alone, a name instead of a number, or no port.
pub fn address(text: &str) -> Option<String> {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.trim_end_matches('/');
    let guess = match bare.rsplit_once(':') {
        None if bare.bytes().all(|b| b.is_ascii_digit()) => format!("127.0.0.1:{bare}"),
        None => format!("{}:11440", host_number(bare)),
        Some((host, port)) => format!("{}:{port}", host_number(host)),
    };
    let fits = !guess.starts_with("unix") && parse_listen(&guess, |_| None).is_ok();
    let advice = match guess.starts_with("0.0.0.0") {
        true => format!("write {guess}, which others can reach, or 127.0.0.1"),
        false => format!("write {guess}"),
    };
    (fits && guess != text).then_some(advice)
}

/// The literal address that a name of this machine stands for.
fn host_number(host: &str) -> &str {
    match host {
        "localhost" => "127.0.0.1",
        "" | "*" => "0.0.0.0",
        other => other,
    }
}

/// The id in the address of a model's page, or in a text with too much around it.
fn id_in(text: &str) -> Option<ModelId> {
    let path = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => text,
    };
    let path = path.trim_start_matches("models/").trim_matches('/');
    let mut parts = path.split('/');
    ModelId::parse(&format!("{}/{}", parts.next()?, parts.next()?)).ok()
}

/// A repository: its page, or its name without the organisation.
pub fn repository(text: &str) -> Option<String> {
    match id_in(text) {
        Some(id) => Some(format!("write {id}")),
        None if !text.contains('/') => Some(format!(
            "write the organisation before it, such as mlx-community/{text}"
        ))
        .filter(|_| ModelId::parse(&format!("mlx-community/{text}")).is_ok()),
        None if text.starts_with(['/', '~', '.']) => {
            Some("a folder is given by path: FOLDER".to_owned())
        }
        None => None,
    }
}

/// A pattern: everything, a name without an organisation, or a page's address.
pub fn pattern(text: &str) -> Option<String> {
    let guess = match text {
        "*" | "**" | "*/**" | "all" => {
            return Some(
                "name each organisation, such as mlx-community/*, or write \"*/*\" for all of them"
                    .to_owned(),
            );
        }
        _ => match id_in(text) {
            Some(id) if text.contains("://") => id.to_string(),
            _ if text.contains('/') => return None,
            _ => format!("*/{text}"),
        },
    };
    parse_pattern(&guess).ok()?;
    Some(format!("write {}", quoted(&guess)))
}

/// A host: its name alone.
pub fn host(text: &str) -> Option<String> {
    if text.contains('*') {
        return Some("write each host out; there are no patterns".to_owned());
    }
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.split(['/', ':']).next().unwrap_or(bare);
    (bare != text && !bare.is_empty()).then(|| format!("write {bare}"))
}

/// An origin: scheme and host, nothing after them, no pattern.
pub fn origin(text: &str) -> Option<String> {
    if text.contains('*') || text == "null" {
        return Some("write each page's origin out; there is no pattern for all".to_owned());
    }
    match text.split_once("://") {
        None => Some(format!("write https://{text}")).filter(|_| text.contains('.')),
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or(rest);
            (host != rest).then(|| format!("write {scheme}://{host}"))
        }
    }
}

/// Permission bits without the zero that makes them octal.
pub fn mode(text: &str) -> Option<String> {
    let is_octal = text.len() == 3 && text.bytes().all(|b| (b'0'..b'8').contains(&b));
    is_octal.then(|| format!("write 0{text}"))
}

/// A path that begins with a variable, as shells fill them in.
pub fn path(text: &str) -> Option<String> {
    let home = ["$HOME/", "${HOME}/", "${HOME:?}/"];
    match home.iter().find_map(|home| text.strip_prefix(home)) {
        Some(rest) => Some(format!("variables are not filled in; write ~/{rest}")),
        None => text
            .starts_with('$')
            .then(|| "variables are not filled in; write the path out".to_owned()),
    }
}

/// A name with something in it that names do not have.
pub fn name(text: &str) -> Option<String> {
    if text.contains("${") {
        return Some("variables are not filled in; write the name out".to_owned());
    }
    if text.contains("://") {
        return id_in(text).map(|id| format!("write {id}"));
    }
    let dashed = text.trim().replace(' ', "-");
    let fits = text.contains(' ') && crate::model::id::Name::parse(&dashed).is_ok();
    fits.then(|| format!("write {dashed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_is_what_was_meant() {
        let check = |advice: fn(&str) -> Option<String>, text: &str, expected: &str| {
            assert_eq!(advice(text).unwrap_or_default(), expected, "{text}");
        };
        check(size, "48", "write 48GB");
        check(size, "24G", "write 24GB");
        check(size, "40 %", "write 40%");
        check(size, "4 gigabytes", "write 4GB");
        check(size, "0", "");
        check(size, "yes", "");
        check(size, "-1GB", "");
        check(duration, "600", "write 600s or 600m");
        check(duration, "30 seconds", "write 30s");
        check(duration, "2 hours", "write 2h");
        check(
            duration,
            "1h30m",
            "write one number with one unit, such as 90m",
        );
        check(duration, "5 years", "");
        check(duration, "-1s", "");
        check(switch, "Yes", "write true");
        check(switch, "off", "write false");
        check(switch, "maybe", "");
        check(number, "8k", "write 8000 or 8192");
        check(number, "32,768", "write 32768");
        check(number, "0x40", "write 64");
        check(number, "010", "write 10");
        check(number, "0", "");
        check(number, "1.5", "");
        check(number, "1e3", "");
        check(address, "8080", "write 127.0.0.1:8080");
        check(address, "localhost:8081", "write 127.0.0.1:8081");
        check(address, "http://127.0.0.1:80/", "write 127.0.0.1:80");
        check(address, "192.168.1.2", "write 192.168.1.2:11440");
        check(
            address,
            ":80",
            "write 0.0.0.0:80, which others can reach, or 127.0.0.1",
        );
        check(address, "unix:", "");
        check(address, "example.com:80", "");
        check(repository, "https://huggingface.co/a/b", "write a/b");
        check(
            repository,
            "b",
            "write the organisation before it, such as mlx-community/b",
        );
        check(
            repository,
            "~/models/x",
            "a folder is given by path: FOLDER",
        );
        check(pattern, "*qwen*", "write \"*/*qwen*\"");
        check(pattern, "https://huggingface.co/a/b", "write \"a/b\"");
        check(pattern, "a/b/c", "");
        check(host, "http://a.b:80/x", "write a.b");
        check(origin, "chat.example.com", "write https://chat.example.com");
        check(origin, "https://a.b/c", "write https://a.b");
        check(mode, "660", "write 0660");
        check(mode, "999", "");
        check(
            path,
            "$HOME/hub",
            "variables are not filled in; write ~/hub",
        );
        check(path, "hub", "");
        check(name, "my model", "write my-model");
        check(name, "ä", "");
        assert_eq!(
            choice("fp16", &["auto", "float16"]),
            Some("did you mean \"float16\"".to_owned())
        );
        assert_eq!(choice("fp16", &["wait", "fail"]), None);
    }
}
