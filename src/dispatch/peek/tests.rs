use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::units::ByteSize;

fn look(endpoint: Endpoint, body: &[u8]) -> Result<Peek, ApiError> {
    peek(endpoint, body, &Counts::standard())
}

#[track_caller]
fn check(body: &str, expected: Result<(Option<&str>, bool), Code>) {
    let got = look(Endpoint::Chat, body.as_bytes())
        .map(|p| (p.model, p.stream))
        .map_err(|e| e.code);
    let expected = expected.map(|(model, stream)| (model.map(str::to_owned), stream));
    assert_eq!(got, expected, "{}", &body[..body.len().min(80)]);
}

#[track_caller]
fn check_refused(endpoint: Endpoint, body: &Value, param: &str) {
    let error = look(endpoint, body.to_string().as_bytes()).expect_err("refused");
    assert_eq!(error.code, Code::InvalidValue, "{}", error.message);
    assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    assert!(error.message.len() < 400, "{}", error.message);
}

#[test]
fn model_and_stream_are_found_wherever_they_stand() {
    check(r#"{"model":"a/b"}"#, Ok((Some("a/b"), false)));
    check(
        r#" {"messages":[{"model":"x"}],"stream":true,"model":"a"} "#,
        Ok((Some("a"), true)),
    );
    check(r#"{"mod\u0065l":"a"}"#, Ok((Some("a"), false)));
    check(r#"{"stream":null,"n":null}"#, Ok((None, false)));
    check("{}", Ok((None, false)));
}

#[test]
fn texts_are_counted_and_token_ids_are_refused_with_a_hint() {
    let look = |input: Value| {
        let body = json!({"model": "a", "input": input}).to_string();
        look(Endpoint::Embeddings, body.as_bytes()).map_err(|error| error.message)
    };
    assert!(look(json!("a")).is_ok() && look(json!(["a", ""])).is_ok());
    assert!(look(json!(vec!["a"; 2048])).is_ok());
    let many = look(json!(vec!["a"; 2049])).expect_err("refused");
    assert_eq!(many, "input: expected at most 2048 texts");
    for input in [
        json!([1]),
        json!([["a"]]),
        json!(["a", {}]),
        json!({}),
        json!(5),
        json!(true),
    ] {
        let refused = look(input.clone()).expect_err("refused");
        assert!(
            refused.contains("check_embedding_ctx_length=False"),
            "{input}: {refused}"
        );
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    check(r#"{"model":"a","model":"b"}"#, Err(Code::InvalidJson));
    check(r#"{"model":"a","mod\u0065l":"b"}"#, Err(Code::InvalidJson));
    check(r#"{"x":1,"x":2,"model":"a"}"#, Err(Code::InvalidJson));
    check(
        r#"{"messages":[],"messages":[],"model":"a"}"#,
        Err(Code::InvalidJson),
    );
}

#[test]
fn wrong_kinds_are_named() {
    for body in ["null", "1", "[]", "{}", "true", "\"\\ud800\""] {
        check(&format!(r#"{{"model":{body}}}"#), Err(Code::InvalidModelId));
    }
    check(r#"{"model":"a","stream":"yes"}"#, Err(Code::InvalidValue));
    check_refused(Endpoint::Chat, &json!({"messages": "hi"}), "messages");
    check_refused(Endpoint::Chat, &json!({"messages": {}}), "messages");
    check_refused(Endpoint::Chat, &json!({"tools": 5}), "tools");
    check(r#"{"messages":null,"tools":null}"#, Ok((None, false)));
}

#[test]
fn j01_what_is_no_json_object_is_refused() {
    for body in [
        "",
        "[]",
        "\"a\"",
        "{",
        "{} x",
        "{}{}",
        "\u{feff}{}",
        "{}\0",
        "\0{}",
        "{\"a\":NaN}",
        "{\"a\":\"\0\"}",
        "{'a':1}",
        "{\"a\":1,}",
    ] {
        check(body, Err(Code::InvalidJson));
    }
    let utf16: Vec<u8> = "{\"model\":\"a\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for body in [&b"{\"a\":\"\xff\"}"[..], &utf16] {
        let error = look(Endpoint::Chat, body).expect_err("refused");
        assert_eq!(error.code, Code::InvalidJson);
    }
}

#[test]
fn j03_nesting_is_bounded_and_brackets_in_strings_do_not_count() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"model\":\"a\",\"x\":{open}{close}}}")
    };
    check(&nested(DEEPEST), Ok((Some("a"), false)));
    for depth in [DEEPEST + 1, 10_000, 200_000] {
        check(&nested(depth), Err(Code::InvalidJson));
        check(&"[".repeat(depth), Err(Code::InvalidJson));
    }
    let text = format!(r#"{{"model":"a","x":"{}\""}}"#, "[".repeat(1000));
    check(&text, Ok((Some("a"), false)));
}

#[test]
fn j07_known_fields_are_checked_before_anything_is_loaded() {
    for value in [json!(-1), json!(1.5), json!("5"), json!(1u64 << 31)] {
        check_refused(Endpoint::Chat, &json!({"max_tokens": value}), "max_tokens");
        check_refused(
            Endpoint::Completions,
            &json!({"logprobs": value}),
            "logprobs",
        );
    }
    check_refused(Endpoint::Chat, &json!({"seed": [[1]]}), "seed");
    let odd = br#"{"temperature":1e999}"#;
    let error = look(Endpoint::Chat, odd).expect_err("refused");
    assert_eq!(error.param.as_deref(), Some("temperature"));
    check(r#"{"n_discard":-1,"my_number":1e999}"#, Ok((None, false)));
}

#[test]
fn l05_choices_stops_and_answers_are_counted() {
    check_refused(Endpoint::Chat, &json!({"n": 1000}), "n");
    check_refused(Endpoint::Chat, &json!({"stop": vec!["x"; 17]}), "stop");
    check_refused(Endpoint::Chat, &json!({"stop": vec!["x"; 10_000]}), "stop");
    check_refused(
        Endpoint::Chat,
        &json!({"stop": "x".repeat(300_000)}),
        "stop",
    );
    let prompts = |prompt: Value, n: u64| json!({"prompt": prompt, "n": n});
    let fits = |body: &Value| {
        look(Endpoint::Completions, body.to_string().as_bytes()).expect("fits");
    };
    fits(&prompts(json!(vec!["a"; 8]), 8));
    fits(&prompts(json!(vec![1; 5000]), 8));
    check_refused(Endpoint::Completions, &prompts(json!(vec!["a"; 9]), 8), "n");
    check_refused(
        Endpoint::Completions,
        &prompts(json!(vec![[1]; 65]), 1),
        "prompt",
    );
}

#[test]
fn l07_messages_images_tools_and_calls_are_counted() {
    let user = json!({"role": "user", "content": "hi"});
    let fits = |body: Value| {
        look(Endpoint::Chat, body.to_string().as_bytes()).expect("fits");
    };
    fits(json!({"messages": vec![user.clone(); 4096]}));
    check_refused(
        Endpoint::Chat,
        &json!({"messages": vec![user; 10_000]}),
        "messages",
    );
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let asked = |parts: Vec<Value>| json!({"messages": [{"role": "user", "content": parts}]});
    fits(asked(vec![image.clone(); 64]));
    check_refused(Endpoint::Chat, &asked(vec![image; 1000]), "messages");
    let call = json!({"function": {"name": "f", "arguments": "{}"}});
    let called =
        |calls: Vec<Value>| json!({"messages": [{"role": "assistant", "tool_calls": calls}]});
    fits(called(vec![call.clone(); 4096]));
    check_refused(Endpoint::Chat, &called(vec![call; 100_000]), "messages");
    check_refused(
        Endpoint::Chat,
        &json!({"tools": vec![json!({}); 1025]}),
        "tools",
    );
    // Twice the same key: each counts.
    let twice = format!(
        r#"{{"messages":[{{"content":[{0}],"content":[{0}]}}]}}"#,
        vec![r#"{"image_url":"data:,"}"#; 33].join(",")
    );
    assert!(look(Endpoint::Chat, twice.as_bytes()).is_err());
}

#[test]
fn j08_images_are_in_the_request_or_refused() {
    let part = |url: &str| {
        json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}]}]})
    };
    for url in [
        "http://127.0.0.1/x.png",
        "https://example.org/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "//host/x",
        "",
        "dat\u{e4}:x",
    ] {
        check_refused(Endpoint::Chat, &part(url), "messages[0].content");
        let bare = json!({"messages": [{}, {"content": [{"image_url": url}]}]});
        check_refused(Endpoint::Chat, &bare, "messages[1].content");
    }
    let mut counts = Counts::standard();
    counts.image_size = ByteSize(3000);
    let sized = |bytes: usize| {
        let url = format!("DATA:image/png;base64,{}", "A".repeat(bytes / 3 * 4));
        peek(Endpoint::Chat, part(&url).to_string().as_bytes(), &counts).map_err(|e| e.param)
    };
    assert!(sized(3000).is_ok());
    assert_eq!(sized(3003), Err(Some("messages[0].content".to_owned())));
}

#[test]
fn a_body_has_so_many_fields_and_values() {
    let fields = |count: usize| {
        let fields: Vec<_> = (0..count).map(|index| format!("\"f{index}\":0")).collect();
        format!("{{{}}}", fields.join(","))
    };
    check(&fields(MOST_FIELDS), Ok((None, false)));
    check(&fields(MOST_FIELDS + 1), Err(Code::InvalidJson));
    let mut counts = Counts::standard();
    counts.values = 10;
    assert!(peek(Endpoint::Chat, br#"{"x":[1,2,3,4,5,6,7,8,9]}"#, &counts).is_ok());
    let error = peek(Endpoint::Chat, br#"{"x":[1,2,3,4,5,6,7,8,9,10]}"#, &counts);
    assert_eq!(error.map_err(|e| e.code), Err(Code::InvalidValue));
}

/// Any JSON value.
pub(in crate::dispatch) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

#[test]
fn how_long_a_model_is_to_stay_is_read_and_not_taken_twice() {
    let check = |fields: Value, expected: Result<Option<u64>, &str>| {
        let mut body = json!({"model": "a/b", "messages": []});
        if let (Value::Object(body), Value::Object(fields)) = (&mut body, &fields) {
            body.extend(fields.clone());
        }
        let got = look(Endpoint::Chat, body.to_string().as_bytes());
        let got = got.map(|peek| peek.idle_unload.map(|time| time.as_secs()));
        let got = got.map_err(|error| error.param.unwrap_or_default());
        assert_eq!(got, expected.map_err(str::to_owned), "{fields}");
    };
    check(json!({}), Ok(None));
    check(json!({"ttl": 300}), Ok(Some(300)));
    check(json!({"ttl": null, "keep_alive": "5m"}), Ok(Some(300)));
    check(json!({"keep_alive": 0}), Ok(Some(0)));
    check(json!({"keep_alive": -1}), Ok(None));
    check(json!({"keep_alive": "soon"}), Err("keep_alive"));
    check(json!({"ttl": -1}), Err("ttl"));
    check(json!({"ttl": "5m"}), Err("ttl"));
    check(json!({"keep_alive": -1, "ttl": 5}), Err("ttl"));
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(body: Vec<u8>) {
        let _ = look(Endpoint::Chat, &body);
    }

    #[test]
    fn what_parses_is_read_as_the_parser_reads_it(
        fields in prop::collection::btree_map("[a-z]{0,6}|\\PC{0,6}", value(), 0..6),
        model in "[a-z/]{1,9}",
        stream: bool,
    ) {
        let mut body: serde_json::Map<_, _> =
            fields.into_iter().filter(|(name, _)| known(Endpoint::Chat, name).is_none()).collect();
        body.insert("model".to_owned(), model.clone().into());
        body.insert("stream".to_owned(), stream.into());
        let expected = Peek { model: Some(model), stream, idle_unload: None, beyond_own: None };
        for text in [Value::from(body.clone()).to_string(), format!("{:#}", Value::from(body))] {
            prop_assert_eq!(look(Endpoint::Chat, text.as_bytes()), Ok(expected.clone()));
        }
    }

    #[test]
    fn what_the_router_lets_through_the_parser_reads(text in "[\\[\\]{}:,\"a0\\\\ ]{0,40}") {
        let parsed = serde_json::from_str::<serde_json::Map<String, Value>>(&text).is_ok();
        if look(Endpoint::Chat, text.as_bytes()).is_ok() {
            prop_assert!(parsed, "{}", text);
        }
    }
}
