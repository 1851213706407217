use serde_json::json;

use super::*;

#[track_caller]
fn check(endpoint: Endpoint, name: &str, value: Value, expected: Result<(), (Code, &str)>) {
    let field = known(endpoint, name).expect("a known field");
    let got = field.check(&value).map_err(|error| {
        assert!(error.message.len() < 400, "{}", error.message);
        (error.code, error.param.unwrap_or_default())
    });
    let expected = expected.map_err(|(code, param)| (code, param.to_owned()));
    assert_eq!(got, expected, "{name}: {value}");
}

#[track_caller]
fn check_refused(name: &str, value: Value) {
    let endpoint = match known(Endpoint::Chat, name) {
        Some(_) => Endpoint::Chat,
        None => Endpoint::Completions,
    };
    check(endpoint, name, value, Err((Code::InvalidValue, name)));
}

#[test]
fn each_field_stands_once_on_each_path() {
    for (index, field) in FIELDS.iter().enumerate() {
        for later in &FIELDS[index + 1..] {
            let both = field.on.iter().any(|on| later.on.contains(on));
            assert!(field.name != later.name || !both, "{}", field.name);
        }
    }
}

#[test]
fn j07_numbers_out_of_range_are_refused_by_name() {
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
    for field in FIELDS {
        if let Whole(least, most) = field.takes {
            for value in &odd {
                check(
                    field.on[0],
                    field.name,
                    value.clone(),
                    Err((Code::InvalidValue, field.name)),
                );
            }
            check(field.on[0], field.name, json!(least), Ok(()));
            check(field.on[0], field.name, json!(most), Ok(()));
        }
        if let Number(least, most) = field.takes {
            for value in [json!(least - 0.1), json!(most + 0.1), json!("1"), json!([])] {
                check_refused(field.name, value);
            }
            check(field.on[0], field.name, json!(least), Ok(()));
            check(field.on[0], field.name, json!(1), Ok(()));
        }
        if matches!(field.takes, Flag) {
            for value in [json!(0), json!("true"), json!([])] {
                let refused = Err((Code::InvalidValue, field.name));
                check(field.on[0], field.name, value, refused);
            }
            check(field.on[0], field.name, json!(false), Ok(()));
        }
    }
}

#[test]
fn values_with_a_form_of_their_own_are_looked_through() {
    check_refused("stop", json!([1]));
    check_refused("stop", json!(7));
    check_refused("stop", json!("x".repeat(2000)));
    check(Endpoint::Chat, "stop", json!(["a", ""]), Ok(()));
    check_refused("logit_bias", json!([]));
    check_refused("logit_bias", json!({"many": 1}));
    check_refused("logit_bias", json!({"1": 101}));
    check(Endpoint::Chat, "logit_bias", json!({"1": -100}), Ok(()));
    check_refused("stream_options", json!([]));
    let place = "stream_options.include_usage";
    check(
        Endpoint::Chat,
        "stream_options",
        json!({"include_usage": "yes"}),
        Err((Code::InvalidValue, place)),
    );
    check_refused("prompt", json!(5));
    let query = |value| {
        check(
            Endpoint::Rerank,
            "query",
            value,
            Err((Code::InvalidValue, "query")),
        )
    };
    query(json!(["q"]));
    check(Endpoint::Rerank, "query", json!("q"), Ok(()));
    check_refused("response_format", json!("text"));
    check(
        Endpoint::Chat,
        "response_format",
        json!({"type": "text"}),
        Ok(()),
    );
    check(Endpoint::Chat, "tool_choice", json!("required"), Ok(()));
    check_refused("tool_choice", json!("any"));
    check_refused("tool_choice", json!({"type": "function"}));
    check(
        Endpoint::Chat,
        "model",
        json!(5),
        Err((Code::InvalidModelId, "model")),
    );
}

#[test]
fn j09_what_a_request_may_not_say_is_refused_unless_it_asks_for_nothing() {
    for name in [
        "chat_template",
        "adapter",
        "adapters",
        "draft_model",
        "documents",
    ] {
        check_refused(name, json!("/etc/passwd"));
        check_refused(name, json!(["../x"]));
        check_refused(name, json!({"path": "/"}));
        check(Endpoint::Chat, name, json!([]), Ok(()));
    }
    check_refused("modalities", json!(["text", "audio"]));
    check_refused("best_of", json!(2));
    check_refused("echo", json!(true));
    check(Endpoint::Completions, "best_of", json!(1), Ok(()));
    check(Endpoint::Chat, "modalities", json!(["text"]), Ok(()));
}
