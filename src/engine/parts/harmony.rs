//! The channels of gpt-oss, as the harmony response format defines them: `analysis` is
//! reasoning, `commentary` to a function is a call, all else is content.

use super::{Beginning, Delta, Part, say, say_content};

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";
const END: &str = "<|end|>";
const RETURN: &str = "<|return|>";
const CALL: &str = "<|call|>";

/// The marks between channels.
pub(super) const MARKS: [&str; 7] = [CHANNEL, MESSAGE, START, END, RETURN, CALL, "<|constrain|>"];

/// Longest head of a message, bytes.
const LONGEST_HEAD: usize = 512;

/// Tells the channels of one answer apart.
#[derive(Debug)]
pub(super) struct Machine {
    beginning: Beginning,
    state: State,
    /// What may be the beginning of a mark, or the head of a message.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Content,
    Reasoning,
    Call,
    Over,
}

impl Machine {
    pub(super) fn new(beginning: Beginning) -> Self {
        Self {
            beginning,
            // The prompt ends with who speaks.
            state: State::Head,
            held: String::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(super) fn push(&mut self, letter: char, out: &mut Vec<Delta>) {
        match self.state {
            State::Over => {}
            State::Head => {
                self.held.push(letter);
                let begins = self.held.trim_start();
                // A text that begins with no mark and no recipient is no head.
                let may_be = [CHANNEL, START, "assistant", "to=", "<|constrain|>"]
                    .iter()
                    .any(|word| begins.starts_with(word) || word.starts_with(begins));
                if let Some(head) = self.held.strip_suffix(MESSAGE) {
                    self.state = self.begin(head, out);
                    self.held.clear();
                } else if !may_be || self.held.len() > LONGEST_HEAD {
                    self.state = State::Content;
                    say_content(out, &std::mem::take(&mut self.held));
                }
            }
            _ => {
                self.held.push(letter);
                let marks = [END, RETURN, CALL, START, CHANNEL];
                while !self.held.is_empty() {
                    if marks.contains(&self.held.as_str()) {
                        let ends = self.state == State::Call && self.beginning.one_call;
                        // What begins a head is a part of it.
                        if !matches!(self.held.as_str(), START | CHANNEL) {
                            self.held.clear();
                        }
                        self.state = match ends {
                            true => State::Over,
                            false => State::Head,
                        };
                        return;
                    }
                    if marks.iter().any(|mark| mark.starts_with(&self.held)) {
                        return;
                    }
                    let first = self.held.remove(0).to_string();
                    self.tell(&first, out);
                }
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Delta>) {
        let held = std::mem::take(&mut self.held);
        self.tell(&held, out);
    }

    /// What the message with this head is.
    fn begin(&self, head: &str, out: &mut Vec<Delta>) -> State {
        let recipient = head.split("to=functions.").nth(1).map(|rest| {
            let ends = |letter: char| letter.is_whitespace() || letter == '<';
            rest.split(ends).next().unwrap_or_default()
        });
        let channel = head.split(CHANNEL).nth(1).map_or("", str::trim_start);
        match recipient {
            Some(name) if !name.is_empty() && self.beginning.tools.is_some() => {
                say(out, Part::Call(name.to_owned()));
                State::Call
            }
            _ if channel.starts_with("analysis") => State::Reasoning,
            _ => State::Content,
        }
    }

    fn tell(&self, text: &str, out: &mut Vec<Delta>) {
        match self.state {
            State::Reasoning => say(out, Part::Reasoning(text.to_owned())),
            State::Call => say(out, Part::Arguments(text.to_owned())),
            State::Head | State::Content => say_content(out, text),
            State::Over => {}
        }
    }
}
