//! Each check on facts that are made up, so that also a full disk, a clock that
//! was never set and folders that this user may not write take part.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::access::keys::{KeyClass, Scope};
use crate::registry::fixture::{Shelf, snapshot};

const GB: u64 = 1_000_000_000;

fn at(path: &str, kind: Kind, mode: u32) -> PathFact {
    PathFact {
        path: path.into(),
        kind,
        mode,
        readable: true,
        writable: true,
    }
}

fn address(setting: &'static str, text: &str) -> AddressFact {
    AddressFact {
        setting,
        listen: Listen::Tcp(text.parse().expect("an address")),
        refused: None,
    }
}

/// A setup with nothing wrong, with this configuration.
fn good(text: &str) -> Facts {
    let snapshot = snapshot(text, &Shelf::of(&["a/one", "a/two"]).broken("a/broken"));
    Facts {
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        descriptors: None,
        state: at("/state", Kind::Folder, 0o700),
        free: Some(ByteSize(GB)),
        control: at("/run/roundhouse.sock", Kind::Missing, 0),
        runtime: at("/run", Kind::Folder, 0o700),
        workers: at("/run", Kind::Folder, 0o700),
        engine: true,
        setup: Ok(Setup {
            file: at("/models.yaml", Kind::File, 0o644),
            snapshot: Arc::new(snapshot),
            machine: MachineMemory {
                total: ByteSize(64 * GB),
                auto: ByteSize(48 * GB),
            },
            keys: Ok(Arc::default()),
            audit: at("/state/audit.jsonl", Kind::File, 0o600),
            caches: vec![at("/hub", Kind::Folder, 0o755)],
            certificate: None,
            addresses: vec![
                address("server.listen", "127.0.0.1:11440"),
                address("server.management", "127.0.0.1:11441"),
            ],
        }),
    }
}

const PLAIN: &str = "memory: 40GB\nallow: [a/one, a/two]\n";

/// What is found after a change of the good setup.
fn check(change: impl FnOnce(&mut Facts), expected: &[&str]) {
    let mut facts = good(PLAIN);
    change(&mut facts);
    names(&facts, expected);
}

fn names(facts: &Facts, expected: &[&str]) {
    let found = examine(facts);
    let shown: Vec<_> = found
        .iter()
        .map(|finding| match finding.severity {
            Severity::Fault => finding.name.to_owned(),
            Severity::Note => format!("note:{}", finding.name),
        })
        .collect();
    assert_eq!(shown, expected, "{found:#?}");
}

fn setup(facts: &mut Facts) -> &mut Setup {
    facts.setup.as_mut().expect("a setup")
}

#[test]
fn a_good_setup_has_no_finding() {
    check(|_| {}, &[]);
}

#[test]
fn the_machine() {
    check(|facts| facts.now = SystemTime::UNIX_EPOCH, &["clock"]);
    check(|facts| facts.free = Some(ByteSize(1000)), &["disk-full"]);
    check(|facts| facts.descriptors = Some(256), &["descriptors"]);
    check(
        |facts| facts.descriptors = Some(4096),
        &["note:descriptors"],
    );
    check(|facts| facts.descriptors = Some(1 << 20), &[]);
    check(|facts| facts.engine = false, &["no-engine"]);
}

#[test]
fn folders_and_sockets() {
    check(
        |facts| facts.state.kind = Kind::File,
        &["state-folder-blocked"],
    );
    check(
        |facts| facts.state.writable = false,
        &["state-folder-unwritable"],
    );
    check(|facts| facts.state.mode = 0o777, &["state-folder-open"]);
    check(|facts| facts.state.kind = Kind::Missing, &[]);
    check(
        |facts| facts.control.kind = Kind::Folder,
        &["control-socket-blocked"],
    );
    check(
        |facts| facts.control.kind = Kind::Socket(false),
        &["note:stale-socket"],
    );
    check(
        |facts| facts.control.kind = Kind::Socket(true),
        &["another-server"],
    );
    let long = format!("/{}", "x".repeat(120));
    check(
        |facts| facts.control.path = long.clone().into(),
        &["control-socket-long"],
    );
    check(
        |facts| facts.workers.path = long.clone().into(),
        &["worker-socket-long"],
    );
    check(
        |facts| facts.workers.writable = false,
        &["worker-folder-unwritable"],
    );
    check(
        |facts| facts.runtime.writable = false,
        &["runtime-folder-unwritable"],
    );
    check(|facts| facts.runtime.mode = 0o777, &["runtime-folder-open"]);
    check(|facts| facts.runtime.mode = 0o1777, &[]);
}

#[test]
fn files_of_the_configuration() {
    check(
        |facts| setup(facts).file.mode = 0o666,
        &["configuration-open"],
    );
    check(|facts| setup(facts).audit.mode = 0o644, &["audit-open"]);
    check(
        |facts| setup(facts).audit.writable = false,
        &["audit-unwritable"],
    );
    check(
        |facts| setup(facts).audit.kind = Kind::Folder,
        &["audit-unwritable"],
    );
    check(
        |facts| setup(facts).caches[0].kind = Kind::Missing,
        &["cache-missing"],
    );
    check(
        |facts| setup(facts).caches[0].kind = Kind::File,
        &["cache-blocked"],
    );
    check(
        |facts| setup(facts).caches[0].readable = false,
        &["cache-unreadable"],
    );
    let open = || KeyError::TooOpen {
        path: "/keys.json".into(),
        mode: 0o644,
    };
    let weak = || KeyError::Weak {
        setting: "ROUNDHOUSE_INFERENCE_KEY",
        expected: "at least 20 characters",
    };
    check(|facts| setup(facts).keys = Err(weak()), &["key-weak"]);
    check(|facts| setup(facts).keys = Err(open()), &["keys-file-open"]);
}

#[test]
fn doors() {
    let lan = |setting, text| {
        move |facts: &mut Facts| {
            setup(facts).addresses.push(address(setting, text));
        }
    };
    check(
        lan("server.listen", "0.0.0.0:1"),
        &["exposed-without-key", "note:clear-text"],
    );
    check(
        lan("server.management", "[::]:1"),
        &["exposed-without-key", "note:clear-text"],
    );
    check(lan("server.listen", "127.0.0.9:1"), &[]);
    check(lan("server.listen", "127.0.0.1:0"), &[]);
    let mut facts = good(PLAIN);
    lan("server.listen", "0.0.0.0:1")(&mut facts);
    let mut keys = Keys::default();
    keys.make(KeyClass::Inference, Some("chat"), Scope::default())
        .expect("a key");
    setup(&mut facts).keys = Ok(Arc::new(keys));
    names(&facts, &["note:clear-text"]);
    check(
        |facts| setup(facts).certificate = Some("no certificate in /cert.pem".into()),
        &["certificate"],
    );
    let refused = |kind| {
        move |facts: &mut Facts| {
            setup(facts).addresses[1].refused = Some(kind);
        }
    };
    check(refused(ErrorKind::AddrInUse), &["address-in-use"]);
    check(refused(ErrorKind::AddrNotAvailable), &["address-not-here"]);
    check(refused(ErrorKind::PermissionDenied), &["address-refused"]);
    let running = |facts: &mut Facts| {
        facts.control.kind = Kind::Socket(true);
        for address in &mut setup(facts).addresses {
            address.refused = Some(ErrorKind::AddrInUse);
        }
    };
    check(running, &["note:server-running"]);
}

#[test]
fn the_models() {
    let check = |text: &str, expected: &[&str]| names(&good(text), expected);
    check("memory: 40GB\n", &["nothing-served"]);
    check(
        "memory: 40GB\nallow: ['a/*']\n",
        &["note:model-not-servable"],
    );
    check(
        "memory: 40GB\nallow: [a/one]\nmodels: { a/broken: {}, a/gone: {} }\n",
        &["model-not-servable", "model-not-servable"],
    );
    check("memory: 3GB\nallow: [a/one]\n", &["note:model-over-budget"]);
    check(
        "memory: 3GB\nmodels: { a/one: {} }\n",
        &["model-over-budget"],
    );
    check(
        "memory: 12GB\nmodels: { a/one: { keep: always }, a/two: { keep: always } }\n",
        &["kept-over-budget"],
    );
    check(
        "memory: 50GB\nallow: [a/one]\n",
        &["note:memory-over-machine"],
    );
    check("memory: 90GB\nallow: [a/one]\n", &["memory-over-machine"]);
}

#[test]
fn a_configuration_that_cannot_be_read() {
    let missing = LoadError::NotFound {
        searched: vec!["./models.yaml".into()],
    };
    check(
        |facts| facts.setup = Err(missing),
        &["configuration-missing"],
    );
    let problems = crate::config::problem::Problems::whole(None, "expected a mapping");
    let invalid = LoadError::Problems(problems);
    check(
        |facts| facts.setup = Err(invalid),
        &["configuration-invalid"],
    );
}
