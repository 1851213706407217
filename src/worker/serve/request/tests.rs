use indexmap::IndexMap;
use serde_json::json;

use super::*;

/// A body with the fields that every request needs and those of `more`.
fn body(route: Route, more: Value) -> Vec<u8> {
    let mut body = match route {
        Route::Chat => json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        Route::Completions => json!({"model": "m", "prompt": "hi"}),
    };
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

#[track_caller]
fn accepted(route: Route, more: Value) -> Asked {
    match read(route, &body(route, more)) {
        Ok(asked) => asked,
        Err(error) => panic!("refused: {error:?}"),
    }
}

#[track_caller]
fn check_refused(route: Route, more: Value, param: &str) {
    match read(route, &body(route, more.clone())) {
        Ok(_) => panic!("accepted: {more}"),
        Err(error) => {
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert_eq!(error.code, Code::InvalidValue);
            assert!(error.message.len() < 400, "{}", error.message);
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let odd = [
        json!(-1),
        json!(-2147483648i64),
        json!(2147483648u64),
        json!(9223372036854775808u64),
        json!(1.5),
        json!("5"),
        json!(true),
        json!([1]),
    ];
    for value in odd {
        for name in ["max_tokens", "max_completion_tokens", "n", "top_k", "seed"] {
            check_refused(Route::Chat, json!({name: value}), name);
            check_refused(Route::Completions, json!({name: value}), name);
        }
        check_refused(Route::Completions, json!({"logprobs": value}), "logprobs");
        if !value.is_boolean() {
            check_refused(Route::Chat, json!({"logprobs": value}), "logprobs");
        }
        let top = json!({"logprobs": true, "top_logprobs": value});
        check_refused(Route::Chat, top, "top_logprobs");
        let context = json!({"repetition_context_size": value});
        check_refused(Route::Chat, context, "repetition_context_size");
    }
    check_refused(Route::Chat, json!({"max_tokens": 0}), "max_tokens");
    check_refused(Route::Chat, json!({"n": 9}), "n");
    check_refused(Route::Chat, json!({"n": 1000}), "n");
}

#[test]
fn fields_have_kinds_and_ranges() {
    let check = |more: Value, param: &str| check_refused(Route::Chat, more, param);
    check(json!({"temperature": 2.1}), "temperature");
    check(json!({"temperature": "1"}), "temperature");
    check(json!({"top_p": -0.1}), "top_p");
    check(json!({"min_p": 1.1}), "min_p");
    check(json!({"repetition_penalty": 11}), "repetition_penalty");
    check(json!({"presence_penalty": -3}), "presence_penalty");
    check(json!({"frequency_penalty": 3}), "frequency_penalty");
    check(json!({"stream": 1}), "stream");
    check(json!({"stream_options": []}), "stream_options");
    check(
        json!({"stream_options": {"include_usage": "yes"}}),
        "stream_options.include_usage",
    );
    check(json!({"stop": vec!["x"; 17]}), "stop");
    check(json!({"stop": vec!["x"; 10_000]}), "stop");
    check(json!({"stop": [1]}), "stop");
    check(json!({"stop": "x".repeat(2000)}), "stop");
    check(json!({"logit_bias": {"many": 1}}), "logit_bias");
    check(json!({"logit_bias": {"1": 101}}), "logit_bias");
    check(json!({"top_logprobs": 2}), "top_logprobs");
    check(
        json!({"logprobs": true, "top_logprobs": 21}),
        "top_logprobs",
    );
    check(json!({"tools": ["x"]}), "tools[0]");
    check(json!({"tools": vec![json!({}); 2000]}), "tools");
    check(
        json!({"continue_final_message": true, "add_generation_prompt": true}),
        "add_generation_prompt",
    );
}

#[test]
fn what_cannot_be_done_is_refused() {
    let check = |more: Value, param: &str| check_refused(Route::Chat, more, param);
    check(
        json!({"response_format": {"type": "json_object"}}),
        "response_format",
    );
    check(json!({"response_format": "text"}), "response_format");
    check(json!({"tool_choice": "required"}), "tool_choice");
    check(
        json!({"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        "tool_choice",
    );
    check(json!({"functions": [{"name": "f"}]}), "functions");
    check(json!({"modalities": ["text", "audio"]}), "modalities");
    check(json!({"chat_template": "{{ x }}"}), "chat_template");
    check(json!({"adapters": "/etc"}), "adapters");
    let check = |more: Value, param: &str| check_refused(Route::Completions, more, param);
    check(json!({"echo": true}), "echo");
    check(json!({"suffix": "}"}), "suffix");
    check(json!({"best_of": 2}), "best_of");
}

#[test]
fn null_and_harmless_values_are_as_nothing() {
    let plain = accepted(Route::Chat, json!({}));
    let full = accepted(
        Route::Chat,
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
        Route::Chat,
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
fn tools_are_shown_unless_they_may_not_be_called() {
    let tools = |choice: Value| {
        let more = json!({"tools": [{"type": "function"}], "tool_choice": choice});
        match accepted(Route::Chat, more).input {
            Input::Chat(chat) => chat.tools.map(|tools| tools.len()),
            Input::Prompts(_) => panic!("a chat"),
        }
    };
    assert_eq!(tools(json!("auto")), Some(1));
    assert_eq!(tools(json!(null)), Some(1));
    assert_eq!(tools(json!("none")), None);
}

#[test]
fn prompts_come_in_four_forms() {
    let check = |prompt: Value, expected: Vec<Prompt>| {
        let asked = accepted(Route::Completions, json!({"prompt": prompt}));
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
        check_refused(Route::Completions, json!({"prompt": prompt}), param);
    };
    refused(json!(null), "prompt");
    refused(json!([]), "prompt");
    refused(json!(5), "prompt");
    refused(json!([1, -2]), "prompt[1]");
    refused(json!([[1], [1.5]]), "prompt[1][0]");
    refused(json!(["a", 5]), "prompt[1]");
    refused(json!(vec!["a"; 65]), "prompt");
    check_refused(
        Route::Completions,
        json!({"prompt": vec!["a"; 33], "n": 2}),
        "n",
    );
    let asked = accepted(Route::Completions, json!({}));
    assert_eq!(asked.max_tokens, Some(16), "as the API documents it");
}

#[test]
fn fields_without_effect_are_told() {
    let asked = accepted(
        Route::Chat,
        json!({"user": "u", "store": false, "my_field": 1, "bad\nname": 1, "ttl": 5, "seed": 1}),
    );
    assert_eq!(asked.ignored, ["my_field", "store", "user"]);
}

#[test]
fn broken_bodies_are_refused() {
    let check = |body: &[u8], code: Code| {
        let error = read(Route::Chat, body).expect_err("refused");
        assert_eq!(error.code, code, "{}", error.message);
    };
    check(b"", Code::InvalidJson);
    check(b"{", Code::InvalidJson);
    check(b"{} {}", Code::InvalidJson);
    check(b"{\"seed\": 1e999}", Code::InvalidJson);
    check(b"[]", Code::BadRequest);
    check(b"{\"model\": 5}", Code::InvalidModelId);
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check(deep.as_bytes(), Code::InvalidJson);
}
