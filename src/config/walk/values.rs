//! Single values: text to words, addresses, paths, names and patterns; quantities have a
//! file of their own. Nothing is clamped; what does not fit is reported with what
//! was found and what would fit.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{At, Walker, advice};
use crate::config::file::{Node, Value};
use crate::config::problem::Problem;
use crate::config::{Contention, Heartbeat, Listen, Pattern};
use crate::model::id::{ModelId, Name};

pub use quantities::{Span, Zero};

mod quantities;

/// Longest path of a Unix socket, bytes; macOS has the least (`sockaddr_un`).
const LONGEST_SOCKET: usize = 103;

/// Longest text that is repeated in a message, characters.
const LONGEST_QUOTE: usize = 60;

/// The levels of the log.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How an address is written.
const ADDRESS: &str = "an address such as 127.0.0.1:11440, [::1]:11440 or unix:PATH";

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
