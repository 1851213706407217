//! Which marks a model writes around reasoning and calls, found in the text of its chat
//! template: a template that shows earlier calls to the model shows them as the model
//! writes them. The forms are those that mlx-lm (`tool_parsers`), vLLM and llama.cpp
//! document for these families.

use serde_json::{Value, json};

use super::Forced;

/// The marks of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format {
    /// Around reasoning.
    pub reasoning: Option<Tags>,
    /// How tools are called.
    pub calls: Option<Calls>,
}

/// What stands before and behind reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Before.
    pub open: &'static str,
    /// Behind.
    pub close: &'static str,
}

/// The marks around calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Each of them may begin a call.
    pub open: &'static [&'static str],
    /// These may follow a call, in this order; each may be left out.
    pub close: &'static [&'static str],
}

/// How tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// JSON between marks: Hermes, Qwen, SmolLM3, Granite, Phi 4 mini, older Mistral.
    Tagged(Marks),
    /// JSON alone, or after `<|python_tag|>`: Llama 3.
    Bare,
    /// `[TOOL_CALLS]name[ARGS]{…}`: newer Mistral.
    Named,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`: DeepSeek.
    Separated,
    /// `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`: GLM 4.5.
    Keys,
    /// `<tool_call><function=name><parameter=key>…</parameter></function></tool_call>`: Qwen
    /// coders.
    Functions,
    /// `<|tool_call_start|>[name(key='…')]<|tool_call_end|>`: LFM2.
    Python,
    /// Channels: gpt-oss.
    Channels,
}

/// What Hermes, Qwen and many after them write.
pub(super) const TOOL_CALL: Marks = Marks {
    open: &["<tool_call>"],
    close: &["</tool_call>"],
};

/// What Mistral writes.
pub(super) const TOOL_CALLS: Marks = Marks {
    open: &["[TOOL_CALLS]"],
    close: &[],
};

/// What Phi 4 mini and Granite 3 write.
pub(super) const TOOL_CALL_TOKEN: Marks = Marks {
    open: &["<|tool_call|>"],
    close: &["<|/tool_call|>"],
};

/// What Llama 3 may write before a call, and between two.
const PYTHON_TAG: Marks = Marks {
    open: &["<|python_tag|>"],
    close: &[";"],
};

/// What DeepSeek writes; the older models put the arguments into a block of code.
const SECTION: Marks = Marks {
    open: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
    close: &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
};

/// What LFM2 writes.
const START_AND_END: Marks = Marks {
    open: &["<|tool_call_start|>"],
    close: &["<|tool_call_end|>"],
};

const THINK: Tags = Tags {
    open: "<think>",
    close: "</think>",
};

const BRACKETED_THINK: Tags = Tags {
    open: "[THINK]",
    close: "[/THINK]",
};

impl Calls {
    /// The marks around them. Channels have none: they are marks all through.
    pub(super) fn marks(self) -> Marks {
        match self {
            Self::Tagged(marks) => marks,
            Self::Bare => PYTHON_TAG,
            Self::Named => TOOL_CALLS,
            Self::Separated => SECTION,
            Self::Keys | Self::Functions | Self::Channels => TOOL_CALL,
            Self::Python => START_AND_END,
        }
    }
}

impl Format {
    /// The marks that the texts of a model's templates speak of.
    pub fn of<'a>(templates: impl IntoIterator<Item = &'a str>) -> Self {
        let templates: Vec<&str> = templates.into_iter().collect();
        let says = |words: &str| templates.iter().any(|text| text.contains(words));
        let calls = if says("<|channel|>") {
            Some(Calls::Channels)
        } else if says("<tool_call>") {
            Some(if says("<arg_key>") {
                Calls::Keys
            } else if says("<function=") {
                Calls::Functions
            } else {
                Calls::Tagged(TOOL_CALL)
            })
        } else if says("[TOOL_CALLS]") {
            Some(match says("[ARGS]") {
                true => Calls::Named,
                false => Calls::Tagged(TOOL_CALLS),
            })
        } else if says("<|tool_call|>") || says("<|tool|>") {
            Some(Calls::Tagged(TOOL_CALL_TOKEN))
        } else if says("<｜tool▁calls▁begin｜>") {
            Some(Calls::Separated)
        } else if says("<|tool_call_start|>") || says("List of tools: ") {
            // LFM2's templates show the tools, and not all of them a call.
            Some(Calls::Python)
        } else if says("<|python_tag|>") || says("\"name\": function name, \"parameters\"") {
            Some(Calls::Bare)
        } else {
            None
        };
        let reasoning = [THINK, BRACKETED_THINK]
            .into_iter()
            .find(|tags| says(tags.close));
        Self { reasoning, calls }
    }

    /// The form of calls that are forced: the model's own if a grammar of text can say it,
    /// else that of Hermes, which a grammar makes of any model. Reasoning is never forced.
    pub fn forced(self) -> Self {
        let calls = self.calls.filter(|calls| *calls == Calls::Bare);
        Self {
            reasoning: None,
            calls: calls.or(Some(Calls::Tagged(TOOL_CALL))),
        }
    }

    /// Marks that may be special tokens, which are left out of text otherwise.
    pub fn marks(&self) -> Vec<&'static str> {
        let mut marks = match self.calls {
            Some(Calls::Channels) => super::harmony::MARKS.to_vec(),
            Some(calls) => [calls.marks().open, calls.marks().close].concat(),
            None => Vec::new(),
        };
        match self.calls {
            Some(Calls::Named) => marks.extend(super::head::MISTRAL),
            Some(Calls::Separated) => marks.push(super::head::SEPARATOR),
            _ => {}
        }
        marks.extend(
            self.reasoning
                .iter()
                .flat_map(|tags| [tags.open, tags.close]),
        );
        marks
    }

    /// Whether a prompt ends within reasoning, which its template has opened.
    pub fn opens_reasoning(&self, prompt: &str) -> bool {
        let end = prompt.trim_end();
        self.reasoning.is_some_and(|tags| end.ends_with(tags.open))
    }
}

/// A grammar, in llguidance's form of Lark, of forced calls in the form that
/// [`Format::forced`] told.
pub fn grammar(format: Format, forced: &Forced) -> String {
    let is_bare = format.calls == Some(Calls::Bare);
    let (open, key, close) = match is_bare {
        true => ("", "parameters", "}"),
        false => ("<tool_call>\n", "arguments", "}\n</tool_call>"),
    };
    // Llama 3 calls one at a time.
    let start = match forced.several && !is_bare {
        true => "start: call (\"\\n\" call)*",
        false => "start: call",
    };
    let names: Vec<String> = (0..forced.tools.0.len())
        .map(|index| format!("call_{index}"))
        .collect();
    let mut lines = vec![start.to_owned(), format!("call: {}", names.join(" | "))];
    for (index, tool) in forced.tools.0.iter().enumerate() {
        let function = &tool["function"];
        let head = format!("{open}{{\"name\": {}, \"{key}\": ", function["name"]);
        let schema = match &function["parameters"] {
            Value::Object(schema) => Value::Object(schema.clone()),
            _ => json!({"type": "object"}),
        };
        lines.push(format!(
            "call_{index}: {} arguments_{index} {}",
            json!(head),
            json!(close)
        ));
        lines.push(format!("arguments_{index}: %json {schema}"));
    }
    lines.join("\n")
}
