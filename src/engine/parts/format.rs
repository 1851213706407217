//! Which marks a model writes around reasoning and calls, found in the text of its chat
//! template: a template that shows earlier calls to the model shows them as the model
//! writes them. The forms are those that mlx-lm (`tool_parsers`), vLLM and llama.cpp
//! document for these families.

use serde_json::{Value, json};

use super::Tools;

/// The marks of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format {
    /// Around reasoning.
    pub reasoning: Option<Tags>,
    /// How tools are called.
    pub calls: Option<Calls>,
}

/// What stands before and behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Before.
    pub open: &'static str,
    /// Behind; may be empty.
    pub close: &'static str,
}

/// How tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// JSON between tags: Hermes, Qwen, SmolLM3, Granite, Phi 4 mini, older Mistral.
    Tagged(Tags),
    /// JSON alone, or after `<|python_tag|>`: Llama 3.
    Bare,
    /// `[TOOL_CALLS]name[ARGS]{…}`: newer Mistral.
    Named,
    /// `<tool_call>name<arg_key>…</arg_key><arg_value>…</arg_value></tool_call>`: GLM 4.5.
    Keys,
    /// `<tool_call><function=name><parameter=key>…</parameter></function></tool_call>`: Qwen
    /// coders.
    Functions,
    /// Channels: gpt-oss.
    Channels,
}

/// What Hermes, Qwen and many after them write.
pub(super) const TOOL_CALL: Tags = Tags {
    open: "<tool_call>",
    close: "</tool_call>",
};

/// What Mistral writes.
pub(super) const TOOL_CALLS: Tags = Tags {
    open: "[TOOL_CALLS]",
    close: "",
};

/// What Phi 4 mini and Granite 3 write.
const TOOL_CALL_TOKEN: Tags = Tags {
    open: "<|tool_call|>",
    close: "<|/tool_call|>",
};

/// What Llama 3 may write before a call, and between two.
pub(super) const PYTHON: Tags = Tags {
    open: "<|python_tag|>",
    close: ";",
};

const THINK: Tags = Tags {
    open: "<think>",
    close: "</think>",
};

const BRACKETED_THINK: Tags = Tags {
    open: "[THINK]",
    close: "[/THINK]",
};

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

    /// Marks that may be special tokens, which are left out of text otherwise.
    pub fn marks(&self) -> Vec<&'static str> {
        let mut marks: Vec<&str> = match self.calls {
            Some(Calls::Tagged(tags)) => vec![tags.open, tags.close],
            Some(Calls::Keys | Calls::Functions) => vec![TOOL_CALL.open, TOOL_CALL.close],
            Some(Calls::Bare) => vec![PYTHON.open],
            Some(Calls::Named) => vec![TOOL_CALLS.open, super::tagged::ARGUMENTS],
            Some(Calls::Channels) => super::harmony::MARKS.to_vec(),
            None => Vec::new(),
        };
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

    /// A grammar, in llguidance's form of Lark, of calls of these tools: one, or where
    /// `several` may be called one or more. Nothing if calls of this form cannot be forced.
    pub fn grammar(&self, tools: &Tools, several: bool) -> Option<String> {
        let (open, key, close) = match self.calls? {
            Calls::Tagged(tags) if tags == TOOL_CALL => {
                ("<tool_call>\n", "arguments", "}\n</tool_call>")
            }
            Calls::Bare => ("", "parameters", "}"),
            _ => return None,
        };
        // Llama 3 calls one at a time.
        let several = several && self.calls != Some(Calls::Bare);
        let mut lines = vec![
            match several {
                true => "start: call (\"\\n\" call)*",
                false => "start: call",
            }
            .to_owned(),
        ];
        let functions: Vec<&Value> = tools.0.iter().map(|tool| &tool["function"]).collect();
        let names: Vec<String> = (0..functions.len())
            .map(|index| format!("call_{index}"))
            .collect();
        lines.push(format!("call: {}", names.join(" | ")));
        for (index, function) in functions.into_iter().enumerate() {
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
        Some(lines.join("\n"))
    }
}
