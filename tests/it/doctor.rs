//! `roundhouse doctor` on a good setup and on broken ones (D-07): each fault is
//! named, with the exit code 1; what is only worth knowing leaves it at 0.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use super::harness::Home;

/// Free ports, so that nothing else on the machine takes part.
const PORTS: &str = "server: { listen: 127.0.0.1:0, management: 127.0.0.1:0 }\n";

const MODELS: &str = "models: { t/a: {} }\n";

fn home() -> Home {
    let home = Home::new(&format!("{PORTS}{MODELS}"));
    home.scripted("t/a", json!({"tokens": 1}));
    home
}

/// Exit code and findings, with the environment changed by `variables`.
fn examine(home: &Home, variables: &[(&str, &Path)]) -> (i32, Value) {
    let mut command = home.command(&["doctor", "--json", "--scripted-engine"]);
    command.envs(variables.iter().copied());
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {output:?}"));
    (output.status.code().unwrap_or(-1), report)
}

/// Whether `name` is found, and is what the exit code follows.
fn check(home: &Home, variables: &[(&str, &Path)], name: &str, severity: &str) {
    let (code, report) = examine(home, variables);
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["name"] == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not found: {report:#}"));
    assert_eq!(found["severity"], severity, "{report:#}");
    assert!(
        found["message"]
            .as_str()
            .is_some_and(|text| text.len() > 10),
        "{report:#}"
    );
    let expected = i32::from(severity == "fault");
    assert_eq!(
        (code, &report["ok"]),
        (expected, &json!(code == 0)),
        "{name}: {report:#}"
    );
}

/// A home that `break_it` broke.
fn broken(name: &str, break_it: impl FnOnce(&Home)) {
    let home = home();
    break_it(&home);
    check(&home, &[], name, "fault");
}

/// A home whose configuration says this.
fn configured(name: &str, yaml: &str) {
    broken(name, |home| home.configure(yaml));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn state(home: &Home) -> std::path::PathBuf {
    home.path().join(".local/state/roundhouse")
}

fn put(path: &Path, text: &str, bits: u32) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("written");
    mode(path, bits);
}

#[test]
fn d07_a_good_setup_has_no_findings_and_is_left_as_it_was() {
    let home = home();
    let listing = || {
        let mut names: Vec<_> = walk(home.path());
        names.sort();
        names
    };
    let before = listing();
    let (code, report) = examine(&home, &[]);
    assert_eq!((code, &report), (0, &json!({"ok": true, "findings": []})));
    assert_eq!(listing(), before);
    let (code, out, _) = home.run(&["doctor", "--scripted-engine"]);
    assert_eq!((code, out.as_str()), (0, "no faults\n"));
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let paths = entries.flat_map(|entry| {
        let path = entry.path();
        let below = match path.is_dir() {
            true => walk(&path),
            false => Vec::new(),
        };
        std::iter::once(path).chain(below)
    });
    paths.collect()
}

#[test]
fn d07_broken_configurations() {
    broken("configuration-missing", |home| {
        fs::remove_file(home.config()).expect("removed");
    });
    configured("configuration-invalid", "memory: 12\n");
    broken("configuration-invalid", |home| {
        fs::remove_file(home.config()).expect("removed");
        fs::create_dir(home.config()).expect("a folder");
    });
    broken("configuration-open", |home| mode(&home.config(), 0o666));
    configured(
        "configuration-invalid",
        &format!("{PORTS}{MODELS}log: \"=nonsense=[\"\n"),
    );
    configured(
        "memory-over-machine",
        &format!("{PORTS}{MODELS}memory: 999TB\n"),
    );
    configured("nothing-served", PORTS);
    configured(
        "model-not-servable",
        &format!("{PORTS}models: {{ t/a: {{}}, t/gone: {{}} }}\n"),
    );
    configured(
        "model-over-budget",
        &format!("{PORTS}memory: 1MB\n{MODELS}"),
    );
}

#[test]
fn d07_every_problem_of_a_file_is_a_finding_with_its_place() {
    let home = home();
    home.configure("memory: 12\npool: { queue: -1 }\n");
    let (code, report) = examine(&home, &[]);
    let findings = report["findings"].as_array().expect("findings");
    assert_eq!((code, findings.len()), (1, 2), "{report:#}");
    assert!(report.to_string().contains("models.yaml:2:"), "{report:#}");
}

#[test]
fn d07_broken_caches() {
    broken("cache-missing", |home| {
        fs::remove_dir_all(home.cache()).expect("removed")
    });
    broken("cache-blocked", |home| {
        fs::remove_dir_all(home.cache()).expect("removed");
        fs::write(home.cache(), "").expect("written");
    });
    broken("model-not-servable", |home| {
        let snapshot = home.scripted("t/a", json!({}));
        fs::remove_file(snapshot.join("config.json")).expect("removed");
    });
}

#[test]
fn d07_broken_keys_and_audits() {
    let keys = |home: &Home| state(home).join("keys.json");
    broken("keys-file-open", |home| {
        put(&keys(home), "{\"keys\":[]}", 0o644)
    });
    broken("keys-file-malformed", |home| {
        put(&keys(home), "no JSON", 0o600)
    });
    broken("keys-file-unreadable", |home| {
        fs::create_dir_all(keys(home)).expect("a folder");
        mode(&keys(home), 0o700);
    });
    broken("audit-open", |home| {
        put(&state(home).join("audit.jsonl"), "", 0o644)
    });
    broken("audit-unwritable", |home| {
        fs::create_dir_all(state(home).join("audit.jsonl")).expect("a folder");
    });
    broken("state-folder-blocked", |home| put(&state(home), "", 0o600));
    broken("state-folder-open", |home| {
        fs::create_dir_all(state(home)).expect("a folder");
        mode(&state(home), 0o777);
    });
}

#[test]
fn d07_broken_keys_of_the_environment() {
    let home = home();
    let weak = Path::new("changeme");
    check(
        &home,
        &[("ROUNDHOUSE_INFERENCE_KEY", weak)],
        "key-weak",
        "fault",
    );
    let nowhere = home.path().join("nowhere");
    let variables = [("ROUNDHOUSE_MANAGEMENT_KEY_FILE", nowhere.as_path())];
    check(&home, &variables, "key-environment", "fault");
}

#[test]
fn d07_broken_addresses() {
    let listen = |address: &str| {
        format!("server: {{ listen: \"{address}\", management: 127.0.0.1:0 }}\n{MODELS}")
    };
    configured("exposed-without-key", &listen("0.0.0.0:0"));
    configured(
        "exposed-without-key",
        &format!("server: {{ listen: 127.0.0.1:0, management: \"[::]:0\" }}\n{MODELS}"),
    );
    // TEST-NET-1 (RFC 5737) is no address of any machine.
    configured("address-not-here", &listen("192.0.2.1:0"));
    let listen_tls = "server: { listen: 127.0.0.1:0, management: 127.0.0.1:0, tls: { cert: gone.pem, key: gone.pem } }";
    configured("certificate", &format!("{listen_tls}\n{MODELS}"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    configured("address-in-use", &listen(&address));
    configured(
        "configuration-invalid",
        &format!("server: {{ listen: \"{address}\", management: \"{address}\" }}\n{MODELS}"),
    );
}

#[test]
fn d07_broken_sockets_and_folders() {
    broken("control-socket-blocked", |home| {
        fs::create_dir(home.path().join("roundhouse.sock")).expect("a folder");
    });
    broken("runtime-folder-open", |home| mode(home.path(), 0o777));
    let home = home();
    let deep = home.path().join("x".repeat(90));
    fs::create_dir(&deep).expect("a folder");
    check(
        &home,
        &[("XDG_RUNTIME_DIR", &deep)],
        "control-socket-long",
        "fault",
    );
    check(
        &home,
        &[("XDG_RUNTIME_DIR", &deep)],
        "worker-socket-long",
        "fault",
    );
    let file = home.config();
    check(
        &home,
        &[("XDG_RUNTIME_DIR", &file)],
        "runtime-folder-unwritable",
        "fault",
    );
    let nowhere = home.path().join("nowhere");
    check(
        &home,
        &[("XDG_RUNTIME_DIR", &nowhere), ("TMPDIR", &nowhere)],
        "worker-folder-unwritable",
        "fault",
    );
}

#[test]
fn d07_too_few_descriptors() {
    let home = home();
    let mut command = std::process::Command::new("sh");
    let program = home.command(&["doctor", "--json", "--scripted-engine"]);
    command
        .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .env_clear()
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(home.path());
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\"descriptors\""), "{output:?}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Without the hidden flag the scripted model is none that this build can run; with
/// real weights a build without the engine says so.
#[test]
fn d07_a_build_that_cannot_run_the_models() {
    let home = home();
    let (code, out, _) = home.run(&["doctor"]);
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("model-not-servable") && out.contains("2 faults"),
        "{out}"
    );
}

#[test]
fn d07_what_a_dead_server_left_is_only_told() {
    let home = home();
    drop(UnixListener::bind(home.path().join("roundhouse.sock")).expect("a socket"));
    check(&home, &[], "stale-socket", "note");
}

#[tokio::test]
async fn d07_a_running_server_is_told_and_another_one_is_a_fault() {
    let home = home();
    let server = home.serve();
    let addresses = |inference: &str, management: &str| {
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        format!(
            "server: {{ listen: \"{}\", management: \"{}\" }}\n{MODELS}",
            address(inference),
            address(management)
        )
    };
    home.configure(&addresses(&server.inference, &server.management));
    check(&home, &[], "server-running", "note");
    home.configure(&format!("{PORTS}{MODELS}"));
    check(&home, &[], "another-server", "fault");
}
