//! Snapshots from texts and shelves, and what is different between two of them.

use super::fixture::{Shelf, machine, snapshot, try_snapshot};
use super::*;
use crate::engine::speculation::Draft;
use crate::worker::EngineKind;

/// The plan behind a name.
fn plan<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<LoadPlan> {
    match &snapshot.served[name].plan {
        Ok(plan) => plan,
        Err(reason) => panic!("{name}: {reason}"),
    }
}

#[test]
fn entries_come_first_then_what_is_allowed_and_cached() {
    let shelf = Shelf::of(&["a/two", "a/one", "a/denied", "b/other"]).broken("a/broken");
    let text = "allow: ['a/*']\ndeny: [a/denied]\nmodels: {z/gone: {}, b/other: {aliases: [x]}}";
    let snapshot = snapshot(text, &shelf);
    let names: Vec<_> = snapshot.served.keys().collect();
    assert_eq!(names, ["z/gone", "b/other", "a/broken", "a/one", "a/two"]);
    assert_eq!(snapshot.served["z/gone"].plan, Err(NotServable::NotCached));
    assert!(snapshot.served["b/other"].entry && !snapshot.served["a/one"].entry);
    assert!(matches!(
        &snapshot.served["a/broken"].plan,
        Err(NotServable::Snapshot { .. })
    ));
    assert_eq!(snapshot.aliases["x"].name, "b/other");
}

#[test]
fn an_empty_file_serves_nothing() {
    let snapshot = snapshot("", &Shelf::of(&["a/one"]));
    assert!(snapshot.served.is_empty() && snapshot.aliases.is_empty());
}

#[test]
fn a_draft_is_loaded_with_its_model_and_has_to_have_its_tokens() {
    let shelf = Shelf::of(&["a/m", "a/small", "a/other", "/w"]);
    let text = "
memory: 100GB
models:
  plain: {repo: a/m}
  text: {repo: a/m, draft: prompt}
  by-id: {repo: a/m, draft: a/small}
  by-name: {repo: a/m, draft: w}
  foreign: {repo: a/m, draft: a/other}
  nobody: {repo: a/m, draft: a/gone}
  w: {path: /w}
";
    let snapshot = snapshot(text, &shelf);
    let (plain, by_id) = (plan(&snapshot, "plain"), plan(&snapshot, "by-id"));
    assert_eq!(plan(&snapshot, "text").draft, Draft::Prompt);
    assert_eq!(plan(&snapshot, "text").memory, plain.memory);
    assert_eq!(by_id.draft, Draft::Network("/hub/a/small".into()));
    // Both models' weights, and both models' caches of a sequence.
    assert_eq!(by_id.kv.0, 2 * plain.kv.0);
    assert_eq!(by_id.memory.0, 2 * plain.memory.0);
    let by_name = &plan(&snapshot, "by-name").draft;
    assert!(matches!(by_name, Draft::Network(dir) if dir.ends_with("w")));
    for (name, words) in [
        ("foreign", "draft a/other: other tokens"),
        ("nobody", "draft a/gone: "),
    ] {
        let refused = snapshot.served[name].plan.clone().expect_err("refused");
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

#[test]
fn equal_loads_share_one_plan_and_every_other_has_its_own_key() {
    let check = |text: &str, expected: &[(&str, &str)]| {
        let snapshot = snapshot(text, &Shelf::of(&["a/m", "b/m", "/w"]));
        for (name, model) in expected {
            assert_eq!(plan(&snapshot, name).model, *model, "{name} in {text}");
        }
        for (one, other) in expected
            .iter()
            .flat_map(|a| expected.iter().map(move |b| (a, b)))
        {
            let (left, right) = (plan(&snapshot, one.0), plan(&snapshot, other.0));
            assert_eq!(Arc::ptr_eq(left, right), one.1 == other.1, "{text}");
        }
    };
    check("models: {a/m: {}}", &[("a/m", "a/m")]);
    check("models: {x: {repo: a/m}}", &[("x", "a/m")]);
    check(
        "models: {x: {repo: a/m}, y: {repo: a/m, keep: always}}",
        &[("x", "a/m"), ("y", "a/m")],
    );
    check(
        "models: {x: {repo: a/m, context: 10}, y: {repo: a/m}}",
        &[("x", "a/m"), ("y", "y")],
    );
    check(
        "models: {x: {repo: a/m, context: 10}, a/m: {}}",
        &[("x", "x"), ("a/m", "a/m")],
    );
    check(
        "allow: ['a/*']\nmodels: {x: {repo: a/m, context: 10}, y: {repo: a/m}}",
        &[("x", "x"), ("y", "a/m"), ("a/m", "a/m")],
    );
    check(
        "models: {x: {repo: a/m, revision: v1}, a/m: {revision: main}}",
        &[("x", "x"), ("a/m", "a/m")],
    );
    check(
        "models: {x: {path: /w}, y: {path: /w}, z: {path: /w, kv: 1GB}}",
        &[("x", "x"), ("y", "x"), ("z", "z")],
    );
    // A name that is another repository's id keeps that id from being a key.
    check(
        "models: {a/m: {repo: b/m}, x: {repo: a/m}}",
        &[("a/m", "b/m"), ("x", "x")],
    );
    check(
        "models: {a/m: {path: /w}, x: {repo: a/m}}",
        &[("a/m", "a/m"), ("x", "x")],
    );
}

#[test]
fn what_an_entry_leaves_open_is_settled() {
    let text = "
pool: {idle_unload: 5m}
models:
  a/plain: {}
  a/set: {context: 1000, parallel: 2, kv: 10%, memory: 3GB, compute: float16, idle_unload: never, preload: true}
  a/kept: {keep: always}
  a/kv: {kv: 1GB, idle_unload: 1m}
  a/long: {context: 50000}
";
    let ids = ["a/plain", "a/set", "a/kept", "a/kv", "a/long"];
    let snapshot = snapshot(text, &Shelf::of(&ids));
    let plain = plan(&snapshot, "a/plain");
    assert_eq!((plain.context, plain.parallel), (40_960, build::PARALLEL));
    // 32,768 tokens of 100 kB each, beside 5 GB of weights.
    assert_eq!(plain.kv, ByteSize(3_276_800_000));
    assert_eq!(plain.memory, ByteSize(8_276_800_000));
    let set = plan(&snapshot, "a/set");
    assert_eq!((set.context, set.parallel), (1000, 2));
    assert_eq!(set.kv, ByteSize(4_800_000_000));
    assert_eq!(set.memory, ByteSize(3_000_000_000));
    assert_eq!(plan(&snapshot, "a/kv").memory, ByteSize(6_000_000_000));
    let reason = snapshot.served["a/long"]
        .plan
        .clone()
        .expect_err("too long");
    assert_eq!(
        reason.to_string(),
        "context is 50000 and the checkpoint ends at 40960 tokens"
    );

    let treated = |name: &str| {
        let served = &snapshot.served[name];
        (
            served.keep,
            served.preload,
            served.idle_unload.map(|idle| idle.as_secs()),
        )
    };
    assert_eq!(treated("a/plain"), (false, false, Some(300)));
    assert_eq!(treated("a/set"), (false, true, None));
    assert_eq!(treated("a/kept"), (true, true, None));
    assert_eq!(treated("a/kv"), (false, false, Some(60)));
}

#[test]
fn the_default_room_for_caches_is_at_most_a_quarter_of_the_budget() {
    let snapshot = snapshot("memory: 8GB\nallow: ['a/*']", &Shelf::of(&["a/m"]));
    assert_eq!(plan(&snapshot, "a/m").kv, ByteSize(2_000_000_000));
}

#[test]
fn the_budget_is_what_the_file_or_the_machine_says() {
    let check = |text: &str, expected: u64| {
        assert_eq!(
            snapshot(text, &Shelf::default()).budget,
            ByteSize(expected),
            "{text}"
        );
    };
    check("", 48_000_000_000);
    check("memory: auto", 48_000_000_000);
    check("memory: 8GB", 8_000_000_000);
    check("memory: 25%", 16_000_000_000);
    let unknown = Machine {
        memory: MachineMemory {
            total: ByteSize::ZERO,
            auto: ByteSize::ZERO,
        },
        scripted: false,
    };
    let problems = try_snapshot("", &Shelf::default(), &unknown).expect_err("no memory");
    assert!(problems.to_string().contains("memory"), "{problems}");
    assert!(try_snapshot("memory: 8GB", &Shelf::default(), &unknown).is_ok());
}

#[test]
fn the_scripted_engine_serves_only_where_it_was_asked_for() {
    let shelf = Shelf::default().scripted("t/play");
    let closed = snapshot("allow: ['t/*']", &shelf);
    assert!(matches!(
        &closed.served["t/play"].plan,
        Err(NotServable::Snapshot { .. })
    ));
    let machine = Machine {
        scripted: true,
        ..machine()
    };
    let open = try_snapshot("allow: ['t/*']", &shelf, &machine).expect("valid");
    assert_eq!(plan(&open, "t/play").engine, EngineKind::Scripted.into());
}

#[test]
fn a_reload_says_what_is_different() {
    let shelf = Shelf::of(&["a/one", "a/two"]);
    let check = |before: &str, now: &str, expected: &str| {
        let mut now = snapshot(now, &shelf);
        now.generation = 2;
        let change = Change::between(&snapshot(before, &shelf), &now);
        assert_eq!(
            change.to_string(),
            format!("reload 2: {expected}"),
            "{now:?}"
        );
        assert_eq!(change.is_empty(), expected == "nothing changed");
    };
    check("", "", "nothing changed");
    check("", "# words\nmemory: auto", "nothing changed");
    check("", "allow: ['a/*']", "+2 models, allow changed, 0 unloads");
    check(
        "allow: ['a/*']",
        "allow: [a/one]",
        "-1 model, allow changed, 1 unload",
    );
    check(
        "models: {a/one: {}}",
        "models: {a/one: {aliases: [x, y]}}",
        "2 aliases changed, 0 unloads",
    );
    check(
        "models: {a/one: {aliases: [x]}}",
        "models: {a/one: {}, a/two: {aliases: [x]}}",
        "+1 model, 1 alias changed, 0 unloads",
    );
    check(
        "models: {a/one: {}}",
        "models: {a/one: {context: 100}}",
        "1 model changed from the next load on, 0 unloads",
    );
    check(
        "models: {a/one: {}}",
        "models: {a/one: {keep: always}}",
        "1 setting changed, 0 unloads",
    );
    check(
        "models: {a/one: {}}",
        "models: {x: {repo: a/one}}",
        "+1 model, -1 model, 0 unloads",
    );
    check("", "memory: 8GB", "another memory budget, 0 unloads");
    check(
        "",
        "server: {listen: 127.0.0.1:1}",
        "server.listen after a restart, 0 unloads",
    );
    check(
        "log: info",
        "log: debug\npool: {queue: 3}\nserver: {drain: 3s}",
        "pool and server and log changed, 0 unloads",
    );
}

#[test]
fn what_is_different_is_told_with_when_it_holds() {
    let shelf = Shelf::of(&["a/one", "a/two", "a/six"]);
    let check = |before: &str, now: &str, expected: &[&str]| {
        let change = Change::between(&snapshot(before, &shelf), &snapshot(now, &shelf));
        assert_eq!(change.details(), expected, "{change:?}");
    };
    check("", "", &[]);
    check(
        "models: {a/one: {}, a/two: {aliases: [x]}}",
        "models: {a/two: {aliases: [y]}, a/six: {keep: always}}",
        &[
            "new: a/six",
            "gone: a/one, for new requests",
            "unloaded after the last answer: a/one, if loaded",
            "loaded at once: a/six",
            "aliases that change: y and x",
        ],
    );
    check(
        "models: {a/one: {}, a/two: {tags: [x]}}",
        "memory: 20GB\npool: {queue: 3}\naudit: /a\nserver: {listen: 127.0.0.1:1}
models: {a/one: {context: 100, kv: 1GB}, a/two: {idle_unload: 1m}}",
        &[
            "in force at once: a/two (idle_unload, tags), memory and pool",
            "from the next load on: a/one (context, kv, memory)",
            "after a restart: server.listen and audit",
        ],
    );
    let many: String = (0..20).map(|number| format!("a{number}, ")).collect();
    let text = format!("models: {{a/one: {{aliases: [{many}]}}}}");
    let aliases = "aliases that change: a0, a1, a2, a3, a4, a5, a6, a7 and 12 more";
    check("models: {a/one: {}}", &text, &[aliases]);
}

#[test]
fn considering_leaves_no_trace() {
    let registry = Registry::start(fixture::config(""), machine()).expect("valid");
    let change = registry.consider(fixture::config("memory: 8GB"));
    assert!(change.expect("valid").budget);
    assert_eq!(registry.load().generation, 1);
    assert_eq!(registry.load().budget, ByteSize(48_000_000_000));
}

#[test]
fn a_plan_that_nobody_edited_is_the_same_after_a_reload() {
    let shelf = Shelf::of(&["a/one", "a/two"]);
    let before = snapshot("allow: ['a/*']\nmodels: {a/one: {}}", &shelf);
    let now = snapshot(
        "models: {z: {repo: a/two}, a/one: {aliases: [x]}}\nallow: ['a/*']",
        &shelf,
    );
    let change = Change::between(&before, &now);
    assert_eq!((change.gone.len(), change.replaced.len()), (0, 0));
    assert_eq!(plan(&before, "a/one"), plan(&now, "a/one"));
    assert_eq!(plan(&before, "a/two"), plan(&now, "z"));
}

#[test]
fn publishing_replaces_the_whole_and_old_requests_keep_theirs() {
    let registry = Registry::start(fixture::config(""), machine()).expect("valid");
    let old = registry.load();
    let next = registry
        .prepare(fixture::config("memory: 8GB"))
        .expect("valid");
    assert_eq!(registry.load().generation, 1, "preparing changes nothing");
    let change = registry.publish(next);
    assert!(change.budget);
    assert_eq!((old.generation, registry.load().generation), (1, 2));
    assert_eq!(registry.load().budget, ByteSize(8_000_000_000));
}

#[test]
fn e181_adapters_share_the_load_of_their_base_and_have_their_part_in_it() {
    let shelf = Shelf::of(&["a/m", "b/one-adapter", "/two-adapter", "b/model"]);
    let plain = snapshot("models: {base: {repo: a/m}}", &shelf);
    let text = "models:
  base: {repo: a/m}
  one: {base: base, adapter: b/one-adapter}
  again: {base: base, adapter: b/one-adapter}
  two: {base: base, adapter: /two-adapter}
  gone: {base: base, adapter: b/gone-adapter}
  wrong: {base: base, adapter: b/model}
  lost: {base: z/lost, adapter: b/one-adapter}
";
    let adapted = snapshot(text, &shelf);
    let base = plan(&adapted, "base");
    for name in ["one", "again", "two"] {
        assert!(Arc::ptr_eq(plan(&adapted, name), base), "{name}");
    }
    let adapter = |name: &str| adapted.served[name].adapter.as_deref();
    assert_eq!(adapter("base"), None);
    assert_eq!(adapter("one"), adapter("again"));
    assert_ne!(adapter("one"), adapter("two"));
    assert_eq!(adapter("one").map(|it| it.base.as_str()), Some("base"));
    // Two of 20 MB, each counted once.
    assert_eq!(base.adapters, ByteSize(40_000_000));
    let before = plan(&plain, "base");
    assert_eq!(base.memory.0, before.memory.0 + 40_000_000);
    let reason = |name: &str| match &adapted.served[name].plan {
        Ok(_) => String::new(),
        Err(reason) => format!("{reason} | {}", reason.remedy().unwrap_or_default()),
    };
    assert_eq!(
        reason("gone"),
        "not_cached: its adapter is not cached | hf download b/gone-adapter"
    );
    assert_eq!(
        reason("wrong"),
        "incomplete: adapter_config.json is missing (its adapter) | "
    );
    assert_eq!(reason("lost"), "it is not cached | ");
    // The next load has the room; what is loaded goes on.
    let change = Change::between(&plain, &adapted);
    assert_eq!(change.gone, [""; 0]);
    let [replaced] = change.replaced.as_slice() else {
        panic!("{change:?}");
    };
    assert_eq!(replaced.keys, ["adapters", "memory"]);
}

#[test]
fn e181_adapters_are_pinned_as_models_are() {
    let shelf = Shelf::of(&["a/m", "b/one-adapter"]);
    let pin = "commit: c0ffee\n    files: {weights: 4000000000}";
    let lock = |text: String| {
        let text = crate::config::problem::Text { file: None, text };
        crate::config::lock::Lock::parse(&text).expect("a lock file")
    };
    let text = "models: {a/m: {}, one: {base: a/m, adapter: b/one-adapter}}";
    let served = |pins: &[&str]| {
        let pins = pins.iter().map(|id| format!("\n  {id}:\n    {pin}"));
        let config = Config {
            lock: Some(lock(format!(
                "version: 1\nsnapshots:{}",
                pins.collect::<String>()
            ))),
            ..fixture::config(text)
        };
        let snapshot = build::snapshot(config, &machine(), &shelf, None).expect("a snapshot");
        ["a/m", "one"].map(|name| snapshot.served[name].plan.is_ok())
    };
    assert_eq!(served(&["a/m"]), [true, false]);
    assert_eq!(served(&["a/m", "b/one-adapter"]), [true, true]);
}
