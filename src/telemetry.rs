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
/// whatever came from outside cannot break a line or steer a terminal. A line that
/// cannot be written (the reader is gone, the disk is full) is told to `lost` and
/// stops nothing.
pub fn start(filter: &str, lost: impl Fn() + Clone + Send + Sync + 'static) -> Result<Log, String> {
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
            .with_writer(move || Lines {
                out: io::stderr(),
                is_json: false,
                lost: lost.clone(),
            })
            .boxed()
    } else {
        fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(move || Lines {
                out: io::stderr(),
                is_json: true,
                lost: lost.clone(),
            })
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

/// Writes events, each of which comes whole.
struct Lines<W, L> {
    out: W,
    /// Whether to escape what JSON leaves as it is.
    is_json: bool,
    lost: L,
}

impl<W: Write, L: Fn()> Write for Lines<W, L> {
    /// Never fails: who writes a line of the log has nowhere to complain.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.is_json {
            true => {
                let text = String::from_utf8_lossy(bytes);
                let line = text.strip_suffix('\n').unwrap_or(&text);
                let line = format!("{}\n", escape::json(line));
                self.out.write_all(line.as_bytes())
            }
            false => self.out.write_all(bytes),
        };
        if written.is_err() {
            (self.lost)();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        let mut lines = Lines {
            out: &mut out,
            is_json: true,
            lost: || panic!("nothing was lost"),
        };
        let line = "{\"a\":\"\u{9b}31m\u{202e}\u{2028}\"}\n";
        assert_eq!(lines.write(line.as_bytes()).expect("written"), line.len());
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "{\"a\":\"\\u009b31m\\u202e\\u2028\"}\n");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let lost = std::cell::Cell::new(0);
        let mut full: [u8; 1] = [0];
        let mut lines = Lines {
            out: &mut full[..],
            is_json: false,
            lost: || lost.set(lost.get() + 1),
        };
        assert_eq!(lines.write(b"long\n").expect("no failure"), 5);
        assert_eq!(lost.get(), 1);
    }
}
