//! The chat templates that models of widely used families are published with: rendered
//! (`tests/reference/make_families.py`), and understood. They lie in data/templates, where
//! `make templates` puts them.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::Value;
use serde_json::json;

use super::template;
use crate::engine::parts::format::{Calls, Format};
use crate::engine::parts::{Beginning, Delta, Parser, Part, Tools};
use crate::engine::tokenizer::TextError;

/// A family of the fixture.
struct Family {
    name: String,
    source: String,
    cases: Vec<serde_json::Value>,
}

/// The families, and what they have in common.
fn families() -> (serde_json::Value, Vec<Family>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/fixtures/text/families.json"));
    let mut fixture: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(fixture["now"], super::NOW);
    let families = fixture["families"].take();
    let read = |family: &serde_json::Value| {
        let name = family["template"].as_str().unwrap();
        let path = root.join(format!("data/templates/{name}.jinja"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; run `make templates`", path.display());
        });
        Family {
            name: family["family"].as_str().unwrap().to_owned(),
            source,
            cases: family["cases"].as_array().unwrap().clone(),
        }
    };
    let families: Vec<Family> = families.as_array().unwrap().iter().map(read).collect();
    assert!(families.len() > 20, "{}", families.len());
    (fixture, families)
}

fn special_tokens(fixture: &serde_json::Value) -> BTreeMap<String, Value> {
    let tokens = fixture["special_tokens"].as_object().unwrap().iter();
    tokens
        .map(|(name, token)| (name.clone(), Value::from(token.as_str().unwrap())))
        .collect()
}

#[test]
fn render_as_with_transformers() {
    let (fixture, families) = families();
    let mut failures = Vec::new();
    for Family {
        name,
        source,
        cases,
    } in families
    {
        let template = template(&source, special_tokens(&fixture));
        for case in &cases {
            let messages = &fixture["chats"][case["chat"].as_str().unwrap()];
            let tools = case["tools"]
                .as_bool()
                .unwrap()
                .then_some(&fixture["tools"]);
            let found = template.render(
                messages,
                tools,
                case["kwargs"].as_object().unwrap(),
                case["add_generation_prompt"].as_bool().unwrap(),
                false,
            );
            // What fails there fails here; what Jinja2 itself says is said otherwise.
            let same = match (case["prompt"].as_str(), &found) {
                (Some(expected), Ok(prompt)) => prompt == expected,
                (None, Err(TextError::Template(_))) => true,
                _ => false,
            };
            if !same {
                failures.push(format!("{name} on {case}:\nfound {found:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// What a model of the family writes: an answer with a call, as its template shows earlier
/// ones to it.
fn written<'a>(cases: &'a [serde_json::Value], chat: &str) -> Option<&'a str> {
    let prompt = |chat: &str| {
        let with_tools = |case: &&serde_json::Value| case["chat"] == chat && case["tools"] == true;
        cases.iter().find(with_tools)?["prompt"].as_str()
    };
    let (asked, called) = (prompt("one")?, prompt(chat)?);
    // The one has another question than the other: what opens an answer is the same.
    let opening = &asked[asked.rfind("who are you?")? + "who are you?".len()..];
    let after = &called[called.rfind("Weather in Köln?")? + "Weather in Köln?".len()..];
    Some(after.strip_prefix(opening.trim_start()).unwrap_or(after))
}

#[test]
fn what_they_show_of_calls_is_read_as_calls() {
    let (fixture, families) = families();
    let tools = Tools(fixture["tools"].as_array().unwrap().clone());
    // These show none, or in a form that is not known.
    let without = [
        "gemma 2",
        "phi 3.5",
        "smollm 3",
        "lfm 2",
        "granite 3.3",
        "command r7b",
    ];
    for Family {
        name,
        source,
        cases,
    } in families
    {
        let format = Format::of([source.as_str()]);
        let beginning = Beginning {
            tools: Some(tools.clone()),
            ..Beginning::default()
        };
        let text = written(&cases, "called").unwrap_or_default();
        let mut deltas = Vec::new();
        if let Some(mut parser) = Parser::new(&format, beginning) {
            deltas.extend(parser.push(text));
            deltas.extend(parser.finish());
        }
        let mut calls: Vec<(String, String)> = Vec::new();
        for delta in deltas {
            match delta {
                Delta::Part(Part::Call(name)) => calls.push((name, String::new())),
                Delta::Part(Part::Arguments(more)) => calls.last_mut().unwrap().1 += &more,
                _ => {}
            }
        }
        if without.contains(&name.as_str()) {
            assert_eq!(calls, [], "{name}: {text}");
            continue;
        }
        let [(function, arguments)] = &calls[..] else {
            panic!("{name}: {calls:?} in {text}");
        };
        let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
        assert_eq!(function, "get_weather", "{name}");
        assert_eq!(
            arguments,
            json!({"place": "Köln", "days": 2, "exact": 1.0}),
            "{name}: {text}"
        );
    }
}

#[test]
fn the_forms_of_families_are_recognised() {
    let (_, families) = families();
    let found: BTreeMap<String, Format> = families
        .into_iter()
        .map(|family| (family.name, Format::of([family.source.as_str()])))
        .collect();
    let check = |name: &str, calls: Option<fn(Calls) -> bool>, reasons: bool| {
        let format = found[name];
        match (calls, format.calls) {
            (Some(right), Some(calls)) => assert!(right(calls), "{name}: {calls:?}"),
            (expected, calls) => assert_eq!(expected.is_some(), calls.is_some(), "{name}"),
        }
        assert_eq!(format.reasoning.is_some(), reasons, "{name}");
    };
    check("llama 3.1", Some(|calls| calls == Calls::Bare), false);
    check("llama 3.3", Some(|calls| calls == Calls::Bare), false);
    for (name, reasons) in [
        ("qwen 2.5", false),
        ("qwen 3", true),
        ("qwq", true),
        ("hermes 3", false),
        ("granite 4", false),
        ("mistral nemo", false),
        ("granite 3.3", true),
    ] {
        check(
            name,
            Some(|calls| matches!(calls, Calls::Tagged(_))),
            reasons,
        );
    }
    check(
        "qwen 3 coder",
        Some(|calls| calls == Calls::Functions),
        false,
    );
    check("mistral small", Some(|calls| calls == Calls::Named), false);
    check("deepseek r1", Some(|calls| calls == Calls::Separated), true);
    check(
        "deepseek v3.1",
        Some(|calls| calls == Calls::Separated),
        true,
    );
    check("gpt-oss", Some(|calls| calls == Calls::Channels), false);
    check("glm 4.6", Some(|calls| calls == Calls::Keys), true);
    check("lfm 2", Some(|calls| calls == Calls::Python), false);
    check("lfm 2.5", Some(|calls| calls == Calls::Python), true);
    check("smollm 3", None, true);
    for name in ["gemma 2", "phi 3.5"] {
        check(name, None, false);
    }
}
