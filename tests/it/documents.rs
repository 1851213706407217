//! What the documents say, held against the sources: tests that are named exist,
//! commands parse, ports, flags and limits are those of the program, links lead
//! somewhere (group D).

mod reading;

use std::collections::BTreeSet;
use std::path::Path;

use roundhouse::config::keys::{KEYS, Otherwise};
use serde_json::json;

use super::harness::{Home, PATIENCE};
use reading::{commands, document, documents, rows, section, spans, test_functions, tests, words};

/// The tests that a cell names; fails where one does not exist.
fn named(cell: &str, tests: &BTreeSet<String>, place: &str) -> usize {
    let names = spans(cell);
    for name in &names {
        assert!(tests.contains(name), "{place}: there is no test {name}");
    }
    names.len()
}

#[test]
fn d02_every_promise_names_tests_that_exist() {
    let tests = tests();
    let text = document("SECURITY.md");
    let rows = rows(section(&text, "## Promises"));
    let numbers: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
    let expected: Vec<_> = (1..=16).map(|number| format!("P{number}")).collect();
    assert_eq!(numbers, expected);
    for row in &rows {
        let [number, promise, tested] = row.as_slice() else {
            panic!("{row:?}");
        };
        assert!(
            promise.starts_with("**") && promise.len() > 60,
            "{number}: {promise}"
        );
        assert!(named(tested, &tests, number) > 0, "{number} names no test");
    }
}

#[test]
fn d02_every_threat_names_tests_that_exist() {
    let tests = tests();
    let text = document("docs/HARDENING.md");
    let rows = rows(section(&text, "## Threats"));
    assert!(rows.len() >= 12, "{} threats", rows.len());
    for row in &rows {
        let [threat, answer, tested] = row.as_slice() else {
            panic!("{row:?}");
        };
        assert!(!answer.is_empty(), "{threat}");
        assert!(
            named(tested, &tests, threat) > 0,
            "{threat:?} names no test"
        );
    }
}

/// What the evidence says is held is, and what it says is not is all there is.
#[test]
fn every_fault_and_case_of_the_evidence_names_tests_that_exist() {
    let tests = tests();
    let text = document("docs/EVIDENCE.md");
    let check = |rows: Vec<Vec<String>>, missing: &[&str]| {
        let mut without = Vec::new();
        for row in &rows {
            let (case, tested) = (&row[0], row.last().expect("cells"));
            let is_held = !tested.starts_with("not held: ");
            let names = spans(tested);
            assert!(!is_held || named(tested, &tests, case) > 0, "{row:?}");
            assert!(
                is_held || names.iter().all(|name| tests.contains(name)),
                "{row:?}"
            );
            without.extend((!is_held).then_some(case.as_str()));
        }
        assert_eq!(without, missing);
    };
    let faults = rows(section(&text, "## Faults of other routers"));
    assert_eq!(faults.len(), 22);
    check(faults, &[]);
    let cases = rows(section(&text, "## Cases of races, faults and streams"));
    assert_eq!(cases.len(), 46);
    check(cases, &["F-16 to F-19"]);
}

#[test]
fn o10_what_one_holder_may_learn_of_another_by_timing_is_not_promised_away() {
    let policy = document("SECURITY.md");
    let not_promised = section(&policy, "## Not promised");
    assert!(not_promised.contains("by timing"), "{not_promised}");
    let hardening = document("docs/HARDENING.md");
    assert!(hardening.contains("**A side channel that stays.**"));
}

#[test]
fn d01_the_policy_says_scope_channel_times_and_versions() {
    let text = document("SECURITY.md");
    let scope = rows(section(&text, "## Scope"));
    let is = |word: &str| scope.iter().any(|row| row[1].starts_with(word));
    assert!(is("yes") && is("no"), "{scope:?}");
    let reporting = section(&text, "## Reporting");
    for phrase in ["privately", "working days", "days", "fix"] {
        assert!(reporting.contains(phrase), "{phrase}: {reporting}");
    }
    let words: Vec<_> = section(&text, "## Denial of service")
        .split_whitespace()
        .collect();
    assert!(words.join(" ").contains("100 times"));
    let supported = rows(section(&text, "## Supported versions"));
    let series = concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR")
    );
    assert!(
        supported
            .iter()
            .any(|row| row[0] == series && row[1] == "yes"),
        "{supported:?}"
    );
}

#[test]
fn d03_ports_are_those_of_the_program() {
    let default = |path: &str| {
        let key = KEYS.iter().find(|key| key.path == path).expect("a key");
        match key.default {
            Otherwise::Value(value) => value.to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let ports = ["server.listen", "server.management"].map(|path| {
        let address = default(path);
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        address.rsplit(':').next().expect("a port").to_owned()
    });
    for (path, text) in documents() {
        for (at, _) in text.match_indices(":114") {
            let port: String = text[at + 1..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            assert!(ports.contains(&port), "{}: {port}", path.display());
        }
    }
    let scope = document("SECURITY.md");
    for port in &ports {
        assert!(scope.contains(&format!("`127.0.0.1:{port}`")), "{port}");
    }
}

#[test]
fn d03_the_table_of_limits_is_that_of_the_program() {
    let text = document("docs/HARDENING.md");
    let written: Vec<_> = rows(section(&text, "## Limits"));
    let expected: Vec<_> = KEYS
        .iter()
        .filter(|key| key.path.starts_with("server.limits.") || key.path.starts_with("pool.queue"))
        .map(|key| {
            let default = match key.default {
                Otherwise::Value(value) => format!("`{value}`"),
                Otherwise::Words(words) => words.to_owned(),
                Otherwise::Absent => "none".to_owned(),
            };
            vec![format!("`{}`", key.path), default, key.about.to_owned()]
        })
        .collect();
    let line = |row: &Vec<String>| format!("| {} |", row.join(" | "));
    let shown: Vec<_> = expected.iter().map(line).collect();
    assert_eq!(
        written,
        expected,
        "the table is to be\n{}",
        shown.join("\n")
    );
}

/// Why a command of a document is none.
fn wrong(command: &str, whole: bool) -> Option<String> {
    use clap::error::ErrorKind;
    let error = roundhouse::cli::grammar()
        .try_get_matches_from(words(command))
        .err()?;
    let incomplete = [
        ErrorKind::MissingRequiredArgument,
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    let shown = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
    let fine = shown.contains(&error.kind()) || (!whole && incomplete.contains(&error.kind()));
    (!fine).then(|| error.to_string())
}

#[test]
fn d04_every_command_in_the_documents_parses() {
    let mut count = 0;
    for (path, text) in documents() {
        for (command, whole) in commands(&text) {
            // A pattern with alternatives says several commands at once.
            let command = command
                .replace("ID|PATTERN", "a/b")
                .replace("…", "")
                .replace("...", "x");
            if let Some(error) = wrong(&command, whole) {
                panic!("{}: {command}: {error}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} commands");
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/profiles");
    for profile in std::fs::read_dir(profiles).expect("profiles").flatten() {
        let text = std::fs::read_to_string(profile.path()).expect("text");
        for (command, _) in commands(&text.replace("\n# ", " ")) {
            assert_eq!(wrong(&command, true), None, "{profile:?}: {command}");
        }
    }
}

#[test]
fn d04_the_security_document_has_its_sections() {
    let text = document("SECURITY.md");
    for (heading, least) in [
        ("## Not promised", 8),
        ("## Firewall", 2),
        ("## After an incident", 4),
    ] {
        let body = section(&text, heading);
        let points = body
            .lines()
            .filter(|line| line.starts_with("- ") || line.starts_with(char::is_numeric));
        assert!(points.count() >= least, "{heading}: {body}");
    }
    for word in ["prompt injection", "TLS", "same user", "timing"] {
        assert!(section(&text, "## Not promised").contains(word), "{word}");
    }
}

/// Every command of the section is run, in its order, beside a server that has
/// been used with the key that is taken away.
#[tokio::test]
async fn d04_the_steps_after_an_incident_do_what_they_say() {
    let home = Home::new(
        "models: { t/a: {} }\nserver: { listen: 127.0.0.1:0, management: 127.0.0.1:0 }\n",
    );
    home.scripted("t/a", json!({"tokens": 1}));
    let key = home.run(&["keys", "new", "--name", "NAME"]).1;
    let server = home.serve();
    let status = async || {
        let request = server.request(reqwest::Method::GET, "/v1/models");
        let request = request.header("x-api-key", key.trim());
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(status().await, 200);
    let text = document("SECURITY.md");
    let commands = commands(section(&text, "## After an incident"));
    assert!(commands.len() >= 5, "{commands:?}");
    for (command, _) in commands {
        let mut words = words(&command);
        if words[1] == "doctor" {
            // The model of this test is none for a server in earnest.
            words.push("--scripted-engine".to_owned());
        }
        let args: Vec<_> = words[1..].iter().map(String::as_str).collect();
        let (code, out, error) = home.run(&args);
        let is_told = words[1] == "doctor" && out.contains("another-server");
        assert!(code == 0 || is_told, "{command}: {out}{error}");
        if words.get(2).is_some_and(|word| word == "revoke") {
            let start = std::time::Instant::now();
            while status().await != 401 {
                assert!(
                    start.elapsed() < PATIENCE,
                    "the key still opens\n{}",
                    server.log()
                );
            }
        }
    }
}

#[test]
fn every_make_target_and_every_link_of_the_documents_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = std::fs::read_to_string(root.join("Makefile")).expect("a Makefile");
    for (path, text) in documents() {
        for span in spans(&text) {
            let Some(target) = span
                .strip_prefix("make ")
                .or_else(|| span.split_once(" make ")?.1.into())
            else {
                continue;
            };
            let target = target.split(' ').next().unwrap_or_default();
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "{}: make {target}",
                path.display()
            );
        }
        let folder = root.join(&path);
        let folder = folder.parent().expect("a folder");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap_or_default();
            let local = !file.is_empty() && !file.contains("://");
            assert!(
                !local || folder.join(file).exists(),
                "{}: {link}",
                path.display()
            );
        }
    }
}

#[test]
fn the_document_tests_themselves_can_fail() {
    assert!(wrong("roundhouse serve --no-such-flag", false).is_some());
    assert!(wrong("roundhouse nonsense", false).is_some());
    assert!(wrong("roundhouse keys", true).is_some());
    assert!(wrong("roundhouse keys", false).is_none());
    assert!(wrong("roundhouse check --json | head", true).is_none());
    let source = "#[test]\nfn one() {}\nfn two() {}\n#[tokio::test]\nasync fn three() {}\n";
    assert_eq!(test_functions(source), ["one", "three"]);
    let table = "x\n## A\n| h | i |\n|---|---|\n| `a` | b |\n\n## B\n| c |\n";
    assert_eq!(rows(section(table, "## A")), [["`a`", "b"]]);
    assert_eq!(
        commands("a `roundhouse check`\n```sh\n$ roundhouse keys list # x\n```\n").len(),
        2
    );
}
