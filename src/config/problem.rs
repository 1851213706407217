//! What is wrong with a configuration, told so that it can be mended: where,
//! what was found, what was expected, what to do. Not who finds it.

use std::fmt;
use std::path::{Path, PathBuf};

mod conceal;

/// Longest piece of a line shown under a problem, characters.
const EXCERPT: usize = 100;

/// A stretch of text on one line of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which of the files that are read together, from 0.
    pub file: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Length in characters; zero for a point.
    pub length: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file; nothing for a problem of the file as a whole.
    pub place: Option<Place>,
    /// What was found and what was expected: lower case, one line, no full stop.
    pub message: String,
    /// What to do, where there is something better than reading the message.
    pub help: Option<String>,
}

/// Everything that is wrong with one file, found in one go. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file; nothing for a text that came from no file.
    pub file: Option<PathBuf>,
    /// The files that were read with it, in their order.
    pub others: Vec<PathBuf>,
    /// The problems, in the order of the files.
    pub list: Vec<Problem>,
    /// The lines that are shown, by file and number.
    lines: Vec<((usize, usize), String)>,
}

/// A text that is read as a configuration or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Where it is from; nothing for a text that came from no file.
    pub file: Option<PathBuf>,
    /// What it says.
    pub text: String,
}

impl Text {
    /// The file as it is called in messages.
    pub fn name(&self) -> String {
        name(self.file.as_deref())
    }
}

fn name(file: Option<&Path>) -> String {
    file.map_or_else(
        || "models.yaml".to_owned(),
        |file| file.display().to_string(),
    )
}

impl Problem {
    /// A problem at a place.
    pub fn at(place: Place, message: impl Into<String>) -> Self {
        Self {
            place: Some(place),
            message: message.into(),
            help: None,
        }
    }

    /// A problem of the whole file.
    pub fn whole(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Problems {
    /// Sorts the problems by place and keeps the lines they point at, without the
    /// secrets that somebody may have written there.
    pub fn new(texts: &[Text], mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.place);
        for problem in &mut list {
            problem.message = conceal::message(&problem.message);
        }
        let wanted: Vec<(usize, usize)> = list
            .iter()
            .filter_map(|problem| problem.place.map(|place| (place.file, place.line)))
            .collect();
        let mut lines = Vec::new();
        for (file, text) in texts.iter().enumerate() {
            let mut above = None;
            for (index, line) in lines_of(&text.text).enumerate() {
                let place = (file, index + 1);
                if wanted.binary_search(&place).is_ok() {
                    lines.push((place, conceal::line(line, above)));
                }
                if !line.trim().is_empty() {
                    above = Some(line);
                }
            }
        }
        let mut files = texts.iter().map(|text| text.file.clone());
        Self {
            file: files.next().flatten(),
            others: files.flatten().collect(),
            list,
            lines,
        }
    }

    /// One problem of a file that could not be read at all.
    pub fn whole(file: Option<&Path>, message: impl Into<String>) -> Self {
        let nothing = Text {
            file: file.map(Path::to_owned),
            text: String::new(),
        };
        Self::new(&[nothing], vec![Problem::whole(message)])
    }

    /// The file that a problem is in.
    pub fn file_of(&self, problem: &Problem) -> Option<&Path> {
        match problem.place.map_or(0, |place| place.file) {
            0 => self.file.as_deref(),
            other => self.others.get(other - 1).map(PathBuf::as_path),
        }
    }

    /// The same for a program: `{"file", "problems": [{"file", "line", "column", "message", "help"}]}`.
    pub fn to_json(&self) -> serde_json::Value {
        let list: Vec<_> = self
            .list
            .iter()
            .map(|problem| {
                serde_json::json!({
                    "file": self.file_of(problem).map(|file| file.display().to_string()),
                    "line": problem.place.map(|place| place.line),
                    "column": problem.place.map(|place| place.column),
                    "message": problem.message,
                    "help": problem.help,
                })
            })
            .collect();
        serde_json::json!({
            "file": self.file.as_ref().map(|file| file.display().to_string()),
            "problems": list,
        })
    }

    /// The text of a line that a problem points at.
    fn line(&self, place: Place) -> Option<&str> {
        self.lines
            .iter()
            .find(|(line, _)| *line == (place.file, place.line))
            .map(|(_, text)| text.as_str())
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    /// Each problem with the place as editors understand it, the line and a caret under the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let file = name(self.file_of(problem));
            match problem.place {
                Some(place) => {
                    write!(
                        f,
                        "{file}:{}:{}: {}",
                        place.line, place.column, problem.message
                    )?;
                    if let Some(line) = self.line(place) {
                        let (shown, caret) = excerpt(line, place);
                        let number = place.line.to_string();
                        let margin = " ".repeat(number.len());
                        write!(f, "\n {number} | {shown}\n {margin} | {caret}")?;
                    }
                }
                None => write!(f, "{file}: {}", problem.message)?,
            }
            if let Some(help) = &problem.help {
                write!(f, "\n   help: {help}")?;
            }
        }
        Ok(())
    }
}

/// Two places of one thing, for a message.
pub fn both(files: &[String], first: Place, second: Place) -> String {
    let name = |place: Place| files.get(place.file).map_or("", String::as_str);
    if first.file != second.file {
        return format!(
            "at line {} of {} and at line {} of {}",
            first.line,
            name(first),
            second.line,
            name(second)
        );
    }
    match first.line == second.line {
        true => format!(
            "at columns {} and {} of line {}",
            first.column, second.column, first.line
        ),
        false => format!("at line {} and at line {}", first.line, second.line),
    }
}

/// The lines of a text, however they end.
pub fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
}

/// The piece of a line around a place, and the carets that go under it.
/// Control characters become one visible character each, so that columns agree
/// and nothing in the file can speak to the terminal.
fn excerpt(line: &str, place: Place) -> (String, String) {
    let visible = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let start = place.column.saturating_sub(1);
    let skip = start.saturating_sub(EXCERPT / 2);
    let cut = |(index, c)| if index == 0 && skip > 0 { '…' } else { c };
    let shown = line.chars().skip(skip).take(EXCERPT).map(visible);
    let shown: String = shown.enumerate().map(cut).collect();
    let room = shown.chars().count().saturating_sub(start - skip).max(1);
    let caret = format!(
        "{}{}",
        " ".repeat(start - skip),
        "^".repeat(place.length.clamp(1, room))
    );
    (shown.trim_end().to_owned(), caret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_and_a_caret() {
        let place = Place {
            file: 0,
            line: 2,
            column: 7,
            length: 5,
        };
        let problem = Problem::at(place, "found \"maybe\"").help("write always");
        let text = Text {
            file: Some("m.yaml".into()),
            text: "a: 1\nkeep: maybe\n".to_owned(),
        };
        let shown = Problems::new(&[text], vec![problem]);
        assert_eq!(
            shown.to_string(),
            "m.yaml:2:7: found \"maybe\"\n 2 | keep: maybe\n   |       ^^^^^\n   help: write always"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_place_and_controls_are_shown() {
        let line = format!("{}\u{1b}[31mX{}", "a".repeat(400), "b".repeat(400));
        let place = Place {
            file: 0,
            line: 1,
            column: 406,
            length: 1,
        };
        let (shown, caret) = excerpt(&line, place);
        assert!(shown.chars().count() <= EXCERPT);
        assert!(!shown.contains('\u{1b}'));
        assert_eq!(shown.chars().nth(caret.len() - 1), Some('X'));
    }
}
