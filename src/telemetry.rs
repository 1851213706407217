//! The log: where it goes and how it looks. What is logged is the business of
//! the code that logs; prompts, answers and keys never are.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

pub mod escape;
mod json;
pub mod line;
mod outlet;

use outlet::{Lines, Outlet};

/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_millis(500);

/// The log that was started. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    outlet: Outlet,
}

/// Sends the log to standard error. `filter` is tracing's own syntax, such as
/// `info` or `roundhouse=debug`. Text for a terminal, JSON lines otherwise;
/// whatever came from outside cannot break a line or steer a terminal. A line that
/// cannot be written (the reader is gone, the disk is full) is told to `lost` and
/// stops nothing.
pub fn start(filter: &str, lost: impl Fn() + Clone + Send + Sync + 'static) -> Result<Log, String> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let outlet = Outlet::start(io::stderr(), lost.clone()).map_err(|error| error.to_string())?;
    let said = outlet.clone();
    let lines = |is_json| {
        Arc::new(Lines {
            outlet: outlet.clone(),
            is_json,
            lost: lost.clone(),
        })
    };
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
            .with_writer(lines(false))
            .boxed()
    } else {
        fmt::layer()
            .event_format(json::Json)
            .with_writer(lines(true))
            .boxed()
    };
    let started = tracing_subscriber::registry()
        .with(layer.with_filter(filter.and(ours)))
        .try_init();
    started.map_err(|error| error.to_string())?;
    Ok(Log {
        filter: handle,
        outlet: said,
    })
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log: {error}"))
}

/// Waits a moment, when it is dropped, for what was said to be written: for the
/// end of the process.
#[derive(Debug)]
pub struct LastWords(Outlet);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.flush(FLUSH);
    }
}

impl Log {
    /// What to hold until the process ends.
    pub fn last_words(&self) -> LastWords {
        LastWords(self.outlet.clone())
    }

    /// Puts another filter in force.
    pub fn follow(&self, filter: &str) {
        let replaced = parse(filter).and_then(|filter| {
            let replaced = self.filter.reload(filter);
            replaced.map_err(|error| error.to_string())
        });
        if let Err(error) = replaced {
            tracing::warn!(error, "the log stays as it is");
        }
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
