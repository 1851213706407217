//! The log: where it goes and how it looks. What is logged is the business of
//! the code that logs; prompts, answers and keys never are.

use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use tracing::Level;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

pub mod escape;

/// The log that was started. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Log(reload::Handle<EnvFilter, Registry>);

/// Sends the log to standard error. `filter` is tracing's own syntax, such as
/// `info` or `roundhouse=debug`. Text for a terminal, JSON lines otherwise;
/// whatever came from outside cannot break a line or steer a terminal.
pub fn start(filter: &str) -> Result<Log, String> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    // Libraries speak of what they carry when they are asked for details: frames,
    // headers, bytes. Only our own code knows what must not be said.
    let ours = filter_fn(|about| {
        *about.level() <= Level::INFO || about.target().starts_with("roundhouse")
    });
    let layer = if io::stderr().is_terminal() {
        let fields = format::debug_fn(|writer, field, value| {
            let value = format!("{value:?}");
            let value = escape::text(&value);
            match field.name() {
                "message" => write!(writer, "{value}"),
                name => write!(writer, "{name}={value}"),
            }
        });
        let fields = tracing_subscriber::field::MakeExt::delimited(fields, " ");
        fmt::layer()
            .with_target(false)
            .fmt_fields(fields)
            .with_writer(io::stderr)
            .boxed()
    } else {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(|| JsonLines(io::stderr()))
            .boxed()
    };
    let started = tracing_subscriber::registry()
        .with(layer.with_filter(filter.and(ours)))
        .try_init();
    started.map_err(|error| error.to_string())?;
    Ok(Log(handle))
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log: {error}"))
}

impl Log {
    /// Puts another filter in force.
    pub fn follow(&self, filter: &str) {
        let replaced = parse(filter).and_then(|filter| {
            let replaced = self.0.reload(filter);
            replaced.map_err(|error| error.to_string())
        });
        if let Err(error) = replaced {
            tracing::warn!(error, "the log stays as it is");
        }
    }
}

/// Writes events, each of which comes whole, with what JSON leaves unescaped.
struct JsonLines<W>(W);

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        for line in text.split_inclusive('\n') {
            let (line, end) = match line.strip_suffix('\n') {
                Some(line) => (line, "\n"),
                None => (line, ""),
            };
            let line = format!("{}{end}", escape::json(line));
            self.0.write_all(line.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Makes panics speak through the log. A panic's words may hold what was worked
/// on (a text that was cut at a wrong place stands in them whole), so only those
/// that are written in the source are told, unless bodies may be in the log.
pub fn log_panics(bodies: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let words = words(panic, bodies);
        tracing::error!(place, thread, words, "a panic");
    }));
}

fn words<'a>(panic: &'a PanicHookInfo, bodies: bool) -> &'a str {
    let payload = panic.payload();
    let fixed = payload.downcast_ref::<&'static str>().copied();
    let made = payload.downcast_ref::<String>().map(String::as_str);
    match (fixed, made) {
        (Some(fixed), _) => fixed,
        (None, Some(made)) if bodies => made,
        _ => "not told: the words were made while running and may hold a request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        let mut out = Vec::new();
        let mut lines = JsonLines(&mut out);
        let line = "{\"a\":\"\u{9b}31m\u{202e}\u{2028}\"}\n";
        assert_eq!(lines.write(line.as_bytes()).expect("written"), line.len());
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "{\"a\":\"\\u009b31m\\u202e\\u2028\"}\n");
    }
}
