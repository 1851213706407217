//! Set-up commands of Roundhouse, called by the Makefile.
//!
//! `mlx` provides MLX on Linux, `demo` the demo models, `run` a server with them,
//! `templates` chat templates for the tests;
//! `coverage` measures what the tests run; `supply-chain`, `secrets` and `sbom` look
//! at what the program is made of.
//! Each is quick when there is nothing to do and goes on where it was
//! interrupted: everything is written to a temporary name and renamed when
//! complete. This is not part of the shipped program.

mod advisories;
mod bindings;
mod compile;
mod coverage;
mod demo;
mod lock;
mod mlx;
mod packages;
mod place;
mod run;
mod sbom;
mod secrets;
mod supply;
mod templates;

use std::path::Path;
use std::process::ExitCode;

use place::Profile;

const USAGE: &str = "usage: xtask mlx | demo [--debug] | templates | run [options of roundhouse serve] | coverage [--last] [--write] \
     | supply-chain [folder of advisories] | secrets | sbom";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["mlx"] => mlx::provide(),
        ["demo"] => demo::provide(Profile::Release),
        ["demo", "--debug"] => demo::provide(Profile::Debug),
        ["templates"] => templates::provide(),
        ["run", options @ ..] => run::serve(options),
        ["coverage", options @ ..] => coverage::measure(options),
        ["supply-chain", database @ ..] => supply::check(database.first().map(Path::new)),
        ["secrets"] => secrets::scan(),
        ["sbom"] => sbom::write(),
        [run::WELCOME] => run::welcome(),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What went wrong and what to do about it, in words; nobody but a person
/// distinguishes these errors.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
