//! The parts of an answer: reasoning, content, and calls of tools, told apart in the text
//! that a model makes. Pure: text in, parts out, each as early as is safe, and the same
//! however the text was cut. Which marks a model writes is found in its chat template. It
//! knows no tokens and no wire.
//!
//! What looked like a call and is none comes out as content, so nothing is lost but marks
//! and the space around them. A call whose name has gone out stays one: if its arguments
//! break off or break, the rest is content.

mod call;
pub mod format;
mod harmony;
mod head;
mod held;
mod json;
mod python;
mod tagged;
#[cfg(test)]
mod tests;

use serde_json::Value;

use self::format::{Calls, Format};

/// Most bytes that are held back before it is known what they are.
const LONGEST_HELD: usize = 256 * 1024;

/// What an answer says beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Reasoning goes on.
    Reasoning(String),
    /// A call begins, of the tool with this name.
    Call(String),
    /// The arguments of the last call go on: a piece of JSON.
    Arguments(String),
}

/// One step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Content goes on.
    Content(String),
    /// Something else does.
    Part(Part),
}

/// The tools of a request, as it describes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools(pub Vec<Value>);

impl Tools {
    fn find(&self, name: &str) -> Option<&Value> {
        let functions = self.0.iter().map(|tool| &tool["function"]);
        functions
            .into_iter()
            .find(|function| function["name"] == name)
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether a tool takes a text as this argument.
    fn takes_text(&self, name: &str, argument: &str) -> bool {
        self.find(name)
            .is_some_and(|tool| tool["parameters"]["properties"][argument]["type"] == "string")
    }
}

/// Calls that an answer has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Forced {
    /// The tools that may be called; at least one.
    pub tools: Tools,
    /// Whether there may be several calls.
    pub several: bool,
}

/// What there is to know before an answer begins.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    /// The tools; nothing if none can be called.
    pub tools: Option<Tools>,
    /// Whether the answer ends with its first call.
    pub one_call: bool,
    /// Whether the prompt ends within reasoning.
    pub in_reasoning: bool,
}

/// Tells the parts of one answer apart.
#[derive(Debug)]
pub struct Parser {
    machine: Machine,
    called: bool,
}

#[derive(Debug)]
enum Machine {
    Tagged(Box<tagged::Machine>),
    Harmony(Box<harmony::Machine>),
}

impl Parser {
    /// A parser for an answer in `format`; nothing if it can only have content.
    pub fn new(format: &Format, beginning: Beginning) -> Option<Self> {
        let machine = match format.calls {
            Some(Calls::Channels) => Machine::Harmony(Box::new(harmony::Machine::new(beginning))),
            calls => {
                let calls = calls.filter(|_| beginning.tools.is_some());
                if calls.is_none() && format.reasoning.is_none() {
                    return None;
                }
                let machine = tagged::Machine::new(calls, format.reasoning, beginning);
                Machine::Tagged(Box::new(machine))
            }
        };
        Some(Self {
            machine,
            called: false,
        })
    }

    /// Takes in the next piece of text and answers what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        for letter in text.chars() {
            match &mut self.machine {
                Machine::Tagged(machine) => machine.push(letter, &mut out),
                Machine::Harmony(machine) => machine.push(letter, &mut out),
            }
        }
        self.note(out)
    }

    /// The text has ended: what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        match &mut self.machine {
            Machine::Tagged(machine) => machine.finish(&mut out),
            Machine::Harmony(machine) => machine.finish(&mut out),
        }
        self.note(out)
    }

    /// Whether a tool has been called.
    pub fn has_called(&self) -> bool {
        self.called
    }

    /// Whether nothing may follow what has been told.
    pub fn is_over(&self) -> bool {
        match &self.machine {
            Machine::Tagged(machine) => machine.is_over(),
            Machine::Harmony(machine) => machine.is_over(),
        }
    }

    fn note(&mut self, out: Vec<Delta>) -> Vec<Delta> {
        let is_call = |delta: &Delta| matches!(delta, Delta::Part(Part::Call(_)));
        self.called |= out.iter().any(is_call);
        out
    }
}

/// Adds content.
fn say_content(out: &mut Vec<Delta>, text: &str) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Delta::Content(before)) => before.push_str(text),
        _ => out.push(Delta::Content(text.to_owned())),
    }
}

/// Adds a part; what goes on with the last one becomes one with it.
fn say(out: &mut Vec<Delta>, part: Part) {
    match (out.last_mut(), &part) {
        (_, Part::Reasoning(text) | Part::Arguments(text)) if text.is_empty() => {}
        (Some(Delta::Part(Part::Reasoning(before))), Part::Reasoning(text))
        | (Some(Delta::Part(Part::Arguments(before))), Part::Arguments(text)) => {
            before.push_str(text);
        }
        _ => out.push(Delta::Part(part)),
    }
}
