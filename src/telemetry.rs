//! The log: where it goes and how it looks. What is logged is the business of
//! the code that logs; prompts, answers and keys never are.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Sends the log to standard error. `filter` is tracing's own syntax, such as
/// `info` or `roundhouse=debug`. Text for a terminal, JSON lines otherwise:
/// JSON escapes control characters in everything that came from outside.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| error.to_string())
}
