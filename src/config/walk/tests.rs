//! What is accepted and what it means; the table of keys and the shipped file
//! held to the reader. What is refused is in `tests/refused.rs`.

mod refused;
mod request;

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::keys::{KEYS, NAME, Otherwise};
use crate::config::{Amount, Budget, Listen, LoadSettings, Source};
use crate::model::id::{ModelId, Name};
use crate::units::ByteSize;

/// A home and a file's folder that are on no disk.
fn around() -> Surroundings {
    Surroundings {
        folder: "/etc/roundhouse".into(),
        home: Some("/home/ada".into()),
        hub_cache: "/home/ada/.cache/huggingface/hub".into(),
        state: "/home/ada/.local/state/roundhouse".into(),
    }
}

fn read(text: &str) -> Result<Config, Problems> {
    config(text, None, &around())
}

#[test]
fn c03_nothing_means_the_defaults_and_serves_nothing() {
    for text in [
        "",
        "\n",
        "# only words\n",
        "---\n",
        "models:\nallow:\nserver: {}\n",
        "\u{feff}",
    ] {
        let config = read(text).expect(text);
        assert_eq!(config, Config::standard(&around()), "{text:?}");
        assert!(!config.permits("mlx-community/x"));
    }
}

#[test]
fn c07_names_are_text_or_an_error_and_never_switches_or_numbers() {
    let names = [
        "no", "on", "yes", "true", "1e3/x", "0x10", "08080", ".5", "1_000", "12:30",
    ];
    for name in names {
        let got = read(&format!("models: {{ {name}: {{ repo: a/b }} }}"));
        let aliased = read(&format!("models: {{ a/b: {{ aliases: [{name}] }} }}"));
        match Name::parse(name) {
            Ok(_) => {
                assert_eq!(got.expect(name).models[0].name.as_str(), name);
                let aliased = aliased.expect(name);
                assert_eq!(aliased.models[0].aliases[0].name.as_str(), name);
            }
            Err(_) => assert!(got.is_err() && aliased.is_err(), "{name}"),
        }
    }
    assert!(read("models: { ~: { repo: a/b } }").is_err());
    assert!(read("models: { a/b: { aliases: [~] } }").is_err());
    assert_eq!(
        read("\u{feff}models:\r\n  no:\r\n    repo: a/b\r\n")
            .expect("valid")
            .models[0]
            .name
            .as_str(),
        "no"
    );
    assert!(
        read("models:\n\ta/b: {}\n").is_err(),
        "a tab indents nothing"
    );
    assert!(
        read("models: {\u{a0}a/b: {}}").is_err(),
        "a non-breaking space is none"
    );
}

#[test]
fn a_whole_file_means_what_it_says() {
    let text = "
memory: 12.5%
allow: [mlx-community/*, no/0x10]
deny: ['*/*-bf16']
default: small
cache: [~/hub, /data/hub, more]
pool: { max_models: 3, idle_unload: never }
server:
  listen: ['[::1]:11440', unix:run/x.sock]
  allowed_hosts: [ai.example.internal]
models:
  mlx-community/Qwen3-4B-4bit:
    aliases: [small, no, 'null', 0x10, {name: 08080}, {name: titles, background: true}]
    keep: always
  plain:
    repo: org/name
    revision: v1.0
    kv: 25%
    memory: 3GB
    context: 8192
    idle_unload: never
  folder: { path: ~/models/x }
";
    let config = read(text).expect("valid");
    assert_eq!(config.memory, Budget::Share(0.125));
    assert!(config.permits("mlx-community/x") && config.permits("no/0x10"));
    assert!(!config.permits("mlx-community/x-bf16") && !config.permits("other/x"));
    let hubs = ["/home/ada/hub", "/data/hub", "/etc/roundhouse/more"];
    assert_eq!(config.cache, hubs.map(PathBuf::from));
    assert_eq!(config.pool.max_models, Some(3));
    assert_eq!(config.pool.idle_unload, None);
    let unix = Listen::Unix("/etc/roundhouse/run/x.sock".into());
    assert_eq!(config.server.listen[1], unix);
    let [small, plain, folder] = config.models.as_slice() else {
        panic!("{:?}", config.models);
    };
    let aliases: Vec<&str> = small
        .aliases
        .iter()
        .map(|alias| alias.name.as_str())
        .collect();
    assert_eq!(aliases, ["small", "no", "null", "0x10", "08080", "titles"]);
    let background = small.aliases.iter().map(|alias| alias.background);
    assert_eq!(background.filter(|is| *is).count(), 1);
    assert!(small.aliases[5].background);
    assert!(small.keep && small.line == 12);
    assert_eq!(plain.idle_unload, Some(None));
    assert_eq!(plain.load.kv, Some(Amount::Share(25_000)));
    assert_eq!(
        plain.load.kv.map(|kv| kv.of(ByteSize(4000))),
        Some(ByteSize(1000))
    );
    assert_eq!(
        plain.load.memory,
        Some(Amount::Size(ByteSize(3_000_000_000)))
    );
    assert_eq!(folder.source, Source::Path("/home/ada/models/x".into()));
}

#[test]
fn e181_an_adapter_has_the_load_of_its_base_wherever_that_stands() {
    let text = "models:
  poet: { base: small, adapter: ~/poet, tags: [x] }
  small: { repo: a/b, revision: v1, context: 100 }
  clerk: { base: small, adapter: c/clerk, revision: v2 }
  other: { base: a/b, adapter: ./near }
";
    let config = read(text).expect("a configuration");
    let names: Vec<_> = config.models.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["poet", "small", "clerk", "other"], "as in the file");
    let [poet, small, clerk, other] = &config.models[..] else {
        panic!("{:?}", config.models);
    };
    for adapted in [poet, clerk] {
        assert_eq!(
            (&adapted.source, &adapted.load),
            (&small.source, &small.load)
        );
    }
    assert_eq!(small.own(), &small.source);
    assert_eq!(poet.own(), &Source::Path("/home/ada/poet".into()));
    let repository = |id: &str, revision: Option<&str>| Source::Repository {
        id: ModelId::parse(id).expect("an id"),
        revision: revision.map(str::to_owned),
    };
    assert_eq!(clerk.own(), &repository("c/clerk", Some("v2")));
    assert_eq!(other.source, repository("a/b", None));
    assert_eq!(other.load, LoadSettings::default());
    assert_eq!(other.own(), &Source::Path("/etc/roundhouse/near".into()));
}

/// A key of the table at its place in a file.
fn written(path: &str, value: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let mut text = String::new();
    for (depth, part) in parts.iter().enumerate() {
        let part = if *part == NAME { "org/name" } else { part };
        text += &format!("{}{part}:", "  ".repeat(depth));
        text += if depth + 1 == parts.len() { " " } else { "\n" };
    }
    text + value + "\n"
}

#[test]
fn the_table_of_keys_has_the_defaults_that_hold() {
    for key in KEYS {
        let Otherwise::Value(value) = key.default else {
            continue;
        };
        // An engine without a command is none, nor is an upstream without an address.
        let needed = match key.path.split('.').next() {
            Some("engines") => "    command: [x, \"{port}\"]\n",
            Some("upstreams") => "    url: https://a.example/v1\n    models: [a]\n",
            _ => "",
        };
        let got = read(&(written(key.path, value) + needed));
        let got = got.unwrap_or_else(|problems| panic!("{problems}"));
        let empty = match key.path.split('.').next() {
            Some("models") => read("models: {org/name: {}}").expect("valid"),
            Some("upstreams") => {
                read(&format!("upstreams:\n  org/name:\n{needed}")).expect("valid")
            }
            Some("engines") => read(&format!("engines:\n  org/name:\n{needed}")).expect("valid"),
            _ => Config::standard(&around()),
        };
        // The one default that is no number here: the engine's, held by the registry's test.
        if key.path == "models.NAME.parallel" {
            assert_eq!(value, crate::registry::build::PARALLEL.to_string());
            continue;
        }
        let lines = |mut config: Config| {
            config.models.iter_mut().for_each(|entry| entry.line = 0);
            config
        };
        assert_eq!(lines(got), lines(empty), "{}", key.path);
    }
}

#[test]
fn every_key_of_the_table_is_read() {
    for key in KEYS {
        // No key takes a list of lists: a reader that looks at the value complains.
        let problems = read(&written(key.path, "[[]]")).expect_err(key.path);
        let unread = problems
            .list
            .iter()
            .any(|p| p.message.contains("unknown key"));
        assert!(!unread, "{}: {problems}", key.path);
    }
}

#[test]
fn c02_every_beginning_of_a_file_is_valid_or_a_problem() {
    let whole = include_str!("../../../models.yaml");
    for text in [
        whole,
        &uncommented(whole),
        "a: {b: [\"c\\x41\", 'd']}\n\u{e9}: |\n  x\n",
    ] {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            if let Err(problems) = read(&text[..end]) {
                assert!(!problems.list.is_empty() && !problems.to_string().is_empty());
            }
        }
    }
}

/// The shipped file with every commented key in force.
fn uncommented(text: &str) -> String {
    let key = |line: &str| match line.trim_start().strip_prefix("#: ") {
        Some(rest) => format!("{}{rest}\n", &line[..line.len() - line.trim_start().len()]),
        None => format!("{line}\n"),
    };
    text.lines().map(key).collect()
}

#[test]
fn the_shipped_file_is_valid_and_shows_every_key() {
    let text = include_str!("../../../models.yaml");
    let shipped = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(shipped.permits("roundhouse/x") && shipped.permits("mlx-community/x"));
    assert!(shipped.models.is_empty());
    let all = uncommented(text);
    let config = read(&all).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(!config.models.is_empty());
    let (root, _) = file::parse(&all);
    let root = root.expect("a tree");
    for key in KEYS {
        assert!(is_written(&root, key.path), "{} is missing", key.path);
    }
}

/// Whether a path of the table stands in the tree, under any name where it says `NAME`.
fn is_written(node: &Node, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let Value::Map(pairs) = &node.value else {
        return false;
    };
    pairs
        .iter()
        .filter(|pair| first == NAME || pair.key == first)
        .any(|pair| rest.is_empty() || is_written(&pair.node, rest))
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\PC\\n\\t]{0,80}") {
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn no_text_of_yaml_makes_it_panic(
        text in "((memory|models|pool|allow|server|a/b|aliases|listen|queue|1GB|never)?[ \\n:{}\\[\\],&*!|>'\"%@#?~-]{0,3}){0,12}"
    ) {
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}

/// The table of `docs/CONFIG.md`.
fn documented() -> String {
    let row = |key: &crate::config::keys::Key| {
        let default = match key.default {
            Otherwise::Value(value) => format!("`{value}`"),
            Otherwise::Words(words) => words.to_owned(),
            Otherwise::Absent => "none".to_owned(),
        };
        let class = key.class.as_str();
        format!(
            "| `{}` | {} | {default} | {class} | {} |\n",
            key.path,
            key.kind.words(),
            key.about
        )
    };
    let head = "| key | type | default | class | what it is for |\n|---|---|---|---|---|\n";
    head.to_owned() + &KEYS.iter().map(row).collect::<String>()
}

#[test]
fn the_documentation_has_the_table_of_keys() {
    let page = include_str!("../../../docs/CONFIG.md");
    let table = documented();
    assert!(
        page.contains(&table),
        "docs/CONFIG.md lacks this table:\n{table}"
    );
}

#[test]
fn engines_are_read_and_entries_name_them() {
    use crate::config::engine::{Placeholder, ReadySign, StopSignal, Use};
    let text = "models:\n  tiny: { repo: a/b, engine: llama, file: sub/x.gguf, kv: 1GB }\n  own: { repo: a/b, engine: mlx }\n\
        engines:\n  llama:\n    command: [llama-server, -m, \"{file}\", --port, \"{port}\", -c, 8192]\n    ready: listening on\n    kinds: [rerank, chat]\n    stop: SIGINT\n    env: { A: 1, B: \"{path}\" }\n    model: fixed\n\
        \x20 mine: { command: [./run me, \"{socket}\"] }\n";
    let config = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    let llama = &config.engines["llama"];
    let words: Vec<String> = llama.command.iter().map(ToString::to_string).collect();
    assert_eq!(words[0], "llama-server", "looked for in PATH");
    assert_eq!(words[5..], ["-c", "8192"]);
    assert_eq!(llama.ready, ReadySign::Line("listening on".to_owned()));
    assert_eq!(llama.kinds, [Use::Chat, Use::Rerank]);
    assert_eq!(llama.stop, StopSignal::Interrupt);
    assert!(llama.uses(Placeholder::Path) && !llama.uses(Placeholder::Socket));
    let [tiny, own] = config.models.as_slice() else {
        panic!("{:?}", config.models);
    };
    assert_eq!(tiny.load.engine.as_ref(), Some(llama));
    assert_eq!(tiny.load.file.as_deref(), Some("sub/x.gguf"));
    assert_eq!(own.load.engine, None);
    let program = config.engines["mine"].command[0].to_string();
    assert!(
        program.starts_with('/') && program.ends_with("/run me"),
        "{program}"
    );
}
