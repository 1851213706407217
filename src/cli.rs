//! The command line: what can be said, and which command answers. The only
//! place, beside main, that joins errors into text for a terminal.

pub mod import;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::worker::WorkerRole;

pub mod access;
pub mod allow;
mod change;
pub mod check;
mod control;
pub mod doctor;
pub mod explain;
pub mod init;
pub mod keys;
pub mod lock;
pub mod models;
mod print_config;
mod prompts;
pub mod schema;
pub mod serve;
pub mod simulate;
mod table;
mod upstreams;

/// A configuration that is not valid or cannot be served (sysexits' EX_CONFIG).
pub const CONFIGURATION: u8 = 78;

/// Serves many language models on one machine behind one OpenAI-compatible port.
#[derive(Debug, Parser)]
#[command(
    name = "roundhouse",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 78 configuration.\n\
    The configuration is --config, else ROUNDHOUSE_CONFIG, else ./models.yaml, else \
    $XDG_CONFIG_HOME/roundhouse/models.yaml."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the models that models.yaml allows
    Serve(serve::ServeArgs),
    /// Bring a GGUF file into the cache as a model
    Import(import::ImportArgs),
    /// Check the configuration and show what it would serve
    Check(check::CheckArgs),
    /// Look for what is wrong with a setup, and say what mends it
    Doctor(doctor::DoctorArgs),
    /// List the cached and allowed models, and say why others are not served
    Models(models::ModelsArgs),
    /// Say why a name means its model, and what would be done for it now
    Explain(explain::ExplainArgs),
    /// Write a first models.yaml from what is cached
    Init(init::InitArgs),
    /// Allow a cached model, or all that match a pattern
    Allow(allow::AllowArgs),
    /// Deny a model, or all that match a pattern, whatever is allowed
    Deny(allow::DenyArgs),
    /// Give a model another name
    Alias(allow::AliasArgs),
    /// Pin the snapshots that are served, say what has changed since, and accept it
    Lock(lock::LockArgs),
    /// Print the JSON Schema of models.yaml, for editors
    Schema,
    /// Play a recorded or made-up trace to the pool and to simpler policies
    Simulate(simulate::SimulateArgs),
    /// Say what is kept of prompts, or forget it
    Prompts(prompts::PromptsArgs),
    /// Make, list and revoke keys
    Keys(keys::KeysArgs),
    /// List every route and what it asks of its caller
    Access(access::AccessArgs),
    #[command(hide = true)]
    Worker(WorkerRole),
}

/// The whole command line as clap knows it: what the documents say is held against it.
pub fn grammar() -> clap::Command {
    <CommandLine as clap::CommandFactory>::command()
}

/// Reads the command line and runs the command.
pub fn run() -> ExitCode {
    match CommandLine::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Import(args) => match import::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(1, error),
        },
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Allow(args) => allow::allow(&args),
        Command::Deny(args) => allow::deny(&args),
        Command::Alias(args) => allow::alias(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Schema => schema::run(),
        Command::Simulate(args) => simulate::run(&args),
        Command::Prompts(args) => prompts::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Access(args) => access::run(&args),
        Command::Worker(role) => crate::worker::run(&role),
    }
}

/// Prints a failure and answers its exit code.
fn failed(code: u8, error: impl std::fmt::Display) -> ExitCode {
    eprintln!("roundhouse: {error}");
    ExitCode::from(code)
}

/// Prints an answer and its exit code. A reader that has gone, as `head` does,
/// wants no more; anything else that keeps the answer back is a failure.
fn print(text: &str, code: u8) -> ExitCode {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => failed(1, error),
        _ => ExitCode::from(code),
    }
}
