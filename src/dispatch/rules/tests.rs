use proptest::prelude::*;
use serde_json::{Number, json};

use super::*;
use crate::config::Counts;
use crate::dispatch::peek;

/// Rules as the file would give them.
fn rules(of: Value) -> Rules {
    let map = |name: &str| of[name].as_object().cloned().unwrap_or_default();
    let strip = of["strip"].as_array().cloned().unwrap_or_default();
    let strip = strip.iter().filter_map(Value::as_str);
    let limits = map("limits")
        .into_iter()
        .filter_map(|(name, limit)| match limit {
            Value::Number(limit) => Some((name, limit)),
            _ => None,
        });
    Rules {
        defaults: map("defaults"),
        limits: limits.collect(),
        set: map("set"),
        strip: strip.map(str::to_owned).collect(),
        system_prefix: of["system_prefix"].as_str().map(str::to_owned),
        ..Rules::default()
    }
}

fn applied(endpoint: Endpoint, body: &str, rules: &Rules) -> (String, Vec<String>) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let ruled = apply(endpoint, &body, rules, Naming::AsSaid);
    let bytes = ruled.payload.joined().to_vec();
    (String::from_utf8(bytes).expect("text"), ruled.limited)
}

#[track_caller]
fn check(of: Value, body: &str, expected: &str, limited: &[&str]) {
    let got = applied(Endpoint::Chat, body, &rules(of));
    assert_eq!(
        (got.0.as_str(), got.1.iter().map(String::as_str).collect()),
        (expected, limited.to_vec())
    );
}

#[test]
fn nothing_is_copied_where_nothing_is_said() {
    let body = Bytes::from_static(b" {\"temperature\": 1e0 } ");
    let ruled = apply(Endpoint::Chat, &body, &Rules::default(), Naming::AsSaid);
    assert_eq!(ruled.payload.joined().as_ptr(), body.as_ptr());
    let other = rules(json!({"strip": ["user"], "limits": {"temperature": 2}}));
    let ruled = apply(Endpoint::Chat, &body, &other, Naming::AsSaid);
    assert_eq!(ruled.payload.joined().as_ptr(), body.as_ptr());
    assert_eq!(ruled.payload.joined(), body);
}

#[test]
fn a_missing_model_is_put_in_and_nothing_else_changes() {
    let check = |body: &'static str, expected: &str| {
        let body = Bytes::from_static(body.as_bytes());
        let ruled = apply(
            Endpoint::Chat,
            &body,
            &Rules::default(),
            Naming::IfMissing("a/b"),
        );
        assert_eq!(ruled.payload.joined(), expected.as_bytes());
    };
    check("{}", r#"{"model":"a/b"}"#);
    check(" { } ", r#" {"model":"a/b" } "#);
    check(r#"{ "n": 1e3 }"#, r#"{"model":"a/b", "n": 1e3 }"#);
}

#[test]
fn the_name_at_the_engine_stands_in_the_place_of_another_spelling() {
    let check = |name: &str, said: &'static str, expected: &str| {
        let body = Bytes::from(format!(r#"{{"model":"{said}","n":1e3}}"#));
        let naming = Naming::Always(name);
        let ruled = apply(Endpoint::Chat, &body, &Rules::default(), naming);
        let expected = format!(r#"{{"model":"{expected}","n":1e3}}"#);
        assert_eq!(ruled.payload.joined(), expected.as_bytes(), "{said}");
    };
    check("a/b", "a/b", "a/b");
    check("a/b", "small", "a/b");
    check("a/b", r"a\/b", "a/b");
    check("ab", r"\u0061b", "ab");
    // What reads as the name is an escape for another one.
    check(r"\u0061b", r"\u0061b", r"\\u0061b");
}

#[test]
fn what_is_set_over_something_said_brings_no_default_along() {
    let of = || {
        json!({
            "defaults": {"chat_template_kwargs": {"b": {"c": 1}}},
            "set": {"chat_template_kwargs": {"b": {}}},
        })
    };
    let ask = |body: &str, expected: &str| check(of(), body, expected, &[]);
    ask(
        r#"{"chat_template_kwargs":{"b":null}}"#,
        r#"{"chat_template_kwargs":{"b":{}}}"#,
    );
    ask(
        r#"{"chat_template_kwargs":null}"#,
        r#"{"chat_template_kwargs":{"b":{"c":1}}}"#,
    );
    ask(
        r#"{"chat_template_kwargs":{"b":{"d":2}}}"#,
        r#"{"chat_template_kwargs":{"b":{"c":1,"d":2}}}"#,
    );
}

#[test]
fn defaults_hold_where_the_request_does_not_say() {
    let warm = || json!({"defaults": {"temperature": 0.7}});
    check(
        warm(),
        r#"{"a" : 1}"#,
        r#"{"temperature":0.7,"a" : 1}"#,
        &[],
    );
    check(warm(), "{ }", r#"{"temperature":0.7 }"#, &[]);
    check(
        warm(),
        r#"{"temperature":2 }"#,
        r#"{"temperature":2 }"#,
        &[],
    );
    check(
        warm(),
        r#"{"t\u0065mperature":0}"#,
        r#"{"t\u0065mperature":0}"#,
        &[],
    );
    check(
        warm(),
        r#"{"temperature": null }"#,
        r#"{"temperature": 0.7 }"#,
        &[],
    );
    let nested = r#"{"messages":[{"temperature":1}]}"#;
    check(
        warm(),
        nested,
        &nested.replacen('{', r#"{"temperature":0.7,"#, 1),
        &[],
    );
    let bound = || json!({"defaults": {"max_tokens": 9}});
    check(
        bound(),
        r#"{"max_completion_tokens":3}"#,
        r#"{"max_completion_tokens":3}"#,
        &[],
    );
    check(
        bound(),
        r#"{"max_completion_tokens":null}"#,
        r#"{"max_tokens":9,"max_completion_tokens":null}"#,
        &[],
    );
    let thinks =
        || json!({"defaults": {"chat_template_kwargs": {"enable_thinking": true, "x": {"y": 1}}}});
    check(
        thinks(),
        r#"{"chat_template_kwargs":{ "x":{"z":2},"enable_thinking":false}}"#,
        r#"{"chat_template_kwargs":{ "x":{"y":1,"z":2},"enable_thinking":false}}"#,
        &[],
    );
}

#[test]
fn what_is_set_holds_and_what_is_stripped_goes() {
    let cold = || json!({"set": {"temperature": 0, "max_tokens": 5}});
    check(
        cold(),
        r#"{"max_completion_tokens":900,"temperature" : 1.50,"top_p":1}"#,
        r#"{"max_tokens":5,"temperature" : 0,"top_p":1}"#,
        &[],
    );
    let thinks = || json!({"set": {"chat_template_kwargs": {"enable_thinking": false}}});
    check(
        thinks(),
        r#"{"enable_thinking":true,"chat_template_kwargs":{"a":1}}"#,
        r#"{"chat_template_kwargs":{"enable_thinking":false,"a":1}}"#,
        &[],
    );
    check(
        thinks(),
        r#"{"chat_template_kwargs":null}"#,
        r#"{"chat_template_kwargs":{"enable_thinking":false}}"#,
        &[],
    );
    let bare = || json!({"strip": ["a", "max_tokens"]});
    check(bare(), r#"{"a":1, "b":{"a":1}}"#, r#"{"b":{"a":1}}"#, &[]);
    check(
        bare(),
        r#"{"b":2 , "\u0061" : [{},"}"] }"#,
        r#"{"b":2 }"#,
        &[],
    );
    check(
        bare(),
        r#"{ "a":1,"max_tokens":1,"max_completion_tokens":2 }"#,
        "{  }",
        &[],
    );
    check(
        bare(),
        r#"{"b":1, "a":1 ,"max_tokens":1 }"#,
        r#"{"b":1 }"#,
        &[],
    );
    check(
        json!({"strip": ["temperature"], "defaults": {"temperature": 0.5}}),
        r#"{"temperature":1}"#,
        r#"{"temperature":0.5}"#,
        &[],
    );
}

#[test]
fn what_is_over_a_limit_is_lowered_and_told() {
    let bound = || json!({"limits": {"max_tokens": 100, "temperature": 1.5, "n": 2}});
    check(
        bound(),
        r#"{"max_tokens":100}"#,
        r#"{"max_tokens":100}"#,
        &[],
    );
    check(
        bound(),
        r#"{"max_tokens" :101 }"#,
        r#"{"max_tokens" :100 }"#,
        &["max_tokens=100"],
    );
    check(
        bound(),
        r#"{"max_completion_tokens":5000}"#,
        r#"{"max_completion_tokens":100}"#,
        &["max_tokens=100"],
    );
    check(
        bound(),
        r#"{"max_completion_tokens":5000,"max_tokens":101,"temperature":2.0,"n":3}"#,
        r#"{"max_completion_tokens":100,"max_tokens":100,"temperature":1.5,"n":2}"#,
        &["max_tokens=100", "temperature=1.5", "n=2"],
    );
    check(bound(), "{}", r#"{"max_tokens":100}"#, &["max_tokens=100"]);
    let defaults = json!({"limits": {"max_tokens": 100}, "defaults": {"max_tokens": 50}});
    check(defaults, "{}", r#"{"max_tokens":50}"#, &[]);
    // What a completions request gets without a word is less.
    let of = rules(bound());
    let got = applied(Endpoint::Completions, r#"{"prompt":"a"}"#, &of);
    assert_eq!(got, (r#"{"prompt":"a"}"#.to_owned(), Vec::new()));
    let of = rules(json!({"limits": {"max_tokens": 10}}));
    let got = applied(Endpoint::Completions, r#"{"prompt":"a"}"#, &of);
    assert_eq!(got.0, r#"{"max_tokens":10,"prompt":"a"}"#);
}

#[test]
fn a_prefix_and_what_only_chats_know_is_for_chats() {
    let of = json!({"system_prefix": "Be brief.", "defaults": {"chat_template_kwargs": {"a": 1}, "logprobs": 3}});
    check(
        of.clone(),
        r#"{"messages":[{"role":"user","content":"a"}]}"#,
        r#"{"chat_template_kwargs":{"a":1},"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"a"}]}"#,
        &[],
    );
    let got = applied(Endpoint::Completions, r#"{"prompt":"a"}"#, &rules(of));
    assert_eq!(got.0, r#"{"logprobs":3,"prompt":"a"}"#);
}

#[test]
fn what_only_answers_have_is_not_put_into_a_request_for_vectors() {
    let of = json!({"system_prefix": "Be brief.", "limits": {"max_tokens": 5},
        "defaults": {"temperature": 0.5}, "set": {"dimensions": 8}});
    let got = applied(Endpoint::Embeddings, r#"{"input":"a"}"#, &rules(of));
    assert_eq!(got.0, r#"{"dimensions":8,"input":"a"}"#);
    assert!(got.1.is_empty());
}

/// What the same rules make of a tree, said another way.
fn expected(mut body: Map<String, Value>, rules: &Rules) -> Map<String, Value> {
    let set = |name: &str| rules.set.contains_key(name);
    let bound = ["max_tokens", "max_completion_tokens"];
    for name in rules
        .strip
        .iter()
        .map(String::as_str)
        .chain(set(BOUND).then_some(bound[1]))
    {
        body.shift_remove(name);
        if name == BOUND {
            body.shift_remove(bound[1]);
        }
    }
    let kwargs = rules.set.get("chat_template_kwargs");
    if kwargs.is_some_and(|kwargs| !kwargs["enable_thinking"].is_null()) {
        body.shift_remove("enable_thinking");
    }
    let says = |body: &Map<String, Value>, name: &str| body.get(name).is_some_and(|v| !v.is_null());
    let mut defaults = rules.defaults.clone();
    if says(&body, bound[0]) || says(&body, bound[1]) {
        defaults.remove(BOUND);
    } else if let (Some(limit), false) = (rules.limits.get(BOUND), set(BOUND)) {
        defaults.entry(BOUND).or_insert(limit.clone().into());
    }
    for (name, value) in defaults {
        match body.get_mut(&name) {
            Some(Value::Object(body)) => {
                let Value::Object(value) = value else {
                    continue;
                };
                let stated = std::mem::replace(body, value);
                merge(body, stated);
            }
            Some(Value::Null) | None => drop(body.insert(name, value)),
            Some(_) => {}
        }
    }
    merge(&mut body, rules.set.clone());
    for (name, value) in &mut body {
        let rule = if name == bound[1] { BOUND } else { name };
        if let (Some(limit), Some(number)) = (rules.limits.get(rule), value.as_f64())
            && number > limit.as_f64().expect("a number")
            && !set(name)
        {
            *value = limit.clone().into();
        }
    }
    body
}

/// Puts `over` over `values`.
fn merge(values: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (values.get_mut(&name), value) {
            (Some(Value::Object(inner)), Value::Object(over)) => merge(inner, over),
            (_, value) => drop(values.insert(name, value)),
        }
    }
}

/// A value whose numbers are the same when they were written and read.
fn value() -> impl Strategy<Value = Value> {
    fn tame(value: Value) -> Value {
        match value {
            Value::Number(number) if number.is_f64() => {
                json!((number.as_f64().unwrap_or_default() % 1000.0).round() / 4.0)
            }
            Value::Array(list) => list.into_iter().map(tame).collect(),
            Value::Object(map) => map.into_iter().map(|(name, v)| (name, tame(v))).collect(),
            other => other,
        }
    }
    peek::tests::value().prop_map(tame)
}

/// Fields as requests and rules have them.
fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let number = || {
        prop_oneof![
            Just(Value::Null),
            (0u32..8).prop_map(|n| json!(f64::from(n) / 4.0))
        ]
    };
    let bound = || prop_oneof![Just(Value::Null), (1u32..200).prop_map(Value::from)];
    let kwargs = prop::collection::btree_map("a|b|enable_thinking", value(), 0..3)
        .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>()));
    let field = prop_oneof![
        number().prop_map(|v| ("temperature", v)),
        (0u32..9).prop_map(|v| ("top_k", v.into())),
        bound().prop_map(|v| ("max_tokens", v)),
        bound().prop_map(|v| ("max_completion_tokens", v)),
        any::<bool>().prop_map(|v| ("enable_thinking", v.into())),
        kwargs.prop_map(|v| ("chat_template_kwargs", v)),
        prop::collection::vec("[a-z\"\\\\]{0,3}", 0..3).prop_map(|v| ("stop", v.into())),
        value().prop_map(|v| ("user", v)),
        value().prop_map(|v| ("\u{e9} \"", v)),
    ];
    prop::collection::vec(field, 0..8).prop_map(|fields| {
        fields
            .into_iter()
            .map(|(name, v)| (name.to_owned(), v))
            .collect()
    })
}

/// Rules that a file may hold: nothing is given over a limit, and what speaks of
/// thinking stands among the variables of the template.
fn any_rules() -> impl Strategy<Value = Rules> {
    let strip = prop::sample::subsequence(
        vec!["user", "temperature", "max_tokens", "stop", "none"],
        0..3,
    );
    let limits = (prop::option::of(100u32..200), prop::option::of(2u32..4));
    (fields(), fields(), strip, limits).prop_map(|(defaults, set, strip, (bound, warm))| {
        let known = |values: Map<String, Value>| -> Map<String, Value> {
            let given = values.into_iter().filter(|(name, value)| {
                let over =
                    bound.is_some_and(|most| name == BOUND && value.as_u64() > Some(most.into()));
                let fits = known(Endpoint::Chat, name).is_some();
                fits && !value.is_null()
                    && !over
                    && name != NEWER_BOUND
                    && name != "enable_thinking"
            });
            given.collect()
        };
        let limit = |name: &str, most: Option<u32>| Some((name.to_owned(), Number::from(most?)));
        Rules {
            defaults: known(defaults),
            limits: [limit(BOUND, bound), limit("temperature", warm)]
                .into_iter()
                .flatten()
                .collect(),
            set: known(set),
            strip: strip.into_iter().map(str::to_owned).collect(),
            ..Rules::default()
        }
    })
}

/// The body as a client might write it.
fn written(body: &Map<String, Value>, form: u8) -> String {
    match form {
        0 => Value::from(body.clone()).to_string(),
        1 => format!(" {:#}\n", Value::from(body.clone())),
        _ => {
            let members = body.iter().map(|(name, value)| {
                let escaped: String = name
                    .encode_utf16()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect();
                format!("\t\"{escaped}\" :{value} ")
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(",\r\n"))
        }
    }
}

proptest! {
    #[test]
    fn an_edit_of_the_bytes_is_the_edit_of_the_tree(body in fields(), rules in any_rules(), form in 0u8..3) {
        let text = written(&body, form);
        let (got, limited) = applied(Endpoint::Chat, &text, &rules);
        let tree: Map<String, Value> = serde_json::from_str(&got).expect("it parses");
        prop_assert_eq!(Value::from(tree.clone()), Value::from(expected(body.clone(), &rules)), "{} of {}", got, text);
        // Every member whose value is as it was has the bytes that it had.
        let (before, after) = (scan::members(&text, scan::space(text.as_bytes(), 0)), scan::members(&got, scan::space(got.as_bytes(), 0)));
        let (before, after) = (before.expect("an object"), after.expect("an object"));
        for member in &before {
            let name = member.key.as_ref();
            let is_ruled = rules.set.contains_key(name) || rules.strip.iter().any(|it| it == name);
            if tree.get(name) == body.get(name) && !is_ruled {
                let bytes = &text[member.start..member.value.end];
                prop_assert!(after.iter().any(|m| &got[m.start..m.value.end] == bytes), "{} of {}", got, text);
            }
        }
        // And what is told is what was lowered.
        let told = limited.iter().any(|item| item.starts_with("temperature="));
        let lowered = body.get("temperature").and_then(Value::as_f64) > tree.get("temperature").and_then(Value::as_f64);
        let stays = !rules.set.contains_key("temperature") && !rules.strip.contains(&"temperature".to_owned());
        prop_assert_eq!(told, lowered && stays);
        let again = peek::peek(Endpoint::Chat, got.as_bytes(), &Counts::standard());
        prop_assert_eq!(again.is_ok(), peek::peek(Endpoint::Chat, text.as_bytes(), &Counts::standard()).is_ok());
    }
}
