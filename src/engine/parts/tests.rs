//! Answers of each family, whole and cut in every way.

use proptest::prelude::*;
use serde_json::json;

use super::format::{Calls, Format, TOOL_CALL, TOOL_CALL_TOKEN, TOOL_CALLS};
use super::*;

/// What an answer comes to, whatever the pieces.
#[derive(Debug, Default, Clone, PartialEq)]
struct Heard {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

const QWEN: &str = "<tool_call>\\n{\"name\" </tool_call> <think> </think>";
const PLAIN_HERMES: &str = "<tool_call> </tool_call>";
const LLAMA: &str = "{\"name\": function name, \"parameters\": dictionary} <|python_tag|>";
const MISTRAL: &str = "[TOOL_CALLS] [";
const NEWER_MISTRAL: &str = "[TOOL_CALLS] [ARGS] [THINK] [/THINK]";
const GLM: &str = "<tool_call> <arg_key> <think></think>";
const CODER: &str = "<tool_call> <function=";
const DEEPSEEK: &str = "<｜tool▁calls▁begin｜> </think>";
const LFM: &str = "List of tools: [";
const PHI: &str = "<|tool|> <|/tool|>";
const GPT_OSS: &str = "<|start|> <|channel|> <|message|>";

fn tools() -> Tools {
    let tool = |name: &str| {
        let properties = json!({"place": {"type": "string"}, "days": {"type": "integer"}});
        json!({"type": "function", "function": {
            "name": name, "parameters": {"type": "object", "properties": properties}}})
    };
    Tools(vec![tool("weather"), tool("time")])
}

fn beginning() -> Beginning {
    Beginning {
        tools: Some(tools()),
        ..Beginning::default()
    }
}

fn hear<'a>(
    template: &str,
    beginning: Beginning,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Heard {
    let mut parser = Parser::new(&Format::of([template]), beginning).expect("a format");
    let mut deltas: Vec<Delta> = pieces
        .into_iter()
        .flat_map(|piece| parser.push(piece))
        .collect();
    deltas.extend(parser.finish());
    let mut heard = Heard::default();
    for delta in deltas {
        match delta {
            Delta::Content(text) => heard.content.push_str(&text),
            Delta::Part(Part::Reasoning(text)) => heard.reasoning.push_str(&text),
            Delta::Part(Part::Call(name)) => heard.calls.push((name, String::new())),
            Delta::Part(Part::Arguments(text)) => {
                let (_, arguments) = heard.calls.last_mut().expect("a call");
                arguments.push_str(&text);
            }
        }
    }
    assert_eq!(parser.has_called(), !heard.calls.is_empty());
    heard
}

/// Fixtures: a template, an answer, and its content, reasoning and calls.
type Fixture = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ONE: &[(&str, &str)] = &[("weather", r#"{"place": "Rome"}"#)];

#[rustfmt::skip]
const FIXTURES: &[Fixture] = &[
    (QWEN, " Plain text.\n", " Plain text.\n", "", &[]),
    (QWEN, "<think>\nHm <tool_call> é.\n</think>\n\nYes.", "Yes.", "Hm <tool_call> é.", &[]),
    (QWEN, "<think>\n\n</think>\n\n", "", "", &[]),
    (QWEN, "<think>cut of", "", "cut of", &[]),
    (QWEN, "Say <think> and </think>.", "Say <think> and </think>.", "", &[]),
    (QWEN, "<think>a</think>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}}\n</tool_call>", "", "a", ONE),
    (QWEN, "Well,\n<tool_call>{\"name\":\"weather\",\"arguments\":{\"place\": \"Rome\"}}</tool_call>\n<tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>", "Well,", "", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    // Arguments before the name, as a text, or none.
    (QWEN, "<tool_call>{\"arguments\": {\"place\":\"Rome\"}, \"name\": \"weather\"}</tool_call>", "", "", &[("weather", r#"{"place":"Rome"}"#)]),
    (QWEN, "<tool_call>{\"name\": \"time\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "", "", &[("time", r#"{"a": 1}"#)]),
    (QWEN, "<tool_call>{\"name\": \"time\"}</tool_call>", "", "", &[("time", "{}")]),
    // Marks within a text, nested objects, the last bracket forgotten, the mark forgotten.
    (QWEN, "<tool_call>{\"name\": \"t\", \"arguments\": {\"a\": {\"b\": \"}</tool_call>\"}}}</tool_call>", "", "", &[("t", r#"{"a": {"b": "}</tool_call>"}}"#)]),
    (QWEN, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}\n</tool_call>", "", "", ONE),
    (QWEN, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}}", "", "", ONE),
    (QWEN, "<tool_call>{\"name\": \"weather\", \"arguments\": {\"place\": \"Ro", "", "", &[("weather", r#"{"place": "Ro"#)]),
    // No calls.
    (QWEN, "A <tool_call>oops</tool_call>", "A <tool_call>oops</tool_call>", "", &[]),
    (QWEN, "<tool_call>{\"nam", "<tool_call>{\"nam", "", &[]),
    (QWEN, "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>", "", &[]),
    (QWEN, "<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>", "", &[]),
    (QWEN, "<tool_call><tool_call>{\"name\": \"time\"}</tool_call>", "<tool_call>", "", &[("time", "{}")]),
    (QWEN, "a < b, <tool", "a < b, <tool", "", &[]),
    (PLAIN_HERMES, "<think>a</think>", "<think>a</think>", "", &[]),
    (LLAMA, "{\"name\": \"weather\", \"parameters\": {\"place\": \"Rome\"}}", "", "", ONE),
    (LLAMA, "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"place\": \"Rome\"}}; {\"name\": \"time\", \"parameters\": {}}", "", "", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    (LLAMA, "{\"name\": \"Ann\", \"parameters\": {\"age\": 5}}", "{\"name\": \"Ann\", \"parameters\": {\"age\": 5}}", "", &[]),
    (LLAMA, "Use {\"name\": \"time\"}", "Use {\"name\": \"time\"}", "", &[]),
    (MISTRAL, "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}}, {\"name\": \"time\", \"arguments\": {}}]", "", "", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    (MISTRAL, "[TOOL_CALLS] [1]", "[TOOL_CALLS] [1]", "", &[]),
    (NEWER_MISTRAL, "[THINK]a[/THINK]b[TOOL_CALLS]weather[ARGS]{\"place\": \"Rome\"}[TOOL_CALLS]time[ARGS]{}", "b", "a", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    (NEWER_MISTRAL, "[TOOL_CALLS]wea", "[TOOL_CALLS]wea", "", &[]),
    (NEWER_MISTRAL, "[TOOL_CALLS]weather[CALL_ID]abc123XYZ[ARGS]{\"place\": \"Rome\"}", "", "", ONE),
    (NEWER_MISTRAL, "[TOOL_CALLS]weather {\"place\": 1}", "[TOOL_CALLS]weather {\"place\": 1}", "", &[]),
    (NEWER_MISTRAL, "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}}]", "", "", ONE),
    (DEEPSEEK, "</think>a<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"place\": \"Rome\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "</think>a", "", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    (DEEPSEEK, "<think>a</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"place\": \"Rome\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜> b", "b", "a", &[("weather", r#"{"place": "Rome"}"#), ("time", "{}")]),
    (DEEPSEEK, "<｜tool▁calls▁begin｜>none", "<｜tool▁calls▁begin｜>none", "", &[]),
    (LFM, "Now:\n<|tool_call_start|>[weather(place='Rome'), time()]<|tool_call_end|>Soon.", "Now:Soon.", "", &[("weather", r#"{"place":"Rome"}"#), ("time", "{}")]),
    (LFM, "<|tool_call_start|>[weather]<|tool_call_end|>", "<|tool_call_start|>[weather]<|tool_call_end|>", "", &[]),
    (GLM, "<think>a</think>\n<tool_call>weather\n<arg_key>place</arg_key>\n<arg_value>5</arg_value>\n<arg_key>days</arg_key>\n<arg_value>5</arg_value>\n</tool_call>", "", "a", &[("weather", r#"{"place":"5","days":5}"#)]),
    (GLM, "<tool_call>time</tool_call>\n<tool_call>a b</tool_call>", "<tool_call>a b</tool_call>", "", &[("time", "{}")]),
    (CODER, "<tool_call>\n<function=weather>\n<parameter=place>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>", "", "", &[("weather", r#"{"place":"Rome","days":3}"#)]),
    (PHI, "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"place\": \"Rome\"}}]<|/tool_call|>", "", "", ONE),
    (GPT_OSS, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Yes.", "Hm.", &[]),
    (GPT_OSS, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"place\": \"Rome\"}<|call|>", "", "Hm.", ONE),
    (GPT_OSS, "<|channel|>commentary<|message|>First.<|end|><|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{\"place\": \"Rome\"}", "First.", "", ONE),
    (GPT_OSS, "Plain.", "Plain.", "", &[]),
];

fn heard((_, _, content, reasoning, calls): &Fixture) -> Heard {
    let call = |(name, arguments): &(&str, &str)| ((*name).to_owned(), (*arguments).to_owned());
    Heard {
        content: (*content).to_owned(),
        reasoning: (*reasoning).to_owned(),
        calls: calls.iter().map(call).collect(),
    }
}

#[test]
fn each_family_in_any_two_cuts() {
    for fixture in FIXTURES {
        let (template, text, ..) = *fixture;
        let expected = heard(fixture);
        assert_eq!(hear(template, beginning(), [text]), expected, "{text}");
        let places: Vec<usize> = (0..=text.len())
            .filter(|at| text.is_char_boundary(*at))
            .collect();
        for (index, first) in places.iter().enumerate() {
            for second in &places[index..] {
                let pieces = [&text[..*first], &text[*first..*second], &text[*second..]];
                let found = hear(template, beginning(), pieces);
                assert_eq!(found, expected, "{pieces:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Any mixture of marks, calls and text, cut anywhere, comes to the same as whole.
    #[test]
    fn cuts_do_not_matter(
        template in prop::sample::select(vec![QWEN, LLAMA, MISTRAL, NEWER_MISTRAL, DEEPSEEK, LFM, GLM, CODER, PHI, GPT_OSS]),
        parts in prop::collection::vec(prop::sample::select(vec![
            "<tool_call>", "</tool_call>", "<think>", "</think>", "{\"name\": \"time\", \"arguments\": ",
            "{\"a\": [1, \"}\"]}", "}", "\n", " é", "[TOOL_CALLS]", "time[ARGS]", "[", "]", ", ", "<", ";",
            "<arg_key>a</arg_key>", "<arg_value>1</arg_value>", "<function=time>", "</function>",
            "<|tool_call|>", "<|channel|>analysis", "<|message|>", "<|end|>", "<|start|>assistant",
            " to=functions.time", "<|python_tag|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>time<｜tool▁sep｜>",
            "\n```", "<｜tool▁call▁end｜>", "<|tool_call_start|>", "time(a='b')", "<|tool_call_end|>", "{\"name\": \"time\", \"parameters\": {}}",
        ]), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        in_reasoning: bool,
    ) {
        let text = parts.concat();
        let beginning = || Beginning { in_reasoning, ..beginning() };
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        places.retain(|at| text.is_char_boundary(*at));
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces = places.windows(2).map(|pair| &text[pair[0]..pair[1]]);
        prop_assert_eq!(hear(template, beginning(), pieces), hear(template, beginning(), [text.as_str()]));
    }

    /// Text without a mark goes out as it is.
    #[test]
    fn plain_text_is_content(text in "[a-zé \n.,]{0,40}") {
        for template in [QWEN, LLAMA, MISTRAL, DEEPSEEK, LFM, GLM, CODER, PHI] {
            prop_assert_eq!(&hear(template, beginning(), [text.as_str()]).content, &text);
        }
    }
}

#[test]
fn what_is_certain_goes_out_at_once() {
    let mut parser = Parser::new(&Format::of([QWEN]), beginning()).expect("a format");
    let content = |text: &str| vec![Delta::Content(text.to_owned())];
    let arguments = |text: &str| Delta::Part(Part::Arguments(text.to_owned()));
    assert_eq!(parser.push("Well "), content("Well"));
    assert_eq!(parser.push("<tool"), []);
    assert_eq!(parser.push("s> <tool_call>"), content(" <tools>"));
    assert_eq!(parser.push("{\"name\": \"time\", \"arguments\": "), []);
    assert_eq!(
        parser.push("{\"a"),
        [
            Delta::Part(Part::Call("time".to_owned())),
            arguments("{\"a")
        ]
    );
    assert_eq!(parser.push("\": 1}"), [arguments("\": 1}")]);
    assert_eq!(parser.push("}\n</tool_call>\n"), []);
    assert_eq!(parser.finish(), []);
}

#[test]
fn a_prompt_may_open_reasoning_and_an_answer_may_end_with_a_call() {
    let format = Format::of([QWEN]);
    assert!(format.opens_reasoning("<|im_start|>assistant\n<think>\n"));
    assert!(!format.opens_reasoning("<think>\n\n</think>\n\n"));
    let opened = Beginning {
        in_reasoning: true,
        ..Beginning::default()
    };
    let found = hear(QWEN, opened, ["a\n</think>\n\nb <tool_call>{}"]);
    assert_eq!(
        (found.reasoning.as_str(), found.content.as_str()),
        ("a", "b <tool_call>{}")
    );
    let one = Beginning {
        one_call: true,
        ..beginning()
    };
    for (template, text) in [
        (
            QWEN,
            "<tool_call>{\"name\": \"time\"}</tool_call><tool_call>{\"name\": \"time\"}</tool_call>",
        ),
        (
            MISTRAL,
            "[TOOL_CALLS][{\"name\": \"time\"}, {\"name\": \"time\"}]",
        ),
        (
            GLM,
            "<tool_call>time</tool_call><tool_call>time</tool_call>",
        ),
        (
            NEWER_MISTRAL,
            "[TOOL_CALLS]time[ARGS]{}[TOOL_CALLS]time[ARGS]{}",
        ),
        (LFM, "<|tool_call_start|>[time(), time()]<|tool_call_end|>"),
    ] {
        let found = hear(template, one.clone(), [text]);
        assert_eq!(
            (found.calls.len(), found.content.as_str()),
            (1, ""),
            "{text}"
        );
    }
    assert!(Parser::new(&Format::of([PLAIN_HERMES]), Beginning::default()).is_none());
}

#[test]
fn what_is_held_back_is_bounded() {
    let long = format!("<tool_call>{{\"a\": \"{}", "x".repeat(LONGEST_HELD));
    for template in [QWEN, CODER] {
        let mut parser = Parser::new(&Format::of([template]), beginning()).expect("a format");
        let told = parser.push(&long);
        assert!(matches!(&told[..], [Delta::Content(text)] if text.len() >= LONGEST_HELD));
    }
}

#[test]
fn templates_tell_their_formats() {
    let calls = |template: &str| Format::of([template]).calls;
    assert_eq!(calls(QWEN), Some(Calls::Tagged(TOOL_CALL)));
    assert_eq!(calls(LLAMA), Some(Calls::Bare));
    assert_eq!(calls(MISTRAL), Some(Calls::Tagged(TOOL_CALLS)));
    assert_eq!(calls(NEWER_MISTRAL), Some(Calls::Named));
    assert_eq!(calls(DEEPSEEK), Some(Calls::Separated));
    assert_eq!(calls(LFM), Some(Calls::Python));
    assert_eq!(calls(PHI), Some(Calls::Tagged(TOOL_CALL_TOKEN)));
    assert_eq!(calls(GLM), Some(Calls::Keys));
    assert_eq!(calls(CODER), Some(Calls::Functions));
    assert_eq!(calls(GPT_OSS), Some(Calls::Channels));
    assert_eq!(Format::of(["{{ messages }}"]), Format::default());
    assert!(Format::of(["x", QWEN]).reasoning.is_some());
}

#[test]
fn forced_calls_have_a_form_that_a_grammar_can_say() {
    let own = |template: &str| Format::of([template]).forced().calls;
    assert_eq!(own(LLAMA), Some(Calls::Bare));
    for template in [QWEN, NEWER_MISTRAL, GLM, GPT_OSS, "no marks"] {
        assert_eq!(own(template), Some(Calls::Tagged(TOOL_CALL)), "{template}");
    }
}
