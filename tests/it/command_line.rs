//! The commands as a person or a script runs them: exit codes, answers, files.

use serde_json::{Value, json};

use super::harness::Home;

fn home(yaml: &str) -> Home {
    let home = Home::new(yaml);
    home.scripted("t/a", json!({"tokens": 1}));
    home
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}

#[test]
fn help_names_every_command_but_the_hidden_one() {
    let home = home("");
    let (code, out, _) = home.run(&["--help"]);
    assert_eq!(code, 0);
    for command in [
        "serve", "import", "check", "doctor", "models", "init", "allow", "deny", "alias", "schema",
        "simulate", "keys", "access",
    ] {
        assert!(out.contains(command), "{command}: {out}");
        let (code, out, _) = home.run(&[command, "--help"]);
        assert!(code == 0 && out.len() > 100, "{command}: {out}");
    }
    assert!(!out.contains("worker"), "{out}");
    assert!(out.contains("78 configuration"), "{out}");
    let (code, out, _) = home.run(&["--version"]);
    assert_eq!(
        (code, out.trim()),
        (0, concat!("roundhouse ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn wrong_usage_is_2() {
    let home = home("");
    for args in [
        &["nonsense"][..],
        &[],
        &["serve", "--listen", "nowhere"],
        &["import"],
    ] {
        assert_eq!(home.run(args).0, 2, "{args:?}");
    }
}

#[test]
fn no_configuration_is_78_and_names_the_places() {
    let home = home("");
    std::fs::remove_file(home.config()).expect("removed");
    for command in ["serve", "check"] {
        let (code, _, error) = home.run(&[command]);
        assert_eq!(code, 78, "{error}");
        assert!(
            error.contains("./models.yaml") && error.contains(".config/roundhouse"),
            "{error}"
        );
    }
}

#[test]
fn the_configuration_is_the_flag_then_the_variable_then_the_folder() {
    let home = home("models: { t/a: {} }\n");
    let named = |aliases: &str| format!("models: {{ t/a: {{ aliases: [{aliases}] }} }}\n");
    let (flag, variable) = (
        home.path().join("flag.yaml"),
        home.path().join("variable.yaml"),
    );
    std::fs::write(&flag, named("from-flag")).expect("written");
    std::fs::write(&variable, named("from-variable")).expect("written");
    let check = |args: &[&str], variable: Option<&std::path::Path>, expected: &str| {
        let mut command = home.command(args);
        if let Some(variable) = variable {
            command.env("ROUNDHOUSE_CONFIG", variable);
        }
        let output = command.output().expect("started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(expected), "{args:?}: {text}");
    };
    let flag = flag.to_str().expect("text");
    check(
        &["check", "--json", "--config", flag],
        Some(&variable),
        "from-flag",
    );
    check(&["check", "--json"], Some(&variable), "from-variable");
    check(&["check", "--json"], None, "t/a");
}

#[test]
fn check_names_every_problem_with_its_place() {
    let home =
        home("memory: 12\nmodels:\n  t/a: { keep: maybe, idle_unlod: 3m }\npool: { queue: -1 }\n");
    let (code, _, error) = home.run(&["check"]);
    assert_eq!(code, 78, "{error}");
    for piece in ["models.yaml:1:", ":3:", ":4:", "idle_unload", "^"] {
        assert!(error.contains(piece), "{piece}: {error}");
    }
    let (code, out, _) = home.run(&["check", "--json"]);
    assert_eq!(code, 78);
    assert!(parsed(&out).to_string().contains("idle_unload"), "{out}");
    assert_eq!(
        home.run(&["serve"]).0,
        78,
        "what is not valid does not start"
    );
}

#[test]
fn models_tells_what_is_cached_and_why_it_is_not_served() {
    let home = home("allow: [\"t/*\"]\n");
    let broken = home.scripted("t/broken", json!({}));
    std::fs::remove_file(broken.join("config.json")).expect("removed");
    home.scripted("other/b", json!({}));
    let (code, out, _) = home.run(&["models", "--why"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("config.json"), "{out}");
    assert!(out.contains("roundhouse allow other/b"), "{out}");
    let (code, out, _) = home.run(&["models", "--json"]);
    assert_eq!(code, 0);
    parsed(&out);
}

#[test]
fn allow_adds_a_line_and_keeps_the_rest() {
    let home = home("# mine\nallow: [\"x/*\"] # these\n");
    home.scripted("other/b", json!({}));
    let (code, out, error) = home.run(&["allow", "other/b"]);
    assert_eq!(code, 0, "{out}{error}");
    let text = std::fs::read_to_string(home.config()).expect("text");
    assert!(
        text.starts_with("# mine\n") && text.contains("# these"),
        "{text}"
    );
    assert!(text.contains("x/*") && text.contains("other/b"), "{text}");
    assert_eq!(home.run(&["check"]).0, 0);
    let before = text;
    assert_ne!(home.run(&["allow", "not a pattern"]).0, 0);
    assert_eq!(
        std::fs::read_to_string(home.config()).expect("text"),
        before
    );
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let home = home("");
    let (code, key, _) = home.run(&["keys", "new", "--name", "chat"]);
    assert!(code == 0 && key.trim().len() > 60, "{key}");
    let (_, list, _) = home.run(&["keys", "list", "--json"]);
    let list = parsed(&list);
    assert_eq!(
        (&list[0]["name"], &list[0]["class"]),
        (&json!("chat"), &json!("inference"))
    );
    assert!(!list.to_string().contains(key.trim()));
    assert_eq!(home.run(&["keys", "revoke", "chat"]).0, 0);
    assert_eq!(home.run(&["keys", "revoke", "chat"]).0, 1);
}

#[test]
fn import_says_what_is_no_gguf() {
    let home = home("");
    let file = home.path().join("model.gguf");
    std::fs::write(&file, "<html>").expect("written");
    let (code, _, error) = home.run(&["import", file.to_str().expect("text"), "--as", "t/new"]);
    assert_eq!(code, 1);
    assert!(error.contains("GGUF"), "{error}");
    let (code, _, _) = home.run(&["import", "x.gguf", "--as", "no-organisation"]);
    assert_eq!(code, 1);
    assert!(!home.cache().join("models--t--new").exists());
}
