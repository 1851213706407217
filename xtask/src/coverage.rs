//! `coverage`: which share of the lines in `src` the whole test suite runs.
//!
//! The program that the tests start and its workers are the same instrumented
//! build and count as well, unless a test kills them. The tools come from the
//! Python registry: rustc's own LLVM tools are a component that not every
//! installation has.

mod lines;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::packages::{CARGO_LLVM_COV, LLVM_TOOLS};
use crate::place::{self, output_of};

/// Less than this many per cent is an error.
const WANTED: f64 = 80.0;
/// These LLVM programs cannot read what zlib compressed, which rustc's LLVM does
/// by default to names and file names.
const RUSTFLAGS: &str = "-Cllvm-args=-enable-name-compression=false";
const HEADING: &str = "## Line coverage\n";
const TITLE: &str = "# Evidence\n\nWhat was measured, how, when and on what.\n\n";

pub const USAGE: &str = "usage: xtask coverage [--last] [--write]\n  \
     --last   the figures of the last run; no test is run\n  \
     --write  the figures go to docs/EVIDENCE.md as well";

/// Runs the suite and tells the figures.
pub fn measure(options: &[&str]) -> Result<()> {
    if options
        .iter()
        .any(|word| !["--last", "--write"].contains(word))
    {
        return Err(USAGE.into());
    }
    let tools = Tools::provide()?;
    if !options.contains(&"--last") {
        tools.run_suite()?;
    }
    let root = place::repository().join("src");
    let root_name = root.to_string_lossy().into_owned();
    let files = lines::files(&tools.lcov()?, &root_name, &sources(&root)?);
    let section = section(&files)?;
    print!("{section}");
    if options.contains(&"--write") {
        let path = place::repository().join("docs/EVIDENCE.md");
        let present = fs::read_to_string(&path).unwrap_or_else(|_| TITLE.to_owned());
        place::write_whole(&path, with_section(&present, &section).as_bytes())?;
    }
    match lines::total(&files).percent() {
        percent if percent < WANTED => {
            Err(format!("{percent:.1} % of the lines ran, wanted are {WANTED} %").into())
        }
        _ => Ok(()),
    }
}

/// cargo-llvm-cov, and the folder of LLVM's programs.
struct Tools {
    cargo_llvm_cov: PathBuf,
    llvm: PathBuf,
}

impl Tools {
    fn provide() -> Result<Self> {
        let below = place::repository().join("target/coverage");
        Ok(Self {
            cargo_llvm_cov: CARGO_LLVM_COV.provide(&below)?.join("bin/cargo-llvm-cov"),
            llvm: LLVM_TOOLS.provide(&below)?.join("llvm/bin"),
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo_llvm_cov);
        command
            .arg("llvm-cov")
            .args(arguments)
            .current_dir(place::repository())
            .env("LLVM_COV", self.llvm.join("llvm-cov"))
            .env("LLVM_PROFDATA", self.llvm.join("llvm-profdata"))
            .env("RUSTFLAGS", RUSTFLAGS);
        command
    }

    fn run_suite(&self) -> Result<()> {
        output_of(&mut self.command(&["clean", "--workspace"]))?;
        let suite = ["--lib", "--bins", "--test", "it"];
        let mut command = self.command(&["--locked", "--no-report", "--no-fail-fast"]);
        match command.args(suite).status()?.success() {
            true => Ok(()),
            false => Err("the tests failed; --last gives the figures all the same".into()),
        }
    }

    fn lcov(&self) -> Result<String> {
        output_of(&mut self.command(&["report", "--lcov"]))
    }
}

/// All files of Rust below `root`, by their path from there.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root)?.to_string_lossy().into_owned();
                sources.insert(relative, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

/// The section of the document.
fn section(files: &BTreeMap<String, lines::Count>) -> Result<String> {
    let date = output_of(Command::new("date").args(["-u", "+%F"]))?;
    let compiler = output_of(Command::new("rustc").arg("--version"))?;
    let processors = std::thread::available_parallelism()?;
    let least: Vec<String> = lines::least(files, 3)
        .iter()
        .map(|(path, count)| format!("`src/{path}` ({:.1} %)", count.percent()))
        .collect();
    Ok(format!(
        "{HEADING}\n\
         `make coverage`, {}, {} on {} with {processors} processors, {}:\n\
         unit tests and `tests/it` on the default features, with the program and the workers that the\n\
         tests start. Lines of `src` count, less those that are built for tests alone.\n\
         **{:.1} %** of them ran.\n\n\
         {}\n\
         Least of the files with ten lines or more: {}.\n",
        date.trim(),
        std::env::consts::OS,
        std::env::consts::ARCH,
        compiler.trim(),
        lines::total(files).percent(),
        lines::table(files),
        least.join(", "),
    ))
}

/// `document` with `section` in the place of the one of this heading, or at the end.
fn with_section(document: &str, section: &str) -> String {
    let Some(begin) = document.find(HEADING) else {
        return format!("{}\n\n{section}", document.trim_end());
    };
    let after = &document[begin + HEADING.len()..];
    let rest = after.find("\n## ").map_or("", |end| &after[end..]);
    format!("{}{section}{rest}", &document[..begin])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_section_is_replaced() {
        let new = format!("{HEADING}\nnew\n");
        let check = |document: &str, expected: &str| {
            assert_eq!(with_section(document, &new), expected, "{document}");
        };
        check("# E\n", "# E\n\n## Line coverage\n\nnew\n");
        check(
            "# E\n\n## Line coverage\n\nold\n",
            "# E\n\n## Line coverage\n\nnew\n",
        );
        check(
            "# E\n\n## Line coverage\n\nold\n\n## Other\n\nkept\n",
            "# E\n\n## Line coverage\n\nnew\n\n## Other\n\nkept\n",
        );
    }
}
