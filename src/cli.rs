//! The command line. The only place, beside main, that joins errors into text for a terminal.

pub mod import;

use std::process::ExitCode;

/// Reads the command line and runs the command.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
