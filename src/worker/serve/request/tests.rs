use indexmap::IndexMap;
use serde_json::json;

use super::*;
use crate::api::error::Code;

/// A body with the fields that every request needs and those of `more`.
fn body(endpoint: Endpoint, more: Value) -> Vec<u8> {
    let mut body = match endpoint {
        Endpoint::Chat => json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        _ => json!({"model": "m", "prompt": "hi"}),
    };
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

#[track_caller]
fn accepted(endpoint: Endpoint, more: Value) -> Asked {
    match read(endpoint, &body(endpoint, more)) {
        Ok(asked) => asked,
        Err(error) => panic!("refused: {error:?}"),
    }
}

#[track_caller]
fn check_refused(endpoint: Endpoint, more: Value, param: &str) {
    match read(endpoint, &body(endpoint, more.clone())) {
        Ok(_) => panic!("accepted: {more}"),
        Err(error) => {
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert_eq!(error.code, Code::InvalidValue);
            assert!(error.message.len() < 400, "{}", error.message);
        }
    }
}

#[test]
fn refusals_name_the_field() {
    let check = |more: Value, param: &str| check_refused(Endpoint::Chat, more, param);
    check(json!({"max_tokens": 0}), "max_tokens");
    check(json!({"temperature": 2.1}), "temperature");
    check(json!({"stop": [1]}), "stop");
    check(json!({"top_logprobs": 2}), "top_logprobs");
    check(json!({"response_format": "text"}), "response_format");
    check(
        json!({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}),
        "guided_choice",
    );
    check(json!({"guided_regex": 5}), "guided_regex");
    check(json!({"tool_choice": "required"}), "tool_choice");
    check(json!({"adapters": "/etc"}), "adapters");
    check(json!({"messages": []}), "messages");
    check(json!({"tools": ["x"]}), "tools[0]");
    check(
        json!({"continue_final_message": true, "add_generation_prompt": true}),
        "add_generation_prompt",
    );
}

#[test]
fn null_and_harmless_values_are_as_nothing() {
    let plain = accepted(Endpoint::Chat, json!({}));
    let full = accepted(
        Endpoint::Chat,
        json!({
            "max_tokens": null, "n": 1, "temperature": null, "stop": null, "tools": [],
            "response_format": {"type": "text"}, "tool_choice": "auto", "logprobs": false,
            "stream_options": null, "best_of": 1, "echo": false, "suffix": null, "user": null,
            "modalities": ["text"], "logit_bias": null, "top_logprobs": 0,
        }),
    );
    assert_eq!(format!("{plain:?}"), format!("{full:?}"));
    assert!(plain.ignored.is_empty());
    assert_eq!((plain.max_tokens, plain.choices), (None, 1));
}

#[test]
fn values_arrive() {
    let asked = accepted(
        Endpoint::Chat,
        json!({
            "max_tokens": 20, "max_completion_tokens": 10, "n": 3, "stop": ["a", "", "b"],
            "stream": true, "stream_options": {"include_usage": true}, "logprobs": true,
            "top_logprobs": 4, "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.25,
            "repetition_penalty": 1.5, "repetition_context_size": 20, "presence_penalty": -1,
            "frequency_penalty": 0.5, "logit_bias": {"5": -100, "6": 1.5}, "seed": 2147483647,
            "chat_template_kwargs": {"a": 1}, "enable_thinking": false, "ignore_eos": true,
            "continue_final_message": true, "nonce": "n",
        }),
    );
    assert_eq!((asked.max_tokens, asked.choices), (Some(10), 3));
    assert_eq!(asked.stops, ["a", "b"]);
    assert!(asked.stream && asked.include_usage && asked.ignore_end);
    assert_eq!(asked.logprobs, Some(4));
    assert_eq!(
        asked.wishes,
        Wishes {
            temperature: Some(0.0),
            top_p: Some(0.5),
            top_k: Some(7),
            min_p: Some(0.25),
            repetition_penalty: Some(1.5),
            repetition_context: Some(20),
            presence_penalty: Some(-1.0),
            frequency_penalty: Some(0.5),
            logit_bias: IndexMap::from([(5, -100.0), (6, 1.5)]),
            seed: Some(2147483647),
        }
    );
    let Input::Chat(chat) = asked.input else {
        panic!("a chat");
    };
    assert_eq!(
        json!(chat.kwargs),
        json!({"a": 1, "enable_thinking": false})
    );
    assert!(chat.continue_final_message && !chat.add_generation_prompt);
    assert_eq!(asked.nonce.as_deref(), Some("n"));
    assert!(asked.ignored.is_empty(), "{:?}", asked.ignored);
}

#[test]
fn a_constraint_comes_in_several_fields() {
    let check = |more: Value, expected: Option<(&str, Constraint)>| {
        for endpoint in [Endpoint::Chat, Endpoint::Completions] {
            let found = accepted(endpoint, more.clone()).constraint;
            let expected = expected
                .clone()
                .map(|(place, what)| (place.to_owned(), what));
            assert_eq!(found, expected, "{more}");
        }
    };
    let schema = |strict| Constraint::Schema {
        schema: json!({"type": "null"}),
        strict,
    };
    let kind = json!({"type": "null"});
    check(json!({}), None);
    check(json!({"response_format": {"type": "text"}}), None);
    check(
        json!({"response_format": {"type": "json_object"}}),
        Some(("response_format", Constraint::Object)),
    );
    check(
        json!({"response_format": {"type": "json_object", "schema": {"type": "null"}}}),
        Some(("response_format.schema", schema(false))),
    );
    let place = "response_format.json_schema.schema";
    for (strict, expected) in [
        (json!(true), true),
        (json!(false), false),
        (Value::Null, false),
    ] {
        let described = json!({"name": "n", "schema": kind, "strict": strict});
        check(
            json!({"response_format": {"type": "json_schema", "json_schema": described}}),
            Some((place, schema(expected))),
        );
    }
    check(
        json!({"guided_json": kind}),
        Some(("guided_json", schema(true))),
    );
    check(
        json!({"guided_json": (kind.to_string())}),
        Some(("guided_json", schema(true))),
    );
    let pattern = || Constraint::Pattern("a+".to_owned());
    check(
        json!({"guided_regex": "a+"}),
        Some(("guided_regex", pattern())),
    );
    let choice = || Constraint::Choice(vec!["a".to_owned(), "b".to_owned()]);
    check(
        json!({"guided_choice": ["a", "b"]}),
        Some(("guided_choice", choice())),
    );
    let grammar = || Constraint::Grammar("start: \"a\"".to_owned());
    for name in ["grammar", "guided_grammar"] {
        check(json!({name: "start: \"a\""}), Some((name, grammar())));
    }
    let structured = |more: Value, expected| check(json!({"structured_outputs": more}), expected);
    structured(
        json!({"json": null, "regex": "a+"}),
        Some(("structured_outputs.regex", pattern())),
    );
    structured(
        json!({"json": {"type": "null"}}),
        Some(("structured_outputs.json", schema(true))),
    );
    structured(
        json!({"choice": ["a", "b"]}),
        Some(("structured_outputs.choice", choice())),
    );
    structured(
        json!({"grammar": "start: \"a\""}),
        Some(("structured_outputs.grammar", grammar())),
    );
    structured(
        json!({"json_object": true}),
        Some(("structured_outputs.json_object", Constraint::Object)),
    );
}

#[test]
fn tools_are_shown_unless_they_may_not_be_called() {
    let tools = |choice: Value| {
        let more = json!({"tools": [{"type": "function"}], "tool_choice": choice});
        match accepted(Endpoint::Chat, more).input {
            Input::Chat(chat) => chat.tools.map(|tools| tools.len()),
            Input::Prompts(_) => panic!("a chat"),
        }
    };
    assert_eq!(tools(json!("auto")), Some(1));
    assert_eq!(tools(json!(null)), Some(1));
    assert_eq!(tools(json!("none")), None);
}

#[test]
fn calls_are_forced_by_the_words_of_the_api() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let with = |mut more: Value| {
        more["tools"] = json!([tool("a"), tool("b")]);
        more
    };
    let forced = |more: Value| {
        let asked = accepted(Endpoint::Chat, with(more));
        assert_eq!(asked.constraint, None);
        (asked.forced, asked.one_call)
    };
    let calls = |tools: Vec<Value>, several| {
        let tools = crate::engine::parts::Tools(tools);
        Some(crate::engine::parts::Forced { tools, several })
    };
    let both = || vec![tool("a"), tool("b")];
    assert_eq!(forced(json!({"tool_choice": "auto"})), (None, false));
    let required = json!({"tool_choice": "required"});
    assert_eq!(forced(required), (calls(both(), true), false));
    let one = json!({"tool_choice": "required", "parallel_tool_calls": false});
    assert_eq!(forced(one), (calls(both(), false), true));
    let named = json!({"tool_choice": tool("b")});
    assert_eq!(forced(named), (calls(vec![tool("b")], false), false));
    let refused = |more: Value, param: &str| check_refused(Endpoint::Chat, with(more), param);
    refused(json!({"tool_choice": tool("c")}), "tool_choice");
    refused(json!({"tool_choice": {"type": "function"}}), "tool_choice");
    refused(json!({"tool_choice": "any"}), "tool_choice");
    refused(
        json!({"tool_choice": "required", "guided_regex": "a"}),
        "tool_choice",
    );
    let nameless = json!({"tool_choice": "required", "tools": [{"function": {"name": ""}}]});
    check_refused(Endpoint::Chat, nameless, "tools");
    let levels = crate::api::fields::format::DEEPEST_SCHEMA;
    let deep = (0..levels).fold(json!({}), |inner, _| json!({"items": inner}));
    let deep = json!([{"function": {"name": "a", "parameters": deep}}]);
    let deep = json!({"tool_choice": "required", "tools": deep});
    check_refused(Endpoint::Chat, deep, "tools");
}

#[test]
fn prompts_come_in_four_forms() {
    let check = |prompt: Value, expected: Vec<Prompt>| {
        let asked = accepted(Endpoint::Completions, json!({"prompt": prompt}));
        assert_eq!(asked.input, Input::Prompts(expected));
    };
    let text = |text: &str| Prompt::Text(text.to_owned());
    check(json!("a"), vec![text("a")]);
    check(json!(["a", "b"]), vec![text("a"), text("b")]);
    check(json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]);
    check(
        json!([[1], [2, 3]]),
        vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])],
    );
    let refused = |prompt: Value, param: &str| {
        check_refused(Endpoint::Completions, json!({"prompt": prompt}), param);
    };
    refused(json!(null), "prompt");
    refused(json!([]), "prompt");
    refused(json!(5), "prompt");
    refused(json!([1, -2]), "prompt[1]");
    refused(json!([[1], [1.5]]), "prompt[1][0]");
    refused(json!(["a", 5]), "prompt[1]");
    let asked = accepted(Endpoint::Completions, json!({}));
    assert_eq!(asked.max_tokens, Some(16), "as the API documents it");
}

#[test]
fn fields_without_effect_are_told() {
    let asked = accepted(
        Endpoint::Chat,
        json!({"user": "u", "store": false, "my_field": 1, "bad\nname": 1, "ttl": 5, "keep_alive": "5m", "seed": 1}),
    );
    assert_eq!(
        asked.ignored,
        ["my_field", "store", "user"],
        "the router acts on ttl"
    );
}

#[test]
fn broken_bodies_are_refused() {
    let check = |body: &[u8], code: Code| {
        let error = read(Endpoint::Chat, body).expect_err("refused");
        assert_eq!(error.code, code, "{}", error.message);
    };
    check(b"", Code::InvalidJson);
    check(b"{", Code::InvalidJson);
    check(b"{} {}", Code::InvalidJson);
    check(b"[]", Code::InvalidJson);
    let messages = "\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]";
    let odd = format!("{{{messages}, \"seed\": 1e999}}");
    check(odd.as_bytes(), Code::InvalidJson);
    check(b"{\"model\": 5}", Code::InvalidModelId);
    check(b"{\"messages\": [\"\\ud800\"]}", Code::InvalidJson);
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!("{{\"x\":{open}{close},\"messages\":[{{\"x\":{open}{close}}}]}}")
    };
    check(deep(100_000).as_bytes(), Code::InvalidJson);
}

#[test]
fn j03_what_the_router_lets_through_is_not_too_deep_here() {
    let depth = crate::dispatch::peek::DEEPEST - 3;
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    let message = format!("{{\"role\":\"user\",\"content\":\"a\",\"x\":{open}{close}}}");
    let body = format!("{{\"messages\":[{message}]}}");
    let counts = crate::config::Counts::standard();
    assert!(crate::dispatch::peek::peek(Endpoint::Chat, body.as_bytes(), &counts).is_ok());
    assert!(read(Endpoint::Chat, body.as_bytes()).is_ok());
    let deeper = body
        .replace(&open, &format!("{open}["))
        .replace(&close, &format!("{close}]"));
    assert!(crate::dispatch::peek::peek(Endpoint::Chat, deeper.as_bytes(), &counts).is_err());
    assert!(read(Endpoint::Chat, deeper.as_bytes()).is_err());
}
