//! Renderings against transformers' (`tests/reference/make_text.py`), and templates that
//! mean harm.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minijinja::Value;
use serde_json::{Map, json};

mod families;

use super::*;

/// The moment at which the reference was made.
const NOW: u64 = 1_720_256_703;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn template(source: &str, special_tokens: BTreeMap<String, Value>) -> ChatTemplate {
    let sources = BTreeMap::from([("default".to_owned(), source.to_owned())]);
    ChatTemplate::new(sources, special_tokens, now).unwrap()
}

/// Renders `source` for one user message.
fn rendered(source: &str) -> Result<String, TextError> {
    template(source, BTreeMap::new()).render(
        &json!([{"role": "user", "content": "hello"}]),
        None,
        &Map::new(),
        false,
        false,
    )
}

fn check(source: &str, expected: &str) {
    assert_eq!(
        rendered(source).as_deref(),
        Ok(expected),
        "template {source}"
    );
}

#[test]
fn renders_as_transformers_does() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let text = std::fs::read_to_string(tests.join("fixtures/text/templates.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(fixture["now"], NOW);
    let special_tokens: BTreeMap<String, Value> = fixture["special_tokens"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, token)| (name.clone(), Value::from(token.as_str().unwrap())))
        .collect();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 90, "found {} cases", cases.len());
    let mut failures = Vec::new();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let source =
            std::fs::read_to_string(tests.join(format!("reference/templates/{name}.jinja")))
                .unwrap();
        let prompt = template(&source, special_tokens.clone()).render(
            &case["messages"],
            Some(&case["tools"]).filter(|tools| !tools.is_null()),
            case["kwargs"].as_object().unwrap(),
            case["add_generation_prompt"].as_bool().unwrap(),
            case["continue_final_message"].as_bool().unwrap(),
        );
        let expected = match case["error"].as_str() {
            Some(message) => Err(TextError::Template(message.to_owned())),
            None => Ok(case["prompt"].as_str().unwrap().to_owned()),
        };
        if prompt != expected {
            failures.push(format!(
                "{name} on {}:\n   found {prompt:?}\nexpected {expected:?}",
                case["messages"]
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn tells_the_time() {
    let format = "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %d %-d %j %I %p %y %% %Q') }}";
    check(
        format,
        "2024-07-06 09:05:03 Saturday Sat July Jul 06 6 188 09 AM 24 % %Q",
    );
}

#[test]
fn what_python_hides_is_merely_undefined() {
    for source in [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ namespace().__init__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler is defined or lipsum is defined or self is defined or debug is defined }}",
    ] {
        let found = rendered(source);
        assert!(
            matches!(
                found.as_deref(),
                Ok("" | "False") | Err(TextError::Template(_))
            ),
            "{source}: {found:?}"
        );
    }
    for source in [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{% include '/etc/passwd' %}",
        "{{ open('/etc/passwd').read() }}",
    ] {
        let found = rendered(source);
        assert!(
            matches!(found, Err(TextError::Template(_))),
            "{source}: {found:?}"
        );
    }
}

#[test]
fn a_template_without_end_is_ended() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ a }}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% include 'default' %}",
    ] {
        let found = rendered(source);
        assert!(
            matches!(
                found,
                Err(TextError::BadTemplate(_) | TextError::Template(_))
            ),
            "{source}: {found:?}"
        );
    }
}

#[test]
fn says_what_is_wrong() {
    assert_eq!(
        rendered("{{ raise_exception('no ' ~ messages[0].role) }}"),
        Err(TextError::Template("no user".to_owned()))
    );
    // Also from within a macro.
    assert_eq!(
        rendered("{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}"),
        Err(TextError::Template("deep".to_owned()))
    );
    let broken = BTreeMap::from([("default".to_owned(), "{% if %}".to_owned())]);
    assert!(matches!(
        ChatTemplate::new(broken, BTreeMap::new(), now),
        Err(TextError::BadTemplate(_))
    ));
}

fn check_messages(messages: serde_json::Value, expected: Result<&str, &str>) {
    let found = template("{{ messages | tojson }}", BTreeMap::new()).render(
        &messages,
        None,
        &Map::new(),
        false,
        false,
    );
    let expected = expected
        .map(str::to_owned)
        .map_err(|message| TextError::Template(message.to_owned()));
    assert_eq!(found, expected, "messages {messages}");
}

#[test]
fn puts_messages_in_shape() {
    check_messages(
        json!([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}]),
        Ok(r#"[{"role": "system", "content": "ab"}]"#),
    );
    check_messages(
        json!([{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2.0}"}}]}]),
        Ok(
            r#"[{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}}]}]"#,
        ),
    );
    check_messages(
        json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "not json"}}]}]),
        Ok(
            r#"[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "not json"}}], "content": ""}]"#,
        ),
    );
    check_messages(
        json!([{"role": "assistant", "content": "2", "reasoning": "why", "tool_calls": null}]),
        Ok(
            r#"[{"role": "assistant", "content": "2", "reasoning": "why", "thinking": "why", "reasoning_content": "why"}]"#,
        ),
    );
    check_messages(
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        Err(
            "messages[0].content[0]: this model takes text only, found a part of type \"image_url\"",
        ),
    );
    check_messages(
        json!({"role": "user"}),
        Err("messages: expected a list of messages"),
    );
    check_messages(json!(["hi"]), Err("messages[0]: expected an object"));
}

#[test]
fn developer_stays_where_the_template_knows_it() {
    let source =
        "{% for m in messages %}{{ m.role }}{{ '!' if m.role == 'developer' }}{% endfor %}";
    let found = template(source, BTreeMap::new()).render(
        &json!([{"role": "developer", "content": ""}]),
        None,
        &Map::new(),
        false,
        false,
    );
    assert_eq!(found.as_deref(), Ok("developer!"));
}

#[test]
fn arguments_of_the_caller_replace_nothing_of_ours() {
    let kwargs =
        json!({"messages": "forged", "tools": 1, "add_generation_prompt": 2, "extra": "yes"});
    let source = "{{ messages[0].role }} {{ tools }} {{ add_generation_prompt }} {{ extra }} {{ documents }}";
    let found = template(source, BTreeMap::new()).render(
        &json!([{"role": "user", "content": ""}]),
        Some(&json!([])),
        kwargs.as_object().unwrap(),
        true,
        false,
    );
    assert_eq!(found.as_deref(), Ok("user None True yes None"));
}

/// Loads a template from a folder with these files and renders it, with and without tools.
fn check_files(files: &[(&str, serde_json::Value)], expected: Option<[&str; 2]>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = match content.as_str() {
            Some(text) => text.to_owned(),
            None => content.to_string(),
        };
        std::fs::write(path, text).unwrap();
    }
    let found = ChatTemplate::load(dir.path()).unwrap().map(|template| {
        [None, Some(json!([{"type": "function"}]))].map(|tools| {
            template
                .render(&json!([]), tools.as_ref(), &Map::new(), false, false)
                .unwrap()
        })
    });
    assert_eq!(
        found,
        expected.map(|texts| texts.map(str::to_owned)),
        "files {files:?}"
    );
}

#[test]
fn finds_the_template_in_the_snapshot() {
    let config = json!({"bos_token": {"content": "<b>"}, "eos_token": "<e>",
        "chat_template": "config {{ bos_token }}{{ eos_token }}{{ pad_token }}"});
    let named = json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]});
    check_files(&[], None);
    check_files(&[("tokenizer_config.json", json!({}))], None);
    check_files(
        &[("tokenizer_config.json", config.clone())],
        Some(["config <b><e>"; 2]),
    );
    check_files(
        &[("tokenizer_config.json", named)],
        Some(["plain", "tools"]),
    );
    check_files(
        &[
            ("tokenizer_config.json", config.clone()),
            (
                "chat_template.json",
                json!({"chat_template": "json {{ bos_token }}"}),
            ),
        ],
        Some(["json <b>"; 2]),
    );
    check_files(
        &[
            ("tokenizer_config.json", config),
            ("chat_template.jinja", json!("jinja {{ eos_token }}")),
            ("additional_chat_templates/tool_use.jinja", json!("more")),
        ],
        Some(["jinja <e>", "more"]),
    );
}
