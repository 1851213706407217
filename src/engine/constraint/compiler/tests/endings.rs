//! Documents end before their tokens do, whoever writes them: of all kinds of schemas that
//! let one go on, asked of somebody who does.

use super::*;

/// Somebody who never likes to end, is fond of some letters and else takes whatever comes.
fn unwilling(tokenizer: &Tokenizer, seed: u64) -> impl FnMut(&[u32]) -> u32 {
    let fond = ["", "{[,\"", "a", "0-", "z,", "\\u ", "[", "}]\""];
    let fond = fond[seed as usize % fond.len()].as_bytes();
    let is_liked = |token: &u32| {
        tokenizer
            .token_bytes(*token)
            .iter()
            .any(|it| fond.contains(it))
    };
    let mut number = seed;
    move |tokens| {
        let ends = tokenizer.end_tokens();
        let mut on: Vec<_> = tokens.iter().filter(|it| !ends.contains(it)).collect();
        number = number
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        if number >> 60 > 2 && on.iter().any(|token| is_liked(token)) {
            on.retain(|token| is_liked(token));
        }
        let any = (number >> 33) as usize % on.len().max(1);
        on.get(any).map_or(tokens[0], |it| **it)
    }
}

/// Asks for documents of a schema, again and again: each is whole within `most` tokens.
fn check_that_it_ends(compiler: &Compiler, schema: Value, most: usize, times: u64) {
    let told: String = schema.to_string().chars().take(300).collect();
    let constraint = strict(schema);
    for seed in 0..times {
        let unwilling = unwilling(&compiler.shared.tokenizer, seed);
        let text = answer(compiler, &constraint, most, unwilling);
        let text = text.unwrap_or_else(|| panic!("unfinished: {seed} {told}"));
        serde_json::from_slice::<serde::de::IgnoredAny>(&text).expect("JSON");
    }
}

#[test]
fn a_document_ends_before_its_tokens_do() {
    let compiler = bytes();
    let schemas = [
        json!({"type": "string"}),
        json!({"type": "array", "items": {"type": "string"}}),
        json!({"type": "integer"}),
        json!({"type": "object"}),
        json!({
            "type": "object", "required": ["a", "b"],
            "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "number"}},
                "c": {"$ref": "#"}},
        }),
        json!({"type": "array", "minItems": 3, "items": {"type": "array", "items": {"type": "null"}}}),
        json!({}),
    ];
    for schema in schemas {
        check_that_it_ends(&compiler, schema, 300, 40);
    }
}

/// The same with little room: where much is required, and where a string has an end that a
/// model does not find by itself.
#[test]
fn a_document_ends_in_time_whatever_it_has_to_say() {
    let compiler = bytes();
    let names: Vec<String> = (0..12).map(|number| format!("member_{number}")).collect();
    let members = names
        .iter()
        .map(|name| (name.clone(), json!({"type": "string"})));
    let members: serde_json::Map<_, _> = members.collect();
    let text = |more: Value| {
        let mut schema = json!({"type": "string"});
        let more = more.as_object().expect("an object").clone();
        schema.as_object_mut().expect("an object").extend(more);
        schema
    };
    let schemas = [
        json!({"type": "object", "required": names, "properties": members, "additionalProperties": false}),
        json!({"type": "array", "items": {"type": "object", "required": names, "properties": members}}),
        text(json!({"pattern": "^[^@^\\s]+@[^@^\\.^\\s]+(\\.[^@^\\.^\\s]+)+$"})),
        text(json!({"format": "date-time"})),
        text(json!({"format": "time"})),
        text(json!({"format": "uri"})),
        text(json!({"format": "email"})),
        json!({"type": "array", "minItems": 2, "items": {"type": "string", "format": "uri"}}),
        json!({"type": "object", "patternProperties": {"[A-Za-z0-9-_.:]{1,255}": {"type": "string", "format": "uri"}}}),
    ];
    for schema in schemas {
        check_that_it_ends(&compiler, schema, 600, 20);
    }
}

/// A string that is not over with any letter more, or has to have something in it wherever
/// that is: what may come next never tells that it is nearer.
#[test]
fn a_string_ends_whatever_its_pattern() {
    let compiler = bytes();
    let patterns = [
        "[\\w\\d_\\.-]+@([\\w\\d_\\.-]+\\.)+[\\w]+",
        "20\\d{2}-\\w{3}-[0-3]\\d",
        "^(?:\\S+\\s+){3,10}\\S+$",
        "^.*(end|finis)$",
        "\"quoted\\\\ é\"",
        "^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$",
        "^iglu:([a-zA-Z0-9-_.]+)/([a-zA-Z0-9-_]+)/([1-9][0-9]*|\\*)-((?:0|[1-9][0-9]*)|\\*)$",
    ];
    for pattern in patterns {
        let text = json!({"type": "string", "pattern": pattern});
        check_that_it_ends(&compiler, text.clone(), 150, 16);
        let list = json!({"type": "array", "items": text, "minItems": 3});
        check_that_it_ends(&compiler, list, 400, 16);
        let names = json!({"type": "object", "patternProperties": {pattern: {}}, "additionalProperties": false});
        check_that_it_ends(&compiler, names, 400, 16);
    }
}

/// Members that may be left out, which somebody who likes them all has no time for.
#[test]
fn an_object_ends_with_what_it_needs() {
    let compiler = bytes();
    let members = |count: usize, of: Value| -> serde_json::Map<_, _> {
        let members = (0..count).map(|number| (format!("member_{number}"), of.clone()));
        members.collect()
    };
    let optional = json!({
        "type": "object", "properties": members(24, json!({"type": "string"})),
        "required": ["member_3", "member_22"],
    });
    check_that_it_ends(&compiler, optional.clone(), 200, 16);
    let mut closed = optional.clone();
    closed["additionalProperties"] = json!(false);
    check_that_it_ends(&compiler, closed.clone(), 200, 16);
    let nested = json!({
        "type": "object", "properties": members(24, closed),
        "required": ["member_1", "member_23"], "additionalProperties": false,
    });
    check_that_it_ends(&compiler, nested, 600, 16);
    let endless = json!({
        "type": "object", "properties": {"again": {"$ref": "#"}, "more": {"$ref": "#"}, "name": {"type": "string"}},
        "required": ["name"], "additionalProperties": false,
    });
    check_that_it_ends(&compiler, endless, 300, 16);
    let beginnings = json!({
        "type": "object", "properties": {"a": {}, "ab": {}, "abc": {}, "a\"b": {}},
        "required": ["ab", "a\"b"],
    });
    check_that_it_ends(&compiler, beginnings, 200, 16);
}

/// What else may go on and on.
#[test]
fn a_document_ends_whatever_kind_it_is() {
    let compiler = bytes();
    let many = json!({"type": "array", "minItems": 60, "items": {"type": "integer"}});
    let schemas = [
        (
            json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}),
            200,
        ),
        (json!({"oneOf": [many, {"type": "object"}]}), 200),
        (
            json!({"type": "array", "minItems": 2, "items": {"anyOf": [many, {"type": "array", "maxItems": 0}, {"type": "object"}]}}),
            200,
        ),
        (many, 300),
        (json!({"type": "number", "exclusiveMinimum": 0}), 60),
        (
            json!({"type": "number", "multipleOf": 0.25, "minimum": 0.1}),
            60,
        ),
        (json!({"type": "integer", "multipleOf": 97}), 60),
        (
            json!({"type": "array", "items": {"type": "integer", "multipleOf": 7, "minimum": 100000}, "minItems": 2}),
            100,
        ),
        (json!({"type": "string", "minLength": 100}), 200),
        (
            json!({"type": "string", "minLength": 20, "pattern": "[0-9][a-z][0-9]"}),
            120,
        ),
        (
            json!({"type": "string", "maxLength": 20, "pattern": "[0-9][a-z][0-9]"}),
            60,
        ),
        (
            json!({"enum": ["short", "something that is much, much longer than all the others together", 12]}),
            80,
        ),
        (json!({"type": "string", "format": "uuid"}), 60),
        (json!({"type": "string", "format": "ipv6"}), 100),
        (json!({"type": "string", "format": "hostname"}), 80),
        (json!({"type": "string", "format": "duration"}), 60),
        (
            json!({"type": "array", "minItems": 3, "items": {"format": "email", "type": "string"}}),
            200,
        ),
    ];
    for (schema, most) in schemas {
        check_that_it_ends(&compiler, schema, most, 16);
    }
}

/// Schemas whose documents need not end.
fn endless() -> impl Strategy<Value = Value> {
    let patterns = [
        "[a-z]+@([a-z]+\\.)+de",
        "^(\\S+ ){2,9}\\S+$",
        "[0-9]{3}",
        "^x.*y$",
    ];
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "number"})),
        Just(json!({"type": "integer", "multipleOf": 13})),
        Just(json!({"type": "array", "items": {"type": "null"}})),
        Just(json!({"enum": ["one", "another, which is longer", 3]})),
        (0..patterns.len()).prop_map(move |at| json!({"type": "string", "pattern": patterns[at]})),
        (0..FORMATS.len()).prop_map(|at| json!({"type": "string", "format": FORMATS[at]})),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let names = ["a", "ab", "name", "id", "b", "kind"];
        prop_oneof![
            (inner.clone(), 0..3usize).prop_map(|(items, least)| {
                json!({"type": "array", "items": items, "minItems": least})
            }),
            prop::collection::vec((inner.clone(), any::<bool>()), 1..6).prop_map(move |members| {
                let named = || members.iter().zip(names);
                let properties =
                    named().map(|((schema, _), name)| (name.to_owned(), schema.clone()));
                let properties: serde_json::Map<String, Value> = properties.collect();
                let required = named().filter(|((_, is_required), _)| *is_required);
                let required: Vec<_> = required.map(|(_, name)| name).collect();
                json!({"type": "object", "properties": properties, "required": required})
            }),
            inner
                .clone()
                .prop_map(|of| json!({"type": "object", "additionalProperties": of})),
            prop::collection::vec(inner, 1..3).prop_map(|ways| json!({"anyOf": ways})),
        ]
    })
}

/// Formats with a syntax of their own.
const FORMATS: [&str; 10] = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A document ends if there are some more tokens than the shortest way was found to have.
    #[test]
    fn every_document_ends_where_there_is_a_way(schema in endless(), seed in any::<u64>()) {
        thread_local! {
            static COMPILER: Compiler = bytes();
        }
        let constraint = strict(schema);
        let text = COMPILER.with(|compiler| {
            let compiled = compiler.compile_anew(source(&constraint).expect("a schema"));
            let compiled = compiled.expect("compiles");
            let matcher = compiled.matcher.into_inner().expect("whole");
            let way = Scout::new(matcher, compiled.closing.expect("JSON")).find_end();
            let most = 3 * way.expect("a way").len() + 100;
            answer(compiler, &constraint, most, unwilling(&compiler.shared.tokenizer, seed))
        });
        serde_json::from_slice::<serde::de::IgnoredAny>(&text.expect("it ends")).expect("JSON");
    }
}
