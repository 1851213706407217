//! What a text that is no YAML is told: where the slip is, which is often not
//! where the library noticed it, and what mends it. Pure.

use super::too_deep;
use crate::config::problem::{Place, Problem, lines_of};

/// The library's complaint at a line and a column (both from 1), in words for
/// somebody who knows neither the library nor the grammar of YAML.
pub fn problem(text: &str, line: usize, column: usize, info: &str) -> Problem {
    let place = Place {
        line,
        column,
        length: 1,
    };
    // The library's own limit on brackets, which it meets while looking ahead.
    if info.contains("recursion limit") {
        return too_deep(place);
    }
    let source = lines_of(text).nth(line.saturating_sub(1)).unwrap_or("");
    let indent = &source[..source.len() - source.trim_start().len()];
    if indent.contains('\t') {
        return Problem::at(place, "not valid YAML: a line begins with a tab")
            .help("indent with spaces, not with tabs");
    }
    if let Some((place, mark)) = unclosed(text, line, column, info) {
        let message = format!("not valid YAML: this {mark} is not closed");
        return Problem::at(place, message).help(match mark {
            '[' => "close the list with ]",
            '{' => "close the braces with }",
            _ => "end the text with the same quotation mark",
        });
    }
    let before: String = source.chars().take(column.saturating_sub(1)).collect();
    let is_colon = info.contains("mapping values are not allowed");
    if is_colon && !before.contains(": ") {
        return above(text, line, &before, place);
    }
    let (message, help) = explained(info);
    let problem = Problem::at(place, format!("not valid YAML: {message}"));
    match help {
        _ if indent.contains('\u{a0}') => {
            problem.help("this line begins with a non-breaking space; write a plain one")
        }
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// A key that cannot stand where it does, for what is above it.
fn above(text: &str, line: usize, before: &str, place: Place) -> Problem {
    let is_said = |(_, above): &(usize, &str)| {
        let above = above.trim_start();
        !above.is_empty() && !above.starts_with('#')
    };
    let lines = lines_of(text).enumerate().take(line.saturating_sub(1));
    let indent = |text: &str| text.chars().take_while(|c| *c == ' ').count();
    if let Some((index, above)) = lines.filter(is_said).last()
        && !above.contains(':')
    {
        let place = Place {
            line: index + 1,
            column: indent(above) + 1,
            length: above.trim().chars().count(),
        };
        return Problem::at(place, "not valid YAML: there is no colon after this key")
            .help("write KEY: VALUE, with a blank after the colon, or KEY: {}");
    }
    let start = indent(before);
    let place = Place {
        column: start + 1,
        length: place.column.saturating_sub(start + 1).max(1),
        ..place
    };
    let message = "this is indented as if it belonged to the line above, which has a value";
    Problem::at(place, format!("not valid YAML: {message}"))
        .help("begin the keys of one section at the same column")
}

/// The library's words in other words, with advice.
fn explained(info: &str) -> (&str, Option<&'static str>) {
    let quotes = "put quotes around the value";
    if info.contains("mapping values are not allowed") || info.contains("illegal placement") {
        return (
            "a value cannot have \": \" in it without quotes",
            Some(quotes),
        );
    }
    if info.contains("block mapping") || info.contains("block collection") {
        return (
            "this line is indented unlike its neighbours",
            Some("begin the keys of one section at the same column"),
        );
    }
    if info.contains("block sequence entries") {
        return (
            "a list with dashes cannot begin on the line of its key",
            Some("begin each item on a line of its own, or write [a, b]"),
        );
    }
    if info.contains("anchor") {
        return (
            "a text that begins with * or & needs quotes",
            Some("write \"*/*-4bit\" rather than */*-4bit"),
        );
    }
    if info.contains("unexpected character") || info.contains("cannot start any token") {
        return ("a text cannot begin with this character", Some(quotes));
    }
    if info.contains("simple key expect") {
        return (
            "this line has no colon, and the lines around it are keys",
            Some("write KEY: VALUE, with a blank after the colon"),
        );
    }
    if info.contains("trailing content") {
        return ("there is more text after the closing quotation mark", None);
    }
    if info.contains("escape character") {
        return (
            "a backslash in double quotes begins an escape",
            Some("use single quotes, or write the backslash twice"),
        );
    }
    (info, None)
}

/// The bracket or quotation mark before a place that was never closed, if the
/// complaint is one that such a mark causes.
fn unclosed(text: &str, line: usize, column: usize, info: &str) -> Option<(Place, char)> {
    let is_quote = info.contains("quoted scalar") && !info.contains("escape");
    let mut open: Vec<(Place, char)> = Vec::new();
    let mut quote: Option<(Place, char)> = None;
    for (index, source) in lines_of(text).enumerate() {
        let mut before = ' ';
        for (position, c) in source.chars().enumerate() {
            let place = Place {
                line: index + 1,
                column: position + 1,
                length: 1,
            };
            // What was noticed at a quotation mark is about that very mark.
            if (place.line, place.column) >= (line, column) && !(is_quote && quote.is_none()) {
                return match is_quote {
                    true => quote,
                    false => open.pop().filter(|(place, _)| place.line < line),
                };
            }
            let begins = " [{,:-".contains(before);
            match (quote, c) {
                (Some((_, mark)), c) if c == mark => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') if begins => quote = Some((place, c)),
                (None, '#') if before == ' ' => break,
                (None, '[' | '{') if begins => open.push((place, c)),
                (None, ']' | '}') => {
                    open.pop();
                }
                _ => {}
            }
            before = c;
        }
    }
    match is_quote {
        true => quote,
        false => open.pop(),
    }
}
