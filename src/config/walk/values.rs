//! Single values: text to sizes, durations, numbers, addresses, paths, names
//! and patterns. Nothing is clamped; what does not fit is reported with what
//! was found and what would fit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{At, Walker, advice};
use crate::config::file::{Node, Value};
use crate::config::problem::Problem;
use crate::config::{Amount, Budget, Contention, Heartbeat, Listen, MinResidency, Pattern};
use crate::model::id::{ModelId, Name};
use crate::units::{ByteSize, UnitError, parse_duration};

/// Longest duration: ten years. Above it a clock's arithmetic could overflow,
/// and `never` is meant.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Longest path of a Unix socket, bytes; macOS has the least (`sockaddr_un`).
const LONGEST_SOCKET: usize = 103;

/// Longest text that is repeated in a message, characters.
const LONGEST_QUOTE: usize = 60;

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How an address is written.
const ADDRESS: &str = "an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH";

/// Whether zero makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// It does.
    Fits,
    /// It does not.
    Refused,
}

/// The numbers that fit, both ends included.
#[derive(Clone, Copy)]
pub struct Span(pub u64, pub u64);

impl Span {
    /// A count of things that are there.
    pub const COUNT: Self = Self(1, 1_000_000);
    /// JSON values in a body.
    pub const VALUES: Self = Self(1, 100_000_000);
    /// A number of tokens.
    pub const TOKENS: Self = Self(1, 100_000_000);
    /// Sequences at once.
    pub const PARALLEL: Self = Self(1, 4096);
    /// Where an upstream stands among those with the same name.
    pub const PRIORITY: Self = Self(0, 100);
    /// The share of an upstream.
    pub const WEIGHT: Self = Self(1, 1000);
}

/// Why a text does not fit, and what was probably meant.
pub struct Wrong {
    message: String,
    help: Option<String>,
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self {
            message,
            help: None,
        }
    }
}

impl Wrong {
    /// The same with advice, if there is any.
    pub fn advised(message: String, help: Option<String>) -> Self {
        Self { message, help }
    }

    /// What is expected beside what is found, with advice.
    pub fn expected(expected: &str, text: &str, help: Option<String>) -> Self {
        let message = format!("expected {expected}, found {}", quoted(text));
        Self { message, help }
    }
}

/// Text in quotes, escaped, and cut if it is long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl Walker<'_> {
    /// Any text that is not empty.
    fn text<'n>(&mut self, at: At<'n>, expected: &str) -> Option<&'n str> {
        match &at.node.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => {
                self.expected(at.path, at.node, expected);
                None
            }
        }
    }

    /// A value that a function reads from text; its error becomes the problem.
    pub fn read<T, E: Into<Wrong>>(
        &mut self,
        at: At,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(at, expected)?;
        match read(text).map_err(E::into) {
            Ok(value) => Some(value),
            Err(Wrong { message, help }) => {
                let message = format!("{}: {message}", at.path);
                let problem = Problem::at(at.node.place, message);
                self.problem(match help {
                    Some(help) => problem.help(help),
                    None => problem,
                });
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T>(&mut self, at: At, expected: &str, words: &[(&'static str, T)]) -> Option<T>
    where
        T: Copy,
    {
        self.read(at, expected, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Wrong::expected(expected, text, advice::choice(text, &words))
            })
        })
    }

    /// A list; each item is read, and those that cannot be are left out.
    pub fn list<T>(
        &mut self,
        at: At,
        expected: &str,
        mut read: impl FnMut(&mut Self, At) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &at.node.value {
            Value::List { items, .. } => Some(self.items(at.path, items, &mut read)),
            Value::Nothing => Some(Vec::new()),
            _ => {
                self.expected(at.path, at.node, expected);
                None
            }
        }
    }

    /// The items of a list, each with its number in the path.
    fn items<T>(
        &mut self,
        path: &str,
        items: &[Node],
        read: &mut impl FnMut(&mut Self, At) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            values.extend(read(self, At { path: &path, node }));
        }
        values
    }

    /// `memory` at the top.
    pub fn budget(&mut self, at: At) -> Option<Budget> {
        let expected = "a size such as 48GB, a percentage or auto";
        self.read(at, expected, |text| -> Result<Budget, Wrong> {
            if text == "auto" {
                return Ok(Budget::Auto);
            }
            match amount(text, expected)? {
                Amount::Size(size) => Ok(Budget::Size(size)),
                amount @ Amount::Share(_) => Ok(Budget::Share(amount.share())),
            }
        })
    }

    /// A size, or a share of the budget.
    pub fn amount(&mut self, at: At) -> Option<Amount> {
        let expected = "a size such as 512MB or a percentage";
        self.read(at, expected, |text| amount(text, expected))
    }

    /// A size that is more than nothing.
    pub fn size(&mut self, at: At) -> Option<ByteSize> {
        let expected = "a size such as 32MB";
        self.read(at, expected, |text| size(text, expected))
    }

    /// A size or `off`.
    pub fn size_or_off(&mut self, at: At) -> Option<Option<ByteSize>> {
        let expected = "a size such as 8GB, or off";
        self.read(at, expected, |text| match text {
            "off" => Ok(None),
            "none" | "no" | "never" | "false" | "0" => {
                let help = Some("write off".to_owned());
                Err(Wrong::expected(expected, text, help))
            }
            _ => size(text, expected).map(Some),
        })
    }

    /// A duration.
    pub fn duration(&mut self, at: At, zero: Zero) -> Option<Duration> {
        let expected = "a duration such as 90s";
        self.read(at, expected, |text| {
            let duration = duration(text, expected)?;
            match duration.is_zero() && zero == Zero::Refused {
                true => Err(Wrong::expected("more than nothing", text, None)),
                false => Ok(duration),
            }
        })
    }

    /// A duration, or `never`, which is the inner nothing.
    pub fn duration_or_never(&mut self, at: At) -> Option<Option<Duration>> {
        let expected = "a duration such as 15m, or never";
        self.read(at, expected, |text| match text {
            "never" => Ok(None),
            _ => duration(text, expected).map(Some),
        })
    }

    /// A duration, or `auto`.
    pub fn min_residency(&mut self, at: At) -> Option<MinResidency> {
        let expected = "auto, or a duration such as 20s";
        self.read(at, expected, |text| match text {
            "auto" => Ok(MinResidency::Auto),
            _ => duration(text, expected)
                .map(MinResidency::For)
                .map_err(|wrong| {
                    let help = advice::choice(text, &["auto"]);
                    Wrong::advised(wrong.message, wrong.help.or(help))
                }),
        })
    }

    /// A whole number.
    pub fn number<T: TryFrom<u64>>(&mut self, at: At, span: Span) -> Option<T> {
        let expected = format!("a whole number from {} to {}", span.0, span.1);
        self.read(at, &expected, |text| {
            let number = number(text).filter(|number| (span.0..=span.1).contains(number));
            number
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| Wrong::expected(&expected, text, advice::number(text)))
        })
    }

    /// A count, or `unlimited`, which is the inner nothing.
    pub fn number_or_unlimited(&mut self, at: At) -> Option<Option<usize>> {
        match &at.node.value {
            Value::Text(text) if text == "unlimited" => Some(None),
            Value::Text(text) if number(text).is_some() => self.number(at, Span::COUNT).map(Some),
            _ => {
                let expected = "a whole number or unlimited";
                self.read(at, expected, |text| {
                    let help = match text {
                        "none" | "no" | "never" | "infinite" | "inf" | "-1" => {
                            Some("write unlimited".to_owned())
                        }
                        _ => advice::choice(text, &["unlimited"]).or_else(|| advice::number(text)),
                    };
                    Err(Wrong::expected(expected, text, help))
                })
            }
        }
    }

    /// `true` or `false`, and no other words for them.
    pub fn boolean(&mut self, at: At) -> Option<bool> {
        let expected = "true or false";
        self.read(at, expected, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Wrong::expected(expected, text, advice::switch(text))),
        })
    }

    /// What becomes of requests that only busy models could make room for.
    pub fn contention(&mut self, at: At) -> Option<Contention> {
        let words = [
            ("wait", Contention::Wait),
            ("fail", Contention::Fail),
            ("preempt", Contention::Preempt),
        ];
        self.choice(at, "wait, fail or preempt", &words)
    }

    /// What heartbeats look like.
    pub fn heartbeat(&mut self, at: At) -> Option<Heartbeat> {
        let words = Heartbeat::ALL.map(|form| (form.as_str(), form));
        self.choice(at, "comment, empty_delta or off", &words)
    }

    /// A path: `~` is the home folder, a relative one is relative to the file.
    pub fn path(&mut self, at: At) -> Option<PathBuf> {
        let expected = "a path";
        let around = self.around;
        self.read(at, expected, |text| {
            let resolved = match advice::path(text) {
                None => around.resolve(text),
                Some(_) => None,
            };
            resolved.ok_or_else(|| {
                let expected = "a path that begins with /, ~/ or a name";
                Wrong::expected(expected, text, advice::path(text))
            })
        })
    }

    /// `request_log`: a switch, or the file to write; the outer nothing is a problem.
    pub fn request_log(&mut self, at: At) -> Option<Option<PathBuf>> {
        let around = self.around;
        self.read(at, "true, false or a file", |text| match text {
            "true" => Ok(Some(around.state.join("requests.jsonl"))),
            "false" => Ok(None),
            _ => around.resolve(text).map(Some).ok_or_else(|| {
                let expected = "true, false or a path that begins with /, ~/ or a name";
                Wrong::expected(expected, text, None)
            }),
        })
    }

    /// Folders; at least one.
    pub fn folders(&mut self, at: At) -> Option<Vec<PathBuf>> {
        let folders = self.list(at, "a list of folders", |walker, at| walker.path(at))?;
        match (folders.is_empty(), is_empty(at)) {
            (true, true) => {
                self.expected(at.path, at.node, "at least one folder");
                None
            }
            _ => Some(folders),
        }
    }

    /// A name as requests may say it.
    pub fn name(&mut self, at: At) -> Option<Name> {
        self.read(at, "a name", |text| {
            Name::parse(text).map_err(|error| Wrong::advised(error.to_string(), advice::name(text)))
        })
    }

    /// `allow` and `deny`.
    pub fn patterns(&mut self, at: At) -> Option<Vec<Pattern>> {
        self.list(at, "a list of patterns", |walker, at| {
            walker.read(at, "a pattern", |text| {
                parse_pattern(text).map_err(|error| Wrong::advised(error, advice::pattern(text)))
            })
        })
    }

    /// One address or a list of them; at least one, none of them twice.
    pub fn listens(&mut self, at: At, least: usize) -> Option<Vec<Listen>> {
        if matches!(at.node.value, Value::Text(_)) {
            return Some(vec![self.listen(at)?]);
        }
        let expected = "an address such as 127.0.0.1:11440, or a list of them";
        let Value::List { items, .. } = &at.node.value else {
            self.expected(at.path, at.node, expected);
            return None;
        };
        if items.len() < least {
            self.expected(at.path, at.node, "at least one address");
        }
        Some(self.items(at.path, items, &mut |walker, at| walker.listen(at)))
    }

    fn listen(&mut self, at: At) -> Option<Listen> {
        let around = self.around;
        self.read(at, ADDRESS, |text| {
            parse_listen(text, |path| around.resolve(path))
                .map_err(|error| Wrong::advised(error, advice::address(text)))
        })
    }

    /// A value that a test accepts, with advice about one that does not pass it.
    pub fn plain(
        &mut self,
        at: At,
        expected: &str,
        fits: fn(&str) -> bool,
        advice: fn(&str) -> Option<String>,
    ) -> Option<String> {
        self.read(at, expected, |text| match fits(text) {
            true => Ok(text.to_owned()),
            false => Err(Wrong::expected(expected, text, advice(text))),
        })
    }

    /// A repository id.
    pub fn repository(&mut self, at: At) -> Option<ModelId> {
        self.read(at, "a repository id such as org/name", |text| {
            ModelId::parse(text)
                .map_err(|error| Wrong::advised(error.to_string(), advice::repository(text)))
        })
    }

    /// Permission bits as `chmod` takes them: three octal digits after a zero.
    pub fn mode(&mut self, at: At) -> Option<u32> {
        let expected = "a mode such as 0600 or 0660";
        self.read(at, expected, |text| {
            let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3);
            digits
                .and_then(|digits| u32::from_str_radix(digits, 8).ok())
                .ok_or_else(|| Wrong::expected(expected, text, advice::mode(text)))
        })
    }

    /// The filter of the log.
    pub fn filter(&mut self, at: At) -> Option<String> {
        let expected = "a level such as info, or target=level";
        self.read(at, expected, |text| {
            // The library takes any other word for a target, which is a slip more often.
            let fits = |part: &str| part.contains('=') || LEVELS.contains(&part.trim());
            let read = tracing_subscriber::EnvFilter::builder().parse(text);
            match read.is_ok() && text.split(',').all(fits) {
                true => Ok(text.to_owned()),
                false => {
                    let help = advice::choice(text, &LEVELS)
                        .unwrap_or_else(|| format!("the levels are {}", LEVELS.join(", ")));
                    Err(Wrong::expected(expected, text, Some(help)))
                }
            }
        })
    }
}

/// An address: `IP:PORT` or `unix:PATH`, the path made whole by `resolve`.
pub fn parse_listen(
    text: &str,
    resolve: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Listen, String> {
    let wrong = || format!("expected {ADDRESS}, found {}", quoted(text));
    let Some(path) = text.strip_prefix("unix:") else {
        let address: SocketAddr = text.parse().map_err(|_| wrong())?;
        return Ok(Listen::Tcp(address));
    };
    let path = Some(path).filter(|path| !path.is_empty()).and_then(resolve);
    let path = path.ok_or_else(wrong)?;
    match path.as_os_str().len() {
        0..=LONGEST_SOCKET => Ok(Listen::Unix(path)),
        long => Err(format!(
            "expected a socket path of at most {LONGEST_SOCKET} bytes, found {long}"
        )),
    }
}

/// Whether a list was written with nothing in it, or not at all.
fn is_empty(at: At) -> bool {
    match &at.node.value {
        Value::List { items, .. } => items.is_empty(),
        Value::Nothing => true,
        _ => false,
    }
}

/// Digits alone, without a leading zero: `0x10`, `1e3` and `08080` are none.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    let is_octal = text.len() > 1 && text.starts_with('0');
    match is_plain && !is_octal {
        true => text.parse().ok(),
        false => None,
    }
}

/// A size or a percentage, more than nothing.
fn amount(text: &str, expected: &str) -> Result<Amount, Wrong> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text, expected).map(Amount::Size);
    };
    let is_number = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = match percent.trim_end().parse() {
        Ok(value) if is_number => value,
        _ => return Err(Wrong::expected(expected, text, advice::size(text))),
    };
    match value > 0.0 && value <= 100.0 {
        true => Ok(Amount::of_percent(value)),
        false => Err(Wrong::expected(
            "a percentage above 0% and up to 100%",
            text,
            None,
        )),
    }
}

/// A size that is more than nothing.
fn size(text: &str, expected: &str) -> Result<ByteSize, Wrong> {
    match ByteSize::parse(text) {
        Ok(ByteSize::ZERO) => Err(Wrong::expected("more than nothing", text, None)),
        Ok(size) => Ok(size),
        Err(error) => Err(unit(error, text, expected, advice::size(text))),
    }
}

/// A duration that clocks can count.
fn duration(text: &str, expected: &str) -> Result<Duration, Wrong> {
    match parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(Wrong::expected("at most 3650d", text, None)),
        Ok(duration) => Ok(duration),
        Err(error) => Err(unit(error, text, expected, advice::duration(text))),
    }
}

/// A quantity that could not be read: of one without its unit that is said.
fn unit(error: UnitError, text: &str, expected: &str, help: Option<String>) -> Wrong {
    let found = quoted(text);
    let why = match error {
        UnitError::SizeUnit(_) | UnitError::DurationUnit(_) if number(text).is_some() => {
            " without a unit"
        }
        UnitError::TooLarge(_) => ", which is too large",
        _ => "",
    };
    Wrong::advised(format!("expected {expected}, found {found}{why}"), help)
}

/// A pattern that can match an id.
pub fn parse_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    match text.matches('/').count() {
        1 => Ok(pattern),
        _ => Err(format!(
            "expected a pattern with one /, such as mlx-community/*, found {}; * never stands for /",
            quoted(text)
        )),
    }
}
