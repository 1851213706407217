//! Grammars over a small byte-level tokenizer: whatever a guide allows is the beginning
//! of something that fits, and what does not compile is refused in words.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::engine::tokenizer::tests::{byte_level, llama_decoder, sentencepiece};

mod endings;

/// A compiler for a tokenizer whose end token is `end`.
fn compiler(description: &Value, end: &str) -> Compiler {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |file: &str, value: &Value| {
        std::fs::write(dir.path().join(file), value.to_string()).expect("written");
    };
    write("tokenizer.json", description);
    write("tokenizer_config.json", &json!({"eos_token": end}));
    let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
    Compiler::new(Arc::new(tokenizer))
}

fn bytes() -> Compiler {
    compiler(&byte_level(), "<|end|>")
}

fn strict(schema: Value) -> Constraint {
    Constraint::Schema {
        schema,
        strict: true,
    }
}

/// What comes of an answer whose tokens `choose` takes from those that are allowed; nothing
/// if it is not whole after so many.
fn answer(
    compiler: &Compiler,
    constraint: &Constraint,
    most: usize,
    mut choose: impl FnMut(&[u32]) -> u32,
) -> Option<Vec<u8>> {
    let tokenizer = &compiler.shared.tokenizer;
    let highest = tokenizer.highest().expect("tokens");
    let mut guide = compiler.compile(constraint).expect("compiles").begin();
    let mut text = Vec::new();
    for left in (1..=most as u32).rev() {
        let allowed = guide.allowed(left).expect("something is allowed");
        let tokens: Vec<u32> = (0..=highest).filter(|t| allowed.contains(*t)).collect();
        assert!(!tokens.is_empty(), "nothing may follow {text:?}");
        let token = choose(&tokens);
        if tokenizer.end_tokens().contains(&token) {
            return Some(text);
        }
        assert!(!tokenizer.is_special(token), "{token} after {text:?}");
        text.extend(tokenizer.token_bytes(token));
        if guide.take(token).expect("an allowed token") {
            return Some(text);
        }
    }
    None
}

/// Whether the text is allowed to its end, and may end there.
fn fits(compiler: &Compiler, constraint: &Constraint, text: &str) -> bool {
    let tokenizer = &compiler.shared.tokenizer;
    let mut guide = compiler.compile(constraint).expect("compiles").begin();
    let tokens = tokenizer.encode(text, false).expect("tokens");
    for (index, token) in tokens.iter().enumerate() {
        if !guide.allowed(1000).expect("something").contains(*token) {
            return false;
        }
        if guide.take(*token).expect("allowed") {
            return index + 1 == tokens.len();
        }
    }
    let allowed = guide.allowed(1000).expect("something");
    tokenizer
        .end_tokens()
        .iter()
        .all(|end| allowed.contains(*end))
}

#[test]
fn texts_fit_or_do_not() {
    let compiler = bytes();
    let check = |constraint: &Constraint, text: &str, expected: bool| {
        assert_eq!(fits(&compiler, constraint, text), expected, "{text}");
    };
    let object = Constraint::Object;
    check(&object, "{}", true);
    check(&object, r#"{"é😀": [1, {"a": null}]}"#, true);
    check(&object, "{\n  \"a\": 1\n}", true);
    check(&object, "[]", false);
    check(&object, "{\"a\": 1", false);
    check(&object, "{\"a\":  1}", false);
    let person = strict(json!({
        "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer", "minimum": 0}},
    }));
    check(&person, r#"{"name": "he", "age": 12}"#, true);
    check(&person, r#"{"name":"ä"}"#, true);
    check(&person, r#"{"name": "heth"}"#, false);
    check(&person, r#"{"age": 12}"#, false);
    check(&person, r#"{"name": "a", "x": 1}"#, false);
    check(&strict(json!(true)), "[true, \"he\"]", true);
    let choice = Constraint::Choice(vec![
        "he \"said\"\n".to_owned(),
        "/no/".to_owned(),
        "é".to_owned(),
    ]);
    check(&choice, "he \"said\"\n", true);
    check(&choice, "/no/", true);
    check(&choice, "é", true);
    check(&choice, "he", false);
    let pattern = Constraint::Pattern("^a/b(c|\\$)+$".to_owned());
    check(&pattern, "a/bcc$", true);
    check(&pattern, "a/b", false);
    check(&pattern, "xa/bc", false);
    check(&Constraint::Pattern("a|b".to_owned()), "b", true);
    // Longer than what is looked up together.
    let words = Constraint::Pattern("[a-z ]{18,19}".to_owned());
    for length in 16..21 {
        let text: String = "he is here and ".chars().cycle().take(length).collect();
        check(&words, &text, (18..20).contains(&length));
    }
    check(&words, "he is Here and he is", false);
    check(&Constraint::Pattern("\\d+\\$".to_owned()), "12$", true);
    let grammar = "start: (word \" \")* word\nword: /[a-z]+/ | \"(\" start \")\"";
    let grammar = Constraint::Grammar(grammar.to_owned());
    check(&grammar, "he (is (here)) now", true);
    check(&grammar, "he (is", false);
}

#[test]
fn what_cannot_be_compiled_is_refused_in_words() {
    let compiler = bytes();
    let check = |constraint: Constraint, word: &str| match compiler.compile(&constraint) {
        Err(ConstraintError::Refused(reason)) => {
            assert!(reason.contains(word), "{reason}");
            assert!(reason.len() < 500 && !reason.contains('\n'), "{reason}");
        }
        other => panic!("{constraint:?}: {other:?}"),
    };
    check(strict(json!({"type": "tree"})), "tree");
    check(
        strict(json!({"not": {"type": "string"}, "type": "string"})),
        "not",
    );
    check(strict(json!(false)), "nothing");
    check(strict(json!({"enum": []})), "");
    check(strict(json!({"$ref": "https://example.com/schema"})), "ref");
    check(
        strict(json!({"type": "integer", "minimum": 5, "maximum": 3})),
        "",
    );
    check(Constraint::Pattern("(".to_owned()), "");
    check(Constraint::Pattern("(?<=a)b".to_owned()), "look");
    check(Constraint::Grammar("start: nowhere".to_owned()), "nowhere");
    check(Constraint::Grammar("}{".to_owned()), "");
    // Where a schema is only advice, what cannot be held to is passed over.
    let advice = Constraint::Schema {
        schema: json!({"not": {"type": "string"}, "type": "integer"}),
        strict: false,
    };
    assert!(fits(&compiler, &advice, "12"));
    assert!(!fits(&compiler, &advice, "\"x\""));
}

#[test]
fn a_caller_cannot_loosen_a_grammar() {
    let loose = strict(
        json!({"type": "null", "x-guidance": {"whitespace_pattern": "[a-z ]+", "lenient": true}}),
    );
    assert!(fits(&bytes(), &loose, "null"));
    assert!(!fits(&bytes(), &loose, "he null"));
    let not = strict(json!({"not": {}, "x-guidance": {"lenient": true}}));
    assert!(bytes().compile(&not).is_err());
}

#[test]
fn what_is_costly_ends() {
    let compiler = bytes();
    let began = Instant::now();
    let deep = (0..60).fold(
        json!({"type": "null"}),
        |inner, _| json!({"type": "array", "items": inner}),
    );
    assert!(compiler.compile(&strict(deep)).is_ok());
    let many = "[ab]{3}{1000}{1000}{1000}".to_owned();
    drop(compiler.compile(&Constraint::Pattern(many)));
    let groups = "(a".repeat(64) + &")?".repeat(64);
    assert!(compiler.compile(&Constraint::Pattern(groups)).is_ok());
    let any: Vec<Value> = (0..12)
        .map(|at| json!({"properties": {format!("p{at}"): {"type": "string"}}}))
        .collect();
    let crossed = json!({"allOf": vec![json!({"anyOf": any}); 8]});
    assert!(compiler.compile(&strict(crossed)).is_err());
    let chain: serde_json::Map<String, Value> = (0..3000)
        .map(|at| {
            (
                format!("d{at}"),
                json!({"$ref": format!("#/$defs/d{}", at + 1)}),
            )
        })
        .chain([("d3000".to_owned(), json!({"type": "null"}))])
        .collect();
    let chain = strict(json!({"$defs": chain, "$ref": "#/$defs/d0"}));
    drop(compiler.compile(&chain));
    let rules: Vec<String> = (0..3000).map(|at| format!("R{at}: R{}", at + 1)).collect();
    let rules = format!("start: R0\n{}\nR3000: \"a\"", rules.join("\n"));
    drop(compiler.compile(&Constraint::Grammar(rules)));
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn what_is_kept_has_bounds() {
    let compiler = bytes();
    let number = |at: usize| Constraint::Choice(vec![format!("{at}")]);
    for at in 0..MOST_KEPT + 10 {
        compiler.compile(&number(at)).expect("compiles");
    }
    let long = |at: usize| Constraint::Choice(vec![format!("{at}"), "x".repeat(60_000)]);
    assert_eq!(compiler.kept().grammars.len(), MOST_KEPT);
    let again = compiler.compile(&number(MOST_KEPT)).expect("kept");
    assert_eq!(compiler.kept().grammars.len(), MOST_KEPT);
    drop(again);
    for at in 0..40 {
        compiler.compile(&long(at)).expect("compiles");
    }
    let kept = compiler.kept();
    let bytes: usize = kept.grammars.iter().map(|(key, _)| key.len()).sum();
    assert_eq!(kept.bytes, bytes);
    assert!(kept.bytes <= MOST_KEPT_BYTES, "{}", kept.bytes);
    assert!(kept.grammars.len() >= 30, "{}", kept.grammars.len());
}

#[test]
fn only_so_many_are_compiled_at_once() {
    let taken = Arc::new(AtomicUsize::new(0));
    let places: Vec<_> = (0..MOST_AT_ONCE).map(|_| Place::take(&taken)).collect();
    assert!(places.iter().all(Option::is_some));
    assert!(Place::take(&taken).is_none());
    drop(places);
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

#[test]
fn other_tokenizers() {
    let sentencepiece = compiler(&sentencepiece(llama_decoder()), "</s>");
    let constraint =
        strict(json!({"type": "array", "items": {"enum": ["hello", "é"]}, "maxItems": 2}));
    let longest = |tokens: &[u32]| *tokens.iter().max().expect("one");
    let text = answer(&sentencepiece, &constraint, 100, longest).expect("whole");
    let value: Value = serde_json::from_slice(&text).expect("JSON");
    assert!(value.as_array().is_some_and(|list| list.len() <= 2));
    let mut words = byte_level();
    words["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let unsupported = compiler(&words, "<|end|>").compile(&constraint);
    assert!(matches!(unsupported, Err(ConstraintError::Unsupported(_))));
    let endless = compiler(&byte_level(), "nowhere").compile(&constraint);
    assert!(matches!(endless, Err(ConstraintError::Unsupported(_))));
}

/// Schemas whose documents are short, with a check of our own.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        (0..5u32, 0..200u32).prop_map(|(low, more)| {
            json!({"type": "integer", "minimum": low, "maximum": low + more})
        }),
        (0..3usize).prop_map(
            |length| json!({"type": "string", "minLength": length, "maxLength": length + 2})
        ),
        prop::collection::vec("[a-é\"]{1,4}", 1..4).prop_map(|words| json!({"enum": words})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0..2usize, 0..2usize).prop_map(|(items, least, more)| {
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
            }),
            prop::collection::vec((inner.clone(), any::<bool>()), 1..4).prop_map(|fields| {
                let named = fields.iter().enumerate();
                let properties: serde_json::Map<String, Value> = named
                    .clone()
                    .map(|(at, (schema, _))| (format!("f{at}"), schema.clone()))
                    .collect();
                let required: Vec<String> = named
                    .filter(|(_, (_, required))| *required)
                    .map(|(at, _)| format!("f{at}"))
                    .collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|options| json!({"anyOf": options})),
        ]
    })
}

/// The part of JSON Schema that [`schemas`] uses.
fn accepts(schema: &Value, value: &Value) -> bool {
    let number = |name: &str| schema[name].as_u64().unwrap_or(0);
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| accepts(option, value));
    }
    if let Some(options) = schema["enum"].as_array() {
        return options.contains(value);
    }
    match schema["type"].as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value
            .as_u64()
            .is_some_and(|found| (number("minimum")..=number("maximum")).contains(&found)),
        "string" => value.as_str().is_some_and(|text| {
            let length = text.chars().count() as u64;
            (number("minLength")..=number("maxLength")).contains(&length)
        }),
        "array" => value.as_array().is_some_and(|list| {
            let length = list.len() as u64;
            (number("minItems")..=number("maxItems")).contains(&length)
                && list.iter().all(|item| accepts(&schema["items"], item))
        }),
        _ => value.as_object().is_some_and(|map| {
            let required = schema["required"].as_array().expect("a list");
            let known = |(name, value): (&String, &Value)| {
                let schema = &schema["properties"][name];
                !schema.is_null() && accepts(schema, value)
            };
            required
                .iter()
                .all(|name| map.contains_key(name.as_str().expect("a name")))
                && map.iter().all(known)
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any way through what is allowed comes to an end, and what it says fits.
    #[test]
    fn every_way_leads_to_a_document(schema in schemas(), seed in any::<u64>()) {
        thread_local! {
            static COMPILER: Compiler = bytes();
        }
        let mut state = seed | 1;
        let any = |tokens: &[u32]| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokens[(state >> 33) as usize % tokens.len()]
        };
        let constraint = strict(schema.clone());
        let text = COMPILER.with(|compiler| answer(compiler, &constraint, 4000, any));
        let text = text.expect("it ends");
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        prop_assert!(accepts(&schema, &value), "{} of {schema}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn forced_calls_are_calls() {
    use crate::engine::parts::format::{Format, grammar as calls};
    use crate::engine::parts::{Beginning, Delta, Forced, Parser, Part, Tools};
    let compiler = bytes();
    let described = json!([
        {"function": {"name": "a", "parameters": {
            "type": "object", "properties": {"x": {"$ref": "#/$defs/small"}}, "required": ["x"],
            "additionalProperties": false, "$defs": {"small": {"enum": [1, 2]}},
        }}},
        {"function": {"name": "b\"", "parameters": {"type": "object", "additionalProperties": false}}},
    ]);
    let tools = Tools(described.as_array().cloned().expect("a list"));
    let forced = |several| Forced {
        tools: tools.clone(),
        several,
    };
    for template in [
        "<tool_call>",
        "<|python_tag|>",
        "no marks",
        "<｜tool▁calls▁begin｜>",
    ] {
        let format = Format::of([template]).forced();
        let grammar = |several| Constraint::Grammar(calls(format, &forced(several)));
        let mut found = 0;
        for first in 0..20_u32 {
            let mut dice = first;
            let answered = answer(&compiler, &grammar(false), 400, |tokens| {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                tokens[(dice >> 16) as usize % tokens.len()]
            });
            let Some(text) = answered else { continue };
            let text = String::from_utf8(text).expect("text");
            let beginning = Beginning {
                tools: Some(tools.clone()),
                ..Beginning::default()
            };
            let mut parser = Parser::new(&format, beginning).expect("a format");
            let mut told = parser.push(&text);
            told.extend(parser.finish());
            let [
                Delta::Part(Part::Call(name)),
                Delta::Part(Part::Arguments(arguments)),
            ] = &told[..]
            else {
                panic!("{text}: {told:?}")
            };
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            match name.as_str() {
                "a" => assert!(
                    [1, 2].iter().any(|x| arguments == json!({"x": x})),
                    "{text}"
                ),
                name => assert_eq!((name, &arguments), ("b\"", &json!({}))),
            }
            found += 1;
        }
        assert!(found > 5, "{template}: {found}");
    }
    let format = Format::of(["<tool_call>"]).forced();
    let call = "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 2}}\n</tool_call>";
    let lark = |several| Constraint::Grammar(calls(format, &forced(several)));
    assert!(fits(&compiler, &lark(true), &format!("{call}\n{call}")));
    assert!(!fits(&compiler, &lark(false), &format!("{call}\n{call}")));
    assert!(fits(&compiler, &lark(false), call));
    assert!(!fits(&compiler, &lark(false), &call.replace('2', "3")));
}
