//! The commands that write the configuration: what they change, what they leave,
//! what they refuse; and the one that shows what is in force.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::harness::Home;

const FILE: &str = "# mine\nallow: [\"x/*\"] # these\nmodels:\n  # the one for code\n  t/a: # big\n    keep: always\n  other: { repo: t/b }\n";

fn home() -> Home {
    let home = Home::new(FILE);
    for id in ["t/a", "t/b", "t/c"] {
        home.scripted(id, json!({"tokens": 1}));
    }
    home
}

fn text(home: &Home) -> String {
    std::fs::read_to_string(home.config()).expect("text")
}

/// Runs a command that succeeds; answers what it said.
fn said(home: &Home, args: &[&str]) -> String {
    let (code, out, error) = home.run(args);
    assert_eq!(code, 0, "{args:?}: {out}{error}");
    out
}

#[test]
fn allow_deny_and_alias_keep_the_file_as_it_is_written() {
    let home = home();
    let out = said(&home, &["allow", "t/c", "--alias", "small"]);
    assert!(
        out.contains("allowed t/c") && out.contains("small leads to t/c"),
        "{out}"
    );
    said(&home, &["deny", "*/*-bf16"]);
    said(&home, &["alias", "code", "t/a"]);
    said(&home, &["alias", "cheap", "small"]);
    let out = said(&home, &["alias", "second", "other"]);
    assert!(out.contains("models.yaml at line"), "{out}");
    assert_eq!(
        text(&home),
        "# mine\nallow: [\"x/*\", t/c] # these\nmodels:\n  # the one for code\n  t/a: # big\n    \
         keep: always\n    aliases: [code]\n  other: {aliases: [second],  repo: t/b }\n  t/c:\n    \
         aliases: [small, cheap]\ndeny:\n  - \"*/*-bf16\"\n"
    );
    let (_, out, _) = home.run(&["check", "--json"]);
    assert!(out.contains("\"ok\":true"), "{out}");
    let before = text(&home);
    let out = said(&home, &["alias", "code", "t/a"]);
    assert!(out.contains("already"), "{out}");
    let out = said(&home, &["deny", "a/b-bf16"]);
    assert!(out.contains("already denied"), "{out}");
    assert_eq!(text(&home), before);
}

#[test]
fn what_would_not_be_valid_is_not_written() {
    let home = home();
    let check = |args: &[&str], expected: &str| {
        let (code, out, error) = home.run(args);
        assert_eq!(code, 1, "{args:?}: {out}");
        assert!(error.contains(expected), "{args:?}: {error}");
        assert_eq!(text(&home), FILE, "{args:?}");
    };
    check(&["deny", "t/*"], "matched by deny");
    check(&["alias", "other", "t/a"], "already an entry");
    check(&["alias", "not a name", "t/a"], "letters, digits");
    check(&["alias", "new", "nobody"], "no entry, no alias");
    check(
        &["alias", "new", "t/c"],
        "`roundhouse allow t/c --alias new`",
    );
    check(&["allow", "t/*", "--alias", "new"], "exactly one");
    let names = std::fs::read_dir(home.path()).expect("the home");
    let left = names.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains(".models.yaml")
    });
    assert_eq!(left.count(), 0, "nothing half-written is left");
}

#[test]
fn init_writes_a_file_once_and_without_one_serve_says_so() {
    let home = home();
    std::fs::remove_file(home.config()).expect("removed");
    let (code, _, error) = home.run(&["serve"]);
    assert_eq!(code, 78, "{error}");
    assert!(
        error.contains("./models.yaml")
            && error.contains(".config/roundhouse/models.yaml")
            && error.contains("`roundhouse init`"),
        "{error}"
    );
    let out = said(&home, &["init", "--scripted-engine"]);
    let file = home.path().join(".config/roundhouse/models.yaml");
    assert!(out.contains("3 models"), "{out}");
    let written = std::fs::read_to_string(&file).expect("the file");
    for id in ["t/a", "t/b", "t/c"] {
        assert!(written.contains(&format!("\n  - {id}  # ")), "{written}");
    }
    let named = file.with_file_name("models.schema.json");
    assert!(written.starts_with("# yaml-language-server: $schema=models.schema.json\n"));
    let schema = std::fs::read_to_string(named).expect("the schema");
    assert_eq!(schema, home.run(&["schema"]).1);
    let mode = file.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o022, 0, "nobody else may change it: {mode:o}");
    let (_, out, _) = home.run(&["check"]);
    assert!(out.contains("is valid"), "{out}");
    let (code, _, error) = home.run(&["init"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("there is a configuration already"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), written);
}

#[test]
fn what_is_in_force_says_where_it_comes_from_and_no_secret() {
    let home = home();
    let secret = "a-key-that-nobody-should-read-0123456789";
    let run = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("ROUNDHOUSE_INFERENCE_KEY", secret);
        let output = command.output().expect("started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {text}");
        assert!(!text.contains(secret), "{text}");
        text
    };
    let shown: Value =
        serde_json::from_str(&run(&["check", "--print-config", "--json"])).expect("JSON");
    let from = |shown: &Value, key: &str| {
        let from = shown[key]["from"].as_str().unwrap_or_default();
        from.rsplit('/').next().unwrap_or_default().to_owned()
    };
    assert_eq!(from(&shown, "allow"), "models.yaml:2");
    assert_eq!(from(&shown, "models.t/a.keep"), "models.yaml:6");
    assert_eq!(from(&shown, "pool.queue"), "default");
    assert_eq!(from(&shown, "cache"), "environment HF_HUB_CACHE");
    assert_eq!(
        from(&shown, "inference key"),
        "environment ROUNDHOUSE_INFERENCE_KEY"
    );
    let table = run(&["serve", "--listen", "127.0.0.1:0", "--print-config"]);
    let line = table.lines().find(|line| line.starts_with("server.listen"));
    let line = line.expect("the address");
    assert!(
        line.contains("127.0.0.1:0") && line.ends_with("flag --listen"),
        "{line}"
    );
}
