//! Bodies of requests: what is JSON, what each field may hold, and that what
//! passes reaches the engine byte for byte (group J).

use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Answer, Home, Server, long, question};

pub const CHAT: &str = "/v1/chat/completions";

/// A server with the model `t/a`; the second is where its worker keeps the last body.
pub fn one_model(more: &str) -> (Home, Server, PathBuf) {
    let home = Home::new(&format!("{more}\nmodels: {{ t/a: {{}} }}\n"));
    let snapshot = home.scripted("t/a", json!({"tokens": 1, "last_body": "last"}));
    let server = home.serve();
    (home, server, snapshot.join("last"))
}

/// Posts bytes as JSON.
pub async fn post(server: &Server, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    let request = server
        .request(Method::POST, path)
        .header("content-type", "application/json")
        .body(body.into());
    Answer::read(request.send().await.expect("an answer")).await
}

/// A chat request with fields besides those it needs.
pub fn chat(more: Value) -> Value {
    let mut body = question("t/a", "n", false);
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// A refusal: status, code and field.
#[track_caller]
pub fn check_refused(answer: &Answer, status: u16, code: &str, param: Option<&str>) {
    let got = (answer.status, answer.code());
    assert_eq!(got, (status, code.to_owned()), "{answer:?}");
    assert_eq!(
        answer.json()["error"]["param"].as_str(),
        param,
        "{answer:?}"
    );
}

/// Nothing was loaded for what was refused.
pub async fn check_nothing_loaded(server: &Server) {
    assert_eq!(server.status().await["counters"]["loads"], 0);
}

#[tokio::test]
async fn j01_what_is_no_json_is_400_and_other_kinds_are_415() {
    let (_home, server, last) = one_model("");
    let whole = question("t/a", "n", false).to_string();
    let utf16 =
        |order: fn(u16) -> [u8; 2]| -> Vec<u8> { whole.encode_utf16().flat_map(order).collect() };
    let with = |before: &[u8], after: &[u8]| [before, whole.as_bytes(), after].concat();
    let broken: [Vec<u8>; 12] = [
        Vec::new(),
        b"hello".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        with(b"", b"x"),
        with(b"", b"{}"),
        with(b"", b"\0"),
        with("\u{feff}".as_bytes(), b""),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        whole.replace("hello", "hel\0lo").into_bytes(),
        whole.as_bytes()[..whole.len() - 1].to_vec(),
    ];
    for path in [CHAT, "/v1/completions"] {
        for body in &broken {
            let answer = post(&server, path, body.clone()).await;
            check_refused(&answer, 400, "invalid_json", None);
        }
        for kind in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
            "application/octet-stream",
        ] {
            let request = server.request(Method::POST, path).body(whole.clone());
            let request = match kind {
                "" => request,
                kind => request.header("content-type", kind),
            };
            let answer = Answer::read(request.send().await.expect("an answer")).await;
            check_refused(&answer, 415, "unsupported_media_type", None);
        }
    }
    for body in [&b""[..], b"{", b"{\"model\":\"t/a\"} x"] {
        let path = "/admin/models/load";
        let http = reqwest::Client::builder().unix_socket(server.control.as_path());
        let request = http
            .build()
            .expect("a client")
            .post(format!("http://localhost{path}"));
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let answer = Answer::read(request.send().await.expect("an answer")).await;
        check_refused(&answer, 400, "invalid_json", None);
    }
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
}

#[tokio::test]
async fn j01_a_body_that_breaks_off_reaches_nobody() {
    let (_home, server, last) = one_model("");
    let body = question("t/a", "n", false).to_string();
    let address = server
        .inference
        .strip_prefix("http://")
        .expect("an address");
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len() + 1
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("shut");
    let mut answer = Vec::new();
    // An answer or none: the client is gone.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
}

#[tokio::test]
async fn j03_nesting_up_to_the_limit_passes_byte_exact_and_beyond_it_is_400() {
    let (_home, server, last) = one_model("");
    // `around` is how deep the place is already.
    let nested = |place: &str, around: usize, depth: usize| {
        let inner = depth - around;
        let value = match depth % 2 {
            0 => format!("{}{}", "[".repeat(inner), "]".repeat(inner)),
            _ => format!("{}0{}", "{\"a\":".repeat(inner), "}".repeat(inner)),
        };
        place.replace("HERE", &value)
    };
    let places = [
        (
            r#"{"model":"t/a","messages":[{"role":"user","content":"a"}],"unknown": HERE }"#,
            1,
        ),
        (
            r#"{"model":"t/a", "messages":[{"role":"user","content":"a","x":HERE}]}"#,
            3,
        ),
        (
            r#"{"model":"t/a","messages":[{"role":"user","content":[{"type":"text","text":"a","x":HERE}]}] }"#,
            5,
        ),
        (
            r#"{"tools":[{"function":HERE}],"model":"t/a","messages":[{"role":"user","content":"a"}]}"#,
            3,
        ),
        (
            r#"{"chat_template_kwargs":{"a":HERE},"model":"t/a","messages":[{"role":"user","content":"a"}]}"#,
            2,
        ),
    ];
    for (place, around) in places {
        for depth in [127, 128] {
            let body = nested(place, around, depth);
            let answer = post(&server, CHAT, body.clone()).await;
            assert_eq!(answer.status, 200, "{depth} {place}: {answer:?}");
            assert_eq!(std::fs::read(&last).expect("kept"), body.as_bytes());
            std::fs::remove_file(&last).expect("removed");
        }
        for depth in [129, 10_000, 200_000] {
            let answer = post(&server, CHAT, nested(place, around, depth)).await;
            check_refused(&answer, 400, "invalid_json", None);
            assert!(!last.exists(), "{depth} {place}");
        }
    }
}

/// JSON as odd as it can be spelled, in fields that nobody knows.
fn odd_fields() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        Just("1e999".to_owned()),
        Just("-0".to_owned()),
        Just("-0.0e-0".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("1.0000000000000000000000001".to_owned()),
        "-?[1-9][0-9]{0,400}",
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,30}([eE][+-]?[0-9]{1,4})?",
    ];
    let text = prop_oneof![
        "[ -!#-\\[\\]-~]{0,20}",
        "(\\\\u[0-9a-fA-F]{4}|\\\\[nrtbf/\"\\\\]){0,6}",
        Just("\\ud800".to_owned()),
        Just("\\udc00\\ud800".to_owned()),
        "\\PC{0,10}".prop_map(|text| text.replace(['"', '\\'], "")),
    ]
    .prop_map(|text| format!("\"{text}\""));
    let space = "[ \t\r\n]{0,3}";
    let word = prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned);
    let leaf = prop_oneof![number, text, word];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        let map = prop::collection::vec(inner, 0..4);
        prop_oneof![
            list.prop_map(|values| format!("[{}]", values.join(" ,\t"))),
            // The same key again and again: nobody here reads it.
            map.prop_map(|values| {
                let fields: Vec<_> = values
                    .iter()
                    .map(|value| format!("\"k\" :{value}"))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    prop::collection::vec((value, space), 1..5).prop_map(|fields| {
        let fields = fields.iter().enumerate();
        let fields: Vec<_> = fields
            .map(|(index, (value, space))| format!("{space}\"odd_{index}\"{space}:{value}"))
            .collect();
        fields.join(",")
    })
}

#[test]
fn j04_what_passes_reaches_the_engine_byte_for_byte() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_home, server, last) = one_model("default: t/a");
    let cases = if long() { 5000 } else { 100 };
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let bodies = (odd_fields(), any::<bool>(), any::<bool>());
    let outcome = TestRunner::new(config).run(&bodies, |(odd, named, first)| {
        let name = if named { "\"model\" : \"t/a\"," } else { "" };
        let rest = r#""messages":[{"role":"user","content":"\u0061\/"}]"#;
        let body = match first {
            true => format!(" {{{odd},{name}{rest} }}\n"),
            false => format!("{{ {name}{rest},{odd}}}"),
        };
        let expected = match named {
            true => body.clone(),
            false => body.replacen('{', "{\"model\":\"t/a\",", 1),
        };
        let answer = runtime.block_on(post(&server, CHAT, body));
        prop_assert_eq!(answer.status, 200, "{:?}", answer);
        let kept = std::fs::read(&last).expect("kept");
        prop_assert_eq!(String::from_utf8_lossy(&kept), expected);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[tokio::test]
async fn j04_large_strings_pass_and_half_characters_are_400_where_they_are_read() {
    let (_home, server, last) = one_model("");
    let mut body = chat(json!({"unknown": "x".repeat(5_000_000)}));
    body["messages"][0]["content"] = "y".repeat(5_000_000).into();
    let body = body.to_string();
    let answer = post(&server, CHAT, body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(std::fs::read(&last).expect("kept") == body.as_bytes());
    std::fs::remove_file(&last).expect("removed");
    let half = r#"{"model":"t/a","messages":[{"role":"user","content":"\ud800"}]}"#;
    check_refused(&post(&server, CHAT, half).await, 400, "invalid_json", None);
    let half = r#"{"model":"t/\ud800","messages":[{"role":"user","content":"a"}]}"#;
    let answer = post(&server, CHAT, half).await;
    check_refused(&answer, 400, "invalid_model_id", Some("model"));
    assert!(!last.exists());
}

#[tokio::test]
async fn j06_patterns_are_never_compiled_here() {
    let (_home, server, last) = one_model("");
    let fields = ["guided_regex", "grammar", "guided_json"];
    let schema =
        |pattern| json!({"type": "json_schema", "json_schema": {"schema": {"pattern": pattern}}});
    let place = "response_format.json_schema.schema";
    let endless = "(a|".repeat(50_000);
    for name in fields {
        let answer = server.chat(&chat(json!({name: endless}))).await;
        check_refused(&answer, 400, "invalid_value", Some(name));
    }
    let long = json!({"response_format": schema(endless.as_str())});
    let answer = server.chat(&chat(long)).await;
    check_refused(&answer, 400, "invalid_value", Some(place));
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    // Short ones are the engine's to judge, and this one knows none.
    for pattern in ["(a+)+$", "foo**", "(?<=a)b"] {
        for name in ["guided_regex", "grammar"] {
            let answer = server.chat(&chat(json!({name: pattern}))).await;
            check_refused(&answer, 400, "invalid_value", Some(name));
            assert!(answer.text.contains("scripted"), "{answer:?}");
        }
        let short = json!({"response_format": schema(pattern)});
        let answer = server.chat(&chat(short)).await;
        check_refused(&answer, 400, "invalid_value", Some(place));
        assert!(answer.text.contains("scripted"), "{answer:?}");
    }
    // In a tool's schema it is nobody's but the template's.
    let tool = json!({"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}}});
    let answer = server.chat(&chat(json!({"tools": [tool]}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn j07_numbers_out_of_range_are_400_before_anything_is_loaded() {
    let (_home, server, last) = one_model("");
    let odd = [
        "-1",
        "-2147483648",
        "2147483648",
        "9223372036854775808",
        "1.5",
        "\"5\"",
    ];
    let whole = [
        "max_tokens",
        "max_completion_tokens",
        "n",
        "top_k",
        "seed",
        "top_logprobs",
    ];
    for value in odd {
        for name in whole {
            let body = format!(
                r#"{{"model":"t/a","logprobs":true,"messages":[{{"role":"user","content":"a"}}],"{name}":{value}}}"#
            );
            let answer = post(&server, CHAT, body).await;
            check_refused(&answer, 400, "invalid_value", Some(name));
        }
        for name in [
            "temperature",
            "top_p",
            "min_p",
            "logprobs",
            "repetition_context_size",
        ] {
            let value = if value == "1.5" { "-2.5" } else { value };
            let body = format!(r#"{{"model":"t/a","prompt":"a","{name}":{value}}}"#);
            let answer = post(&server, "/v1/completions", body).await;
            check_refused(&answer, 400, "invalid_value", Some(name));
        }
    }
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    // A number that is not known passes, and the answer says that it had no effect.
    let answer = server.chat(&chat(json!({"n_discard": -1}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-roundhouse-ignored"), Some("n_discard"));
}

#[tokio::test]
async fn fields_without_effect_are_accepted_and_named() {
    let (_home, server, _) = one_model("");
    let more = json!({"user": "u", "store": true, "metadata": {"a": 1}, "keep_alive": "5m",
        "parallel_tool_calls": true, "service_tier": null, "seed": 1});
    for stream in [false, true] {
        let mut body = chat(more.clone());
        body["stream"] = stream.into();
        let answer = server.chat(&body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            answer.header("x-roundhouse-ignored"),
            Some("metadata, store, user")
        );
    }
}

#[tokio::test]
async fn j08_images_from_elsewhere_and_too_many_are_400_and_nothing_is_fetched() {
    let canary = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bound");
    let port = canary.local_addr().expect("an address").port();
    let (_home, server, last) = one_model("server: { limits: { body: 200MB } }");
    let bytes = if long() { 100_000_000 } else { 28_000_000 };
    let asked = |content: Value| json!({"model": "t/a", "messages": [{"role": "user", "content": content}]});
    for url in [
        format!("http://127.0.0.1:{port}/x.png"),
        format!("https://localhost:{port}/"),
        "file:///etc/passwd".to_owned(),
        "/etc/passwd".to_owned(),
        format!("data:image/png;base64,{}", "A".repeat(bytes)),
    ] {
        for part in [
            json!({"type": "image_url", "image_url": {"url": url}}),
            json!({"type": "input_image", "image_url": url}),
        ] {
            let answer = server.chat(&asked(json!([part]))).await;
            check_refused(&answer, 400, "invalid_value", Some("messages[0].content"));
        }
    }
    let frame = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let answer = server.chat(&asked(vec![frame.clone(); 5000].into())).await;
    check_refused(&answer, 400, "invalid_value", Some("messages"));
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    // One that is as it should be: this model cannot see it.
    let answer = server.chat(&asked(json!([frame]))).await;
    check_refused(
        &answer,
        400,
        "invalid_value",
        Some("messages[0].content[0]"),
    );
    let called = tokio::time::timeout(std::time::Duration::ZERO, canary.accept()).await;
    assert!(called.is_err(), "somebody called");
}

#[tokio::test]
async fn j09_what_names_a_path_or_a_model_is_refused_unless_it_is_the_model() {
    let (_home, server, last) = one_model("");
    for name in [
        "chat_template",
        "adapter",
        "adapters",
        "draft_model",
        "documents",
    ] {
        for value in [
            json!("../../etc/passwd"),
            json!("t/a"),
            json!(["x"]),
            json!({"path": "/"}),
        ] {
            let answer = server.chat(&chat(json!({name: value}))).await;
            check_refused(&answer, 400, "invalid_value", Some(name));
        }
    }
    for path in ["../../etc/passwd", "/etc/passwd", "a/../b", "t/a\0"] {
        let answer = server.chat(&chat(json!({"model": path}))).await;
        check_refused(&answer, 400, "invalid_model_id", Some("model"));
    }
    assert!(!last.exists());
    check_nothing_loaded(&server).await;
    let more = json!({"chat_template_kwargs": {"enable_thinking": false}});
    assert_eq!(server.chat(&chat(more)).await.status, 200);
    // Elsewhere they are nobody's: no effect, and told.
    let more = json!({"lora_path": "/etc/passwd", "documents": null});
    let answer = server.chat(&chat(more)).await;
    assert_eq!(answer.header("x-roundhouse-ignored"), Some("lora_path"));
}
