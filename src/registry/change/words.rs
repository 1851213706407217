//! A difference in words: one line for the log, and a few that say what happens when.
//! Pure.

use std::fmt;

use super::{Change, Edited};
use crate::registry::fit::listed;

/// Most names of one line.
const NAMES: usize = 8;

impl fmt::Display for Change {
    /// `reload 7: +1 model, 2 aliases changed, 0 unloads`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "reload {}: nothing changed", self.generation);
        }
        let mut words = Vec::new();
        let mut count = |sign: &str, number: usize, noun: &str, what: &str| {
            if number > 0 {
                words.push(format!("{sign}{}{what}", counted(number, noun)));
            }
        };
        count("+", self.added.len(), "model", "");
        count("-", self.removed.len(), "model", "");
        count("", self.aliases.len(), "alias", " changed");
        count("", self.settings.len(), "setting", " changed");
        count(
            "",
            self.replaced.len(),
            "model",
            " changed from the next load on",
        );
        count("", self.pins.len(), "pin", " changed");
        if self.budget {
            words.push("another memory budget".to_owned());
        }
        if !self.live.is_empty() {
            words.push(format!("{} changed", self.live.join(" and ")));
        }
        if !self.restart.is_empty() {
            words.push(format!("{} after a restart", self.restart.join(" and ")));
        }
        words.push(counted(self.gone.len(), "unload"));
        write!(f, "reload {}: {}", self.generation, words.join(", "))
    }
}

impl Change {
    /// What becomes of what, and when: a line for each kind.
    pub fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = |what: &str, names: Vec<String>, then: &str| {
            if !names.is_empty() {
                lines.push(format!("{what}: {}{then}", some(&names)));
            }
        };
        line("new", self.added.clone(), "");
        line("gone", self.removed.clone(), ", for new requests");
        line(
            "unloaded after the last answer",
            self.gone.clone(),
            ", if loaded",
        );
        line("loaded at once", self.brought_up.clone(), "");
        line("aliases that change", self.aliases.clone(), "");
        line("pins that change", self.pins.clone(), "");
        let mut live = edits(&self.settings);
        live.extend(self.budget.then(|| "memory".to_owned()));
        live.extend(self.live.iter().map(|key| (*key).to_owned()));
        line("in force at once", live, "");
        line("from the next load on", edits(&self.replaced), "");
        let restart = self.restart.iter().map(|key| (*key).to_owned()).collect();
        line("after a restart", restart, "");
        lines
    }
}

/// `a/one (keep, tags)`
fn edits(edits: &[Edited]) -> Vec<String> {
    let edits = edits.iter();
    edits
        .map(|edit| format!("{} ({})", edit.name, edit.keys.join(", ")))
        .collect()
}

/// The first names, and how many more there are.
fn some(names: &[String]) -> String {
    let mut first: Vec<_> = names.iter().map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(NAMES));
    if names.len() > NAMES + 1 {
        first.truncate(NAMES);
        first.push(&more);
    }
    listed(&first)
}

/// `1 alias`, `2 aliases`.
fn counted(number: usize, noun: &str) -> String {
    let ending = match (number, noun) {
        (1, _) => "",
        (_, "alias") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
}
