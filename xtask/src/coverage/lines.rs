//! Which lines of `src` count, and how many of them ran: LCOV records and
//! sources in, a table out. Nothing is read or run here.
//!
//! Code that only tests are built with does not count: an item under
//! `#[cfg(test)]`, and the file or the folder of a module declared so. Its end is
//! found by the indentation that rustfmt gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Lines that could run and lines that did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub lines: usize,
    pub ran: usize,
}

impl Count {
    /// Per cent of the lines that ran; 100 where there is none.
    pub fn percent(self) -> f64 {
        match self.lines {
            0 => 100.0,
            lines => 100.0 * self.ran as f64 / lines as f64,
        }
    }

    fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.ran += other.ran;
    }
}

/// What is built only for tests in one source: its lines, counted from 1, and the
/// modules it declares so.
#[derive(Debug, Default)]
struct OnlyTests {
    lines: BTreeSet<usize>,
    modules: Vec<String>,
}

/// The counts of every file that is not for tests alone. `sources` are all files
/// below `src`, by their path from there; `lcov` names them by `root` and that.
/// <https://github.com/linux-test-project/lcov/blob/master/man/geninfo.1> has the
/// format: `SF:` opens a file's record, `DA:line,times` is a line.
pub fn files(
    lcov: &str,
    root: &str,
    sources: &BTreeMap<String, String>,
) -> BTreeMap<String, Count> {
    let only_tests: BTreeMap<&str, OnlyTests> = sources
        .iter()
        .map(|(path, source)| (path.as_str(), only_tests(source)))
        .collect();
    let places: Vec<String> = only_tests
        .iter()
        .flat_map(|(path, found)| found.modules.iter().map(|name| place(path, name)))
        .collect();
    let mut ran: BTreeMap<&str, BTreeMap<usize, bool>> = BTreeMap::new();
    let mut current = None;
    for record in lcov.lines() {
        if let Some(path) = record.strip_prefix("SF:") {
            current = path
                .strip_prefix(root)
                .map(|path| path.trim_start_matches('/'))
                .filter(|path| !places.iter().any(|place| is_at(path, place)));
        }
        let (Some(path), Some((line, times))) = (current, line_and_times(record)) else {
            continue;
        };
        if !only_tests
            .get(path)
            .is_some_and(|found| found.lines.contains(&line))
        {
            *ran.entry(path).or_default().entry(line).or_default() |= times > 0;
        }
    }
    ran.into_iter()
        .map(|(path, lines)| {
            let ran = lines.values().filter(|ran| **ran).count();
            (
                path.to_owned(),
                Count {
                    lines: lines.len(),
                    ran,
                },
            )
        })
        .collect()
}

/// All files together.
pub fn total(files: &BTreeMap<String, Count>) -> Count {
    let mut total = Count::default();
    files.values().for_each(|count| total.add(*count));
    total
}

/// The files with the smallest share, `at_most` of them. One that has only a few
/// lines says little about what is untested and stays out.
pub fn least(files: &BTreeMap<String, Count>, at_most: usize) -> Vec<(&str, Count)> {
    const FEW: usize = 10;
    let mut all: Vec<_> = files
        .iter()
        .filter(|(_, count)| count.lines >= FEW)
        .map(|(path, count)| (path.as_str(), *count))
        .collect();
    all.sort_by(|one, other| one.1.percent().total_cmp(&other.1.percent()));
    all.truncate(at_most);
    all
}

/// A Markdown table with a row for each module of the first level and their sum.
pub fn table(files: &BTreeMap<String, Count>) -> String {
    let mut modules: BTreeMap<&str, Count> = BTreeMap::new();
    for (path, count) in files {
        let module = path
            .split('/')
            .next()
            .unwrap_or(path)
            .trim_end_matches(".rs");
        modules.entry(module).or_default().add(*count);
    }
    let mut table = "| module | lines | ran | share |\n|---|---:|---:|---:|\n".to_owned();
    let mut row = |name: &str, count: Count| {
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {:.1} % |",
            count.lines,
            count.ran,
            count.percent()
        );
    };
    for (module, count) in &modules {
        row(&format!("`{module}`"), *count);
    }
    row("**all**", total(files));
    table
}

fn line_and_times(record: &str) -> Option<(usize, u64)> {
    let (line, times) = record.strip_prefix("DA:")?.split_once(',')?;
    let times = times.split(',').next()?;
    Some((line.parse().ok()?, times.parse().ok()?))
}

/// Where the module `name` lies that the file at `path` declares, without `.rs`.
fn place(path: &str, name: &str) -> String {
    match path {
        "lib.rs" | "main.rs" => name.to_owned(),
        path => format!("{}/{name}", path.trim_end_matches(".rs")),
    }
}

/// Whether `path` is the file of the module at `place`, or one of its children.
fn is_at(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

fn only_tests(source: &str) -> OnlyTests {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = OnlyTests::default();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim() != "#[cfg(test)]" {
            at += 1;
            continue;
        }
        let indent = indent(lines[at]);
        let begin = at;
        at += 1;
        while at < lines.len() && lines[at].trim_start().starts_with(['#', '/']) {
            at += 1;
        }
        found
            .modules
            .extend(lines.get(at).copied().and_then(declared));
        let is_block = lines.get(at).is_some_and(|line| line.ends_with('{'));
        while at < lines.len() && !ends(lines[at], indent, is_block) {
            at += 1;
        }
        found.lines.extend(begin + 1..=at + 1);
        at += 1;
    }
    found
}

/// Whether an item that is indented so far ends with this line. Of one that opened
/// a block in its first line, only a brace alone is the end: text in a string of
/// several lines may stand as far to the left.
fn ends(line: &str, indented: usize, is_block: bool) -> bool {
    indent(line) == indented
        && match is_block {
            true => line.trim() == "}",
            false => line.ends_with([';', '}', ',']),
        }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The name in `mod name;`, whatever its visibility.
fn declared(line: &str) -> Option<String> {
    let (before, name) = line.trim().strip_suffix(';')?.rsplit_once(' ')?;
    let is_module = before == "mod" || before.ends_with(" mod");
    is_module.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "\
fn counts() {}

#[cfg(test)]
fn multi(
    line: usize,
) -> usize {
    line
}

fn counts_too() {}

#[cfg(test)]
#[allow(unused)]
pub(crate) mod fixture;
mod child;

#[cfg(test)]
mod tests {
    fn test() {
        let text = \"
models: { a: {} }
\";
    }
}
";

    fn sources() -> BTreeMap<String, String> {
        [
            ("a.rs", PARENT),
            ("a/child.rs", "fn c() {}\n"),
            ("a/fixture.rs", ""),
        ]
        .map(|(path, source)| (path.to_owned(), source.to_owned()))
        .into()
    }

    #[test]
    fn lines_that_only_tests_have_do_not_count() {
        let found = only_tests(PARENT);
        let counted: Vec<_> = (1..=PARENT.lines().count())
            .filter(|line| !found.lines.contains(line))
            .collect();
        assert_eq!(counted, [1, 2, 9, 10, 11, 15, 16]);
        assert_eq!(found.modules, ["fixture"]);
    }

    #[test]
    fn records_of_one_line_are_one_line() {
        let lcov = "SF:/r/src/a.rs\nDA:1,0\nDA:7,3\nDA:10,0\nend_of_record\n\
                    SF:/r/src/a.rs\nDA:1,2\nend_of_record\n\
                    SF:/r/src/a/child.rs\nDA:1,0\nend_of_record\n\
                    SF:/r/src/a/fixture.rs\nDA:1,1\nend_of_record\n\
                    SF:/elsewhere/a.rs\nDA:1,1\nend_of_record\n";
        let files = files(lcov, "/r/src", &sources());
        let expected = [
            ("a.rs", Count { lines: 2, ran: 1 }),
            ("a/child.rs", Count { lines: 1, ran: 0 }),
        ];
        assert_eq!(
            files,
            expected
                .map(|(path, count)| (path.to_owned(), count))
                .into()
        );
        assert!(table(&files).contains("| `a` | 3 | 1 | 33.3 % |\n"));
        assert!(least(&files, 3).is_empty());
    }
}
