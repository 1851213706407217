//! Names to decisions.

use proptest::prelude::*;

use super::*;
use crate::registry::Leads;
use crate::registry::fixture::{Shelf, snapshot};

const TEXT: &str = "
allow: [mlx-community/*, org/allowed, org/missing]
deny: ['*/*-bf16']
default: small
models:
  mlx-community/Qwen3-4B-4bit:
    aliases: [small, gpt-4o-mini, org/allowed]
  coder: { repo: org/Coder-30B }
  org/gone: { aliases: [gone] }
";

fn shelf() -> Shelf {
    let ids = [
        "mlx-community/Qwen3-4B-4bit",
        "mlx-community/Other-8bit",
        "mlx-community/Other-bf16",
        "org/Coder-30B",
        "org/allowed",
        "org/secret",
    ];
    Shelf::of(&ids).broken("mlx-community/Broken")
}

fn anyone(_: &str) -> bool {
    true
}

/// What is decided for this caller, in a few words.
fn decided(snapshot: &Snapshot, model: Option<&str>, permit: Permit) -> String {
    let decision = decide(snapshot, model, permit);
    let nearest = suggestions(snapshot, &decision, permit);
    shown(&decision, nearest.first().map(String::as_str))
}

fn shown(decision: &Decision, nearest: Option<&str>) -> String {
    match decision {
        Decision::Serve {
            served,
            plan,
            why,
            variant,
        } => {
            let (model, why, name) = (&plan.model, why.as_str(), &served.name);
            let variant = variant.as_ref().map(|variant| format!(" in {variant}"));
            format!("{model} by {why} as {name}{}", variant.unwrap_or_default())
        }
        Decision::Away { remote, name, why } => {
            let (target, why) = (&remote.targets[0], why.as_str());
            let others = remote.targets[1..].iter();
            let others: String = others
                .map(|it| format!(" or {} at {}", it.model(name), it.upstream.name))
                .collect();
            let upstream = &target.upstream.name;
            format!("{} by {why} at {upstream}{others}", target.model(name))
        }
        Decision::Invalid(error) => format!("invalid: {error}"),
        Decision::Unknown { .. } => format!("unknown, nearest {}", nearest.unwrap_or("nothing")),
        Decision::NotServable { reason, .. } => format!("not servable: {reason}"),
    }
}

#[test]
fn a_name_is_looked_up_in_the_order_of_the_rules() {
    let snapshot = snapshot(TEXT, &shelf());
    let check = |model: Option<&str>, expected: &str| {
        assert_eq!(decided(&snapshot, model, &anyone), expected, "{model:?}");
    };
    let qwen = "mlx-community/Qwen3-4B-4bit";
    check(Some(qwen), &format!("{qwen} by exact as {qwen}"));
    check(Some("small"), &format!("{qwen} by alias as {qwen}"));
    check(Some("coder"), "org/Coder-30B by exact as coder");
    check(
        Some("mlx-community/Other-8bit"),
        "mlx-community/Other-8bit by allowed as mlx-community/Other-8bit",
    );
    // An alias wins over a cached id of the same spelling.
    check(Some("org/allowed"), &format!("{qwen} by alias as {qwen}"));
    check(None, &format!("{qwen} by default as {qwen}"));
    check(Some("org/gone"), "not servable: it is not cached");
    check(Some("gone"), "not servable: it is not cached");
    check(Some("org/missing"), "not servable: it is not cached");
    check(
        Some("mlx-community/Missing"),
        "not servable: it is not cached",
    );
    check(
        Some("mlx-community/Broken"),
        "not servable: incomplete: model.safetensors is missing",
    );
    // On disk and not permitted is the same as nowhere.
    check(Some("org/secret"), &format!("unknown, nearest {qwen}"));
    check(Some("org/nothing"), &format!("unknown, nearest {qwen}"));
    check(
        Some("mlx-community/Other-bf16"),
        "unknown, nearest mlx-community/Other-8bit",
    );
}

#[test]
fn a_variant_is_its_entry_by_any_of_its_names() {
    let text = "
default: small:cold
models:
  org/Coder-30B:
    aliases: [small, 'x:y', {name: titles, background: true}, 'w*']
    variants: { cold: { temperature: 0 }, slow.1: {} }
  'org/allowed': {}
";
    let snapshot = snapshot(text, &shelf());
    let check = |model: Option<&str>, expected: &str| {
        let decided = decided(&snapshot, model, &anyone);
        assert_eq!(decided, expected, "{model:?}");
    };
    let cold = "org/Coder-30B by variant as org/Coder-30B in cold";
    for name in [
        "org/Coder-30B:cold",
        "small:cold",
        "x:y:cold",
        "titles:cold",
    ] {
        check(Some(name), cold);
    }
    check(Some("small:slow.1"), &cold.replace("cold", "slow.1"));
    check(None, &cold.replace("variant", "default"));
    check(Some("small:col"), "unknown, nearest small:cold");
    check(Some("small:cold:cold"), "unknown, nearest small:cold");
    check(Some("org/allowed:cold"), "unknown, nearest org/allowed");
    // What a wildcard matches has no variants.
    check(
        Some("wide:cold"),
        "org/Coder-30B by wildcard as org/Coder-30B",
    );
    let listed = list(&snapshot, &anyone);
    let variants: Vec<_> = listed
        .iter()
        .filter(|listed| listed.id.ends_with(":cold"))
        .map(|listed| (listed.id.as_str(), listed.alias_of.as_deref()))
        .collect();
    let own = Some("org/Coder-30B");
    let expected = [
        "org/Coder-30B:cold",
        "small:cold",
        "x:y:cold",
        "titles:cold",
    ];
    assert_eq!(variants, expected.map(|id| (id, own)));
    assert!(list(&snapshot, &|name| name == "org/allowed").len() == 1);
}

#[test]
fn names_are_compared_byte_for_byte() {
    let snapshot = snapshot(TEXT, &shelf());
    let check = |model: &str, expected: &str| {
        assert_eq!(
            decided(&snapshot, Some(model), &anyone),
            expected,
            "{model}"
        );
    };
    check(
        "mlx-community/qwen3-4b-4bit",
        "not servable: it is not cached",
    );
    check(
        "MLX-community/Qwen3-4B-4bit",
        "unknown, nearest mlx-community/Qwen3-4B-4bit",
    );
    check("Small", "unknown, nearest small");
    check(
        "Qwen3-4B-4bit",
        "unknown, nearest mlx-community/Qwen3-4B-4bit",
    );
    check("codr", "unknown, nearest coder");
    check("gpt-4", "unknown, nearest gpt-4o-mini");
}

#[test]
fn a_mistyped_id_that_a_pattern_permits_is_told_the_nearest() {
    let snapshot = snapshot(TEXT, &shelf());
    let nearest = |model: &str| {
        let decision = decide(&snapshot, Some(model), &anyone);
        assert!(matches!(decision, Decision::NotServable { .. }), "{model}");
        let nearest = suggestions(&snapshot, &decision, &anyone);
        nearest.first().cloned()
    };
    let qwen = Some("mlx-community/Qwen3-4B-4bit".to_owned());
    assert_eq!(nearest("mlx-community/Qwen3-4B-4bti"), qwen);
    // What is there and broken was not mistyped.
    assert_eq!(nearest("mlx-community/Broken"), None);
    // An alias of what is not cached was not either.
    assert_eq!(nearest("gone"), None);
}

#[test]
fn what_is_no_name_is_invalid() {
    let snapshot = snapshot(TEXT, &shelf());
    let refused = [
        "",
        ".git/b",
        "a/.b",
        "../..",
        "./.",
        "a/..",
        "../a",
        "a//b",
        "/etc/passwd",
        "C:\\x",
        "a\\b",
        "file:///",
        "https://h/x",
        "~/m",
        "a%2f..%2f..",
        "%252e",
        "a/b%00",
        "a/b\0",
        "a/b\n",
        " a/b",
        "a/b ",
        "\u{430}/b",
        "\u{ff41}/b",
        "e\u{301}/b",
        "\u{e9}/b",
        "a\u{200d}/b",
        "\u{202e}a/b",
        "a*",
        "a/b\u{1b}[0m",
    ];
    let long = ["x".repeat(97), "x".repeat(10_000), "x/".repeat(500_000)];
    for model in refused.into_iter().chain(long.iter().map(String::as_str)) {
        let start = std::time::Instant::now();
        let decision = decide(&snapshot, Some(model), &anyone);
        let Decision::Invalid(error) = &decision else {
            panic!("{model:?}: {decision:?}");
        };
        assert!(error.to_string().len() < 120, "{model:?}: {error}");
        assert!(start.elapsed().as_millis() < 100, "{model:?}");
    }
    // Well formed as names, and known to nobody.
    for model in ["gpt-4", &"x".repeat(96)] {
        let decision = decide(&snapshot, Some(model), &anyone);
        assert!(matches!(decision, Decision::Unknown { .. }), "{decision:?}");
    }
}

#[test]
fn without_a_default_a_missing_name_is_invalid() {
    let snapshot = snapshot("allow: ['*/*']", &shelf());
    let decision = decide(&snapshot, None, &anyone);
    assert_eq!(decision, Decision::Invalid(IdError::Empty));
}

#[test]
fn suggestions_and_lists_come_from_the_permitted_set_alone() {
    let snapshot = snapshot(TEXT, &shelf());
    let coder = |name: &str| name == "coder";
    let decided = |model: &str| decided(&snapshot, Some(model), &coder);
    // Unknown, existing elsewhere in the file, on disk, cached nowhere: one answer.
    for model in [
        "org/nothing",
        "smal",
        "small",
        "org/secret",
        "org/gone",
        "mlx-community/Missing",
    ] {
        assert_eq!(decided(model), "unknown, nearest coder", "{model}");
    }
    let missing = decide(&snapshot, None, &coder);
    assert_eq!(
        missing,
        Decision::Invalid(IdError::Empty),
        "not by its name"
    );
    let nobody = super::tests::decided(&snapshot, Some("coder"), &|_| false);
    assert_eq!(nobody, "unknown, nearest nothing");
    let listed = list(&snapshot, &coder);
    let ids: Vec<_> = listed.iter().map(|listed| listed.id.as_str()).collect();
    assert_eq!(ids, ["coder"]);
}

#[test]
fn the_list_has_entries_what_can_be_served_and_aliases() {
    let snapshot = snapshot(TEXT, &shelf());
    let listed: Vec<_> = list(&snapshot, &anyone)
        .into_iter()
        .map(|listed| (listed.id, listed.alias_of))
        .collect();
    let qwen = "mlx-community/Qwen3-4B-4bit".to_owned();
    let name = |name: &str| (name.to_owned(), None);
    let alias = |name: &str, of: &str| (name.to_owned(), Some(of.to_owned()));
    let expected = [
        name(&qwen),
        name("coder"),
        name("org/gone"),
        name("mlx-community/Other-8bit"),
        alias("small", &qwen),
        alias("gpt-4o-mini", &qwen),
        alias("org/allowed", &qwen),
        alias("gone", "org/gone"),
    ];
    assert_eq!(listed, expected);
}

proptest! {
    #[test]
    fn a_decision_is_always_made_and_never_renames(model in "[a-zA-Z0-9._:/ -]{0,12}|\\PC{0,12}") {
        let snapshot = snapshot(TEXT, &shelf());
        match decide(&snapshot, Some(&model), &anyone) {
            Decision::Serve { served, .. } => {
                let known = served.name == model || served.aliases.contains(&model);
                prop_assert!(known, "{model} became {}", served.name);
            }
            Decision::Invalid(error) => prop_assert_eq!(Name::parse(&model), Err(error)),
            Decision::Away { .. } => prop_assert!(false, "there is no upstream"),
            Decision::Unknown { name } | Decision::NotServable { name, .. } => {
                prop_assert_eq!(name, model);
            }
        }
    }

    #[test]
    fn what_is_listed_is_served_or_its_entry_says_why_not(index in 0usize..8) {
        let snapshot = snapshot(TEXT, &shelf());
        let listed = list(&snapshot, &anyone);
        let id = &listed[index].id;
        let Leads::Model(served) = &listed[index].behind else {
            panic!("there is no upstream");
        };
        let decision = decide(&snapshot, Some(id), &anyone);
        match &served.plan {
            Ok(_) => prop_assert!(matches!(decision, Decision::Serve { .. }), "{id}"),
            Err(_) => {
                prop_assert!(served.entry, "{id}");
                prop_assert!(matches!(decision, Decision::NotServable { .. }), "{id}");
            }
        }
    }
}

#[test]
fn u01_names_of_upstreams_stand_in_one_table_with_the_aliases() {
    let text = "
allow: [x/*]
deny: ['cloud/secret*']
models:
  a/own: { aliases: ['cloud-mine-*', near], fallback: far }
  a/other: { fallback: cloud-big }
upstreams:
  one: { url: 'https://one.example/v1', models: [far, x/both, {name: 'cloud-*', as: theirs}, 'cloud/*'] }
  two: { url: 'https://two.example/v1', models: ['cloud-large-*', {name: far, as: further}] }
";
    let shelf = Shelf::of(&["a/own", "x/both", "x/here"]);
    let snapshot = snapshot(text, &shelf);
    let check = |name: &str, expected: &str| {
        assert_eq!(decided(&snapshot, Some(name), &anyone), expected, "{name}");
    };
    check("far", "far by exact at one or further at two");
    check("x/both", "x/both by exact at one");
    check("x/here", "x/here by allowed as x/here");
    check("cloud-any", "theirs by wildcard at one");
    check("cloud-large-7", "cloud-large-7 by wildcard at two");
    check("cloud-mine-7", "a/own by wildcard as a/own");
    check("cloud/any", "cloud/any by wildcard at one");
    let denied = decided(&snapshot, Some("cloud/secret-7"), &anyone);
    assert!(denied.starts_with("unknown"), "{denied}");
    check("fra", "unknown, nearest far");
    let only_far = |name: &str| name == "far";
    assert_eq!(
        decided(&snapshot, Some("far"), &only_far),
        "far by exact at one or further at two"
    );
    let hidden = decided(&snapshot, Some("cloud-any"), &only_far);
    assert_eq!(hidden, "unknown, nearest far");
    let listed = list(&snapshot, &only_far);
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id.as_str(), &listed[0].alias_of), ("far", &None));
    let fallback = |name: &str| {
        let fallback = snapshot.served[name].fallback.as_ref().expect("one");
        let remote = &fallback.remote;
        let target = &remote.targets[0];
        format!(
            "{} at {}",
            target.model(&fallback.name),
            target.upstream.name
        )
    };
    assert_eq!(fallback("a/own"), "far at one");
    assert_eq!(fallback("a/other"), "theirs at one");
}

#[test]
fn of_several_wildcards_the_one_that_says_most_has_a_name_that_nothing_else_has() {
    let text = "
allow: [x/*]
models:
  a/own: { aliases: ['claude-*', 'claude-haiku-*', claude-haiku-4, 'x/o*', '*-mini'] }
  a/small: { aliases: ['claude-haiku-4-5-*', {name: 'claude-*-titles', background: true}] }
  claude-entry: { repo: a/own }
";
    let shelf = Shelf::of(&["a/own", "a/small", "x/one"]);
    let snapshot = snapshot(text, &shelf);
    let check = |name: &str, expected: &str| {
        assert_eq!(decided(&snapshot, Some(name), &anyone), expected, "{name}");
    };
    check("claude-opus-4", "a/own by wildcard as a/own");
    check("claude-haiku-3", "a/own by wildcard as a/own");
    check(
        "claude-haiku-4-5-20251001",
        "a/small by wildcard as a/small",
    );
    check("claude-sonnet-titles", "a/small by background as a/small");
    check("gpt-4o-mini", "a/own by wildcard as a/own");
    // What is written out wins, whatever it is.
    check("claude-haiku-4", "a/own by alias as a/own");
    check("claude-entry", "a/own by exact as claude-entry");
    check("x/one", "x/one by allowed as x/one");
    // An id that is permitted and not cached leaves its name to others.
    check("x/other", "a/own by wildcard as a/own");
    check("claude-opus/4", "unknown, nearest a/own");
    // Who may not use the model does not learn of the pattern.
    let not_own = |name: &str| name != "a/own" && name != "a/small";
    let hidden = decided(&snapshot, Some("claude-opus-4"), &not_own);
    assert_eq!(hidden, "unknown, nearest claude-entry");
    let listed = list(&snapshot, &anyone);
    assert!(listed.iter().all(|listed| !listed.id.contains('*')));
}

#[test]
fn a_background_alias_says_so_and_anything_permitted_of_the_kind_may_answer() {
    let text = "
allow: [x/*]
models:
  a/own: { aliases: [{name: titles, background: true}, own] }
  twin: { repo: a/own }
  a/small: { context: 1000 }
  a/gone: {}
";
    let shelf = Shelf::of(&["a/own", "a/small", "x/one", "y/stranger"]).plain("x/plain");
    let snapshot = snapshot(text, &shelf);
    let served = match decide(&snapshot, Some("titles"), &anyone) {
        Decision::Serve { served, why, .. } => {
            assert_eq!(why, Why::Background);
            served
        }
        decision => panic!("{decision:?}"),
    };
    assert_eq!(
        decided(&snapshot, Some("own"), &anyone),
        "a/own by alias as a/own"
    );
    let check = |chat: bool, tokens: u64, permit: Permit, expected: &[&str]| {
        let others = others(
            &snapshot,
            &served,
            Demand {
                asked: Some(Use::Chat),
                chat,
                tokens,
            },
            permit,
        );
        let names: Vec<_> = others.iter().map(|plan| plan.model.as_str()).collect();
        assert_eq!(names, expected, "{chat} {tokens}");
    };
    check(true, 500, &anyone, &["a/small", "x/one"]);
    check(false, 500, &anyone, &["a/small", "x/one", "x/plain"]);
    check(true, 2000, &anyone, &["x/one"]);
    // Longer than any of them: what would be refused by its own model anyway.
    check(true, 1 << 40, &anyone, &["x/one"]);
    let some = |name: &str| name == "a/own" || name == "a/small";
    check(false, 500, &some, &["a/small"]);
}
