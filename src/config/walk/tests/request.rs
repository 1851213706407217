//! `models.NAME.request`: what it means and what is refused.

use serde_json::{Value, json};

use super::read;
use super::refused::check as refused;
use crate::config::request::Rules;

/// The rules that a text says, under the entry's `request`.
fn rules(text: &str) -> Rules {
    let text = format!("models:\n  a/b:\n    request:\n{text}");
    let config = read(&text).unwrap_or_else(|problems| panic!("{problems}"));
    config.models[0].request.clone()
}

#[test]
fn values_are_what_the_fields_take() {
    let check = |text: &str, expected: Value| {
        let rules = rules(&format!("      defaults: {text}"));
        assert_eq!(Value::Object(rules.defaults), expected, "{text}");
    };
    check(
        "{temperature: 0.7, top_k: 40}",
        json!({"temperature": 0.7, "top_k": 40}),
    );
    check(
        "{temperature: 1, presence_penalty: -0.5}",
        json!({"temperature": 1, "presence_penalty": -0.5}),
    );
    check(
        "{stop: [5, true, \"x\"]}",
        json!({"stop": ["5", "true", "x"]}),
    );
    check("{stop: 5}", json!({"stop": "5"}));
    check(
        "{logit_bias: {50256: -100}}",
        json!({"logit_bias": {"50256": -100}}),
    );
    check("{logprobs: true}", json!({"logprobs": true}));
    check("{logprobs: 3}", json!({"logprobs": 3}));
    check("{tool_choice: none}", json!({"tool_choice": "none"}));
    check(
        "{chat_template_kwargs: {a: 5, b: \"5\", c: '5', d: true, e: 'true', f: ~, g: [1, x], h: 1e3}}",
        json!({"chat_template_kwargs": {
            "a": 5, "b": "5", "c": "5", "d": true, "e": "true", "f": null, "g": [1, "x"], "h": "1e3",
        }}),
    );
    check(
        "{enable_thinking: true, chat_template_kwargs: {x: 1}}",
        json!({"chat_template_kwargs": {"enable_thinking": true, "x": 1}}),
    );
    check(
        "{chat_template_kwargs: {x: 1}, enable_thinking: false}",
        json!({"chat_template_kwargs": {"x": 1, "enable_thinking": false}}),
    );
}

#[test]
fn variants_are_names_with_values() {
    let text = "models: {a/b: {aliases: [c], variants: {slow: {temperature: 0}, x.1: ~}}}";
    let config = read(text).expect("valid");
    let variants = &config.models[0].variants;
    assert_eq!(
        json!(variants),
        json!({"slow": {"temperature": 0}, "x.1": {}})
    );
    let (long, name) = ("x".repeat(93), "y".repeat(90));
    refused(
        &format!(
            "models:\n  a/b:\n    variants: {{'x:y': {{}}, 'a/b': {{}}, 'é': {{}}, {long}: {{}}, '': {{}}, cold: {{temperature: 9}}}}\n  {name}: {{repo: a/b, variants: {{ok: {{}}}}}}\n"
        ),
        &[
            r#"3:16 models.a/b.variants.x:y: a variant has no : and no / in its name"#,
            r#"3:27 models.a/b.variants.a/b: a variant has no : and no / in its name"#,
            r#"3:38 models.a/b.variants.é: a model name has only letters, digits and . _ : / -, found 'é'"#,
            &format!(
                "3:47 models.a/b.variants.{long}: a model name has at most 96 bytes, this one has 97"
            ),
            r#"3:146 models.a/b.variants.: expected a name after the colon, found none"#,
            r#"3:174 models.a/b.variants.cold.temperature: expected a number from 0 to 2, found 9"#,
        ],
    );
    refused(
        "models:\n  a/b:\n    aliases: [c]\n    variants: {x: {top_k: 1}}\n    request: {set: {top_k: 2}, limits: {top_k: 2}}\n  c:x: {repo: a/b}\n  d: {repo: a/c, aliases: ['a/b:x']}\n",
        &[
            r#"4:16 models.a/b.variants.x: "a/b:x" is already an alias: at line 7 and at line 4 | a name leads to one model only"#,
            r#"4:16 models.a/b.variants.x: "c:x" is already an entry: at line 6 and at line 4 | a name leads to one model only"#,
            r#"4:20 models.a/b.variants.x.top_k: has no effect beside request.set | remove one of them"#,
        ],
    );
    refused(
        "default: a/b:y\nmodels: {a/b: {variants: {x: {}}}}\n",
        &[r#"1:10 default: "a/b:y" is no entry, no alias and no id that allow permits"#],
    );
    read("default: a/b:x\nmodels: {a/b: {variants: {x: {}}}}\n").expect("valid");
}

#[test]
fn all_of_it_is_read() {
    let rules = rules(
        "
      limits: {max_tokens: 100, temperature: 1.5, n: 2}
      set: {top_p: 0.5}
      strip: [user, anything else]
      system_prefix: |
        Be brief.
",
    );
    assert_eq!(
        json!(rules.limits),
        json!({"max_tokens": 100, "n": 2, "temperature": 1.5})
    );
    assert_eq!(Value::Object(rules.set), json!({"top_p": 0.5}));
    assert_eq!(rules.strip, ["user", "anything else"]);
    assert_eq!(rules.system_prefix.as_deref(), Some("Be brief.\n"));
    assert!(
        super::read("models: {a/b: {request: {}}}")
            .expect("valid")
            .models[0]
            .request
            .is_empty()
    );
}

#[test]
fn what_no_field_takes_is_refused_at_its_place() {
    let check = |text: &str, expected: &[&str]| {
        refused(
            &format!("models:\n  a/b:\n    request:\n      {text}\n"),
            expected,
        );
    };
    check(
        "defaults: {temperature: 5, top_k: many, stop: [[1]]}",
        &[
            r#"4:31 models.a/b.request.defaults.temperature: expected a number from 0 to 2, found 5"#,
            r#"4:41 models.a/b.request.defaults.top_k: expected a whole number from 0 to 2147483647, found "many""#,
            r#"4:53 models.a/b.request.defaults.stop: expected a string or an array of strings, found an array"#,
        ],
    );
    check(
        "set: {temprature: 1, model: x, n: 2, ttl: 5}",
        &[
            r#"4:13 unknown key "temprature" in models.a/b.request.set | did you mean "temperature""#,
            r#"4:28 models.a/b.request.set.model: "model" is the request's own"#,
            r#"4:38 models.a/b.request.set.n: "n" is the request's own | write it under request.limits"#,
            r#"4:44 models.a/b.request.set.ttl: "ttl" is the request's own | write idle_unload beside request"#,
        ],
    );
    check(
        "limits: {temprature: 1, max_completion_tokens: 5, max_tokens: 0, temperature: hot}",
        &[
            r#"4:16 unknown key "temprature" in models.a/b.request.limits | did you mean "temperature""#,
            r#"4:31 models.a/b.request.limits.max_completion_tokens: max_tokens stands for max_completion_tokens as well | write max_tokens"#,
            r#"4:69 models.a/b.request.limits.max_tokens: expected a whole number from 1 to 2147483647, found "0""#,
            r#"4:85 models.a/b.request.limits.temperature: expected a number from 0 to 2, found "hot""#,
        ],
    );
    check(
        "strip: [messages, max_completion_tokens]",
        &[
            r#"4:15 models.a/b.request.strip[0]: "messages" is the request's own | write system_prefix under request"#,
            r#"4:25 models.a/b.request.strip[1]: max_tokens stands for max_completion_tokens as well | write max_tokens"#,
        ],
    );
    check(
        "defaults: {temperature: ~}",
        &[
            r#"4:31 models.a/b.request.defaults.temperature: expected a number from 0 to 2, found nothing"#,
        ],
    );
    check(
        "limits: {max_tokens: 10}\n      set: {top_k: 1}\n      defaults: {max_tokens: 11, top_k: 2}",
        &[
            r#"6:18 models.a/b.request.defaults.max_tokens: expected at most 10, as request.limits says, found 11"#,
            r#"6:34 models.a/b.request.defaults.top_k: has no effect beside request.set | remove one of them"#,
        ],
    );
    refused(
        "server: {limits: {stops: 1}}\nmodels: {a/b: {request: {set: {stop: [a, b]}}}}\n",
        &[
            r#"2:32 models.a/b.request.set.stop: expected at most 1 strings, as server.limits.stops says, found 2"#,
        ],
    );
}

#[test]
fn rivals_are_other_entries_that_do_not_stay() {
    let config = read("models: {a/b: {never_with: [c/d]}, c/d: {never_with: [a/b]}}");
    let config = config.expect("valid");
    assert_eq!(config.models[0].never_with[0].as_str(), "c/d");
    refused(
        "models: {a/b: {never_with: [c/d, a/b, c/dd, c/d, [x]]}, c/d: {keep: always}, e/f: {keep: always, never_with: [a/b]}}\n",
        &[
            r#"1:29 models.a/b.never_with: "c/d" is always kept, so "a/b" could never be loaded"#,
            r#"1:34 models.a/b.never_with: "a/b" is the entry itself"#,
            r#"1:39 models.a/b.never_with: expected the name of an entry, found "c/dd""#,
            r#"1:45 models.a/b.never_with[3]: "c/d" is there twice"#,
            r#"1:50 models.a/b.never_with[4]: expected a name, found a list"#,
            r#"1:111 models.e/f.never_with: "e/f" is always kept, so "a/b" could never be loaded"#,
        ],
    );
}

#[test]
fn tags_are_words_that_stand_once() {
    let config = read("models: {a/b: {tags: [code, 5, x_1.y-z]}}").expect("valid");
    assert_eq!(config.models[0].tags, ["code", "5", "x_1.y-z"]);
    refused(
        "models: {a/b: {tags: [code, 'a b', code, [x]]}}\n",
        &[
            r#"1:29 models.a/b.tags[1]: expected a word of letters, digits and . _ -, found "a b""#,
            r#"1:36 models.a/b.tags[2]: "code" is there twice"#,
            r#"1:42 models.a/b.tags[3]: expected a word of letters, digits and . _ -, found a list"#,
        ],
    );
}
