//! Reasoning and calls between marks. Reasoning can only begin an answer; a mark within it
//! is a word of it.

use super::call::{self, Read};
use super::format::{Calls, Tags};
use super::head::{self, Head};
use super::json::{Scanner, Step};
use super::{Beginning, Delta, LONGEST_HELD, Part, Tools, held, python, say, say_content};

/// Tells the parts of one answer apart.
#[derive(Debug)]
pub(super) struct Machine {
    calls: Option<Calls>,
    reasoning: Option<Tags>,
    tools: Tools,
    one_call: bool,
    state: State,
    /// Space that goes out with what follows it, or not at all.
    space: String,
    /// What may be the beginning of a mark.
    begun: String,
    /// Nothing has been said but reasoning and calls.
    fresh: bool,
    /// Space that is next belongs to a mark before it.
    after_mark: bool,
    /// The marks that belong to the call before, if they come next.
    closing: &'static [&'static str],
}

#[derive(Debug)]
enum State {
    /// Before anything is said.
    Start,
    Reasoning,
    Content,
    /// Calls as JSON.
    Json(call::Calls),
    /// A call up to the mark behind it, with all that is held.
    Held(String),
    /// A call up to the brace of its arguments, with all that is held.
    Head(String),
    /// The arguments of a call.
    Arguments(Scanner),
    Over,
}

impl Machine {
    pub(super) fn new(calls: Option<Calls>, reasoning: Option<Tags>, beginning: Beginning) -> Self {
        let in_reasoning = beginning.in_reasoning && reasoning.is_some();
        Self {
            calls,
            reasoning,
            tools: beginning.tools.unwrap_or_default(),
            one_call: beginning.one_call,
            state: match in_reasoning {
                true => State::Reasoning,
                false => State::Start,
            },
            space: String::new(),
            begun: String::new(),
            fresh: true,
            after_mark: in_reasoning,
            closing: &[],
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(super) fn push(&mut self, letter: char, out: &mut Vec<Delta>) {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Over => self.state = State::Over,
            State::Json(mut calls) => match calls.push(letter, &self.tools, out) {
                Read::Bad => {
                    say_content(out, &calls.held());
                    self.fresh = false;
                    self.push(letter, out);
                }
                Read::OverBefore => {
                    self.end_call();
                    self.push(letter, out);
                }
                Read::Over => self.end_call(),
                Read::More if self.one_call && calls.ended > 0 => self.end_call(),
                Read::More => self.state = State::Json(calls),
            },
            State::Held(mut text) => {
                text.push(letter);
                let close = self.calls.and_then(|calls| calls.marks().close.first());
                if close.is_some_and(|close| text.ends_with(close)) {
                    self.whole(&text, out);
                } else if text.len() > LONGEST_HELD {
                    self.no_call(&text, out);
                } else {
                    self.state = State::Held(text);
                }
            }
            State::Head(mut text) => {
                text.push(letter);
                self.head(text, out);
            }
            State::Arguments(mut scanner) => match scanner.step(letter) {
                Step::Bad => {
                    self.end_call();
                    self.push(letter, out);
                }
                step => {
                    say(out, Part::Arguments(letter.to_string()));
                    match step {
                        Step::Whole => self.end_call(),
                        _ => self.state = State::Arguments(scanner),
                    }
                }
            },
            state => {
                self.state = state;
                self.begun.push(letter);
                self.settle(out);
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Delta>) {
        let held = match std::mem::replace(&mut self.state, State::Over) {
            State::Json(calls) => calls.held(),
            State::Held(text) | State::Head(text) => text,
            State::Reasoning => {
                let text = std::mem::take(&mut self.begun);
                if !text.is_empty() {
                    let space = std::mem::take(&mut self.space);
                    say(out, Part::Reasoning(space + &text));
                }
                return;
            }
            State::Start | State::Content => {
                let space = std::mem::take(&mut self.space);
                space + &std::mem::take(&mut self.begun)
            }
            State::Arguments(_) | State::Over => return,
        };
        say_content(out, &held);
    }

    /// Decides about as much of what has begun as can be decided.
    fn settle(&mut self, out: &mut Vec<Delta>) {
        while let Some(first) = self.begun.chars().next() {
            let marks = self.marks();
            if let Some(mark) = marks.iter().find(|mark| **mark == self.begun) {
                let mark = *mark;
                self.begun.clear();
                return self.mark(mark);
            }
            if marks.iter().any(|mark| mark.starts_with(&self.begun)) {
                return;
            }
            if self.calls == Some(Calls::Bare)
                && self.fresh
                && first == '{'
                && !matches!(self.state, State::Reasoning)
            {
                let held = std::mem::take(&mut self.space);
                self.state = State::Json(call::Calls::after(held, true));
                let begun = std::mem::take(&mut self.begun);
                return begun.chars().for_each(|letter| self.push(letter, out));
            }
            self.begun.drain(..first.len_utf8());
            self.letter(first, out);
        }
    }

    /// The marks that would be marks here.
    fn marks(&self) -> Vec<&'static str> {
        let mut marks = Vec::new();
        if matches!(self.state, State::Reasoning) {
            marks.extend(self.reasoning.map(|tags| tags.close));
            return marks;
        }
        if matches!(self.state, State::Start) {
            marks.extend(self.reasoning.map(|tags| tags.open));
        }
        marks.extend(self.calls.iter().flat_map(|calls| calls.marks().open));
        marks.extend(self.closing);
        marks
    }

    fn mark(&mut self, mark: &'static str) {
        let reasoning = self.reasoning;
        if matches!(self.state, State::Reasoning) {
            self.state = State::Content;
            self.space.clear();
            self.after_mark = true;
        } else if matches!(self.state, State::Start)
            && reasoning.is_some_and(|tags| tags.open == mark)
        {
            self.state = State::Reasoning;
            self.space.clear();
            self.after_mark = true;
        } else if let Some(at) = self.closing.iter().position(|close| *close == mark) {
            self.space.clear();
            self.closing = &self.closing[at + 1..];
            self.after_mark = true;
        } else {
            let held = std::mem::take(&mut self.space) + mark;
            self.closing = &[];
            self.state = match self.calls {
                Some(Calls::Keys | Calls::Functions | Calls::Python) => State::Held(held),
                Some(Calls::Named | Calls::Separated) => State::Head(held),
                Some(Calls::Bare) => State::Json(call::Calls::after(held, true)),
                _ => State::Json(call::Calls::after(held, false)),
            };
        }
    }

    /// A letter that belongs to no mark.
    fn letter(&mut self, letter: char, out: &mut Vec<Delta>) {
        if letter.is_whitespace() {
            if !self.after_mark {
                self.space.push(letter);
            }
            return;
        }
        self.after_mark = false;
        let mut text = std::mem::take(&mut self.space);
        text.push(letter);
        if matches!(self.state, State::Reasoning) {
            return say(out, Part::Reasoning(text));
        }
        self.state = State::Content;
        self.fresh = false;
        self.closing = &[];
        say_content(out, &text);
    }

    /// Calls that were held are whole, with the marks around them.
    fn whole(&mut self, text: &str, out: &mut Vec<Delta>) {
        let Some(form) = self.calls else { return };
        let marks = form.marks();
        let inner = text.trim_start().strip_prefix(marks.open[0]);
        let inner = inner.and_then(|text| text.strip_suffix(marks.close[0]));
        let calls = inner.and_then(|inner| match form {
            Calls::Keys => Some(vec![held::keys(inner, &self.tools)?]),
            Calls::Functions => Some(vec![held::functions(inner, &self.tools)?]),
            _ => python::calls(inner),
        });
        let Some(calls) = calls else {
            return self.no_call(text, out);
        };
        let wanted = if self.one_call { 1 } else { calls.len() };
        for (name, arguments) in calls.into_iter().take(wanted) {
            say(out, Part::Call(name));
            say(out, Part::Arguments(arguments));
        }
        self.end_call();
        // The mark behind has been read.
        self.closing = &[];
    }

    /// The head of a call goes on; `text` is all that is held of it.
    fn head(&mut self, mut text: String, out: &mut Vec<Delta>) {
        let Some(form) = self.calls else { return };
        match head::read(form, &text) {
            Head::More => self.state = State::Head(text),
            Head::List => {
                text.pop();
                self.state = State::Json(call::Calls::after(text, false));
                self.push('[', out);
            }
            Head::Whole(name) => {
                say(out, Part::Call(name));
                self.state = State::Arguments(Scanner::default());
                self.push('{', out);
            }
            Head::Bad => self.no_call(&text, out),
        }
    }

    fn no_call(&mut self, text: &str, out: &mut Vec<Delta>) {
        say_content(out, text);
        self.fresh = false;
        self.state = State::Content;
    }

    fn end_call(&mut self) {
        self.closing = self.calls.map_or(&[], |calls| calls.marks().close);
        self.after_mark = true;
        self.state = match self.one_call {
            true => State::Over,
            false => State::Content,
        };
    }
}
