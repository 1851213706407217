//! Calls of tools as JSON, read as they grow: an object with a name and arguments, or a
//! list of such. The name goes out when it stands, the arguments letter by letter; what
//! turns out to be no call has not gone out, and can be had back.

use serde_json::{Map, Value};

use super::json::{Scanner, Step};
use super::{Delta, LONGEST_HELD, Part, Tools, say};

/// What one letter led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// It is read; more may come.
    More,
    /// It is read, and nothing more belongs to the calls.
    Over,
    /// It is not read: the calls have ended before it.
    OverBefore,
    /// It is not read: what is held is no call.
    Bad,
}

/// Calls as JSON while they grow.
#[derive(Debug)]
pub(super) struct Calls {
    scanner: Scanner,
    /// How many objects and lists are open within the object of a call: one, or two in a list.
    level: usize,
    phase: Phase,
    /// What is read and not told.
    held: String,
    /// Where the object of the call begins in it.
    begins: usize,
    /// Whether only tools that the request names can be called.
    only_known: bool,
    /// How many are whole.
    pub(super) ended: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Between,
    Head,
    Arguments,
    Tail,
}

impl Calls {
    /// Calls that begin after `held`, which is had back if there are none.
    pub(super) fn after(held: String, only_known: bool) -> Self {
        Self {
            scanner: Scanner::default(),
            level: 1,
            phase: Phase::Between,
            held,
            begins: 0,
            only_known,
            ended: 0,
        }
    }

    /// What is read and not told.
    pub(super) fn held(self) -> String {
        self.held
    }

    /// Takes in the next letter.
    pub(super) fn push(&mut self, letter: char, tools: &Tools, out: &mut Vec<Delta>) -> Read {
        let step = self.scanner.step(letter);
        let depth = self.scanner.depth();
        if step == Step::Bad || self.held.len() > LONGEST_HELD {
            return match self.phase {
                // A small model forgets the last bracket.
                Phase::Tail => {
                    self.ended += 1;
                    Read::OverBefore
                }
                _ => Read::Bad,
            };
        }
        match self.phase {
            Phase::Between => {
                if letter == '[' && depth == 1 {
                    self.level = 2;
                } else if letter == '{' && depth == self.level {
                    self.phase = Phase::Head;
                    self.begins = self.held.len();
                } else if !matches!(letter, ' ' | '\t' | '\n' | '\r' | ',' | ']') {
                    return Read::Bad;
                }
                self.held.push(letter);
            }
            Phase::Head => {
                self.held.push(letter);
                let head = &self.held[self.begins..];
                if depth < self.level {
                    let call = serde_json::from_str(head).ok().and_then(of_object);
                    let known = call.filter(|(name, _)| self.may_call(name, tools));
                    let Some((name, arguments)) = known else {
                        self.held.pop();
                        return Read::Bad;
                    };
                    say(out, Part::Call(name));
                    say(out, Part::Arguments(arguments));
                    self.end_call();
                } else if letter == '{'
                    && depth == self.level + 1
                    && let Some(name) = of_head(head)
                {
                    if !self.may_call(&name, tools) {
                        self.held.pop();
                        return Read::Bad;
                    }
                    say(out, Part::Call(name));
                    say(out, Part::Arguments("{".to_owned()));
                    self.held.clear();
                    self.phase = Phase::Arguments;
                }
            }
            Phase::Arguments => {
                say(out, Part::Arguments(letter.to_string()));
                if depth == self.level {
                    self.phase = Phase::Tail;
                }
            }
            Phase::Tail => {
                self.held.push(letter);
                if depth < self.level {
                    self.end_call();
                }
            }
        }
        match step {
            Step::Whole if self.ended > 0 => Read::Over,
            Step::Whole => {
                self.held.pop();
                Read::Bad
            }
            _ => Read::More,
        }
    }

    fn end_call(&mut self) {
        self.held.clear();
        self.phase = Phase::Between;
        self.ended += 1;
    }

    fn may_call(&self, name: &str, tools: &Tools) -> bool {
        !name.is_empty() && (!self.only_known || tools.has(name))
    }
}

/// The name of a call whose arguments have just begun.
fn of_head(head: &str) -> Option<String> {
    let object: Map<String, Value> = serde_json::from_str(&format!("{head}}}}}")).ok()?;
    let (last, _) = object.iter().next_back()?;
    let name = object.get("name")?.as_str()?;
    matches!(last.as_str(), "arguments" | "parameters").then(|| name.to_owned())
}

/// The name and the arguments of a whole call, whatever the order of its members.
fn of_object(object: Map<String, Value>) -> Option<(String, String)> {
    let name = object.get("name")?.as_str()?.to_owned();
    let arguments = ["arguments", "parameters"]
        .iter()
        .find_map(|key| object.get(*key));
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(Value::String(text)) => {
            let within: Value = serde_json::from_str(text).ok()?;
            within.is_object().then(|| text.clone())?
        }
        Some(_) => return None,
    };
    Some((name, arguments))
}
