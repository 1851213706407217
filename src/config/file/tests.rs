//! The tree and its places; texts that are made to hurt.

use std::time::{Duration, Instant};

use super::*;

/// The tree in one line: `key@line:column=value`.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Nothing => "nothing".to_owned(),
        Value::Refused => "refused".to_owned(),
        Value::Text(text) => format!(
            "{text:?}@{}:{}+{}",
            node.place.line, node.place.column, node.place.length
        ),
        Value::List { items, flow } => {
            let items: Vec<_> = items.iter().map(shown).collect();
            let form = if *flow { "flow" } else { "lines" };
            format!("{form}[{}]", items.join(" "))
        }
        Value::Map(pairs) => {
            let pair = |pair: &Pair| {
                format!(
                    "{}@{}:{}={}",
                    pair.key,
                    pair.place.line,
                    pair.place.column,
                    shown(&pair.node)
                )
            };
            let pairs: Vec<_> = pairs.iter().map(pair).collect();
            format!("{{{}}}", pairs.join(" "))
        }
    }
}

#[test]
fn every_key_and_value_knows_its_place() {
    let check = |text: &str, expected: &str| {
        let (root, problems) = parse(text);
        assert_eq!(problems, [], "{text}");
        assert_eq!(shown(&root.expect("a tree")), expected, "{text}");
    };
    check("", "nothing");
    check("# words\n", "nothing");
    check(
        "a: 1GB # words\nb: 'x y'\n",
        "{a@1:1=\"1GB\"@1:4+3 b@2:1=\"x y\"@2:4+5}",
    );
    check(
        "a:\n  b: c\n  b: d\n",
        "{a@1:1={b@2:3=\"c\"@2:6+1 b@3:3=\"d\"@3:6+1}}",
    );
    check(
        "a: [x, {y: z}]\nb:\n- x\n",
        "{a@1:1=flow[\"x\"@1:5+1 {y@1:9=\"z\"@1:12+1}] b@2:1=lines[\"x\"@3:3+1]}",
    );
    check(
        "\u{feff}a: b\r\nc: d\r\n",
        "{a@1:1=\"b\"@1:4+1 c@2:1=\"d\"@2:4+1}",
    );
    check(
        "a: ~\nb:\nc: null\nd: ''\ne: 'null'",
        "{a@1:1=nothing b@2:1=nothing c@3:1=nothing d@4:1=\"\"@4:4+2 e@5:1=\"null\"@5:4+6}",
    );
    check("ä: öü # ß\n", "{ä@1:1=\"öü\"@1:4+2}");
    check(
        "no: on\n0x10: 08080\n",
        "{no@1:1=\"on\"@1:5+2 0x10@2:1=\"08080\"@2:7+5}",
    );
}

#[test]
fn c04_hostile_texts_are_refused_quickly() {
    let check = |name: &str, text: String, expected: &str| {
        // The best of three, so that a busy machine does not fail the test.
        let mut least = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            let (_, problems) = parse(&text);
            least = least.min(start.elapsed());
            let found = problems.first().map(|problem| problem.message.clone());
            let found = found.unwrap_or_default();
            assert!(found.contains(expected), "{name}: {found}");
        }
        assert!(least < Duration::from_millis(100), "{name} took {least:?}");
    };
    let bomb: String = (1..30)
        .map(|n| format!("k{n}: &a{n} [*a{0}, *a{0}]\n", n - 1))
        .collect();
    check(
        "alias bomb",
        format!("k0: &a0 x\n{bomb}"),
        "anchors are not supported",
    );
    check(
        "self reference",
        "a: &a [*a]\n".to_owned(),
        "anchors are not supported",
    );
    check(
        "deep flow mapping",
        "{a: ".repeat(40_000),
        "at most 64 levels",
    );
    check("deep flow list", "[".repeat(40_000), "at most 64 levels");
    check("deep list", "- ".repeat(40_000), "at most 64 levels");
    check("50 MB", "#".repeat(50_000_000), "at most 1000000 bytes");
    check(
        "documents",
        "---\na: b\n".repeat(10_000),
        "found a second one",
    );
    check(
        "tags",
        "a: !!python/object:os.system x\n".to_owned(),
        "tags are not supported",
    );
    check(
        "merge keys",
        "a: {<<: {b: c}}\n".to_owned(),
        "merge keys are not supported",
    );
}

#[test]
fn many_values_are_refused() {
    let (root, problems) = parse(&format!("[{}", "a,".repeat(60_000)));
    assert_eq!(root, None);
    assert!(
        problems[0]
            .message
            .contains("at most 50000 keys and values")
    );
}

#[test]
fn no_text_of_brackets_and_marks_makes_it_slow() {
    for unit in [
        "a,", "[", "{", "? ", "- ", "&a ", "!a ", ":", "'", "\"\n", "|\n", "%a\n", "*a\n",
        "a: b\n", "a: ",
    ] {
        let text = unit.repeat(200_000 / unit.len());
        let start = Instant::now();
        parse(&text);
        assert!(start.elapsed() < Duration::from_secs(5), "{unit:?}");
    }
}
