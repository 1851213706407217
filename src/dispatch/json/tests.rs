use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::scan::STEP;
use super::*;
use crate::dispatch::peek::tests::value;

/// The same but for the last digits of numbers: `serde_json` does not look for the nearest.
fn rough(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            format!("{:.9e}", number.as_f64().expect("a float")).into()
        }
        Value::Array(values) => values.iter().map(rough).collect(),
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(key, value)| (key.clone(), rough(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// The same text by this reader and by `serde_json`, passed over, as a value and as bytes.
#[track_caller]
fn check(text: &str) {
    let skipped = read_bytes::<IgnoredAny>(text.as_bytes()).is_ok();
    let theirs = serde_json::from_str::<IgnoredAny>(text).is_ok();
    assert_eq!(skipped, theirs, "passed over: {text:?}");
    let read = read(text, std::marker::PhantomData::<Value>);
    let theirs = serde_json::from_str::<Value>(text);
    match (&read, &theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(rough(ours), rough(theirs), "{text:?}"),
        _ => assert_eq!(
            read.is_ok(),
            theirs.is_ok(),
            "{text:?}: {read:?} {theirs:?}"
        ),
    }
}

#[test]
fn it_reads_what_serde_json_reads() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[]",
        "{}",
        " { } ",
        "[ ]",
        "[,]",
        "[1,]",
        "[1 2]",
        "{,}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{\"a\"}",
        "{a:1}",
        "{1:1}",
        "[}",
        "{]",
        "[[]",
        "[]]",
        "[] x",
        "[[],[[]],{\"a\":[{}]}]",
        "null",
        "nul",
        "nulll",
        "true",
        "tru",
        "false",
        "falsee",
        "0",
        "-0",
        "00",
        "01",
        "-",
        "-a",
        "1.",
        ".5",
        "1.5",
        "1e",
        "1e5",
        "1E+5",
        "1e-5",
        "1e+",
        "-0.0",
        "1e999",
        "-1e999",
        "1e-999",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "1.5e3x",
        "+1",
        "0x1",
        "NaN",
        "Infinity",
        "\"\"",
        "\"",
        "\"a",
        "\"\\",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\u0041\"",
        "\"\\/\\b\\f\"",
        "\"a\tb\"",
        "\"a\u{7f}b\"",
        "\"\u{e9}\u{1f600}\"",
        "\"\0\"",
        "'a'",
        "// x",
        "\u{feff}{}",
        "{\"a\\u0062\":[\"\\n\"]}",
        "{\"\\ud800\":1}",
        "\u{b}1",
        "\u{a0}1",
    ] {
        check(text);
    }
}

#[test]
fn strings_end_where_they_end_whatever_their_length() {
    for length in 0..3 * STEP {
        for odd in ["\"", "\\", "\n", "\u{1f}", "\\n", "\u{e9}", ""] {
            let text = format!("\"{}{odd}{}\"", "x".repeat(length), "y".repeat(STEP));
            check(&text);
            check(&format!("[{text},{text}]"));
        }
    }
}

#[test]
fn nesting_needs_no_stack() {
    for depth in [63, 64, 65, 128, 129, 1000, 100_000] {
        let (open, close) = ("[{\"a\":".repeat(depth), "}]".repeat(depth));
        for (inside, is_json) in [("0", true), ("", false), ("0]", false)] {
            let text = format!("{open}{inside}{close}");
            let read = read_bytes::<IgnoredAny>(text.as_bytes());
            assert_eq!(read.is_ok(), is_json, "{depth}");
        }
    }
}

#[test]
fn a_raw_value_stands_as_it_stood() {
    let check = |text: &str, expected: Option<&str>| {
        let raw = read(text, std::marker::PhantomData::<Raw<'_>>);
        assert_eq!(raw.ok().map(|raw| raw.0), expected, "{text}");
    };
    check(" [1, \"\\u0041\"] ", Some("[1, \"\\u0041\"]"));
    check("\n-1.50 ", Some("-1.50"));
    check("{\"a\" : {}}", Some("{\"a\" : {}}"));
    check("[1", None);
    check("", None);
}

#[test]
fn bytes_that_are_no_text_are_passed_over_and_not_read() {
    let bytes = b"{\"a\":\"\xff\"}";
    assert!(read_bytes::<IgnoredAny>(bytes).is_ok());
    assert!(serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
    assert!(read_bytes::<Value>(bytes).is_err());
    assert!(read_bytes::<Value>(b"{\"\xff\":1}").is_err());
}

proptest! {
    #[test]
    fn values_come_back(value in value()) {
        for text in [value.to_string(), format!("{value:#}")] {
            check(&text);
            prop_assert!(read_bytes::<Value>(text.as_bytes()).is_ok());
        }
    }

    #[test]
    fn broken_texts_are_read_alike(text in "[\\[\\]{}:,\"a0\\\\ u1e.+-]{0,24}|\\PC{0,12}") {
        check(&text);
    }

    #[test]
    fn a_text_with_one_byte_changed_is_read_alike(value in value(), at: prop::sample::Index, byte: u8) {
        let mut bytes = value.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes) {
            check(&text);
        }
    }
}
