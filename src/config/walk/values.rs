//! Single values: text to sizes, durations, numbers, addresses, paths, names
//! and patterns. Nothing is clamped; what does not fit is reported with what
//! was found and what would fit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{At, Walker};
use crate::config::file::{Node, Value};
use crate::config::problem::Problem;
use crate::config::{Amount, Budget, Contention, Heartbeat, Listen, MinResidency, Pattern};
use crate::model::id::Name;
use crate::units::{ByteSize, UnitError, parse_duration};

/// Longest duration: ten years. Above it a clock's arithmetic could overflow,
/// and `never` is meant.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Longest path of a Unix socket, bytes; macOS has the least (`sockaddr_un`).
const LONGEST_SOCKET: usize = 103;

/// Longest text that is repeated in a message, characters.
const LONGEST_QUOTE: usize = 60;

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
    pub fn read<T>(
        &mut self,
        at: At,
        expected: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(at, expected)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(message) => {
                let message = format!("{}: {message}", at.path);
                self.problem(Problem::at(at.node.place, message));
                None
            }
        }
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
        self.read(at, expected, |text| match text {
            "auto" => Ok(Budget::Auto),
            _ => match amount(text, expected)? {
                Amount::Size(size) => Ok(Budget::Size(size)),
                amount @ Amount::Share(_) => Ok(Budget::Share(amount.share())),
            },
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

    /// A duration.
    pub fn duration(&mut self, at: At, zero: Zero) -> Option<Duration> {
        let expected = "a duration such as 90s";
        self.read(at, expected, |text| {
            let duration = duration(text, expected)?;
            match duration.is_zero() && zero == Zero::Refused {
                true => Err(format!(
                    "expected more than nothing, found {}",
                    quoted(text)
                )),
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
            _ => duration(text, expected).map(MinResidency::For),
        })
    }

    /// A whole number.
    pub fn number<T: TryFrom<u64>>(&mut self, at: At, span: Span) -> Option<T> {
        let expected = format!("a whole number from {} to {}", span.0, span.1);
        self.read(at, &expected, |text| {
            let number = number(text).filter(|number| (span.0..=span.1).contains(number));
            number
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| format!("expected {expected}, found {}", quoted(text)))
        })
    }

    /// A count, or `unlimited`, which is the inner nothing.
    pub fn number_or_unlimited(&mut self, at: At) -> Option<Option<usize>> {
        match &at.node.value {
            Value::Text(text) if text == "unlimited" => Some(None),
            Value::Text(text) if number(text).is_some() => self.number(at, Span::COUNT).map(Some),
            _ => {
                self.expected(at.path, at.node, "a whole number or unlimited");
                None
            }
        }
    }

    /// `true` or `false`, and no other words for them.
    pub fn boolean(&mut self, at: At) -> Option<bool> {
        let expected = "true or false";
        self.read(at, expected, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("expected {expected}, found {}", quoted(text))),
        })
    }

    /// What becomes of requests that only busy models could make room for.
    pub fn contention(&mut self, at: At) -> Option<Contention> {
        let expected = "wait, fail or preempt";
        self.read(at, expected, |text| match text {
            "wait" => Ok(Contention::Wait),
            "fail" => Ok(Contention::Fail),
            "preempt" => Ok(Contention::Preempt),
            _ => Err(format!("expected {expected}, found {}", quoted(text))),
        })
    }

    /// What heartbeats look like.
    pub fn heartbeat(&mut self, at: At) -> Option<Heartbeat> {
        let expected = "comment, empty_delta or off";
        self.read(at, expected, |text| {
            let mut forms = Heartbeat::ALL.into_iter();
            let found = forms.find(|form| form.as_str() == text);
            found.ok_or_else(|| format!("expected {expected}, found {}", quoted(text)))
        })
    }

    /// A path: `~` is the home folder, a relative one is relative to the file.
    pub fn path(&mut self, at: At) -> Option<PathBuf> {
        let expected = "a path";
        let around = self.around;
        self.read(at, expected, |text| {
            around.resolve(text).ok_or_else(|| {
                let found = quoted(text);
                format!("expected a path that begins with /, ~/ or a name, found {found}")
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
                let found = quoted(text);
                format!(
                    "expected true, false or a path that begins with /, ~/ or a name, found {found}"
                )
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
            Name::parse(text).map_err(|error| error.to_string())
        })
    }

    /// `allow` and `deny`.
    pub fn patterns(&mut self, at: At) -> Option<Vec<Pattern>> {
        self.list(at, "a list of patterns", |walker, at| {
            walker.read(at, "a pattern", parse_pattern)
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
        })
    }

    /// The filter of the log.
    pub fn filter(&mut self, at: At) -> Option<String> {
        let expected = "a level such as info, or target=level";
        self.read(
            at,
            expected,
            |text| match tracing_subscriber::EnvFilter::builder().parse(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(error) => Err(format!(
                    "expected {expected}, found {}: {error}",
                    quoted(text)
                )),
            },
        )
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
fn amount(text: &str, expected: &str) -> Result<Amount, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text, expected).map(Amount::Size);
    };
    let is_number = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = match percent.trim_end().parse() {
        Ok(value) if is_number => value,
        _ => return Err(format!("expected {expected}, found {}", quoted(text))),
    };
    match value > 0.0 && value <= 100.0 {
        true => Ok(Amount::of_percent(value)),
        false => Err(format!(
            "expected a percentage above 0% and up to 100%, found {}",
            quoted(text)
        )),
    }
}

/// A size that is more than nothing.
fn size(text: &str, expected: &str) -> Result<ByteSize, String> {
    match ByteSize::parse(text) {
        Ok(ByteSize::ZERO) => Err(format!(
            "expected more than nothing, found {}",
            quoted(text)
        )),
        Ok(size) => Ok(size),
        Err(error) => Err(unit(error, text, expected)),
    }
}

/// A duration that clocks can count.
fn duration(text: &str, expected: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration > LONGEST => {
            Err(format!("expected at most 3650d, found {}", quoted(text)))
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(unit(error, text, expected)),
    }
}

/// A quantity that could not be read: a number without its unit gets the advice to add one.
fn unit(error: UnitError, text: &str, expected: &str) -> String {
    let found = quoted(text);
    match error {
        UnitError::SizeUnit(_) | UnitError::DurationUnit(_) if number(text).is_some() => {
            format!("expected {expected}, found {found} without a unit")
        }
        UnitError::TooLarge(_) => format!("expected {expected}, found {found}, which is too large"),
        _ => format!("expected {expected}, found {found}"),
    }
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
